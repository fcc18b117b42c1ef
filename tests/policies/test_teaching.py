"""Who teaches: what a job has made takes its place only where it is better than what is in force."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patchd.policies.labels import imagenet_labels
from patchd.policies.task import Evaluation, PatchKind, RungResult, TaskSpec, Teacher, TrainSpec
from patchd.policies.teaching import RungInForce, inherits, is_taught, teachers, with_made
from pydantic import ValidationError

TASK = TaskSpec(name="t", labels=("a", "b"), resolutions=(224, 128, 96))
BUILT_IN = TaskSpec(name="imagenet", labels=imagenet_labels(), resolutions=(224, 128))
SPEC = TrainSpec(task="t")


def score(accuracy: float) -> Evaluation:
    return Evaluation(accuracy=accuracy, samples=100, low=0.0, high=1.0)


def result(resolution: int, accuracy: float, rival: float | None = None) -> RungResult:
    return RungResult(
        resolution=resolution,
        patch_id=f"made-{resolution}",
        parameters=1,
        share=0.01,
        bytes=1,
        validation=score(accuracy),
        test=None,
        seconds=1.0,
        rival_id=None if rival is None else f"old-{resolution}",
        rival=None if rival is None else score(rival),
    )


def rung(resolution: int) -> RungInForce:
    return RungInForce(resolution=resolution, file=f"/p/old-{resolution}.safetensors")


@given(made=st.floats(0, 1), rival=st.none() | st.floats(0, 1))
def test_a_jobs_rung_teaches_once_it_is_better_than_the_one_in_force_on_the_same_images(
    made: float, rival: float | None
) -> None:
    (stands,) = with_made((rung(96),), (result(96, made, rival),), "/p")
    better = rival is None or made > rival
    assert stands.file == f"/p/{'made' if better else 'old'}-96.safetensors"


def test_what_a_job_makes_joins_what_is_in_force_finest_first() -> None:
    rungs = with_made((rung(96), rung(224)), (result(224, 0.7, 0.8), result(128, 0.1)), "/p")
    assert [each.resolution for each in rungs] == [224, 128, 96]
    assert [each.file for each in rungs] == [
        "/p/old-224.safetensors",
        "/p/made-128.safetensors",
        "/p/old-96.safetensors",
    ]


def test_teachers_are_none_the_full_resolution_or_all() -> None:
    rungs = (rung(224), rung(128))
    assert teachers(Teacher.NONE, rungs, 224) == ()
    assert teachers(Teacher.FULL, rungs, 224) == rungs[:1]
    assert teachers(Teacher.FULL, rungs[1:], 224) == ()
    assert teachers(Teacher.ENSEMBLE, rungs, 224) == rungs


def test_rungs_begin_as_the_full_resolution_without_labels_or_where_they_learn_no_head() -> None:
    headless = SPEC.model_copy(update={"kinds": (PatchKind.SCALE_BIAS,)})
    assert not inherits(SPEC, TASK)
    assert not is_taught(SPEC, TASK)
    assert inherits(headless, TASK)
    assert not inherits(headless, BUILT_IN)
    assert inherits(SPEC.model_copy(update={"unlabelled": "/images"}), TASK)
    assert is_taught(SPEC.model_copy(update={"teacher": Teacher.ENSEMBLE}), TASK)


@pytest.mark.parametrize("changes", [{"teacher": "full"}, {"unlabelled": "/images"}, {"kinds": ["statistics", "head"]}])
def test_tasks_that_are_trained_together_are_not_taught(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="Tasks that are trained together have no teacher"):
        TrainSpec.model_validate({"task": "a", "together": ["b"], **changes})
