"""The inference worker as the control plane sees it: started on first use, measured, asked, unloaded, mourned."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from ..policies.decision import Rung
from ..policies.error_codes import error_from_code
from ..policies.errors import WorkerCrashedError
from ..policies.keep_alive import why_unload
from ..policies.threads import free_threads
from .api.schemas import CALIBRATION_REPEATS, CostView, WorkerStatus
from .deciding import DecisionService
from .events import EventLog
from .policy_service import PolicyService
from .task_service import TaskService
from .worker_process import WorkerProcess
from .workers.protocol import (
    Audited,
    CheckImage,
    CheckPatch,
    ImageChecked,
    InferRequest,
    InferResult,
    Message,
    Note,
    PatchChecked,
    ProfileRequest,
    ProfileResult,
    RungCost,
    WorkerError,
)

PROFILE_TIMEOUT_S = 120.0
SHORT_OF_MEMORY_IDLE_S = 2.0  # a worker between two requests is not taken away
BUSY_SHARE = 0.3  # of the processors: costs measured beside more are measured again when it is calm

Answer = InferResult | ProfileResult | PatchChecked | ImageChecked


class InferenceWorker:
    """Keeps the process, what it has loaded, and the costs it measures."""

    def __init__(
        self,
        tasks: TaskService,
        deciding: DecisionService,
        policies: PolicyService,
        events: EventLog,
        *,
        threads: int,
        arguments: Sequence[str],
        in_flight: Callable[[], int],
        audited: Callable[[Audited, float], None],
    ) -> None:
        """`arguments` are passed on to the process.

        `in_flight` counts the requests that wait for it; `audited` hears what audits found, and when (Unix time).
        """
        self._tasks, self._deciding, self._policies, self._events = tasks, deciding, policies, events
        self._threads, self._in_flight, self._audited = threads, in_flight, audited
        self._worker = WorkerProcess("inference", self._on_message, self._on_exit, arguments)
        self._ids = itertools.count(1)
        self._pending: dict[int, asyncio.Future[Answer]] = {}
        self._worker_lock, self._measure_lock = asyncio.Lock(), asyncio.Lock()
        self._last_profile_s = 0.0
        self._profiled_busy = False
        self._expected_exit = False
        self.bases_used: set[str] = set()  # by the process that runs: what it has loaded
        self._last_used_s = {"": time.monotonic()}  # by task, and of all other uses under no name
        self.unloaded: str | None = None  # why the worker is not loaded, in words

    def used(self, task: str = "") -> None:
        """It has just been of use: for a task, or for something else."""
        self._last_used_s[task] = time.monotonic()

    def new_id(self) -> int:
        """An id that no other request has."""
        return next(self._ids)

    async def check_patch(self, base: str, file: Path) -> None:
        """Have the worker check a patch file against its base. Raises PatchMismatchError where it does not fit."""
        await self.ensure(base, ())
        await self.call(CheckPatch(id=self.new_id(), base=base, patch_file=str(file)))

    async def check_image(self, image: bytes, max_pixels: int) -> None:
        """Have the worker decode an image. Raises BadInputError or TooLargeError where a prediction would."""
        await asyncio.shield(self._started(time.perf_counter()))
        await self.call(CheckImage(id=self.new_id(), max_pixels=max_pixels), image)

    # costs

    async def profile(self, base: str, resolutions: Sequence[int], repeats: int) -> None:
        """Measure the cost of one image at each resolution and price the ladders with it."""
        await self._worker.start(self._threads)
        await self._measure(base, resolutions or self._tasks.sides(base), repeats)

    async def measure_pool(self, task: str) -> tuple[Rung, ...]:
        """Measure what is unmeasured of every base that can answer a task; its pool, with all costs.

        The worker loads each of these bases and keeps it. Raises NotFoundError, UnavailableError or WorkerCrashedError.
        """
        for base in dict.fromkeys(rung.base for rung in self._tasks.pool(task)):
            self.used()
            await asyncio.shield(self.ensure(base, self._tasks.task(task).bases[base]))
        self.used()
        return self._tasks.pool(task)

    async def _measure(self, base: str, resolutions: Sequence[int], repeats: int) -> None:
        request = ProfileRequest(
            id=self.new_id(),
            base=base,
            resolutions=tuple(resolutions),
            repeats=repeats,
            threads=self.threads_now(),
        )
        result = await asyncio.wait_for(self.call(request), PROFILE_TIMEOUT_S)
        if not isinstance(result, ProfileResult):
            raise WorkerCrashedError("The inference worker answered out of turn.", retry_after_s=1.0)
        self.bases_used.add(base)
        now = time.time()
        self._last_profile_s, self._profiled_busy = time.monotonic(), self._busy()
        self._tasks.put_costs(tuple(_cost_view(result, cost, now) for cost in result.costs))
        shown = ", ".join(f"{cost.resolution} px {cost.median_ms:.1f} ms" for cost in result.costs)
        self._events.emit("profile.measured", f"Measured {base} on {result.engine}: {shown}.", base=base)
        self._deciding.refresh()

    async def profile_if_due(self, every_s: float) -> None:
        """Measure again, when the worker is loaded and idle and the last time is long enough ago."""
        due = time.monotonic() - self._last_profile_s >= every_s or (self._profiled_busy and not self._busy())
        if due and self._worker.running and not self._in_flight() and not self._at_work():
            async with self._measure_lock:
                for base in sorted(self.bases_used):
                    if sides := self._tasks.sides(base):
                        await self._measure(base, sides, CALIBRATION_REPEATS)

    @property
    def engine(self) -> str | None:
        """The engine in use; None while no worker runs."""
        return None if self._worker.ready is None else self._worker.ready.engine

    def _threads_used(self) -> int:
        """Threads of the engine in use: only torch's are adapted, for OpenVINO's do not hold each other up."""
        return self.threads_now() if self.engine == "torch" else self._threads

    def threads_now(self) -> int:
        """Threads for the next request; what gives way to predictions counts as free."""
        own = ("daemon", "inference", "training", "calibrating")
        return free_threads(self._deciding.snapshot, self._threads, own)

    def _busy(self) -> bool:
        """Whether other programs take so much of the processors that costs measured now would be theirs too."""
        snapshot = self._deciding.snapshot
        if snapshot is None or snapshot.cpu.busy is None:
            return False
        return snapshot.cpu.busy - (snapshot.cpu.busy_own or 0.0) > BUSY_SHARE

    @property
    def pid(self) -> int | None:
        """Process id of the worker while it lives."""
        return self._worker.pid

    def status(self) -> WorkerStatus:
        """The worker at a glance."""
        worker = self._worker
        state: Literal["stopped", "starting", "ready", "busy"] = "stopped"
        if worker.running:
            state = "busy" if self._in_flight() else "ready"
        elif worker.pid is not None:
            state = "starting"
        return WorkerStatus(
            name="inference",
            state=state,
            pid=worker.pid,
            engine=worker.ready.engine if worker.ready else None,
            threads=self._threads_used() if worker.ready else None,
            started_s=worker.started_s if worker.pid else None,
            restarts=max(0, worker.restarts),
            in_flight=self._in_flight(),
            reason=self.unloaded if worker.pid is None else None,
        )

    @property
    def at_work(self) -> bool:
        """Whether requests wait for the worker, or it is being started, stopped or measured."""
        return bool(self._in_flight()) or self._at_work()

    def _at_work(self) -> bool:
        """Whether the worker is being started, stopped or measured."""
        return self._worker_lock.locked() or self._measure_lock.locked()

    async def ensure(self, base: str, needed: Sequence[int]) -> float:
        """Start the worker and measure the `needed` resolutions; the milliseconds this request waited for it.

        While other resolutions are measured, for a task that has just been added, nobody waits who needs none of them.
        """
        began = time.perf_counter()
        waited = await self._started(began)
        if self._tasks.unmeasured(base, self.engine, needed):
            waited = True
            async with self._measure_lock:
                unmeasured = self._tasks.unmeasured(base, self.engine, needed)
                if unmeasured:
                    await self._measure(base, unmeasured, CALIBRATION_REPEATS)
        return (time.perf_counter() - began) * 1e3 if waited else 0.0

    async def _started(self, began: float) -> bool:
        """Start the worker where none runs; whether that had to be waited for."""
        if self._worker.running and not self._worker_lock.locked():
            return False
        async with self._worker_lock:
            await self._start_worker(began)
        return True

    async def _start_worker(self, began: float) -> None:
        if self._worker.running:
            return
        self._expected_exit = False
        await self._worker.start(self._threads)
        self.unloaded = None
        self._events.emit(
            "worker.started",
            f"The inference worker is ready after {time.perf_counter() - began:.1f} s.",
            pid=self._worker.pid,
        )

    async def stop_if_unneeded(self) -> None:
        """Stop a worker that nothing is asked of, after the policy's keep-alive or because memory is short."""
        if not self._worker.running or self._in_flight() or self._at_work():
            return
        policy, snapshot, decision = self._policies.policy, self._deciding.snapshot, self._deciding.current
        now = time.monotonic()
        idle = {task: now - last for task, last in self._last_used_s.items()}
        why = why_unload(policy, () if decision is None else decision.caps, idle)
        memory = None if snapshot is None else snapshot.memory
        available = 1.0 if memory is None else memory.available_bytes / memory.total_bytes
        short_of_memory = snapshot is not None and snapshot.pressure.memory_acute
        floor, idle_s = policy.inference.unload_memory_below, min(idle.values())
        if why is not None:
            self.unloaded = why
        elif available < floor and idle_s >= SHORT_OF_MEMORY_IDLE_S:
            self.unloaded = f"memory pressure: {available:.1%} of the memory is available"
        elif short_of_memory and floor > 0 and idle_s >= SHORT_OF_MEMORY_IDLE_S:
            self.unloaded = "memory pressure: tasks lose time to a shortage of memory"
        else:
            return
        self._events.emit("worker.stopped", f"The inference worker is unloaded ({self.unloaded}).")
        async with self._worker_lock:  # a request that comes now waits, and starts the worker again
            self._expected_exit = True
            await self._worker.stop(5.0)

    async def call(
        self, request: InferRequest | ProfileRequest | CheckPatch | CheckImage, payload: bytes = b""
    ) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._pending[request.id] = future
        try:
            self._worker.send(request, payload)
            return await future
        finally:
            self._pending.pop(request.id, None)

    def _on_message(self, message: Message, _payload: bytes) -> None:
        if isinstance(message, Note):
            self._events.emit(message.kind, message.message, level="warning")
        if isinstance(message, Audited):
            self._audited(message, time.time())
        if not isinstance(message, Answer | WorkerError):
            return
        future = self._pending.get(message.id)
        if future is None or future.done():
            return  # the caller went away
        if isinstance(message, WorkerError):
            future.set_exception(error_from_code(message.code, message.message, message.hint))
        else:
            future.set_result(message)

    def _on_exit(self, code: int) -> None:
        self.bases_used.clear()
        lost = [future for future in self._pending.values() if not future.done()]
        for future in lost:
            future.set_exception(
                WorkerCrashedError(
                    f"The inference worker died (exit status {code}) while it held this request.",
                    hint="Send it again; the worker is started anew.",
                    retry_after_s=1.0,
                )
            )
        if not self._expected_exit:
            self._events.emit(
                "worker.crashed",
                f"The inference worker died with exit status {code}; {len(lost)} requests were told to retry.",
                level="error",
                exit_status=code,
            )

    async def end(self, timeout_s: float) -> None:
        """Stop the process for good."""
        self._expected_exit = True
        await self._worker.stop(timeout_s)


def _cost_view(result: ProfileResult, cost: RungCost, now_s: float) -> CostView:
    return CostView(
        base=result.base,
        resolution=cost.resolution,
        prepare_ms=cost.prepare_ms,
        median_ms=cost.median_ms,
        p90_ms=cost.p90_ms,
        samples=cost.repeats,
        engine=result.engine,
        measured_s=now_s,
    )
