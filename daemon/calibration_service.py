"""Making cascades: calibration on labelled or unlabelled inputs, and planning again when costs or inputs have changed.

A calibrating worker of low priority does the work, one calibration at a time, while predictions go on.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..policies.cascade import Basis, Cascade, Price, RungId, missing
from ..policies.drift import DriftState
from ..policies.error_codes import error_from_code
from ..policies.errors import BadInputError, ConflictError, NotFoundError, PatchdError
from ..policies.promises import promise_for
from .api.schemas import CalibrateCreate, CalibrationView, CascadePoints, CascadeState
from .cascade_service import MOST_ROWS, CascadeService
from .events import EventLog
from .inference_service import InferenceService
from .one_shot import OneShot
from .policy_service import PolicyService
from .store import Store
from .task_service import TaskService
from .workers.protocol import Calibrate, Calibrated, Calibrating, Message, WorkerError

TIMEOUT_S = 6 * 3600.0  # a hundred thousand images on a small board
COST_CHANGE = 0.2  # of a stage's share of the reference's cost, before the cascade is planned again
PAUSE_S = 600.0  # between two calibrations that nobody asked for
MORE_AFTER_NOTHING = 1.5  # times as many inputs before calibrating after a drift is tried again


@dataclass
class _Run:
    """The calibration that runs, or the last one that ended."""

    task: str
    what: str
    done: int = 0
    images: int = 0
    error: str | None = None
    ended: bool = False
    cancelled: bool = False


class CalibrationService:
    """One calibration at a time. The tables of what rungs said lie in `folder`, one a task, without any input."""

    def __init__(
        self,
        store: Store,
        events: EventLog,
        tasks: TaskService,
        policies: PolicyService,
        inference: InferenceService,
        cascades: CascadeService,
        folder: Path,
        graphs_dir: Path,
        threads: int,
        precision: Literal["f32", "bf16"],
    ) -> None:
        self._store, self._events, self._tasks, self._policies = store, events, tasks, policies
        self._inference, self._cascades = inference, cascades
        self._folder, self._graphs_dir, self._threads, self._precision = folder, graphs_dir, threads, precision
        self._worker = OneShot("calibrating", TIMEOUT_S)
        self._run: _Run | None = None
        self._task: asyncio.Task[None] | None = None
        self._not_before_s = 0.0

    def view(self, task: str) -> CalibrationView | None:
        """Where the calibration of a task stands, or how its last one ended; None when there was none."""
        run = self._run
        if run is None or run.task != task:
            return None
        state = "running" if not run.ended else "cancelled" if run.cancelled else "failed" if run.error else "done"
        return CalibrationView(state=state, what=run.what, done=run.done, images=run.images, error=run.error)

    def start(self, task: str, create: CalibrateCreate) -> None:
        """Begin to calibrate. Raises NotFoundError, BadInputError, or ConflictError while another one runs."""
        spec = self._tasks.task(task)
        self._tasks.ladder(task)
        state = self._cascades.state(task)
        if create.again:
            if state is None:
                raise ConflictError(
                    f"Task '{task}' has not been calibrated yet.", hint="Calibrate it on images or on requests first."
                )
            self._begin(task, create, state.calibrated_on)
            return
        if not create.images and not create.from_requests and spec.data is None:
            raise BadInputError(
                f"Task '{task}' has no data set to calibrate on.",
                hint="Give images, or calibrate from its requests: patchctl cascade calibrate --help.",
            )
        if create.from_requests:
            have = self._cascades.count_rows(task)
            epsilon, delta = self._promise(task, create)
            if lacking := missing(have, epsilon, delta):
                raise ConflictError(
                    f"Task '{task}' has {have} audited requests; {have + lacking} are needed to promise a loss of at "
                    f"most {epsilon:.1%}.",
                    hint="They are gathered while predictions are served: see audit_share in docs/policy.md.",
                )
        what = "audited requests" if create.from_requests else f"the test part of {spec.data}"
        self._begin(task, create, f"{len(create.images)} images" if create.images else what)

    def _begin(self, task: str, create: CalibrateCreate, what: str) -> None:
        if self._task is not None and not self._task.done():
            assert self._run is not None
            raise ConflictError(
                f"The cascade of task '{self._run.task}' is being calibrated.",
                hint="Wait for it, or end it: patchctl cascade cancel TASK.",
                retry_after_s=10.0,
            )
        self._run = _Run(task, what)
        self._task = asyncio.create_task(self._calibrate(self._run, create))

    async def cancel(self, task: str) -> None:
        """End the calibration of a task; its old cascade stays. Raises NotFoundError when none runs."""
        run = self._run
        if run is None or run.task != task or run.ended or self._task is None:
            raise NotFoundError(f"The cascade of task '{task}' is not being calibrated.")
        await self._end(run, self._task)

    async def _end(self, run: _Run, task: asyncio.Task[None]) -> None:
        task.cancel()
        await asyncio.wait({task})
        run.cancelled = run.ended = True
        self._events.emit("cascade.cancelled", f"Calibrating task {run.task} was cancelled.", task=run.task)

    async def forget(self, task: str) -> None:
        """A task is removed: end its calibration, and drop its cascade and the table of what its rungs said."""
        if self._run is not None and self._run.task == task:
            if not self._run.ended:
                await self.cancel(task)
            self._run = None
        self._cascades.forget(task)
        self._table(task).unlink(missing_ok=True)

    def _table(self, task: str) -> Path:
        return self._folder / f"{task}.safetensors"

    async def stop(self) -> None:
        """End whatever runs: the daemon stops."""
        if self._run is not None and self._task is not None and not self._run.ended:
            await self._end(self._run, self._task)

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker while one runs."""
        return self._worker.pid

    async def tick(self) -> None:
        """Plan anew, without new labels, what costs that changed or a drift have made wrong."""
        if (self._task is not None and not self._task.done()) or time.monotonic() < self._not_before_s:
            return
        for task in self._tasks.ladders:
            state = self._cascades.state(task)
            if state is None or not promise_for(self._policies.policy, task).enabled:
                continue
            promise = {"epsilon": state.cascade.promise.epsilon, "delta": state.cascade.promise.delta}
            if state.drifted_since_s is not None:
                if self._enough_since_drift(task, state):
                    create = CalibrateCreate(from_requests=True, **promise)
                    self._begin_by_itself(task, create, "audited requests since the drift")
                    return
            elif self._costs_changed(task, state) if state.in_force else self._may_pay_now(task, state):
                self._begin_by_itself(task, CalibrateCreate(again=True, **promise), state.calibrated_on)
                return

    def _enough_since_drift(self, task: str, state: CascadeState) -> bool:
        """Whether there are inputs enough for a promise, and more of them than the last time that promised nothing."""
        have, promise = self._cascades.count_rows(task), state.cascade.promise
        return not missing(have, promise.epsilon, promise.delta) and have >= (state.retry_from or 0)

    def _begin_by_itself(self, task: str, create: CalibrateCreate, what: str) -> None:
        """Begin without being asked, and not again for a while: the errors of several plans add up."""
        self._not_before_s = time.monotonic() + PAUSE_S
        self._begin(task, create, what)

    def _costs_changed(self, task: str, state: CascadeState) -> bool:
        """Whether a stage costs another share of its reference than it was planned with."""
        changes = self._changes(task, state, state.cascade.rungs)
        return any(abs(change - 1.0) > COST_CHANGE for change in changes)

    def _may_pay_now(self, task: str, state: CascadeState) -> bool:
        """Whether no cascade was worth its cost, all rungs are those of its table, and one costs a lesser share now."""
        if state.cascade.promise.missing or not {*state.rungs} <= {*self._cascades.pool(task)}:
            return False
        return any(1.0 - change > COST_CHANGE for change in self._changes(task, state, state.rungs))

    def _changes(self, task: str, state: CascadeState, rungs: Sequence[RungId]) -> list[float]:
        """For each rung its cost over the reference's now, over what that was when the cascade was planned."""
        old, new = ({(p.base, p.resolution): p for p in prices} for prices in (state.prices, self._tasks.prices(task)))
        reference = state.cascade.reference.base, state.cascade.reference.resolution
        if not {*old} <= {*new} or reference not in old:
            return []
        places = ((each.base, each.resolution) for each in rungs)
        return [_share(new[rung], new[reference]) / _share(old[rung], old[reference]) for rung in places if rung in old]

    async def _calibrate(self, run: _Run, create: CalibrateCreate) -> None:
        began = time.monotonic()
        try:
            said = await self._ask(run, create)
            self._accept(run, create, said, time.monotonic() - began)
        except Exception as error:  # whatever it is, nobody else would hear of it
            self._not_before_s = time.monotonic() + PAUSE_S
            run.error = str(error) if isinstance(error, PatchdError) else f"{type(error).__name__}: {error}"
            self._events.emit(
                "cascade.failed", f"Calibrating task {run.task} failed: {run.error}", level="warning", task=run.task
            )
        finally:
            run.ended = True

    def _promise(self, task: str, create: CalibrateCreate) -> tuple[float, float]:
        """The epsilon and the delta asked for, else those of the policy for the task."""
        asked = promise_for(self._policies.policy, task)
        return create.epsilon or asked.epsilon, create.delta or asked.delta

    async def _ask(self, run: _Run, create: CalibrateCreate) -> tuple[Calibrate, Calibrated]:
        await self._inference.worker.measure_pool(run.task)
        old = self._cascades.state(run.task)
        epsilon, delta = self._promise(run.task, create)
        rungs, rows = self._cascades.rows(run.task) if create.from_requests else (self._cascades.pool(run.task), ())
        decode_ms = None  # measured on the images
        if create.again or create.from_requests:
            decode_ms = self._inference.decode_ms or (None if old is None else old.decode_ms)
            if decode_ms is None:
                raise ConflictError(
                    "What decoding an image costs is not known yet.", hint="Predict an image, then calibrate again."
                )
        request = Calibrate(
            task=self._tasks.task(run.task),
            rungs=tuple(self._tasks.rung_ref(run.task, rung.resolution, rung.base) for rung in rungs),
            reference=self._reference(run.task, rungs, create, old),
            epsilon=epsilon,
            delta=delta,
            table_file=str(self._table(run.task)),
            own_data=not (create.images or create.from_requests or create.again),
            images=create.images,
            rows=rows,
            prices=self._tasks.prices(run.task),
            decode_ms=decode_ms,
            engine=self._inference.worker.engine or "torch",
            precision=self._precision,
            threads=self._threads,
            graphs=str(self._graphs_dir),
            versions=str(self._store.bases_dir),
        )
        self._folder.mkdir(exist_ok=True, mode=0o700)

        def heard(message: Message) -> None:
            if isinstance(message, Calibrating):
                run.done, run.images = message.done, message.images

        said = await self._worker.run(request, heard)
        if isinstance(said, WorkerError):
            raise error_from_code(said.code, said.message, said.hint)
        assert isinstance(said, Calibrated)
        return request, said

    def _reference(
        self, task: str, rungs: tuple[RungId, ...], create: CalibrateCreate, old: CascadeState | None
    ) -> RungId:
        """The rung asked for, else that of the cascade so far, else the finest of the task's own base."""
        wanted = create.reference
        if wanted is None and old is not None:
            wanted = (old.cascade.reference.base, old.cascade.reference.resolution)
        if wanted is None:
            spec = self._tasks.task(task)
            wanted = (spec.base, max(rung.resolution for rung in rungs if rung.base == spec.base))
        found = next((rung for rung in rungs if (rung.base, rung.resolution) == tuple(wanted)), None)
        if found is None:
            raise NotFoundError(
                f"Task '{task}' has no rung of {wanted[0]} at {wanted[1]} px.",
                hint=f"Its rungs: {', '.join(map(str, rungs))}.",
            )
        return found

    def _accept(self, run: _Run, create: CalibrateCreate, result: tuple[Calibrate, Calibrated], seconds: float) -> None:
        request, said = result
        cascade, before = said.cascade, self._cascades.state(run.task)
        in_force = cascade.promise.holds and len(cascade.stages) > 1
        retry_from = math.ceil(MORE_AFTER_NOTHING * said.samples)
        waits = create.from_requests and not in_force and retry_from <= MOST_ROWS
        drifted_since_s = before.drifted_since_s if before is not None and waits else None
        state = CascadeState(
            task=run.task,
            cascade=cascade,
            in_force=in_force,
            reason=why(cascade),
            calibrated_on=run.what,
            samples=said.samples,
            prices=request.prices,
            decode_ms=said.decode_ms,
            dispatch_ms=said.dispatch_ms,
            drift=DriftState(),
            drifted_since_s=drifted_since_s,
            rungs=tuple(RungId(base=r.base, resolution=r.resolution, patch_id=r.patch_id) for r in request.rungs),
            retry_from=None if drifted_since_s is None else retry_from,
        )
        self._cascades.put(state)
        points = CascadePoints(task=run.task, basis=cascade.promise.basis, points=said.points)
        self._store.put_cascade_points(points)
        self._events.emit(
            "cascade.calibrated",
            f"The cascade of task {run.task} was planned on {run.what} in {seconds:.1f} s; "
            f"{'in force' if in_force else 'not in force'}: {state.reason}.",
            task=run.task,
        )


def why(cascade: Cascade) -> str:
    """Why a cascade that was just planned is or is not in force, in words."""
    promise, stages = cascade.promise, len(cascade.stages)
    if promise.missing:
        return (
            f"{promise.missing} more inputs are needed before a loss of at most {promise.epsilon:.1%} can be promised; "
            "predictions go as without a cascade"
        )
    if stages == 1:
        return (
            f"no cascade cheaper than {cascade.reference} can be promised to lose at most {promise.epsilon:.1%}; "
            "predictions go as without a cascade"
        )
    loses = "of right answers" if promise.basis is Basis.LABELS else "of the reference's answers"
    share = cascade.cost_ms / cascade.reference_cost_ms
    return (
        f"{stages} stages at {share:.0%} of the cost of {cascade.reference}, which lose at most {promise.epsilon:.1%} "
        f"{loses}"
    )


def _share(price: Price, reference: Price) -> float:
    return (price.prepare_ms + price.network_ms) / (reference.prepare_ms + reference.network_ms)
