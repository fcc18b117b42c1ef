"""The fast engine on CPUs: OpenVINO, checked against the torch reference."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..policies.errors import StateError, UnavailableError
from .bases import Base
from .engine import Engine, MixedRun, TorchEngine, check_batch
from .graph_cache import GraphCache
from .openvino_graph import AffinePart, Arrays, Row, affine_row, graph
from .patches.patch import Patch
from .photographs import crops

TOLERANCE = 1e-3  # of the largest logit of the reference, or of 1 where that is smaller
AGREEMENT = 0.99  # least share of a sample on which bfloat16 must give the reference's first answer
SAMPLE = 100  # crops of photographs that bfloat16 is judged on
GRAPH_BYTES = 256 * 1024 * 1024  # compiled graphs kept in memory, counted by the base's float32 parameters

Precision = Literal["f32", "bf16"]


@dataclass(frozen=True, slots=True)
class _Patched:
    """A patch as the graph takes it: the normalisations' row [1, 2, C_total], and the head's weight and bias.

    `affine` is whether that is all of it, so that it needs no graph of its own.
    """

    row: Row
    weight: Tensor
    bias: Tensor | None
    affine: bool


@dataclass(frozen=True, slots=True)
class _Key:
    """What a graph is compiled for: a patch that needs its own (None: the base, for all others), and how it runs.

    `lanes` is the number of images that are computed at once, each on one thread; 1 spreads one image over all.
    """

    patch: Patch | None
    side: int
    precision: Precision
    lanes: int


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A compiled graph, ready to run: a request for one lane, a queue of them for several; the filters it refers to."""

    request: Any
    queue: Any
    takes_row: bool
    arrays: Arrays = field(default_factory=dict)


class OpenVinoEngine(Engine):
    """Runs a base and its patches on OpenVINO; what it cannot run or gets wrong, on the torch reference.

    All affine patches share the base's graph, so that images of different tasks share a batch; any other patch gets
    its own, where its network can be translated. A graph is compared with the reference on the first input that it
    gets. One that disagrees is not used; `remarks` says why.
    """

    name = "openvino"

    def __init__(
        self,
        base: Base,
        threads: int,
        *,
        precision: Precision = "f32",
        cache: GraphCache | None = None,
        graph_bytes: int = GRAPH_BYTES,
    ) -> None:
        """`cache` keeps compiled graphs on disk. Raises UnavailableError when OpenVINO cannot be loaded."""
        try:
            import openvino
        except (ImportError, OSError) as error:
            raise UnavailableError(
                f"The engine openvino cannot be loaded: {error}.", hint="Install the package openvino."
            ) from error
        self._openvino = openvino
        self._base, self._threads, self._cache = base, threads, cache
        self._reference, self._reference_threads = TorchEngine(base, 1), threads
        self._core = openvino.Core()
        self._arrays: Arrays = {}
        self._graphs: OrderedDict[_Key, _Compiled] = OrderedDict()
        self._most_graphs = max(2, graph_bytes // (4 * base.parameters_count))
        self._warmed: dict[_Key, _Compiled] = {}  # compiled in another thread, still to be compared
        self._network_lock = Lock()  # binding a patch for a run, or tracing
        self._rows: WeakKeyDictionary[Patch, _Patched] = WeakKeyDictionary()
        self._affine = AffinePart.of(base.network)
        head = base.network.get_submodule(base.head)
        self._head = {leaf: tensor.detach() for leaf, tensor in head.named_parameters()}
        self._bare = self._prepare({})
        self._refused: set[int] = set()
        self._refused_own: WeakKeyDictionary[Patch, set[int]] = WeakKeyDictionary()
        self._remarks: list[str] = []
        self._precision: Precision = self._possible(precision)
        self._judged: WeakKeyDictionary[Patch, dict[int, Precision]] = WeakKeyDictionary()
        self._judged_bare: dict[int, Precision] = {}

    @property
    def threads(self) -> int:
        """Threads of the compiled graphs. They do not hold each other up, so the number stays."""
        return self._threads

    @property
    def remarks(self) -> Sequence[str]:
        """See `Engine.remarks`."""
        return tuple(self._remarks)

    def use_threads(self, threads: int) -> None:
        """Give the reference `threads` threads for when it steps in."""
        self._reference_threads = threads

    def prepare(self, patch: Patch) -> None:
        """See `Engine.prepare`: a millisecond or two for the patch's row."""
        self._patched(patch)

    def warm(self, side: int) -> None:
        """See `Engine.warm`: compiles the base's graphs. What fails here is said by the run that needs it."""
        if self._precision != "f32":
            return  # which precision a graph has is judged by running it
        for lanes in sorted({1, self._threads}):
            key = _Key(None, side, "f32", lanes)
            if key not in self._graphs and key not in self._warmed and side not in self._refused:
                with suppress(UnavailableError):
                    self._warmed[key] = self._compile(key)

    def run_mixed(self, inputs: Tensor, patches: Sequence[Patch | None]) -> MixedRun:
        """See `Engine.run_mixed`: on its own an image is spread over all threads, several run one on each."""
        check_batch(inputs, patches)
        if inputs.shape[2] != inputs.shape[3]:
            return self._by_reference(inputs, patches)
        start = time.perf_counter()
        patched = [self._patched(patch) for patch in patches]
        bound = time.perf_counter()
        logits: list[Tensor] = [inputs] * len(inputs)
        engines = [self.name] * len(inputs)
        groups: dict[_Key | None, list[int]] = {}
        for place, patch in enumerate(patches):
            groups.setdefault(self._key(inputs, place, patch, len(inputs)), []).append(place)
        for key, places in groups.items():
            if key is None:
                run = self._by_reference(inputs[places], [patches[place] for place in places])
                answers: Sequence[Tensor] = run.logits
                for place in places:
                    engines[place] = self._reference.name
            else:
                answers = _logits(self._graphs[key], inputs, patched, places)
            for place, answer in zip(places, answers, strict=True):
                logits[place] = answer
        return MixedRun(tuple(logits), tuple(engines), (bound - start) * 1e3, (time.perf_counter() - bound) * 1e3)

    # graphs

    def _key(self, inputs: Tensor, place: int, patch: Patch | None, count: int) -> _Key | None:
        """The graph for an image of a batch, compiled and checked; None where the reference must run it."""
        side = inputs.shape[-1]
        owner = None if patch is None or self._patched(patch).affine else patch
        lanes = min(self._threads, count) if owner is None else 1
        if self._is_refused(owner, side):
            return None
        key = _Key(owner, side, self._judge(patch, owner, side), self._threads if lanes > 1 else 1)
        if key in self._graphs:
            self._graphs.move_to_end(key)
            return key
        return key if self._make(key, inputs[place : place + 1], patch) else None

    def _is_refused(self, owner: Patch | None, side: int) -> bool:
        return side in (self._refused if owner is None else self._refused_own.get(owner, ()))

    def _make(self, key: _Key, inputs: Tensor, patch: Patch | None) -> bool:
        """Compile a graph and compare it with the reference on one input; whether it is of use."""
        expected = self._by_reference(inputs, [patch]).logits[0]
        try:
            compiled = self._warmed.pop(key, None) or self._compile(key)
        except UnavailableError as error:
            self._refuse(key, f"{error.message} torch runs it.")
            return False
        if key.precision == "f32":
            (logits,) = _logits(compiled, inputs, [self._patched(patch)], [0])
            worst = float((logits - expected).abs().max())
            allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
            if not worst <= allowed:  # not a number is a disagreement too
                self._refuse(
                    key,
                    f"OpenVINO's logits of {self._named(key.patch)} at {key.side} px differ from the reference's by "
                    f"{worst:.2g}; at most {allowed:.2g} is accepted, so torch runs this resolution.",
                )
                return False
        self._keep(key, compiled)
        return True

    def _keep(self, key: _Key, compiled: _Compiled) -> None:
        self._graphs[key] = compiled
        while len(self._graphs) > self._most_graphs:
            self._graphs.popitem(last=False)

    def _refuse(self, key: _Key, why: str) -> None:
        self._remarks.append(why)
        if key.patch is None:
            self._refused.add(key.side)
            for warmed in [each for each in tuple(self._warmed) if each.side == key.side]:
                self._warmed.pop(warmed, None)
        else:
            self._refused_own.setdefault(key.patch, set()).add(key.side)

    def _named(self, patch: Patch | None) -> str:
        if patch is None:
            return self._base.name
        return f"{self._base.name} with the {', '.join(patch.metadata.kinds)} patch of task '{patch.metadata.task}'"

    def _compile(self, key: _Key) -> _Compiled:
        """The graph from the disk where it is kept, else compiled and kept there."""
        options = {
            "PERFORMANCE_HINT": "LATENCY" if key.lanes == 1 else "THROUGHPUT",
            "NUM_STREAMS": key.lanes,
            "INFERENCE_NUM_THREADS": self._threads,
            "INFERENCE_PRECISION_HINT": key.precision,
        }
        name = (
            self._base.hash, "" if key.patch is None else _digest(key.patch), key.side, sorted(options.items()),
            self._openvino.get_version(), self._core.get_property("CPU", "FULL_DEVICE_NAME"),
            self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
        )  # fmt: skip
        takes_row = key.patch is None
        kept = None if self._cache is None else self._cache.get(*name)
        if self._cache is not None and kept is not None:
            try:
                return self._ready(self._core.import_model(kept, "CPU", options), key, {})
            except RuntimeError:
                self._cache.drop(*name)  # of another build after all
        arrays: Arrays = self._arrays if takes_row else {}
        compiled = self._core.compile_model(self._graph(key, arrays), "CPU", options)
        if self._cache is not None:
            try:
                self._cache.put(compiled.export_model().getvalue(), *name)
            except StateError as error:
                self._remarks.append(f"A compiled graph is not kept: {error.message}")
                self._cache = None  # it works without; once is enough to say so
        return self._ready(compiled, key, arrays)

    def _graph(self, key: _Key, arrays: Arrays) -> Any:
        with self._network_lock, self._reference.patched.patched(key.patch) as network:
            return graph(network, key.side, arrays, None if key.patch is None else affine_row(network, {}))

    def _ready(self, compiled: Any, key: _Key, arrays: Arrays) -> _Compiled:
        if key.lanes == 1:  # a queue would wake a thread of its own for each answer: 0.8 ms
            return _Compiled(compiled.create_infer_request(), None, key.patch is None, arrays)
        return _Compiled(None, self._openvino.AsyncInferQueue(compiled, key.lanes), key.patch is None, arrays)

    # precision

    def _possible(self, asked: Precision) -> Precision:
        if asked == "bf16" and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            self._remarks.append("This processor does not compute in bf16, so f32 is used.")
            return "f32"
        return asked

    def _judge(self, patch: Patch | None, owner: Patch | None, side: int) -> Precision:
        """The precision for a patch at a resolution, bfloat16 being tried on a sample of photographs the first time."""
        if self._precision == "f32":
            return "f32"
        judged = self._judged_bare if patch is None else self._judged.setdefault(patch, {})
        if side not in judged:
            judged[side] = self._tried(patch, owner, side)
        return judged[side]

    def _tried(self, patch: Patch | None, owner: Patch | None, side: int) -> Precision:
        sample, key = crops(SAMPLE, side), _Key(owner, side, "bf16", 1)
        try:
            compiled = self._graphs.get(key) or self._compile(key)
        except UnavailableError:
            return "f32"  # which then says why
        self._keep(key, compiled)
        patched = [self._patched(patch)] * len(sample)
        got = torch.stack(_logits(compiled, sample, patched, range(len(sample)))).argmax(1)
        expected = torch.stack(self._by_reference(sample, [patch] * len(sample)).logits).argmax(1)
        agreed = float((got == expected).float().mean())
        if agreed >= AGREEMENT:
            return "bf16"
        self._remarks.append(
            f"In bf16 {self._named(patch)} gives the reference's first answer at {side} px on {agreed:.0%} of "
            f"{SAMPLE} crops; {AGREEMENT:.0%} is required, so f32 is used."
        )
        return "f32"

    # patches

    def _by_reference(self, inputs: Tensor, patches: Sequence[Patch | None]) -> MixedRun:
        """The reference's run; the base has its own tensors back afterwards, for rows and graphs are made of them."""
        with self._network_lock:
            self._reference.use_threads(self._reference_threads)
            try:
                return self._reference.run_mixed(inputs, patches)
            finally:
                self._reference.patched.remove()
                self._reference.use_threads(
                    1
                )  # torch's threads keep turning for a while after a run, in the graph's way

    def _patched(self, patch: Patch | None) -> _Patched:
        if patch is None:
            return self._bare
        found = self._rows.get(patch)
        if found is None:
            found = self._rows[patch] = self._prepare(patch.tensors)
        return found

    def _prepare(self, tensors: Mapping[str, Tensor]) -> _Patched:
        weight, bias = (tensors.get(f"{self._base.head}.{leaf}", self._head.get(leaf)) for leaf in ("weight", "bias"))
        assert weight is not None
        head = {f"{self._base.head}.{leaf}" for leaf in self._head}
        return _Patched(self._affine.row(tensors), weight, bias, affine=tensors.keys() <= self._affine.names | head)


def _logits(compiled: _Compiled, inputs: Tensor, patched: Sequence[_Patched], places: Sequence[int]) -> list[Tensor]:
    """Logits of the images at `places` of a batch, in that order."""
    images = inputs.contiguous().numpy()
    features: dict[int, Tensor] = {}

    def given(place: int) -> list[Row]:
        image = images[place : place + 1]
        return [image, patched[place].row] if compiled.takes_row else [image]

    def done(request: Any, place: int) -> None:
        features[place] = torch.from_numpy(request.get_output_tensor(0).data.copy())

    if compiled.queue is None:
        for place in places:
            features[place] = torch.from_numpy(compiled.request.infer(given(place), share_inputs=True)[0])
    else:
        compiled.queue.set_callback(done)
        for place in places:
            compiled.queue.start_async(given(place), place, share_inputs=True)
        compiled.queue.wait_all()
    return [nn.functional.linear(features[place], patched[place].weight, patched[place].bias)[0] for place in places]


def _digest(patch: Patch) -> str:
    """sha256 over what a patch's graph depends on."""
    digest = hashlib.sha256(patch.metadata.model_dump_json(include={"kinds", "options"}).encode())
    for name, tensor in sorted(patch.tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
