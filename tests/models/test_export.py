"""Exported models run without patchd, in the runtimes that they are made for, and answer as the patched base does."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import onnxruntime
import openvino
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from patchd.daemon.cli.patch import FORMATS, PATCH
from patchd.models import export as exporting
from patchd.models.bases import Base, load_base
from patchd.models.export import export
from patchd.models.patched import PatchedNetwork
from patchd.models.patches import Patch
from patchd.models.photographs import crops
from patchd.policies.errors import BadInputError, UnavailableError
from patchd.policies.task import ExportFormat, PatchKind
from patched import moved
from safetensors import safe_open
from safetensors.torch import load
from torch import Tensor

K = PatchKind
AFFINE, GATED = (K.SCALE_BIAS, K.ADDED_LAYER, K.HEAD), (K.BIAS, K.GATE, K.SQUEEZE_EXCITE, K.LITE_RESIDUAL, K.HEAD)
SIDE = 32


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("lite0")


@pytest.fixture(scope="module", params=[AFFINE, GATED], ids="+".join)
def patch(request: pytest.FixtureRequest, base: Base) -> Patch:
    return moved(base, request.param)


def expected(base: Base, patch: Patch, inputs: Tensor) -> Tensor:
    with PatchedNetwork(base).patched(patch) as network, torch.inference_mode():
        return network(inputs)


def near(got: Any, wanted: Tensor) -> bool:
    given = got if isinstance(got, Tensor) else torch.from_numpy(got)
    return float((given - wanted).abs().max()) <= 1e-3 * max(1.0, float(wanted.abs().max()))


def test_the_command_line_offers_every_form() -> None:
    assert (PATCH, *ExportFormat) == FORMATS


def test_onnx_runs_in_onnx_runtime_at_any_batch_size_and_says_how_to_feed_it(
    base: Base, patch: Patch, tmp_path: Path
) -> None:
    report = export(base, patch, ExportFormat.ONNX, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 3):
        inputs = crops(count, SIDE)
        (got,) = session.run(["logits"], {"input": inputs.contiguous().numpy()})
        assert near(got, expected(base, patch, inputs))
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["labels"])[:2] == ["0", "1"]
    assert json.loads(told["preprocessing"])["mean"] == 127.0
    assert told["resolution"] == "32"
    assert bool(report.kept) == (patch.metadata.kinds == GATED)


def test_openvino_ir_runs_in_openvino_at_any_batch_size(base: Base, patch: Patch, tmp_path: Path) -> None:
    export(base, patch, ExportFormat.OPENVINO, tmp_path / "m.zip")
    zipfile.ZipFile(tmp_path / "m.zip").extractall(tmp_path)
    model = openvino.Core().read_model(tmp_path / "model.xml")
    assert model.get_rt_info(["patchd", "task"]).astype(str) == "t"
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for count in (1, 3):
        inputs = crops(count, SIDE)
        got = compiled({"input": inputs.contiguous().numpy()})["logits"]
        assert near(got, expected(base, patch, inputs))


def run_steps(steps: list[dict[str, Any]], tensors: dict[str, Tensor], image: Tensor) -> Tensor:
    """What a reader of the safetensors file writes: each step with torch's own functions, nothing of patchd."""
    values: dict[str, Any] = {}

    def value(given: Any) -> Any:
        if isinstance(given, dict) and "ref" in given:
            return values[given["ref"]]
        if isinstance(given, dict) and "slice" in given:
            return slice(*given["slice"])
        return tuple(map(value, given)) if isinstance(given, list) else given

    for step in steps:
        args = [value(each) for each in step["inputs"]]
        options = {key: value(each) for key, each in step.get("options", {}).items()}
        own = step.get("attributes", {})
        weight: Any = tensors.get(f"{step.get('layer')}.weight")
        bias = tensors.get(f"{step.get('layer')}.bias")
        match step["op"]:
            case "placeholder":
                result: Any = image
            case "output":
                return args[0]
            case "get_attr":
                result = tensors[step["layer"]]
            case "SameConv2d" | "Conv2d":
                x, padding = args[0], own["padding"]
                if padding == "same_upper":
                    pads = []
                    for size, kernel, stride in zip(
                        reversed(x.shape[2:]), reversed(weight.shape[2:]), reversed(own["stride"]), strict=True
                    ):
                        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
                        pads += [total // 2, total - total // 2]
                    x, padding = F.pad(x, pads), 0
                result = F.conv2d(x, weight, bias, own["stride"], padding, own["dilation"], own["groups"])
            case "Linear":
                result = F.linear(args[0], weight, bias)
            case "getitem":
                result = args[0][args[1]]
            case "mean":
                result = args[0].mean(*args[1:], **options)
            case "add" | "mul":
                result = args[0] + args[1] if step["op"] == "add" else args[0] * args[1]
            case "getattr":
                result = getattr(*args)
            case "floordiv":
                result = args[0] // args[1]
            case "interpolate" | "adaptive_avg_pool2d":
                result = getattr(F, step["op"])(*args, **options)
            case "relu" | "sigmoid":
                result = getattr(torch, step["op"])(args[0])
            case "relu6":
                result = F.relu6(args[0])
            case other:
                raise AssertionError(f"the file has a step '{other}' that this reader does not know")
        values[step["name"]] = result
    raise AssertionError("the file has no output")


def test_safetensors_hold_the_tensors_and_every_step_of_the_forward_pass(
    base: Base, patch: Patch, tmp_path: Path
) -> None:
    export(base, patch, ExportFormat.SAFETENSORS, tmp_path / "m.safetensors")
    tensors = load((tmp_path / "m.safetensors").read_bytes())
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        told = file.metadata()
    inputs = crops(2, SIDE)
    assert near(run_steps(json.loads(told["graph"]), tensors, inputs), expected(base, patch, inputs))
    assert json.loads(told["folding"])["format"] == "safetensors"


def test_an_adapter_has_the_names_that_peft_gives_and_holds_every_tensor(base: Base, tmp_path: Path) -> None:
    patch = moved(base, (K.SCALE_BIAS, K.HEAD))
    export(base, patch, ExportFormat.ADAPTER, tmp_path / "a.zip")
    archive = zipfile.ZipFile(io.BytesIO((tmp_path / "a.zip").read_bytes()))
    config = json.loads(archive.read("adapter_config.json"))
    assert (config["peft_type"], config["modules_to_save"]) == ("LN_TUNING", ["classifier"])
    tensors = load(archive.read("adapter_model.safetensors"))
    assert "base_model.model.stem.norm.ln_tuning_layers.running_mean" in tensors
    assert "base_model.model.classifier.weight" in tensors
    plain = {
        name.removeprefix("base_model.model.").replace(".ln_tuning_layers", ""): tensor
        for name, tensor in tensors.items()
    }
    assert plain.keys() == patch.tensors.keys()
    network = load_base("lite0").network  # the plain reading: a delta of the state dict
    network.load_state_dict(plain, strict=False)
    inputs = crops(1, SIDE)
    with torch.inference_mode():
        assert near(network(inputs), expected(base, patch, inputs))


def test_kinds_that_add_layers_have_no_adapter_and_the_error_says_what_has(base: Base, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="'gate' adds layers") as refused:
        export(base, moved(base, (K.GATE, K.HEAD)), ExportFormat.ADAPTER, tmp_path / "a.zip")
    assert "--format safetensors" in str(refused.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_a_folded_model_that_disagrees_is_not_written(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "TOLERANCE", 0.0)
    with pytest.raises(UnavailableError, match="nothing was written"):
        export(base, moved(base, AFFINE), ExportFormat.ONNX, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
