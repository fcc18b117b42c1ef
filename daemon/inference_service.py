"""Predictions: which rung, a place in the queue, the worker, and what it all took."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..policies.batching import USUAL, has_place
from ..policies.errors import (
    BadInputError,
    BusyError,
    DeadlineError,
    PatchdError,
    UnavailableError,
    WorkerCrashedError,
)
from ..policies.ladder import cheapest_at_least
from ..policies.restrictions import FREE, Restrictions
from ..policies.task import TaskSpec
from ..policies.task_rungs import check_may_ask
from .api.explain_schemas import Reason
from .api.schemas import (
    Form,
    InferAnswer,
    InferTiming,
    Prediction,
    RequestLatency,
)
from .cascade_service import NOTHING, CascadeService
from .deciding import DecisionService
from .events import EventLog
from .inference_worker import InferenceWorker
from .pace import Pace
from .policy_service import PolicyService
from .recent_images import RecentImages
from .request_log import Answered, RequestLog
from .served import ServedCounts
from .task_service import TaskService
from .workers.protocol import (
    InferRequest,
    InferResult,
    RungRef,
    StageRef,
)

LATENCY_WINDOW = 512  # requests of a rung that its quantiles are taken over
PROFILE_TIMEOUT_S = 120.0
SHORT_OF_MEMORY_IDLE_S = 2.0  # a worker between two requests is not taken away
BUSY_SHARE = 0.3  # of the processors: costs measured beside more are measured again when it is calm


@dataclass(frozen=True)
class Input:
    """What an application sent: an encoded image, RGB pixels, or a finished network input."""

    form: Form
    shape: tuple[int, ...]
    payload: bytes


@dataclass(frozen=True)
class Wish:
    """What a caller asks of a prediction beside its input; None leaves it to the policy.

    `min_accuracy` is a share of held-out data answered rightly, `deadline_ms` counts from the request's arrival,
    of smaller `priority` (1 to 3) are those that run sooner,
    `client` names who asks, so that one caller cannot crowd out the others; `uid` is the user that it runs as, and
    `pid` its process. `restricted` is what the policy takes away from it as an application.
    """

    top_k: int = 5
    base: str | None = None
    resolution: int | None = None
    min_accuracy: float | None = None
    cascade: bool = True
    deadline_ms: float | None = None
    priority: int = USUAL
    client: str = ""
    uid: int | None = None
    pid: int | None = None
    restricted: Restrictions = FREE


@dataclass(frozen=True)
class _Route:
    """Where an input goes and why; to one of the `smaller` rungs if it turns out to have that rung's form."""

    rung: RungRef
    why: str
    reason: Reason
    smaller: tuple[RungRef, ...] = ()


@dataclass
class _Window:
    total_ms: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCY_WINDOW))
    network_ms: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCY_WINDOW))


class InferenceService:
    """Answers predictions: routes each to a rung or a cascade, has the worker run it, and keeps the accounts."""

    def __init__(
        self,
        tasks: TaskService,
        deciding: DecisionService,
        policies: PolicyService,
        cascades: CascadeService,
        events: EventLog,
        recent: RecentImages,
        requests: RequestLog,
        pace: Pace,
        *,
        threads: int,
        worker_options: Sequence[str],
        graphs_dir: Path,
        versions_dir: Path,
        queue_limit: int,
        max_pixels: int,
    ) -> None:
        """`graphs_dir` keeps compiled graphs from one worker to the next, `versions_dir` holds the base versions.

        `worker_options` are passed on to the worker.
        """
        self._tasks, self._deciding, self._policies, self._cascades = tasks, deciding, policies, cascades
        self._recent, self._requests, self._pace = recent, requests, pace
        self._queue_limit, self._max_pixels = queue_limit, max_pixels
        self._held: Counter[str] = Counter()  # requests in flight of each client
        self._arrived = 0
        self.worker = InferenceWorker(
            tasks,
            deciding,
            policies,
            events,
            threads=threads,
            arguments=(
                *(*worker_options, "--threads", str(threads)),
                *("--graphs", str(graphs_dir), "--versions", str(versions_dir)),
            ),
            in_flight=lambda: self.waiting,
            audited=cascades.heard,
        )
        self._windows: dict[tuple[str, str, int], _Window] = {}
        self._decode_ms: deque[float] = deque(maxlen=LATENCY_WINDOW)
        self.served = ServedCounts()
        self._stopping = False
        self._token = f"{time.time_ns():x}"[-8:]

    # predictions

    async def infer(self, task: str, given: Input, wish: Wish) -> InferAnswer:
        """Answer one prediction.

        Raises NotFoundError, BadInputError, TooLargeError, BusyError, DeadlineError, WorkerCrashedError or
        UnavailableError.
        """
        began = time.perf_counter()
        spec = self._tasks.task(task)
        self._tasks.ladder(task, wish.base)  # a request that no rung can answer has no place in the queue
        try:
            with self._in_queue(task, wish.client):
                async with within(wish.deadline_ms):
                    return await self._infer(spec, given, wish, began)
        except PatchdError as error:
            self.served.refused(task, error.code)
            raise

    async def check_image(self, task: str, image: bytes, client: str) -> None:
        """Decode an image that is handed over for a task, in the worker and within its queue.

        Raises BadInputError, TooLargeError, BusyError, WorkerCrashedError or UnavailableError.
        """
        with self._in_queue(task, client):
            await self.worker.check_image(image, self._max_pixels)

    @contextmanager
    def _in_queue(self, task: str, client: str) -> Iterator[None]:
        """A place among the requests in flight. Raises BusyError, or UnavailableError while stopping."""
        if self._stopping:
            raise UnavailableError("patchd is stopping.", retry_after_s=5.0)
        self._admit(task, client)
        self._held[client] += 1
        self._arrived += 1
        try:
            yield
        finally:
            self._held[client] -= 1
            self._held += Counter()  # forgets clients that hold nothing
            self.worker.used(task)

    @property
    def waiting(self) -> int:
        """Requests in flight."""
        return self._held.total()

    def _admit(self, task: str, client: str) -> None:
        """Raise BusyError, saying when to ask again, where the queue has no place for one more of this client's."""
        if has_place(client, self._held, self._queue_limit):
            return
        wait_s, own = self._expected_wait_s(task), self._held[client]
        share = "" if self.waiting >= self._queue_limit else f", {own} of them this client's"
        raise BusyError(
            f"{self.waiting} predictions are in flight{share}; the limit is {self._queue_limit}.",
            hint=f"Retry after {wait_s:.1f} s.",
            retry_after_s=wait_s,
        )

    async def _infer(self, spec: TaskSpec, given: Input, wish: Wish, began: float) -> InferAnswer:
        """Have the worker answer and put the answer together; `began` is when the request came."""
        task = spec.name
        # A worker that this request has no time to wait for goes on starting: the next one will need it.
        base = wish.base or spec.base
        start_ms = await asyncio.shield(self.worker.ensure(base, spec.bases[base]))
        route = self._route(task, given, wish)
        decision = self._deciding.current
        restricted = self._deciding.restrictions(task).and_also(wish.restricted)
        allocation = restricted.allocation(1.0 if decision is None else decision.inference.value)
        slowed_by = 1.0 if decision is None else decision.slowed_by
        may_pass = route.reason == "decision" and wish.cascade and wish.base is None
        plan = self._cascades.plan(task, allocation, restricted) if may_pass else NOTHING
        sent = time.perf_counter()
        spare_ms = None if wish.deadline_ms is None else wish.deadline_ms - (sent - began) * 1e3
        request = InferRequest(
            id=self.worker.new_id(),
            rung=route.rung,
            smaller=route.smaller,
            stages=_slowed(plan.stages, slowed_by),
            audit=plan.audit,
            form=given.form,
            shape=given.shape,
            top_k=min(wish.top_k, len(spec.labels)),
            max_pixels=self._max_pixels,
            threads=self.worker.threads_now(),
            client=wish.client,
            priority=wish.priority,
            batch_delay_ms=self._policies.policy.inference.batch_delay_ms,
            cost_ms=slowed_by * (self._tasks.cost_ms(task, route.rung.resolution, route.rung.base) or 0.0),
            expires_s=None if spare_ms is None else time.monotonic() + spare_ms / 1e3,
        )
        self._cascades.sent(request.id, task, plan)
        arrived, alone = self._arrived, self.waiting == 1
        result = await self.worker.call(request, given.payload)
        if not isinstance(result, InferResult):
            raise WorkerCrashedError("The inference worker answered out of turn.", retry_after_s=1.0)
        passed = self._cascades.answered(request.id, task, plan, result)
        reason = route.reason
        if result.passage is not None:
            reason = "cascade"
            rung = plan.stages[result.passage.stage].rung
            self.worker.bases_used.update(stage.rung.base for stage in plan.stages[: result.passage.stage + 1])
            why = f"{rung.base} at {rung.resolution} px, {passed.text if passed else route.why}"
        else:
            rung = next(each for each in (route.rung, *route.smaller) if each.resolution == result.resolution)
            why = route.why if plan.refused is None else f"{route.why}; {plan.refused}"
            if rung is not route.rung:
                reason, why = "domain", _by_domain(rung.resolution, result.image_size, route.why)
        now = time.perf_counter()
        timing = result.timing
        total_ms = (now - began) * 1e3
        self._pace.heard(rung, result, alone=alone and self._arrived == arrived)
        self._account(rung, given.form, total_ms - start_ms, result)
        self.served.answered(task, total_ms)
        request_id = f"{self._token}-{request.id}"
        if given.form == "image":
            self._recent.put(request_id, task, given.payload, wish.uid)
        answer = InferAnswer(
            request_id=request_id,
            task=task,
            predictions=tuple(
                Prediction(label=spec.labels[i], index=i, probability=p)
                for i, p in zip(result.indices, result.probabilities, strict=True)
            ),
            base=rung.base,
            resolution=rung.resolution,
            patch_id=rung.patch_id,
            decision_id=None if decision is None else decision.id,
            engine=result.engine,
            batch=result.batch,
            allocation=allocation,
            why=why,
            cascade=passed,
            timing=InferTiming(
                total_ms=total_ms,
                queue_ms=max(0.0, (now - sent) * 1e3 - timing.spent_ms),
                start_worker_ms=start_ms,
                decode_ms=timing.decode_ms,
                preprocess_ms=timing.preprocess_ms,
                bind_ms=timing.bind_ms,
                network_ms=timing.network_ms,
            ),
        )
        self._requests.put(
            Answered(
                answer=answer,
                time_s=time.time(),
                reason=reason,
                form=given.form,
                bytes=len(given.payload),
                image_size=result.image_size,
                slowed_by=slowed_by,
                uid=wish.uid,
                pid=wish.pid,
            )
        )
        return answer

    def _route(self, task: str, given: Input, wish: Wish) -> _Route:
        """The rung for this input: the caller's wish, the input's own domain, else the decision in force.

        Raises ForbiddenError where the caller wishes for what the policy does not allow it.
        """
        base, resolution = wish.base, wish.resolution
        asked = "" if base is None else f"{base}, for which the caller asked; "
        if given.form == "input":
            side = given.shape[-1] if given.shape else 0
            if resolution is not None and resolution != side:
                raise BadInputError(f"The tensor is {side} px wide, but resolution {resolution} was asked for.")
            rung = self._tasks.rung_ref(task, side, base)
            check_may_ask(self._tasks.ladder(task, base), side, wish.restricted)
            return _Route(rung, f"{asked}the input already has the form of the {side} px rung", "input")
        if resolution is not None:
            rung = self._tasks.rung_ref(task, resolution, base)
            check_may_ask(self._tasks.ladder(task, base), resolution, wish.restricted)
            return _Route(rung, f"{asked}the caller asked for this resolution", "resolution")
        if wish.min_accuracy is not None:
            chosen = cheapest_at_least(self._tasks.ladder(task, base), wish.min_accuracy)
            check_may_ask(self._tasks.ladder(task, base), chosen.resolution, wish.restricted)
            return _Route(
                self._tasks.rung_ref(task, chosen.resolution, base),
                f"{asked}{chosen.resolution} px: the cheapest rung whose accuracy of {chosen.accuracy:.1%} is at least "
                f"the {wish.min_accuracy:.1%} that the caller asked for",
                "accuracy",
            )
        decided = self._deciding.rung(task, base, wish.restricted)
        least = wish.restricted.resolutions[0] or 0
        smaller = tuple(
            self._tasks.rung_ref(task, candidate.rung.resolution, base)
            for candidate in decided.candidates
            if candidate.fits and least <= candidate.rung.resolution < decided.resolution
        )
        rung = self._tasks.rung_ref(task, decided.resolution, base)
        return _Route(rung, f"{asked}{decided.text}", "decision", smaller)

    async def load(self, task: str) -> None:
        """Start the worker and measure what is unmeasured, before the first request needs it. Raises NotFoundError."""
        spec = self._tasks.task(task)
        await asyncio.shield(self.worker.ensure(spec.base, spec.resolutions))
        self.worker.used(task)

    @property
    def decode_ms(self) -> float | None:
        """Median time to decode the last images, milliseconds; None before the first."""
        return statistics.median(self._decode_ms) if self._decode_ms else None

    def latencies(self) -> tuple[RequestLatency, ...]:
        """What the last requests of each rung took."""
        return tuple(
            RequestLatency(
                task=task,
                base=base,
                resolution=resolution,
                samples=len(window.total_ms),
                p50_ms=statistics.median(window.total_ms),
                p99_ms=sorted(window.total_ms)[math.ceil(0.99 * len(window.total_ms)) - 1],
                network_p50_ms=statistics.median(window.network_ms),
            )
            for (task, base, resolution), window in sorted(self._windows.items())
        )

    def predictions_of(self, task: str) -> int:
        """Predictions answered for a task since the start."""
        return self.served.of(task)

    @property
    def total(self) -> int:
        """Predictions answered since the start."""
        return self.served.total

    # worker

    @property
    def stopping(self) -> bool:
        """Whether it takes nothing new any more."""
        return self._stopping

    async def drain(self, timeout_s: float) -> None:
        """Take nothing new, wait for what is in flight, stop the worker."""
        self._stopping = True
        deadline = time.monotonic() + timeout_s
        while self.waiting and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        await self.worker.end(max(0.5, deadline - time.monotonic()))

    # accounts

    def _account(self, rung: RungRef, form: Form, total_ms: float, result: InferResult) -> None:
        """Count an answer; what took several stages is no measure of the rung that answered."""
        if result.passage is None:
            window = self._windows.setdefault((rung.task, rung.base, rung.resolution), _Window())
            window.total_ms.append(total_ms)
            window.network_ms.append(result.timing.network_ms)
        if form == "image":
            self._decode_ms.append(result.timing.decode_ms)
        self.worker.bases_used.add(rung.base)

    def _expected_wait_s(self, task: str) -> float:
        costs = [rung.cost_ms for rung in self._tasks.pool(task) if rung.cost_ms is not None]
        return max(0.1, self.waiting * (max(costs) if costs else 50.0) / 1e3)


def _slowed(stages: tuple[StageRef, ...], factor: float) -> tuple[StageRef, ...]:
    """The stages at what they cost now, so that one is not begun which cannot end before the deadline."""
    if factor == 1.0:
        return stages
    return tuple(stage.model_copy(update={"cost_ms": stage.cost_ms * factor}) for stage in stages)


def _by_domain(side: int, size: tuple[int, int] | None, decided: str) -> str:
    """Why an image went to a smaller rung than decided."""
    width, height = size or (side, side)
    return f"{side} px: the image has {width} x {height} pixels, nearest to this rung's form (decided: {decided})"


@asynccontextmanager
async def within(deadline_ms: float | None) -> AsyncIterator[None]:
    """Give the body `deadline_ms` milliseconds. Raises DeadlineError when they have passed."""
    try:
        async with asyncio.timeout(None if deadline_ms is None else deadline_ms / 1e3) as limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise DeadlineError(
            f"There was no answer within the deadline of {deadline_ms:g} ms.",
            hint="Give more time, or ask for a lower resolution.",
        ) from None
