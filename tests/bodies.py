"""Answers of the API as a running daemon gives them, for tests of the command line."""

from __future__ import annotations

from datetime import date

from patchd.daemon.api import schemas as s
from patchd.daemon.api.example_schemas import ExampleList, ExampleView
from patchd.daemon.api.explain_schemas import Explain
from patchd.daemon.api.training_schemas import DayUse, JobCurve, JobUse, TrainingUsage
from patchd.daemon.training_records import MeasuredTraining, PlanReport
from patchd.policies.base_version import VersionMetadata, VersionOutcome
from patchd.policies.cascade import (
    AcceptRule,
    Basis,
    Cascade,
    CascadePoint,
    Price,
    Promise,
    RuleKind,
    RungId,
    Stage,
)
from patchd.policies.decision import (
    AllocationDecision,
    Decision,
    Ladder,
    PlanCandidate,
    Reason,
    ReasonKind,
    Rung,
    RungCandidate,
    RungDecision,
    TrainingDecision,
    TrainingPlan,
)
from patchd.policies.explain import Section
from patchd.policies.snapshot import Cpu, Memory, Power, Snapshot
from patchd.policies.task import (
    Evaluation,
    JobProgress,
    JobState,
    MemberProgress,
    PatchKind,
    PatchMetadata,
    Preprocessing,
    RungResult,
    TaskSpec,
    TrainingRecord,
    TrainSpec,
)
from patchd.policies.training_costs import Correction
from patchd.policies.training_curve import CurvePoint
from patchd.policies.training_defaults import default_costs
from patchd.policies.training_use import TrainingUse

PATCH = "4be1" + "0" * 60
NOW_S = 1_800_000_000.0

SNAPSHOT = Snapshot(
    time_s=NOW_S,
    cpu=Cpu(count=2, busy=0.25, busy_own=0.05, load1=0.5),
    memory=Memory(total_bytes=8 << 30, available_bytes=5 << 30),
    power=Power(on_mains=False, battery_charge=0.14),
)
REASON = Reason(kind=ReasonKind.RULE, text="battery.charge is 0.14, below 0.2 (rule 'low battery')", rule="low battery")
RUNGS = (
    Rung(base="lite0", resolution=128, patch_id=PATCH, cost_ms=4.5, accuracy=0.93, accuracy_samples=360),
    Rung(base="lite0", resolution=96, patch_id=None, cost_ms=2.5, accuracy=0.9, accuracy_samples=360),
)
DECISION = Decision(
    id="d-7",
    time_s=NOW_S,
    policy="balanced",
    source="device",
    inference=AllocationDecision(value=0.4, target=0.3, reasons=(REASON,)),
    training=AllocationDecision(value=0.0, target=0.0, reasons=(REASON,)),
    rungs=(
        RungDecision(
            task="digits",
            resolution=96,
            patch_id=None,
            budget_ms=3.1,
            candidates=(
                RungCandidate(rung=RUNGS[0], cost_ms=4.5, fits=False, chosen=False, verdict="4.5 ms is over 3.1 ms"),
                RungCandidate(rung=RUNGS[1], cost_ms=2.5, fits=True, chosen=True, verdict="best that fits"),
            ),
            text="digits runs at 96 px.",
        ),
    ),
    plan=TrainingDecision(
        plan=TrainingPlan(paused=True),
        candidates=(PlanCandidate(plan=TrainingPlan(paused=True), fits=True, chosen=True, verdict="nothing fits"),),
        text="Training is paused.",
    ),
    changed=("digits runs at 96 px instead of 128 px.",),
)
POLICY = s.PolicyState(name="balanced", source="preset:balanced", sha256="0" * 64, loaded_s=NOW_S - 60)
STATUS = s.Status(
    version="0.1.0",
    pid=321,
    started_s=NOW_S - 75,
    now_s=NOW_S,
    state_dir="/var/lib/patchd",
    socket="/run/patchd/patchd.sock",
    policy=POLICY,
    decision=DECISION,
    snapshot=SNAPSHOT,
    workers=(
        s.WorkerStatus(name="inference", state="ready", pid=322, engine="torch", threads=2, resident_bytes=300 << 20),
        s.WorkerStatus(name="training", state="stopped"),
    ),
    tasks=2,
    jobs_active=1,
    requests_total=12,
)
EXPLAIN = Explain(
    asked="now",
    as_of="Signals, rules and reasons are of the last sample, at 14:05:15.",
    decision=DECISION,
    snapshot=SNAPSHOT,
    policy=POLICY,
    rules=(),
    sections=(
        Section(key="summary", heading="In short", sentences=("The battery is low.", "So it runs at 96 px.")),
        Section(key="rules.match", heading="Rules that match", items=("'low battery' matches.",)),
    ),
)
TASK = s.TaskView(
    spec=TaskSpec(name="digits", labels=("zero", "one", "two"), resolutions=(128, 96), data="sklearn:digits"),
    created_s=NOW_S,
    ladder=Ladder(task="digits", rungs=RUNGS),
    predictions=12,
)
EVALUATION = Evaluation(accuracy=0.931, samples=360, low=0.9, high=0.953)
PATCH_VIEW = s.PatchView(
    id=PATCH,
    bytes=168_000,
    in_force=True,
    metadata=PatchMetadata(
        base="lite0",
        base_hash="a" * 64,
        task="digits",
        labels=("zero", "one", "two"),
        kinds=(PatchKind.SCALE_BIAS, PatchKind.HEAD),
        resolution=128,
        preprocessing=Preprocessing(),
        parameters=42_016,
        base_parameters=4_652_008,
        created_s=NOW_S,
        training=TrainingRecord(
            job_id="job-1",
            kinds=(PatchKind.SCALE_BIAS,),
            epochs=4,
            steps=100,
            train_samples=1000,
            seed=0,
            learning_rate=0.01,
            batch_size=32,
            seconds=75,
            final_loss=0.25,
            validation=EVALUATION,
            test=EVALUATION,
        ),
    ),
)


TRAINING_COSTS = MeasuredTraining(
    torch="2.13.0",
    processor="A Processor",
    costs=default_costs().model_copy(
        update={
            "measured_s": NOW_S,
            "seconds": 31.0,
            "corrections": (Correction(resolution=128, time=1.12, memory=0.95, slices=4),),
        }
    ),
)
PLAN = TrainingPlan(
    paused=False, resolution=128, reach=0.72, fraction=0.25, cost=0.45, step_ms=210, memory_bytes=300_000_000
)
REPORT = PlanReport(
    plan=PLAN,
    resolution=128,
    threads=2,
    steps=40,
    samples=1280,
    cpu_seconds=17,
    predicted_step_ms=400,
    measured_step_ms=420.5,
    time_factor=1.05,
    predicted_bytes=300_000_000,
    measured_bytes=310_000_000,
    full_step_ms=900,
)


def job(state: JobState = JobState.RUNNING, *, step: int = 10, error: str | None = None) -> s.JobView:
    """A job of two rungs; with a result once it is done."""
    result = RungResult(
        resolution=128,
        patch_id=PATCH,
        parameters=42_016,
        share=0.009,
        bytes=168_000,
        validation=EVALUATION,
        test=EVALUATION,
        seconds=75,
        published=True,
    )
    return s.JobView(
        id="job-1",
        state=state,
        spec=TrainSpec(task="digits", resolutions=(128, 96)),
        created_s=NOW_S,
        updated_s=NOW_S,
        progress=JobProgress(
            rung=0,
            rungs=2,
            resolution=128,
            epoch=1,
            epochs=4,
            step=step,
            steps=100,
            loss=0.5,
            samples_per_s=88.0,
            plan=TrainingPlan(paused=False, reach=0.72, fraction=0.25),
            phase="training",
        ),
        results=(result,) if state is JobState.DONE else (),
        error=error,
        waiting="the training allocation is 0" if state is JobState.PAUSED else None,
        seconds=75,
        slices=3,
        plan=TrainingDecision(
            plan=PLAN,
            candidates=(PlanCandidate(plan=PLAN, fits=True, chosen=True, verdict="upper 72 % chosen: 0.45 fits"),),
            text="patch in the upper 72 % of the network",
            job="job-1",
        ),
        plans_run=(REPORT,),
    )


def answer(index: int = 1, *, resolution: int = 96) -> s.InferAnswer:
    """A prediction of class `index` of `TASK`."""
    labels = TASK.spec.labels
    return s.InferAnswer(
        engine="torch",
        request_id="r-1",
        task="digits",
        predictions=(
            s.Prediction(label=labels[index], index=index, probability=0.75),
            s.Prediction(label=labels[index - 1], index=(index - 1) % 3, probability=0.25),
        ),
        base="lite0",
        resolution=resolution,
        patch_id=None,
        decision_id="d-7",
        allocation=0.4,
        why="digits runs at 96 px: best that fits 3.1 ms",
        timing=s.InferTiming(total_ms=9.5, queue_ms=0.1, decode_ms=2.5, preprocess_ms=1.5, bind_ms=0, network_ms=5.0),
    )


CHEAP, MIDDLE, DEAR = (
    RungId(base=base, resolution=side) for base, side in (("lite0", 96), ("lite0", 128), ("lite2", 260))
)
PROMISE = Promise(
    basis=Basis.LABELS, epsilon=0.01, delta=0.05, samples=480, loss=0.002, disagreement=0.0125, p_value=0.03, holds=True
)
CASCADE = s.CascadeView(
    task="digits",
    state=s.CascadeState(
        task="digits",
        cascade=Cascade(
            stages=(
                Stage(rung=CHEAP, rule=AcceptRule(kind=RuleKind.MARGIN, threshold=0.75), cost_ms=4, share=0.7),
                Stage(rung=MIDDLE, rule=AcceptRule(kind=RuleKind.AGREEMENT, earlier=0), cost_ms=5, share=0.2),
                Stage(rung=DEAR, rule=AcceptRule(kind=RuleKind.ALWAYS), cost_ms=30, share=0.1),
            ),
            reference=DEAR,
            promise=PROMISE,
            cost_ms=8.5,
            reference_cost_ms=34,
            search_samples=470,
            made_s=NOW_S,
        ),
        in_force=True,
        reason="3 stages at 25% of the cost of lite2 at 260 px, which lose at most 1.0% of right answers",
        calibrated_on="the test part of sklearn:digits",
        samples=950,
        prices=(Price(base="lite0", resolution=96, prepare_ms=0.5, network_ms=2),),
        decode_ms=1,
        dispatch_ms=0.5,
    ),
    counts=(
        s.StageCount(answers=60, spent_ms=300),
        s.StageCount(answers=30, spent_ms=300),
        s.StageCount(answers=10, spent_ms=400),
    ),
    audit_rows=12,
)
POINTS = s.CascadePoints(
    task="digits",
    basis=Basis.LABELS,
    points=(
        CascadePoint(stages=("lite0 at 96 px, always",), cost_ms=4, loss=0.2, disagreement=0.3, frontier=True),
        CascadePoint(stages=("lite0 at 128 px, always",), cost_ms=9, loss=0.25, disagreement=0.3),
        CascadePoint(
            stages=("lite0 at 96 px, margin", "lite2 at 260 px, always"),
            cost_ms=8.5,
            loss=0.002,
            disagreement=0.01,
            frontier=True,
            chosen=True,
        ),
    ),
)
PASSED = s.CascadeAnswer(
    stage=1, stages=3, confidence=0.875, cost_ms=9, late=False, shortened=False, promise=PROMISE, text="all 3 stages"
)


EVENTS = tuple(
    s.Event(id=number, time_s=NOW_S + number, level=level, kind=kind, message=message)
    for number, (level, kind, message) in enumerate(
        (
            ("info", "job.queued", "Job job-1 trains digits."),
            ("warning", "trace.started", "The trace takes the place of the device."),
            ("error", "job.failed", "Job job-1 failed."),
            ("info", "decision.changed", "digits runs at 96 px."),
        ),
        start=1,
    )
)

CURVE = JobCurve(
    job="job-1",
    points=tuple(
        CurvePoint(
            time_s=1.0, rung=0, resolution=96, epoch=step // 5, step=step, loss=5.0 / step, validation=0.8 + step / 100
        )
        for step in range(1, 11)
    ),
)
_USE = TrainingUse(cpu_seconds=90.0, seconds=60.0, slices=3, samples=640, rapl_joules=12_345.0)
USAGE = TrainingUsage(
    today=date(2026, 6, 2),
    today_cpu_seconds=90.0,
    max_minutes_per_day=2.0,
    days=(DayUse(day=date(2026, 6, 2), use=_USE, jobs=(JobUse(job="job-1", use=_USE),)),),
    use=_USE,
)
_MEMBERS = tuple(
    MemberProgress(task=task, resolution=96, loss=0.4, gradient_norm=norm)
    for task, norm in (("digits", 2.5), ("groceries", 0.125))
)
TOGETHER = job(JobState.DONE).model_copy(
    update={
        "spec": TrainSpec(task="digits", together=("groceries",), base="lite0", resolutions=(96,)),
        "progress": JobProgress(step=10, steps=10, loss=0.4, members=_MEMBERS),
        "results": tuple(
            job(JobState.DONE).results[0].model_copy(update={"task": task, "resolution": 96, "note": "ready"})
            for task in ("digits", "groceries")
        ),
        "version": VersionOutcome(name="lite0@3fa9c01d", registered=True, note="kept; no task answers on it yet"),
    }
)
BASES = s.BaseList(
    bases=(
        s.BaseView(name="lite0", packaged="lite0", used_by=(s.BaseUse(task="digits", resolutions=(128, 96)),)),
        s.BaseView(
            name="lite0@3fa9c01d",
            packaged="lite0",
            sha256="3fa9c01d" + "0" * 56,
            bytes=9_000_000,
            metadata=VersionMetadata(
                base="lite0",
                base_hash="a" * 64,
                hash="b" * 64,
                parent="lite0",
                parent_hash="a" * 64,
                tasks=("digits", "groceries"),
                job_id="job-1",
                parameters=2_200_000,
                created_s=NOW_S,
            ),
            ready=(s.BaseUse(task="digits", resolutions=(96,)),),
            jobs=("job-2",),
        ),
    )
)
EXAMPLES = ExampleList(
    task="pets",
    examples=(
        ExampleView(
            id="ex-0123456789ab",
            task="pets",
            label="cat",
            bytes=48_213,
            source="correction",
            part="train",
            added_s=1_800_000_000.0,
            expires_s=1_807_776_000.0,
        ),
    ),
    used=False,
    images=3,
    bytes=150_000,
    most_images=1000,
    most_bytes=268_435_456,
)
