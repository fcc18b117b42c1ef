"""`/metrics`: what the daemon counts and sees, for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from starlette.responses import Response

from ... import __version__
from ...policies.signals import signals
from ...policies.task import JobState
from ...policies.training_times import Bar
from ..services import Services
from .exposition import CONTENT_TYPE, Metric, Sample, one, text_of
from .routing import Context, Route


class MetricsRoutes:
    """The handler, bound to one daemon's services."""

    def __init__(self, services: Services) -> None:
        self._s = services

    async def metrics(self, _: Context) -> Response:
        return Response(text_of((*self._daemon(), *self._serving(), *self._training())), media_type=CONTENT_TYPE)

    def _daemon(self) -> Iterator[Metric]:
        d = self._s
        yield Metric("patchd_info", "gauge", "version of patchd", one(1, version=__version__))
        yield Metric("patchd_start_time_seconds", "gauge", "Unix time of the start", one(d.started_s))
        snapshot, decision = d.deciding.snapshot, d.deciding.current
        if snapshot is not None:
            seen = tuple(Sample(value, {"signal": name}) for name, value in signals(snapshot).items())
            yield Metric("patchd_signal", "gauge", "a signal that policies know, in its unit", seen)
        if decision is not None:
            values = (("inference", decision.inference.value), ("training", decision.training.value))
            allocations = tuple(Sample(value, {"kind": kind}) for kind, value in values)
            yield Metric("patchd_allocation", "gauge", "allocation in force, 0 to 1", allocations)
            rungs = tuple(Sample(rung.resolution, {"task": rung.task}) for rung in decision.rungs)
            yield Metric("patchd_rung_pixels", "gauge", "side of the rung in force", rungs)
        workers = (d.inference.worker.status(), d.training.status())
        up = tuple(Sample(worker.pid is not None, {"worker": worker.name}) for worker in workers)
        yield Metric("patchd_worker_up", "gauge", "1 while the worker process lives", up)
        restarts = tuple(Sample(worker.restarts, {"worker": worker.name}) for worker in workers)
        yield Metric("patchd_worker_restarts_total", "counter", "starts after the first", restarts)
        resident = tuple(
            Sample(use.resident_bytes, {"process": use.name}) for use in (snapshot.workers if snapshot else ())
        )
        yield Metric("patchd_resident_bytes", "gauge", "resident memory of patchd's own processes", resident)

    def _serving(self) -> Iterator[Metric]:
        inference = self._s.inference
        yield Metric("patchd_requests_total", "counter", "predictions answered since the start", one(inference.total))
        answered = tuple(Sample(inference.predictions_of(name), {"task": name}) for name in self._s.tasks.tasks)
        yield Metric("patchd_predictions_total", "counter", "predictions of a task since the start", answered)
        latencies = tuple(
            Sample(value / 1e3, {"task": row.task, "base": row.base, "pixels": str(row.resolution), "quantile": q})
            for row in inference.latencies()
            for q, value in (("0.5", row.p50_ms), ("0.99", row.p99_ms))
        )
        told = "time of the last requests of a rung, from the last byte in to the answer"
        yield Metric("patchd_request_latency_seconds", "gauge", told, latencies)

    def _training(self) -> Iterator[Metric]:
        d = self._s
        states = Counter(job.state for job in d.training.jobs())
        jobs = tuple(Sample(states[state], {"state": state.value}) for state in JobState)
        yield Metric("patchd_jobs", "gauge", "training jobs by state", jobs)
        decision = d.deciding.current
        if decision is not None:
            keys = {each.key for each in decision.times.hindrances}
            waits = tuple(Sample(bar in keys, {"condition": bar.value}) for bar in Bar)
            yield Metric("patchd_training_waits", "gauge", "1 while the policy's condition is not met", waits)
        use = d.account.total()
        for name, value, told in (
            ("processor_seconds", use.cpu_seconds, "processor time of training"),
            ("slices", use.slices, "training slices that ended in order"),
            ("images", use.samples, "images through training steps"),
        ):
            yield Metric(f"patchd_training_{name}_total", "counter", f"{told}, in the last 400 days", one(value))
        joules = (*one(use.rapl_joules, source="rapl"), *one(use.battery_joules, source="battery"))
        yield Metric("patchd_training_joules_total", "counter", "training's share of the energy, where told", joules)

    def table(self) -> tuple[Route, ...]:
        """The one route."""
        return (Route("GET", "/metrics", "Counters and gauges for Prometheus", self.metrics, answer_type="text/plain"),)
