"""bfloat16 in training: about the same losses, patches in float32, and used by itself only where it is faster."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
import torch
from networks import make
from patchd.models.bases import Base
from patchd.models.patches import load_patch
from patchd.models.training import Trainer
from patchd.models.training.precision import faster_precision
from patchd.policies.decision import TrainingPlan
from patchd.policies.task import Precision, Preprocessing, TaskSpec, TrainSpec

SIDE = 32
TASK = TaskSpec(
    name="digits", labels=tuple("0123456789"), resolutions=(SIDE,), data="sklearn:digits",
    preprocessing=Preprocessing(crop_fraction=1.0),
)  # fmt: skip
SPEC = TrainSpec(task="digits", resolutions=(SIDE,), epochs=1, batch_size=16, max_samples=64)


def trained(directory: Path, precision: Precision, *, lean: bool = False) -> Trainer:
    for name in ("checkpoints", "patches"):
        (directory / name).mkdir(parents=True)
    base = Base("small", make("efficientnet_lite"), SIDE)
    spec = SPEC.model_copy(update={"precision": precision})
    trainer = Trainer(base, TASK, spec, "job-1", directory / "checkpoints", directory / "patches")
    list(trainer.run_slice(TrainingPlan(paused=False, lean=lean), 1e6, lambda: False, lambda _progress: None))
    assert trainer.done
    return trainer


@pytest.mark.parametrize("lean", [False, True], ids=["plain", "lean"])
def test_bf16_learns_about_the_same_and_the_patch_is_float32(tmp_path: Path, lean: bool) -> None:
    records = []
    for precision in (Precision.F32, Precision.BF16):
        trainer = trained(tmp_path / precision, precision, lean=lean)
        (use,) = trainer.take_uses()
        assert use.bf16 == (precision is Precision.BF16)
        (finished,) = trainer.finished
        patch = load_patch(tmp_path / precision / "patches" / f"{finished.result.patch_id}.safetensors")
        assert {tensor.dtype for tensor in patch.tensors.values()} == {torch.float32}
        assert patch.metadata.training is not None
        assert patch.metadata.training.precision is precision
        records.append(patch.metadata.training)
    full, half = records
    assert full.final_loss is not None
    assert half.final_loss != full.final_loss
    assert half.final_loss == pytest.approx(full.final_loss, rel=0.05)


def test_auto_measures_once_for_a_rung_and_says_what_it_found(tmp_path: Path) -> None:
    trainer = trained(tmp_path, Precision.AUTO)
    (note,) = trainer.take_notes()
    (finished,) = trainer.finished
    assert finished.metadata.training is not None
    used = finished.metadata.training.precision
    assert used in (Precision.F32, Precision.BF16)
    assert note.startswith("In bf16 a step takes")
    assert note.endswith(f"so {used} is used.")


@pytest.mark.parametrize(("half", "expected"), [(0.5, Precision.BF16), (0.97, Precision.F32), (1.5, Precision.F32)])
def test_bf16_is_used_only_where_it_is_clearly_faster(
    half: float, expected: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.accumulate(itertools.cycle((0.0, 1.0, 0.0, half)))  # begin and end of a step in each precision
    monkeypatch.setattr(time, "process_time", lambda: next(clock))
    chosen, why = faster_precision(lambda _precision: None)
    assert chosen is expected
    assert f"{half:.2f} times" in why


def test_several_tasks_together_are_trained_in_f32() -> None:
    with pytest.raises(ValueError, match="in f32 alone"):
        TrainSpec(task="a", together=("b",), precision=Precision.BF16)
