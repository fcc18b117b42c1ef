"""A patched base as a file for use without patchd: folded, as safetensors, ONNX or OpenVINO IR; or as an adapter.

The folded formats take float32 [N, 3, R, R], normalised as their metadata say, and give logits [N, classes]. They are
compared with the patched base before they are written.
"""

from __future__ import annotations

import io
import json
import logging
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, fx, nn

from ..policies.errors import BadInputError, UnavailableError
from ..policies.task import ExportFormat, ExportReport, KeptPart, PatchKind
from .bases import Base
from .durable import write_durably
from .folding import Folded, fold
from .networks.efficientnet_lite import SameConv2d
from .patched import PatchedNetwork
from .patches.patch import Patch
from .photographs import crops

TOLERANCE = 1e-4  # of the largest logit
OPSET = 18
INPUT, OUTPUT = "input", "logits"
_STATELESS = frozenset((PatchKind.SCALE_BIAS, PatchKind.STATISTICS, PatchKind.BIAS, PatchKind.HEAD,
                        PatchKind.RANDOM_HEAD, PatchKind.BASE_FRACTION, PatchKind.DEPTHWISE,
                        PatchKind.OWN_SQUEEZE_EXCITE))  # fmt: skip


def export(base: Base, patch: Patch, form: ExportFormat, path: Path) -> ExportReport:
    """Write `base` under `patch` to `path`, whole or not at all, and say what was folded.

    Raises UnavailableError when a package is missing or the network cannot be written in this form, BadInputError when
    the patch has no such form, StateError when the file cannot be written.
    """
    if form is ExportFormat.ADAPTER:
        data, report = _adapter(base, patch)
    else:
        folded = fold(base, patch)
        _check(base, patch, folded.network)
        report = _report(form, folded)
        data = _WRITERS[form](folded.network, patch, report)
    write_durably(path, data)
    return report


def _report(form: ExportFormat, folded: Folded) -> ExportReport:
    return ExportReport(
        format=form,
        folded=tuple(step.path for step in folded.steps),
        kept=tuple(KeptPart(path=kept.path, why=kept.why) for kept in folded.kept),
    )


def _check(base: Base, patch: Patch, network: nn.Module) -> None:
    """Compare a folded network with the patched base on a photograph."""
    inputs = crops(1, patch.metadata.resolution)
    with torch.inference_mode():
        got = network(inputs)
        with PatchedNetwork(base).patched(patch) as reference:
            expected = reference(inputs)
    worst, allowed = float((got - expected).abs().max()), TOLERANCE * max(1.0, float(expected.abs().max()))
    if not worst <= allowed:
        raise UnavailableError(
            f"The folded model's logits differ from the patched base's by {worst:.2g}; at most {allowed:.2g} is "
            f"accepted, so nothing was written."
        )


def _metadata(patch: Patch, report: ExportReport) -> dict[str, str]:
    """What a user of the file needs to know, as text by name."""
    own = patch.metadata
    return {
        "task": own.task,
        "labels": json.dumps(own.labels),
        "resolution": str(own.resolution),
        "preprocessing": own.preprocessing.model_dump_json(),
        "base": own.base,
        "base_hash": own.base_hash,
        "kinds": json.dumps(own.kinds),
        "folding": report.model_dump_json(),
    }


# safetensors: the tensors, and the graph as JSON


def _safetensors(network: fx.GraphModule, patch: Patch, report: ExportReport) -> bytes:
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    graph = json.dumps(graph_of(network))
    return save(tensors, {**_metadata(patch, report), "graph": graph})


def graph_of(network: fx.GraphModule) -> list[dict[str, Any]]:
    """The forward pass as a list of steps, each with `name`, `op`, `inputs` and the layer's `attributes`.

    `op` is a torch module's class name, with its tensors under `layer` in the state dict, or a function's or method's
    name. An input is a plain value or {"ref": name of a step}. SameConv2d pads as TensorFlow's SAME.
    """
    steps = []
    for node in network.graph.nodes:
        step: dict[str, Any] = {"name": node.name, "op": _op(node), "inputs": [_plain(each) for each in node.args]}
        if node.kwargs:
            step["options"] = {key: _plain(value) for key, value in node.kwargs.items()}
        if node.op == "call_module":
            layer = network.get_submodule(str(node.target))
            step |= {"op": type(layer).__name__, "layer": str(node.target), "attributes": _attributes(layer)}
        elif node.op == "get_attr":
            step["layer"] = str(node.target)
        steps.append(step)
    return steps


def _op(node: fx.Node) -> str:
    if node.op in ("placeholder", "output", "get_attr"):
        return node.op
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", node.target))


def _plain(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return {"ref": value.name}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, slice):
        return {"slice": [_plain(value.start), _plain(value.stop), _plain(value.step)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UnavailableError(f"The value {value!r} in the network's forward pass cannot be written as JSON.")


def _attributes(layer: nn.Module) -> dict[str, Any]:
    names = ("stride", "padding", "dilation", "groups", "eps", "num_groups", "normalized_shape", "num_features")
    found = {
        name: getattr(layer, name) for name in names if isinstance(getattr(layer, name, None), int | float | tuple)
    }
    return {**found, "padding": "same_upper"} if isinstance(layer, SameConv2d) else found


# ONNX and OpenVINO


def _onnx(network: fx.GraphModule, patch: Patch, report: ExportReport) -> bytes:
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise UnavailableError(f"ONNX cannot be written: {error}.", hint="Install patchd[onnx].") from error
    example = crops(2, patch.metadata.resolution)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"), torch.inference_mode():
        program = torch.onnx.export(
            network,
            (example.contiguous(),),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, _metadata(patch, report))
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def _openvino(network: fx.GraphModule, patch: Patch, report: ExportReport) -> bytes:
    try:
        import openvino
    except (ImportError, OSError) as error:
        raise UnavailableError(
            f"OpenVINO IR cannot be written: {error}.", hint="Install the package openvino."
        ) from error
    example = crops(1, patch.metadata.resolution).contiguous()
    with warnings.catch_warnings(action="ignore"), torch.inference_mode():
        model = openvino.convert_model(torch.jit.trace(network, example), example_input=example)  # type: ignore[no-untyped-call]
    side = patch.metadata.resolution
    model.reshape([-1, 3, side, side])
    model.inputs[0].tensor.set_names({INPUT})
    model.outputs[0].tensor.set_names({OUTPUT})
    for name, value in _metadata(patch, report).items():
        model.set_rt_info(value, ["patchd", name])
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(model, Path(folder, "model.xml"), compress_to_fp16=False)
        return _zip({name: Path(folder, name).read_bytes() for name in ("model.xml", "model.bin")})


# adapters


def _adapter(base: Base, patch: Patch) -> tuple[bytes, ExportReport]:
    """The patch's own tensors under their names in the base, beside a description in the keys that PEFT uses."""
    kinds = patch.metadata.kinds
    for kind in kinds:
        if kind not in _STATELESS:
            raise BadInputError(
                f"A patch of kind '{kind}' adds layers, which an adapter of tensors cannot say.",
                hint="Export the folded model: --format safetensors, onnx or openvino.",
            )
    report = ExportReport(format=ExportFormat.ADAPTER, folded=(), kept=())
    heads = sorted({name.rpartition(".")[0] for name in patch.tensors if name.startswith(f"{base.head}.")})
    layers = sorted({name.rpartition(".")[0] for name in patch.tensors} - set(heads))
    config = {
        "peft_type": "LN_TUNING",
        "base_model_name_or_path": base.name,
        "target_modules": layers,
        "modules_to_save": heads,
        "inference_mode": True,
        "patchd": _metadata(patch, report),
    }
    tensors = {name: tensor.contiguous() for name, tensor in patch.tensors.items()}
    data = _zip(
        {
            "adapter_config.json": json.dumps(config, indent=2).encode(),
            "adapter_model.safetensors": save(_peft_names(tensors, heads), {"format": "pt"}),
        }
    )
    return data, report


def _peft_names(tensors: Mapping[str, Tensor], heads: list[str]) -> dict[str, Tensor]:
    """PEFT's names: everything hangs below base_model.model, a tuned layer's tensors below the adapter's name."""
    named = {}
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        middle = "" if path in heads else ".ln_tuning_layers"
        named[f"base_model.model.{path}{middle}.{leaf}"] = tensor
    return named


def _zip(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # without the time: equal models give equal files
    return buffer.getvalue()


_WRITERS: Mapping[ExportFormat, Callable[[fx.GraphModule, Patch, ExportReport], bytes]] = {
    ExportFormat.SAFETENSORS: _safetensors,
    ExportFormat.ONNX: _onnx,
    ExportFormat.OPENVINO: _openvino,
}
