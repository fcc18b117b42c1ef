"""A task as a model of the Open Inference Protocol: its tensors, what a request wishes, and what the answers become."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, RootModel

from ...policies.batching import PATIENT, USUAL
from ...policies.errors import BadInputError, NotFoundError
from ...policies.snapshot import Frozen
from ...policies.task import TaskSpec
from ..inference_service import Input, Wish
from .oip_codec import Datatype, Output, Request, Tensor
from .schemas import InferAnswer

VERSION = "1"  # the only one: which patch answers is the policy's decision, and the answer's parameters tell it
MAX_BATCH = 64
OUTPUTS = ("probabilities", "label", "index")
PREFIX = "patchd_"  # of our own parameters; wishes are taken without it as well


class ServerMetadata(Frozen):
    """What serves here."""

    name: str
    version: str
    extensions: tuple[str, ...]


class ServerHealth(Frozen):
    """Whether the server lives and takes requests; `error` says why not."""

    live: bool
    ready: bool
    error: str | None = None


class TensorMetadata(Frozen):
    """A tensor of a model; -1 in its shape is any size."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]


class ModelNames(Frozen):
    """All models."""

    models: tuple[str, ...]


class ModelMetadata(Frozen):
    """A task's tensors. A request gives exactly one of the inputs."""

    name: str
    versions: tuple[str, ...] = (VERSION,)
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class ModelReady(Frozen):
    """Whether a task can answer; `error` says why not."""

    name: str
    ready: bool
    error: str | None = None


class ConfigTensor(Frozen):
    """A tensor of a model in the words of Triton's configuration."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    optional: bool = False


class ModelConfig(Frozen):
    """A task in the words of Triton's configuration; batches are part of the shapes, so `max_batch_size` is 0."""

    name: str
    platform: str
    backend: str = "patchd"
    max_batch_size: int = 0
    input: tuple[ConfigTensor, ...]
    output: tuple[ConfigTensor, ...]


class Duration(Frozen):
    """How often something was done and the nanoseconds it took in all."""

    count: int = 0
    ns: int = 0

    def plus(self, ms: float, times: int = 1) -> Duration:
        """So often more, taking `ms` milliseconds together."""
        return Duration(count=self.count + times, ns=self.ns + round(ms * 1e6))


class InferenceStats(Frozen):
    """Requests under /v2 by outcome; of their samples the wait, decoding and resizing, and the network."""

    success: Duration = Duration()
    fail: Duration = Duration()
    queue: Duration = Duration()
    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()


class ModelStats(Frozen):
    """What a task has answered under /v2 since the daemon's start."""

    name: str
    version: str = VERSION
    last_inference: int = Field(0, description="Unix time of the last request in milliseconds; 0 before the first")
    inference_count: int = Field(0, description="samples answered")
    execution_count: int = Field(0, description="runs of the network; as many, for each sample is one run")
    inference_stats: InferenceStats = InferenceStats()

    def after(self, answers: Sequence[InferAnswer], ms: float, now_s: float) -> ModelStats:
        """With one more request of `ms` milliseconds, failed where it has no answers."""
        old, count = self.inference_stats, len(answers)
        timings = [answer.timing for answer in answers]
        return ModelStats(
            name=self.name,
            last_inference=round(now_s * 1e3),
            inference_count=self.inference_count + count,
            execution_count=self.execution_count + count,
            inference_stats=InferenceStats(
                success=old.success.plus(ms) if answers else old.success,
                fail=old.fail if answers else old.fail.plus(ms),
                queue=old.queue.plus(sum(t.queue_ms for t in timings), count),
                compute_input=old.compute_input.plus(sum(t.decode_ms + t.preprocess_ms for t in timings), count),
                compute_infer=old.compute_infer.plus(sum(t.bind_ms + t.network_ms for t in timings), count),
            ),
        )


class Statistics(Frozen):
    """Statistics of models."""

    model_stats: tuple[ModelStats, ...]


class RepositoryModel(Frozen):
    """A model and whether it can answer; `reason` says what stands behind that."""

    name: str
    version: str = VERSION
    state: str = Field(description="READY or UNAVAILABLE")
    reason: str


class RepositoryIndex(RootModel[tuple[RepositoryModel, ...]]):
    """All models, or the ready ones."""


def metadata(spec: TaskSpec) -> ModelMetadata:
    """The tensors of a task."""
    inputs = tuple(TensorMetadata(name=name, datatype=i.datatype, shape=i.shape) for name, i in INPUTS.items())
    outputs = (
        TensorMetadata(name="probabilities", datatype="FP32", shape=(-1, len(spec.labels))),
        TensorMetadata(name="label", datatype="BYTES", shape=(-1,)),
        TensorMetadata(name="index", datatype="INT32", shape=(-1,)),
    )
    return ModelMetadata(name=spec.name, platform=f"patchd_{spec.base}", inputs=inputs, outputs=outputs)


def config(spec: TaskSpec) -> ModelConfig:
    """The same in the words of Triton's configuration."""

    def worded(tensor: TensorMetadata, optional: bool) -> ConfigTensor:
        kind = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
        return ConfigTensor(name=tensor.name, data_type=f"TYPE_{kind}", dims=tensor.shape, optional=optional)

    told = metadata(spec)
    return ModelConfig(
        name=told.name,
        platform=told.platform,
        input=tuple(worded(tensor, optional=True) for tensor in told.inputs),
        output=tuple(worded(tensor, optional=False) for tensor in told.outputs),
    )


def check_version(version: str | None) -> None:
    """Raises NotFoundError for a version other than the only one."""
    if version not in (None, VERSION):
        raise NotFoundError(
            f"There is no version '{version}' of this model.", hint=f"The only one is {VERSION}; it may be left out."
        )


# what a request asks for


def samples(tensors: Sequence[Tensor]) -> tuple[Input, ...]:
    """The samples of a request's one input. Raises BadInputError."""
    known = ", ".join(INPUTS)
    if len(tensors) != 1:
        given = ", ".join(f"'{tensor.name}'" for tensor in tensors) or "none"
        raise BadInputError(f"A request gives exactly one of the inputs {known}; here it is {given}.")
    tensor = tensors[0]
    model_input = INPUTS.get(tensor.name)
    if model_input is None:
        raise BadInputError(f"There is no input '{tensor.name}'.", hint=f"Give one of {known}.")
    if tensor.datatype != model_input.datatype:
        raise BadInputError(f"The input '{tensor.name}' is {tensor.datatype}; it must be {model_input.datatype}.")
    if not model_input.fits(tensor.shape):
        raise BadInputError(
            f"The input '{tensor.name}' has the shape {list(tensor.shape)}; it must be {model_input.words}."
        )
    found = model_input.split(tensor)
    if not 1 <= len(found) <= MAX_BATCH:
        raise BadInputError(
            f"The input '{tensor.name}' holds {len(found)} samples; 1 to {MAX_BATCH} are taken at a time."
        )
    return found


def _images(tensor: Tensor) -> tuple[Input, ...]:
    return tuple(
        Input("image", (), _from_text(element, number) if tensor.text else element)
        for number, element in enumerate(tensor.elements)
    )


def _from_text(element: bytes, number: int) -> bytes:
    """An image out of JSON, whose strings hold no bytes, only text."""
    try:
        return base64.b64decode(element, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInputError(
            f"Element {number} of the input 'image' is not base64.",
            hint="Images in JSON are base64; in binary form they are sent as they are.",
        ) from error


def _arrays(tensor: Tensor) -> tuple[Input, ...]:
    """The samples along the first of four axes; three axes are one sample."""
    count, shape = (tensor.shape[0], tensor.shape[1:]) if len(tensor.shape) == 4 else (1, tensor.shape)
    size = len(tensor.data) // max(1, count)
    form: Any = tensor.name
    return tuple(Input(form, shape, tensor.data[i * size : (i + 1) * size]) for i in range(min(count, MAX_BATCH + 1)))


@dataclass(frozen=True)
class ModelInput:
    """An input that every model takes: its type, what shapes fit, in words too, and how it parts into samples."""

    datatype: Datatype
    shape: tuple[int, ...]
    words: str
    fits: Callable[[tuple[int, ...]], bool]
    split: Callable[[Tensor], tuple[Input, ...]]


INPUTS: Mapping[str, ModelInput] = {
    "image": ModelInput(
        "BYTES", (-1,), "[N] or [N, 1]", lambda shape: len(shape) == 1 or (len(shape) == 2 and shape[1] == 1), _images
    ),
    "pixels": ModelInput(
        "UINT8",
        (-1, -1, -1, 3),
        "[N, H, W, 3] or [H, W, 3]",
        lambda shape: len(shape) in (3, 4) and shape[-1] == 3 and min(shape[-3:]) > 0,
        _arrays,
    ),
    "input": ModelInput(
        "FP32",
        (-1, 3, -1, -1),
        "[N, 3, R, R] or [3, R, R]",
        lambda shape: len(shape) in (3, 4) and shape[-3] == 3 and shape[-2] == shape[-1] > 0,
        _arrays,
    ),
}


def wish(request: Request, labels: int, client: str) -> Wish:
    """What a request's parameters wish of its predictions. Raises BadInputError naming the parameter."""
    base = _wished(request, "base")
    if base is not None and not isinstance(base[1], str):
        raise BadInputError(f"The parameter '{base[0]}' is {base[1]!r:.60}; it must be the name of a base network.")
    resolution = _number(request, "resolution")
    if resolution is not None and not (isinstance(resolution, int) and resolution > 0):
        raise BadInputError(f"The parameter 'resolution' is {resolution}; it must be a whole number of pixels.")
    accuracy = _number(request, "min_accuracy")
    if accuracy is not None and not 0 <= accuracy <= 1:
        raise BadInputError(f"The parameter 'min_accuracy' is {accuracy:g}; it must be a share from 0 to 1.")
    deadline_ms = _number(request, "deadline_ms")
    if deadline_ms is not None and deadline_ms <= 0:
        raise BadInputError(f"The parameter 'deadline_ms' is {deadline_ms:g}; it must be above 0.")
    cascade = _wished(request, "cascade")
    if cascade is not None and not isinstance(cascade[1], bool):
        raise BadInputError(f"The parameter '{cascade[0]}' is {cascade[1]!r:.60}; it must be true or false.")
    limits = [ms for ms in (deadline_ms, _timeout_ms(request)) if ms is not None]
    return Wish(
        top_k=labels if "probabilities" in wanted(request) else 1,
        base=None if base is None else base[1],
        resolution=resolution,
        min_accuracy=accuracy,
        cascade=cascade is None or bool(cascade[1]),
        deadline_ms=min(limits, default=None),
        priority=_priority(request),
        client=client,
    )


def _wished(request: Request, name: str) -> tuple[str, Any] | None:
    """The key and the value of a wish of ours, with or without the prefix."""
    keys = [key for key in (name, PREFIX + name) if request.parameters.get(key) is not None]
    if len(keys) > 1:
        raise BadInputError(f"The parameters '{keys[0]}' and '{keys[1]}' mean the same.", hint="Give one of them.")
    return (keys[0], request.parameters[keys[0]]) if keys else None


def _number(request: Request, name: str) -> int | float | None:
    """A wish of ours that is a number."""
    found = _wished(request, name)
    return None if found is None else _checked(*found)


def _checked(key: str, value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:  # nan fails, too
        raise BadInputError(f"The parameter '{key}' is {value!r:.60}; it must be a number.")
    return value


def _timeout_ms(request: Request) -> float | None:
    """Triton's `timeout`, in microseconds; 0 stands for none."""
    value = request.parameters.get("timeout")
    if value is None:
        return None
    if not isinstance(value, int) or _checked("timeout", value) < 0:
        raise BadInputError(f"The parameter 'timeout' is {value!r:.60}; it must be a whole number of microseconds.")
    return value / 1e3 or None


def _priority(request: Request) -> int:
    """Triton's `priority`: 1 is the highest, 0 stands for the usual one, and beyond 3 there is nothing lower."""
    value = request.parameters.get("priority", 0)
    if not isinstance(value, int) or _checked("priority", value) < 0:
        raise BadInputError(f"The parameter 'priority' is {value!r:.60}; it must be 0, 1 (highest), 2 or more.")
    return min(value, PATIENT) or USUAL


def wanted(request: Request) -> tuple[str, ...]:
    """The outputs to send, in the request's order. Raises BadInputError for an unknown one."""
    unknown = next((name for name in request.outputs if name not in OUTPUTS), None)
    if unknown is not None:
        raise BadInputError(
            f"There is no output '{unknown}'.", hint=f"Ask for {', '.join(OUTPUTS)}, or for none to get all."
        )
    return tuple(request.outputs) or OUTPUTS


# what the answers become


def outputs(answers: Sequence[InferAnswer], names: Sequence[str], labels: int) -> tuple[Output, ...]:
    """The tensors called `names` out of the samples' answers."""
    count = len(answers)
    best = [answer.predictions[0] for answer in answers]
    made: dict[str, Callable[[], Output]] = {
        "probabilities": lambda: Output("probabilities", "FP32", (count, labels), _by_class(answers, labels)),
        "label": lambda: Output("label", "BYTES", (count,), [one.label for one in best]),
        "index": lambda: Output("index", "INT32", (count,), [one.index for one in best]),
    }
    return tuple(made[name]() for name in names)


def _by_class(answers: Sequence[InferAnswer], labels: int) -> list[float]:
    """The probabilities of each sample in the order of the classes; answers sort them by size."""
    values = [0.0] * (labels * len(answers))
    for row, answer in enumerate(answers):
        for one in answer.predictions:
            values[row * labels + one.index] = one.probability
    return values


def told(answers: Sequence[InferAnswer]) -> dict[str, str | int | float]:
    """The response's parameters: what was decided for the first sample, and every resolution where they differ."""
    first = answers[0]
    sides = [answer.resolution for answer in answers]
    parameters = {
        "base": first.base,
        "resolution": sides[0] if len(set(sides)) == 1 else ",".join(map(str, sides)),
        "patch_id": first.patch_id,
        "decision_id": first.decision_id,
        "engine": first.engine,
        "request_id": first.request_id,
        "total_ms": first.timing.total_ms,
        "start_worker_ms": first.timing.start_worker_ms,
        "why": first.why,
    }
    if first.cascade is not None:
        passed = first.cascade
        parameters |= {"stage": passed.stage, "confidence": passed.confidence, "cost_ms": passed.cost_ms}
    return {PREFIX + key: value for key, value in parameters.items() if value is not None}
