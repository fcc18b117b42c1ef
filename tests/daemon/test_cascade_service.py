"""What becomes of a cascade beside the usual: old answers, other patches, a full disk, and whatever else fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import bodies
import pytest
from patchd.daemon.api.schemas import CalibrateCreate, CascadeState, CostView, TaskCreate
from patchd.daemon.app import Daemon
from patchd.daemon.config import DaemonConfig
from patchd.daemon.workers.protocol import Audited, InferResult, Passage, Timing
from patchd.policies.cascade import AcceptRule, Basis, Cascade, Promise, RuleKind, RungId, Stage
from patchd.policies.errors import PatchdError, StateError, WorkerCrashedError
from patchd.policies.restrictions import FREE

NOW_S = 5_000.0
TIMING = Timing(decode_ms=1, preprocess_ms=1, bind_ms=0, network_ms=4)
FEATURES = ((0.5,) * 4, (0.5,) * 4)
PATCHES = {96: "a" * 64, 64: "b" * 64}
DEAR, CHEAP = (RungId(base="lite0", resolution=side, patch_id=patch) for side, patch in PATCHES.items())
PROMISE = Promise(basis=Basis.AGREEMENT, epsilon=0.1, delta=0.05, samples=100, holds=True)


def state(made_s: float = 1.0) -> CascadeState:
    """A cascade of the two rungs, in force."""
    margin = AcceptRule(kind=RuleKind.MARGIN, threshold=0.5)
    stages = (
        Stage(rung=CHEAP, rule=margin, cost_ms=2, share=0.8),
        Stage(rung=DEAR, rule=AcceptRule(kind=RuleKind.ALWAYS), cost_ms=5, share=0.2),
    )
    cascade = Cascade(
        stages=stages, reference=DEAR, promise=PROMISE, cost_ms=3, reference_cost_ms=5, search_samples=99, made_s=made_s
    )
    return CascadeState(
        task="t", cascade=cascade, in_force=True, reason="", calibrated_on="", samples=199, prices=(), decode_ms=1,
        dispatch_ms=1,
    )  # fmt: skip


def result(passage: Passage) -> InferResult:
    return InferResult(
        id=1, indices=(0,), probabilities=(1.0,), timing=TIMING, engine="torch", resolution=64, passage=passage
    )


def add_patch(daemon: Daemon, patch_id: str, resolution: int) -> None:
    changes = {"base": "lite0", "resolution": resolution, "task": "t", "labels": ("a", "b"), "training": None}
    daemon.tasks.add_patch(patch_id, 1, bodies.PATCH_VIEW.metadata.model_copy(update=changes))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[], Daemon]]:
    """Opens a daemon, without serving, on the one state directory; the one before is closed."""
    policy = tmp_path / "p.toml"
    policy.write_text('[policy]\nname = "p"\n[cascade]\naudit_share = 1.0\nfalse_alarm_every = 100\n')
    opened: list[Daemon] = []

    def close() -> None:
        for daemon in opened:
            daemon.store.close()
            daemon._lock.release()
        opened.clear()

    def open_one() -> Daemon:
        close()
        opened.append(Daemon(DaemonConfig(policy=str(policy)), tmp_path / "state", tmp_path / "s"))
        return opened[0]

    yield open_one
    close()


@pytest.fixture
def daemon(make: Callable[[], Daemon]) -> Daemon:
    """With a task of two rungs and its cascade."""
    daemon = make()
    daemon.tasks.create(TaskCreate(name="t", labels=("a", "b"), resolutions=tuple(PATCHES)), ("a", "b"))
    for side, patch in PATCHES.items():
        add_patch(daemon, patch, side)
    cost = {"base": "lite0", "prepare_ms": 1, "p90_ms": 9, "samples": 9, "engine": "torch", "measured_s": 1}
    daemon.tasks.put_costs(tuple(CostView(resolution=side, median_ms=side / 20, **cost) for side in PATCHES))
    daemon.cascades.put(state())
    return daemon


def audit(daemon: Daemon, request: int, *, differs: bool, at_s: float = NOW_S) -> None:
    daemon.cascades.sent(request, "t", daemon.cascades.plan("t", 1.0, FREE))
    answers = (0, 1) if differs else (0, 0)  # of the cheap rung, of the dear one
    daemon.cascades.heard(Audited(id=request, given=0, answers=answers, features=FEATURES), at_s)


def test_answers_of_a_cascade_that_was_replaced_meanwhile_count_for_neither(daemon: Daemon) -> None:
    plan = daemon.cascades.plan("t", 1.0, FREE)
    daemon.cascades.sent(1, "t", plan)
    daemon.cascades.put(state(made_s=2.0))
    told = daemon.cascades.answered(1, "t", plan, result(Passage(stage=0, confidence=0.9)))
    assert (told.stage, told.promise) == (0, PROMISE)  # it was given under the old one's promise
    assert daemon.cascades.counts("t") == ()
    daemon.cascades.heard(Audited(id=1, given=0, answers=(0, 1), features=FEATURES), NOW_S)
    assert daemon.cascades.state("t").drift.audits == 0
    assert daemon.cascades.count_rows("t") == 1  # what the rungs say is as good for the new one


def test_audits_that_differ_end_in_drift_and_only_what_came_since_is_calibrated_on(
    daemon: Daemon, make: Callable[[], Daemon]
) -> None:
    for request in range(50):
        audit(daemon, request, differs=False, at_s=NOW_S + request)
    assert (daemon.cascades.count_rows("t"), daemon.cascades.state("t").in_force) == (50, True)
    differing = 0
    while daemon.cascades.state("t").in_force and differing < 10:
        audit(daemon, 50 + differing, differs=True, at_s=NOW_S + 50 + differing)
        differing += 1
    drifted = daemon.cascades.state("t")
    assert (drifted.in_force, drifted.drifted_since_s) == (False, NOW_S + 50)
    assert daemon.cascades.count_rows("t") == differing
    assert daemon.cascades.plan("t", 1.0, FREE).stages == ()
    again = make()
    assert again.cascades.state("t") == drifted
    assert again.cascades.count_rows("t") == differing


def test_audits_of_a_late_or_shortened_answer_are_no_evidence_of_drift(daemon: Daemon) -> None:
    plan = daemon.cascades.plan("t", 1.0, FREE)
    daemon.cascades.sent(1, "t", plan)
    told = daemon.cascades.answered(1, "t", plan, result(Passage(stage=0, confidence=0.1, late=True)))
    assert (told.late, told.promise) == (True, None)
    daemon.cascades.heard(Audited(id=1, given=0, answers=(0, 1), features=FEATURES), NOW_S)
    low = daemon.cascades.plan("t", 0.0, FREE)
    assert len(low.stages) == 1
    daemon.cascades.sent(2, "t", low)
    daemon.cascades.heard(Audited(id=2, given=0, answers=(0, 1), features=FEATURES), NOW_S)
    assert daemon.cascades.state("t").drift.audits == 0
    assert daemon.cascades.count_rows("t") == 2


def test_a_patch_in_the_place_of_a_stage_s_puts_it_out_of_force_once(daemon: Daemon) -> None:
    daemon.tasks.remove_patch(PATCHES[64])
    add_patch(daemon, "c" * 64, 64)
    for _ in range(2):
        assert not daemon.cascades.state("t").in_force
        assert daemon.cascades.plan("t", 1.0, FREE).stages == ()
    said = [event.message for event in daemon.store.events(0, 100, None, "cascade.outdated")]
    assert said == [
        "The cascade of task t is out of force: the rung lite0 at 64 px is no longer the one it was calibrated with."
    ]


def prices(daemon: Daemon, cheap_ms: float) -> None:
    cost = {"base": "lite0", "prepare_ms": 1, "p90_ms": 9, "samples": 9, "engine": "torch", "measured_s": 1}
    taken = {96: 4.8, 64: cheap_ms}
    daemon.tasks.put_costs(tuple(CostView(resolution=side, median_ms=ms, **cost) for side, ms in taken.items()))


def begun(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> list[CalibrateCreate]:
    """What a turn begins by itself."""
    created: list[CalibrateCreate] = []
    with monkeypatch.context() as patched:
        patched.setattr(daemon.calibration, "_begin", lambda task, create, what: created.append(create))
        daemon.calibration._not_before_s = 0.0
        asyncio.run(daemon.calibration.tick())
    return created


def test_where_no_cascade_paid_it_is_planned_again_once_a_rung_costs_less(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = state().model_copy(
        update={"in_force": False, "rungs": (DEAR, CHEAP), "prices": daemon.tasks.prices("t"), "retry_from": None}
    )
    daemon.cascades.put(nothing)
    assert begun(daemon, monkeypatch) == []
    prices(daemon, 4.0)  # dearer: still worth nothing
    assert begun(daemon, monkeypatch) == []
    prices(daemon, 1.6)
    (create,) = begun(daemon, monkeypatch)
    assert (create.again, create.epsilon, create.delta) == (True, PROMISE.epsilon, PROMISE.delta)
    missing_some = nothing.cascade.model_copy(update={"promise": PROMISE.model_copy(update={"missing": 9})})
    daemon.cascades.put(nothing.model_copy(update={"cascade": missing_some}))
    assert begun(daemon, monkeypatch) == []  # no price helps where inputs lack
    daemon.cascades.put(nothing)
    daemon.tasks.remove_patch(PATCHES[64])
    add_patch(daemon, "c" * 64, 64)
    prices(daemon, 1.6)
    assert begun(daemon, monkeypatch) == []  # the table is of another patch


def test_after_a_drift_a_calibration_that_promised_nothing_waits_for_half_as_many_more(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.cascades.put(state().model_copy(update={"in_force": False, "drifted_since_s": NOW_S, "retry_from": 160}))
    monkeypatch.setattr("patchd.daemon.calibration_service.missing", lambda have, *_: max(0, 100 - have))
    for request in range(159):
        audit(daemon, request, differs=False, at_s=NOW_S + request)
    assert begun(daemon, monkeypatch) == []
    audit(daemon, 159, differs=False, at_s=NOW_S + 159)
    (create,) = begun(daemon, monkeypatch)
    assert create.from_requests


def test_a_full_disk_loses_neither_audit_nor_standing_and_stops_nothing(
    daemon: Daemon, make: Callable[[], Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StateError("The state directory cannot be written: disk full.")

    with monkeypatch.context() as patched:
        for name in ("put_audit", "put_cascade"):
            patched.setattr(daemon.store, name, full)
            for waiting in (daemon.cascades._unsaved_states, daemon.cascades._unsaved_audits):
                patched.setattr(waiting, "_write", full)
        audit(daemon, 1, differs=False)
        assert daemon.cascades.state("t").drift.audits == 1
        assert daemon.cascades.count_rows("t") == 0
    audit(daemon, 2, differs=False)
    again = make()
    assert (again.cascades.count_rows("t"), again.cascades.state("t").drift.audits) == (2, 2)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (WorkerCrashedError("The inference worker is gone."), "The inference worker is gone."),
        (TimeoutError(), "TimeoutError: "),
        (RuntimeError("nobody foresaw this"), "RuntimeError: nobody foresaw this"),
    ],
)
def test_whatever_a_calibration_fails_of_is_said_and_the_cascade_stays(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    async def fails(task: str) -> None:
        raise error

    async def calibrated() -> None:
        monkeypatch.setattr(daemon.inference.worker, "measure_pool", fails)
        audit(daemon, 1, differs=False)
        daemon.calibration.start("t", CalibrateCreate(again=True))
        assert daemon.calibration.view("t").state == "running"
        await asyncio.sleep(0.01)

    asyncio.run(calibrated())
    view = daemon.calibration.view("t")
    assert (view.state, view.error) == ("failed", says)
    assert daemon.cascades.state("t").in_force
    (event,) = daemon.store.events(0, 100, "warning", "cascade.failed")
    assert event.message == f"Calibrating task t failed: {says}"


def test_a_calibration_is_ended_before_its_worker_runs_when_the_daemon_stops(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stopped() -> None:
        never = asyncio.Event()
        monkeypatch.setattr(daemon.inference.worker, "measure_pool", lambda task: never.wait())
        daemon.calibration.start("t", CalibrateCreate(again=True))
        await daemon.calibration.stop()  # before its first step, too
        assert daemon.calibration.view("t").state == "cancelled"
        daemon.calibration.start("t", CalibrateCreate(again=True))
        await asyncio.sleep(0.01)
        await daemon.calibration.stop()
        assert daemon.calibration.view("t").state == "cancelled"
        await daemon.calibration.stop()

    asyncio.run(stopped())
    assert len(daemon.store.events(0, 100, None, "cascade.cancelled")) == 2


def test_a_task_is_removed_with_its_cascade_in_one_step(daemon: Daemon, make: Callable[[], Daemon]) -> None:
    audit(daemon, 1, differs=False)
    daemon.store.delete_task("t")  # and then the power fails
    again = make()
    assert again.store.cascades() == []
    assert again.store.count_audits("t", "", 0.0) == 0
    with pytest.raises(PatchdError):
        again.cascades.pool("t")
