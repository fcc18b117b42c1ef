"""Training jobs: which runs, when it may, under which plan, and what becomes of it.

One slice at a time runs in the training worker. Whatever the worker has not reported when it dies is done again from
its last checkpoint; whatever it has reported is in the state.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from ..policies.base_name import packaged
from ..policies.decision import TrainingPlan
from ..policies.errors import ConflictError, PatchdError, StateError, UnavailableError
from ..policies.restrictions import training_forbidden
from ..policies.snapshot import Snapshot
from ..policies.task import JobProgress, JobState, PatchMetadata, TrainSpec
from ..policies.threads import free_threads
from ..policies.training_costs import TrainingSituation
from ..policies.training_use import TrainingUse
from .api.schemas import JobView, TrainingProfile, WorkerStatus
from .deciding import DecisionService
from .events import EventLog
from .monitor.kills import KernelKills
from .policy_service import PolicyService
from .store import Store
from .task_service import TaskService
from .training_account import MEASURING, TrainingAccount
from .training_costs import TrainingCostBook
from .training_curves import TrainingCurves
from .training_examples import JobExamples
from .training_jobs import FINAL, RUNNABLE, TrainingJobs
from .training_measuring import Measurements, Request
from .training_meter import TrainingMeter
from .training_outlook import TrainingOutlook
from .training_records import PlanReport
from .training_requests import check_trainable, checked
from .training_results import TrainingResults
from .training_together import TrainingTogether, checked_together
from .training_waiting import plan_in_force, waiting_for, why_not
from .worker_process import WorkerProcess
from .workers.measure_messages import JobOutlined, MeasureTraining
from .workers.protocol import (
    JobDone,
    JobFailed,
    Message,
    Note,
    OutOfMemory,
    Progress,
    RungDone,
    RunSlice,
    SliceDone,
    SliceFailed,
    StartJob,
    VersionDone,
    YieldSlice,
)

CRASHES_BEFORE_FAILURE = 3  # in a row without a finished slice between them
CRASH_PAUSE_S = 2.0
STORAGE_PAUSE_S = 10.0
THREADS_WRONG_TURNS = 2  # in a row, before a slice gives way to one with as many threads as there is room for

# The job, its wall and processor seconds, and what its plans took.
SliceWatcher = Callable[[JobView, float, float, Sequence[PlanReport]], None]


class TrainingService:
    """Owns the training worker and the jobs. `tick` is called at every turn of the decision loop."""

    def __init__(
        self,
        store: Store,
        events: EventLog,
        tasks: TaskService,
        deciding: DecisionService,
        policies: PolicyService,
        account: TrainingAccount,
        curves: TrainingCurves,
        meter: TrainingMeter,
        examples: JobExamples,
        kills: KernelKills,
        threads: int,
        measure_s: float,
    ) -> None:
        """The plan is decided for the job in hand, or the next one: `deciding` asks for it from now on.

        `records` are the jobs as they are written down; `job` and `jobs` tell of them with what is known beside.
        """
        self._store, self._events, self._tasks = store, events, tasks
        self._deciding, self._policies, self._threads = deciding, policies, threads
        self._kills = kills
        self._costs = TrainingCostBook(store)
        self._outlook = TrainingOutlook(store, tasks, self._costs)
        self._measurements = Measurements(self._costs, events, deciding.refresh, measure_s)
        deciding.plan_for(self._situation)
        self._examples = examples
        self._account, self._curves, self._meter = account, curves, meter
        self._results = TrainingResults(store, events, tasks)
        self._together = TrainingTogether(store, events, tasks)
        self._worker = WorkerProcess("training", self._on_message, self._on_exit, on_closed=self._weigh)
        self.records = TrainingJobs(store, events)
        self._untold = False  # a finished rung could not be registered; the worker tells it again when it starts
        self._active: str | None = None
        self._slice_plan: TrainingPlan | None = None
        self._slice_terms = self._terms()
        self._slice_threads = threads
        self._threads_wrong = 0
        self._yielding = False
        self._crashes = 0
        self._not_before_s = 0.0
        self._stopping = False
        self._expected_exit = False
        self._busy = asyncio.Lock()
        self._slice_watchers: list[SliceWatcher] = []

    def on_slice(self, watcher: SliceWatcher) -> None:
        """Call `watcher` with every slice that has ended in order."""
        self._slice_watchers.append(watcher)

    # what callers ask for

    def submit(self, spec: TrainSpec) -> JobView:
        """Queue a job. Raises NotFoundError, BadInputError, ForbiddenError or ConflictError."""
        task = self._tasks.task(spec.task)
        check_trainable(training_forbidden(self._policies.policy, spec.tasks), spec.tasks)
        if spec.together:
            tasks = [task, *map(self._tasks.task, spec.together)]
            spec = checked_together(spec, tasks, self._policies.policy.training.max_fraction)
        else:
            sides = [rung.resolution for rung in self._tasks.in_force(task.name, spec.base or task.base)]
            spec = checked(spec, task, sides, self._examples.of_task(task.name))
        self._tasks.check_base(spec.base or "")
        now = time.time()
        job = JobView(
            id=f"job-{secrets.token_hex(4)}",
            state=JobState.QUEUED,
            spec=spec,
            created_s=now,
            updated_s=now,
            progress=JobProgress(
                rungs=1 if spec.together else len(spec.resolutions),
                resolution=spec.resolutions[0],
                epochs=spec.epochs,
            ),
        )
        self.records.add(job)
        self._events.emit(
            "job.queued", f"Job {job.id} trains {', '.join(spec.tasks)} on {spec.base}.", job=job.id, task=spec.task
        )
        return self.job(job.id)

    def job(self, job_id: str) -> JobView:
        """A job by id, with why it waits. Raises NotFoundError."""
        job, decision = self.records.get(job_id), self._deciding.current
        told: dict[str, object] = {
            "waiting": waiting_for(job, decision, self._active, self._policies.policy),
            "use": self._account.of_job(job_id),
            "plans_run": self._outlook.notes(job_id).plans_run,
            "memory_cap_bytes": self._outlook.notes(job_id).memory_cap_bytes,
        }
        if decision is not None and decision.plan.job == job_id and job.state not in FINAL:
            told["plan"] = decision.plan
        return job.model_copy(update=told)

    def jobs(self) -> tuple[JobView, ...]:
        """All jobs, oldest first."""
        return tuple(self.job(job.id) for job in self.records.all())

    def pause(self, job_id: str) -> JobView:
        """Stop advancing a job until it is resumed. Raises ConflictError when it has ended."""
        job = self.records.not_ended(job_id)
        self.records.update(job, state=JobState.PAUSED)
        self._yield(job_id)
        self._events.emit("job.paused", f"Job {job_id} is paused.", job=job_id)
        return self.job(job_id)

    def resume(self, job_id: str) -> JobView:
        """Let a paused job go on. Raises ConflictError when it is not paused."""
        job = self.records.not_ended(job_id)
        if job.state is not JobState.PAUSED:
            raise ConflictError(f"Job {job_id} is {job.state}, not paused.")
        self.records.update(job, state=JobState.QUEUED)
        self._events.emit("job.resumed", f"Job {job_id} goes on.", job=job_id)
        return self.job(job_id)

    def cancel(self, job_id: str) -> JobView:
        """End a job; the rungs it has finished stay. Raises ConflictError when it has ended."""
        job = self.records.not_ended(job_id)
        self.records.update(job, state=JobState.CANCELLED)
        self._yield(job_id)
        if self._active != job_id or self._slice_plan is None:  # else when the slice in hand has ended
            self._forget(job_id)
        self._events.emit("job.cancelled", f"Job {job_id} is cancelled.", job=job_id)
        return self.job(job_id)

    # the loop

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker while it lives."""
        return self._worker.pid

    def status(self) -> WorkerStatus:
        """The worker at a glance."""
        state: Literal["stopped", "starting", "ready", "busy"] = "stopped"
        if self._worker.running:
            state = "busy" if self._at_work else "ready"
        elif self._worker.pid is not None:
            state = "starting"
        return WorkerStatus(
            name="training",
            state=state,
            pid=self._worker.pid,
            engine=self._worker.ready.engine if self._worker.ready else None,
            threads=self._threads_now() if self._worker.ready else None,
            started_s=self._worker.started_s if self._worker.pid else None,
            restarts=max(0, self._worker.restarts),
            in_flight=1 if self._at_work else 0,
        )

    @property
    def at_work(self) -> bool:
        """Whether the worker lives, or a job is about to run or to be measured for."""
        if self._worker.pid is not None or self._measurements.asked is not None:
            return True
        job, decision = self.records.next(self._active, self._policies.policy), self._deciding.current
        return job is not None and why_not(job, plan_in_force(decision), decision) is None

    @property
    def _at_work(self) -> bool:
        return self._slice_plan is not None or self._measurements.in_hand is not None

    async def measure(self, base: str, sides: tuple[int, ...]) -> None:
        """Measure what training a base costs, between two slices; returns when it is known.

        Raises BadInputError for an unknown base, UnavailableError or WorkerCrashedError where it cannot be measured.
        """
        self._tasks.check_base(base)
        await self._measurements.ask(packaged(base), self._outlook.sides(base, sides), self._threads_now())

    async def tick(self) -> None:
        """Start, go on with, yield or stop training as the decision in force allows."""
        if self._stopping or self._busy.locked():
            return
        async with self._busy:
            await self._advance()

    async def _advance(self) -> None:
        self._weigh()
        plan = plan_in_force(self._deciding.current)
        self.records.flush()
        if self._measurements.in_hand is not None:
            if plan.paused and not self._measurements.on_request:
                self._yield(self._active)
            return
        if self._slice_plan is not None:
            if self._measurements.asked is not None:
                self._yield(self._active)
            self._threads_wrong = self._threads_wrong + 1 if self._threads_now() != self._slice_threads else 0
            # What the slice itself brought about, features that are there now, changes the plan at its end alone.
            replanned = plan.as_run != self._slice_plan.as_run and self._terms() != self._slice_terms
            if plan.paused or replanned or self._threads_wrong >= THREADS_WRONG_TURNS or self._outdated():
                self._yield(self._active)
            return
        if self._worker.running and self._outdated():
            self._expected_exit = True
            await self._worker.stop(5.0)
        if (asked := self._measurements.asked) is not None:
            await self._measure(asked)
            return
        job = self.records.next(self._active, self._policies.policy)
        if job is None:
            if self._worker.running:
                self._active, self._expected_exit = None, True
                await self._worker.stop(5.0)
            return
        decision = self._deciding.current
        if decision is not None and decision.plan.job != job.id:  # the plan is still the one for the job before
            self._deciding.refresh()
            plan = plan_in_force(self._deciding.current)
        if why_not(job, plan, self._deciding.current) is not None or time.monotonic() < self._not_before_s:
            return
        try:
            await self._run(job, plan)
        except PatchdError as error:
            if self._stopping:
                return
            self._delay(job, str(error), error.retry_after_s or CRASH_PAUSE_S)

    async def _run(self, job: JobView, plan: TrainingPlan) -> None:
        if self._worker.running and self._active != job.id:
            self._expected_exit = True
            await self._worker.stop(5.0)
        if not self._worker.running:
            checkpoint = self._checkpoint_dir(job.id)
            self._expected_exit = self._untold = False
            self._kills.begin()
            await self._worker.start(self._threads)
            if self._stopping or self.records.get(job.id).state not in RUNNABLE:  # paused or cancelled meanwhile
                return
            self._active = job.id
            job = self._examples.choose(self.records.get(job.id))
            self.records.update(job)
            self._worker.send(
                StartJob(
                    job_id=job.id,
                    task=self._tasks.task(job.spec.task),
                    spec=job.spec,
                    checkpoint_dir=str(checkpoint),
                    patches_dir=str(self._store.patches_dir),
                    versions=str(self._store.bases_dir),
                    further=tuple(self._tasks.task(name) for name in job.spec.together),
                    examples=self._examples.told(job),
                )
            )
        self._yielding = False
        self._slice_threads, self._threads_wrong = self._threads_now(), 0
        if (request := self._to_measure(job, self._slice_threads)) is not None:
            self._worker.send(request)
            self._measurements.begin(request)
            self._tell_phase(job.id)
            return
        self._slice_plan, self._slice_terms = plan, self._terms()
        training = self._policies.policy.training
        self._worker.send(
            RunSlice(
                seconds=training.slice_s,
                plan=plan,
                threads=self._slice_threads,
                features_bytes=int(training.features_bytes),
                in_force=self._together.in_force(job.spec),
            )
        )
        if self.records.get(job.id).state is JobState.QUEUED:
            self.records.update(self.records.get(job.id), state=JobState.RUNNING)
            self._events.emit("job.started", f"Job {job.id} trains.", job=job.id, reach=plan.reach)

    def _terms(self) -> tuple[object, ...]:
        """What a slice runs under that is not of its own making: it ends before its time only when these change."""
        decision = self._deciding.current
        caps = None if decision is None else (decision.training.value, decision.plan.memory_bytes)
        return self._policies.state.sha256, caps

    def _to_measure(self, job: JobView, threads: int) -> Request | None:
        """What has to be known of a job's base before its next slice."""
        outlined = self._outlook.outline(self.records.get(job.id))
        sides = (*outlined.resolutions, outlined.full_resolution)
        costs = self._measurements.due(outlined.base, self._outlook.sides(outlined.base, sides), threads)
        if costs is not None:
            return costs
        training = self._policies.policy.training
        if training.order == "sparse" and training.max_fraction > 0 and not outlined.importance:
            return self._measurements.due_importance(outlined.resolutions[0], threads)
        return None

    async def _measure(self, asked: MeasureTraining) -> None:
        """What somebody waits for, in a worker that is started for it where none runs."""
        try:
            if not self._worker.running:
                self._expected_exit = False
                await self._worker.start(self._threads)
                self._active = None
            self._yielding = False
            self._worker.send(asked)
            self._measurements.begin(asked)
        except PatchdError as error:
            self._measurements.refuse(error)

    def _tell_phase(self, job_id: str) -> None:
        job = self.records.get(job_id)
        progress = job.progress.model_copy(update={"phase": self._measurements.phase})
        self.records.keep(job.model_copy(update={"progress": progress, "updated_s": time.time()}))

    def _situation(self, snapshot: Snapshot) -> TrainingSituation:
        """What the plan is decided for; asked for at every turn of the decision loop."""
        return self._outlook.situation(
            self.records.next(self._active, self._policies.policy),
            self._slice_threads,
            snapshot,
            self._policies.policy,
        )

    def costs(self) -> TrainingProfile:
        """What training costs as it was measured, and what slices showed of it."""
        return self._costs.view()

    def _outdated(self) -> bool:
        """Whether the worker has to be told anew: of a rung not yet registered, or what it may learn from or train."""
        job = self.records.find(self._active)
        if job is None:
            return self._untold
        forbidden = training_forbidden(self._policies.policy, job.spec.tasks)
        return self._untold or forbidden is not None or self._examples.changed(job)

    def _checkpoint_dir(self, job_id: str) -> Path:
        """The job's own directory, made where it is missing. Raises StateError."""
        directory = self._store.jobs_dir / job_id
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StateError(f"{directory} cannot be made: {error.strerror}.", retry_after_s=STORAGE_PAUSE_S) from error
        return directory

    def _weigh(self, job_id: str | None = None, ended: TrainingUse | None = None) -> None:
        """Account for what the worker has used since the last time, and for the slice that has `ended`."""
        measured = MEASURING if self._measurements.in_hand is not None else None
        job_id = job_id or self._active or measured
        used = self._meter.look(self._worker.pid) + (ended or TrainingUse())
        if job_id is not None and used != TrainingUse():
            self._account.add(job_id, used, write=ended is not None)

    def _delay(self, job: JobView, why: str, seconds: float) -> None:
        self._not_before_s = time.monotonic() + seconds
        text = f"Job {job.id} tries again in {seconds:.0f} s: {why}"
        self._events.emit("job.delayed", text, level="error", job=job.id)

    def _threads_now(self) -> int:
        return free_threads(self._deciding.snapshot, self._threads, ("training",))

    def _yield(self, job_id: str | None) -> None:
        if self._at_work and self._active == job_id and not self._yielding:
            self._yielding = True
            self._worker.send(YieldSlice())

    async def drain(self, timeout_s: float) -> None:
        """Yield the slice in hand and stop the worker; what it had not checkpointed is done again later."""
        self._stopping = self._expected_exit = True
        self._measurements.refuse(UnavailableError("patchd is stopping."))
        await self._worker.stop(timeout_s)
        self._account.write()
        self._curves.write()

    # what the worker says

    def _on_message(self, message: Message, _payload: bytes) -> None:
        job = self.records.find(self._active)
        if self._measurements.take(message):
            if job is not None:
                self._tell_phase(job.id)
            return
        if job is None:
            return
        match message:
            case JobOutlined():
                self._outlook.put_facts(job.id, message.facts)
                if message.facts.importance:
                    text = f"Computed which of the {len(message.facts.importance)} tensors matter to job {job.id}."
                    self._events.emit("training.importance", text, job=job.id)
                self._deciding.refresh()
            case Progress():
                self.records.keep(job.model_copy(update={"progress": message.progress, "updated_s": time.time()}))
                self._curves.add(job.id, message.progress)
            case Note():
                self._events.emit("job.note", f"Job {job.id}: {message.message}", level="warning", job=job.id)
            case RungDone():
                self._rung_done(job, message)
            case VersionDone():
                self._version_done(job, message)
            case SliceDone():
                self._slice_ended(job, message)
                self.records.keep(self.records.get(job.id).model_copy(update={"progress": message.progress}))
                self._curves.add(job.id, message.progress)
                self._curves.write()
                self.records.update(self.records.get(job.id))
            case JobDone() if self._untold:
                self._slice_ended(job, message)
            case JobDone():
                self._slice_ended(job, message)
                if self.records.get(job.id).state is not JobState.CANCELLED:
                    self.records.update(self.records.get(job.id), state=JobState.DONE)
                    self._events.emit("job.done", f"Job {job.id} is done.", job=job.id)
                self._forget(job.id)
            case SliceFailed():
                self._slice_plan = None
                self._delay(job, message.message, STORAGE_PAUSE_S)
            case JobFailed() if self._examples.changed(job):  # an image that was deleted under its hands, perhaps
                self._slice_plan = None
            case OutOfMemory():
                self._out_of_memory(job, message.message)
            case JobFailed():
                self._slice_plan = None
                self._fail(job, message.message)
            case _:
                pass

    def _rung_done(self, job: JobView, message: RungDone) -> None:
        if any(result.patch_id == message.result.patch_id for result in job.results):
            return  # sent again after a restart
        self._curves.end_rung(job.id, message.result)
        metadata = PatchMetadata.model_validate_json(message.metadata_json)
        try:
            result = self._results.take(message.result, metadata, job.id)
        except StateError as error:
            self._untold = True
            self._delay(job, str(error), STORAGE_PAUSE_S)
            return
        others = tuple(r for r in job.results if r.resolution != result.resolution)
        self.records.keep(job.model_copy(update={"results": (*others, result)}))
        self._deciding.refresh()

    def _version_done(self, job: JobView, message: VersionDone) -> None:
        if job.version is not None:
            return  # sent again after a restart
        try:
            outcome, results = self._together.take(message, job.id)
        except StateError as error:
            self._untold = True
            self._delay(job, str(error), STORAGE_PAUSE_S)
            return
        self.records.update(job.model_copy(update={"results": results, "version": outcome}))
        self._deciding.refresh()

    def _slice_ended(self, job: JobView, message: SliceDone | JobDone) -> None:
        self._slice_plan, self._crashes = None, 0
        samples = sum(use.samples for use in message.uses)
        self._weigh(job.id, TrainingUse(seconds=message.seconds, slices=1, samples=samples))
        reports = self._outlook.observe(job, message.uses)
        for watcher in self._slice_watchers:
            watcher(job, message.seconds, message.cpu_seconds, reports)
        now = {
            "seconds": job.seconds + message.seconds,
            "cpu_seconds": job.cpu_seconds + message.cpu_seconds,
            "slices": job.slices + 1,
        }
        self.records.keep(job.model_copy(update=now))
        if job.state in FINAL:
            self.records.update(self.records.get(job.id))
            self._forget(job.id)

    def _out_of_memory(self, job: JobView, why: str) -> None:
        if job.state not in FINAL and not self._lower(job, why):
            self._fail(job, f"There is not enough memory for the smallest step: {why}.")
        self._slice_plan, self._active, self._expected_exit = None, None, True  # this worker ends

    def _fail(self, job: JobView, sentence: str) -> None:
        self.records.update(job, state=JobState.FAILED, error=sentence)
        self._events.emit("job.failed", f"Job {job.id} failed: {sentence}", level="error", job=job.id)
        self._forget(job.id)

    def _lower(self, job: JobView, why: str) -> bool:
        """Memory ran out in the slice in hand: the job goes on with less, in the next worker; False when it cannot."""
        plan = self._slice_plan or plan_in_force(self._deciding.current)
        cap = self._outlook.lower(job, plan)
        if cap is None:
            return False
        self._slice_plan, self._expected_exit = None, True
        self._events.emit(
            "job.lowered",
            f"Memory ran out in job {job.id} ({why}): its steps take at most {cap >> 20} MiB from now on.",
            level="warning",
            job=job.id,
            memory_cap_bytes=cap,
        )
        self._deciding.refresh()
        return True

    def _on_exit(self, code: int) -> None:
        job = self.records.find(self._active)
        trained = job is not None and self._slice_plan is not None and job.state not in FINAL
        killed = trained and code == -signal.SIGKILL and not self._expected_exit
        if job is not None and killed and self._kills.since(self._deciding.snapshot):
            self._lower(job, "the training worker was killed")
        was_training, self._slice_plan, self._active = self._slice_plan is not None, None, None
        self._measurements.lost()
        if self._expected_exit or job is None:
            return
        self._crashes += 1
        self._not_before_s = time.monotonic() + CRASH_PAUSE_S * self._crashes
        self._events.emit(
            "worker.crashed",
            f"The training worker died with exit status {code}; job {job.id} goes on from its last checkpoint.",
            level="error",
            job=job.id,
            exit_status=code,
        )
        if job.state in FINAL:
            self._forget(job.id)
        elif was_training and self._crashes >= CRASHES_BEFORE_FAILURE:
            self._fail(job, f"The training worker died {self._crashes} times in a row (last exit status {code}).")

    def _forget(self, job_id: str) -> None:
        """Remove what is kept for going on with a job: its checkpoint, and what the planner knew of it."""
        self._outlook.forget(job_id)
        shutil.rmtree(Path(self._store.jobs_dir / job_id), ignore_errors=True)

    def forget_choices(self) -> None:
        """Forget which examples the jobs that have ended were started with. Raises StateError."""
        self._examples.forget([job.id for job in self.records.open()])
