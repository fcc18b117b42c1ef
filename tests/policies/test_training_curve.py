"""Curves of training jobs: bounded, in order, and without what was done again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from patchd.policies.task import JobProgress, MemberProgress
from patchd.policies.training_curve import MOST_POINTS, CurvePoint, extended, point_of, spacing


def at(rung: int, step: int, loss: float = 1.0) -> CurvePoint:
    return CurvePoint(time_s=float(step), rung=rung, resolution=64, epoch=0, step=step, loss=loss)


def curve(points: list[CurvePoint], apart: int = 1) -> tuple[CurvePoint, ...]:
    made: tuple[CurvePoint, ...] = ()
    for point in points:
        made = extended(made, point, apart)
    return made


def test_a_report_before_the_first_step_is_no_point() -> None:
    assert point_of(JobProgress(), 1.0) is None
    point = point_of(JobProgress(rung=1, resolution=96, epoch=2, step=5, loss=0.5, validation=0.75), 9.0)
    assert point == CurvePoint(time_s=9.0, rung=1, resolution=96, epoch=2, step=5, loss=0.5, validation=0.75)


def test_a_point_tells_each_of_several_tasks() -> None:
    members = (MemberProgress(task="a", resolution=64, loss=0.5, gradient_norm=2.0),)
    point = point_of(JobProgress(step=5, loss=0.5, members=members), 9.0)
    assert point is not None
    assert point.members == members


def test_points_lie_apart_and_the_last_is_where_the_job_stands() -> None:
    assert [p.step for p in curve([at(0, step) for step in range(1, 24)], apart=10)] == [1, 11, 21, 23]
    assert spacing(JobProgress(rungs=5, steps=1000)) == 20
    assert spacing(JobProgress()) == 1


def test_what_a_job_goes_back_behind_is_taken_out() -> None:
    again = curve([*(at(0, s, 1.0) for s in range(1, 9)), *(at(1, s, 2.0) for s in range(1, 5)), at(1, 3, 9.0)])
    assert [(p.rung, p.step, p.loss) for p in again[-3:]] == [(1, 1, 2.0), (1, 2, 2.0), (1, 3, 9.0)]
    assert len([p for p in again if p.rung == 0]) == 8


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3000)), max_size=60), st.integers(1, 50))
def test_a_curve_is_in_order_and_ends_with_the_last_report(reports: list[tuple[int, int]], apart: int) -> None:
    made = curve([at(rung, step) for rung, step in reports], apart)
    places = [(p.rung, p.step) for p in made]
    assert places == sorted(set(places))
    if reports:
        assert places[-1] == reports[-1]


def test_a_curve_never_grows_beyond_its_bound_however_many_rungs_and_steps() -> None:
    made = curve([at(rung, step) for rung in range(6) for step in range(1, 401)])
    assert MOST_POINTS // 2 <= len(made) <= MOST_POINTS
    assert {p.rung for p in made} == set(range(6))
    assert (made[-1].rung, made[-1].step) == (5, 400)
    many = curve([at(rung, 1) for rung in range(MOST_POINTS + 20)])
    assert len(many) == MOST_POINTS
