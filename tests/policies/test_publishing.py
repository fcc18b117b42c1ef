"""Which patch is in force: the better one on the same images, and of equal ones the smaller."""

from __future__ import annotations

import pytest
from patchd.policies.publishing import Standing, judged
from patchd.policies.task import Evaluation, Measure, PatchKind, PatchMetadata, Preprocessing, TrainingRecord

SAME, OTHER = "a" * 64, "b" * 64


def score(accuracy: float) -> Evaluation:
    return Evaluation(accuracy=accuracy, samples=100, low=0, high=1)


def patch(accuracy: float | None, parameters: int = 10, digest: str = SAME) -> PatchMetadata:
    record = None
    if accuracy is not None:
        record = TrainingRecord(
            job_id="job-1", kinds=(PatchKind.HEAD,), epochs=1, steps=1, train_samples=8, seed=0, learning_rate=0.1,
            batch_size=8, seconds=1.0, validation=score(accuracy), validation_digest=digest,
        )  # fmt: skip
    return PatchMetadata(
        base="lite0", base_hash="c" * 64, task="t", labels=("a", "b"), kinds=(PatchKind.HEAD,), resolution=96,
        preprocessing=Preprocessing(), parameters=parameters, base_parameters=1000, training=record, created_s=0.0,
    )  # fmt: skip


STANDING = Standing(patch_id="old", validation=0.8, digest=SAME, parameters=10)


@pytest.mark.parametrize(
    ("accuracy", "parameters", "better"),
    [(0.81, 99, True), (0.8, 9, True), (0.8, 10, False), (0.79, 1, False), (None, 1, False)],
)
def test_better_means_more_right_answers_or_as_many_with_fewer_parameters(
    accuracy: float | None, parameters: int, better: bool
) -> None:
    assert judged("new", patch(accuracy, parameters), STANDING).better is better


def test_the_first_of_a_rung_and_the_one_in_force_already_stand() -> None:
    assert judged("new", patch(None), None).better
    assert judged("old", patch(0.1), STANDING).better


def test_what_the_old_one_scored_beside_the_new_one_counts_before_its_own_record() -> None:
    verdict = judged("new", patch(0.7, digest=OTHER), STANDING, score(0.6), "old")
    assert verdict.better
    assert "0.700 against 0.600" in verdict.note
    assert not judged("new", patch(0.9, digest=OTHER), STANDING, score(0.95), "old").better


def test_a_score_of_a_patch_that_is_no_longer_in_force_counts_for_nothing() -> None:
    verdict = judged("new", patch(0.7, digest=OTHER), STANDING, score(0.6), "older")
    assert not verdict.better
    assert "0.700 against 0.800, of other images" in verdict.note


def test_a_patch_worse_than_the_bare_base_does_not_take_its_place() -> None:
    assert not judged("new", patch(0.7), Standing(), score(0.75), None).better
    assert judged("new", patch(0.8), Standing(), score(0.75), None).better


def test_agreement_with_a_teacher_is_compared_on_the_same_images_or_not_at_all() -> None:
    made = patch(0.9)
    assert made.training is not None
    agreeing = score(0.9).model_copy(update={"measure": Measure.AGREEMENT})
    made = made.model_copy(update={"training": made.training.model_copy(update={"validation": agreeing})})
    assert judged("new", made, STANDING, score(0.85), "old").better
    assert "agreement with the teacher 0.900 against 0.850" in judged("new", made, STANDING, score(0.85), "old").note
    assert not judged("new", made, STANDING, score(0.95), "old").better
    assert not judged("new", made, STANDING).better  # 0.8 of the one in force is accuracy
    assert judged("new", made, Standing(), score(0.8), None).better
