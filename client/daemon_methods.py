"""Methods of the API about the daemon itself: its state, what it decides and why, policies, events, measured costs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from .call import Call, LazyModule, Method, call, delete, fetch, get, place, post

if TYPE_CHECKING:
    from ..daemon.api import added_signal_schemas, explain_schemas, history_schemas, schemas, signal_schemas
    from ..policies import decision as decisions
    from ..policies import snapshot as snapshots
else:
    added_signal_schemas = LazyModule("..daemon.api.added_signal_schemas")
    explain_schemas = LazyModule("..daemon.api.explain_schemas")
    history_schemas = LazyModule("..daemon.api.history_schemas")
    schemas = LazyModule("..daemon.api.schemas")
    signal_schemas = LazyModule("..daemon.api.signal_schemas")
    decisions = LazyModule("..policies.decision")
    snapshots = LazyModule("..policies.snapshot")

WORK_TIMEOUT_S = 600.0  # profiling, and uploads over a slow disk


class DaemonMethods:
    """The daemon, the device, decisions, policies, events, traces and measurements."""

    @Method
    def status(self) -> Call[schemas.Status]:
        """The daemon at a glance."""
        return get(lambda: schemas.Status, "/v1/status")

    @Method
    def snapshot(self) -> Call[snapshots.Snapshot]:
        """What the monitor saw last."""
        return get(lambda: snapshots.Snapshot, "/v1/snapshot")

    @Method
    def signals(self) -> Call[signal_schemas.SignalList]:
        """Every signal with unit, source and age, or why it is absent."""
        return get(lambda: signal_schemas.SignalList, "/v1/signals")

    @Method
    def consumers(self) -> Call[signal_schemas.ConsumerList]:
        """Which other programs use most of the processors over the next second."""
        return get(lambda: signal_schemas.ConsumerList, "/v1/consumers")

    @Method
    def post_signal(
        self, name: str, value: float, *, unit: str = "", meaning: str = "", ttl_s: float = 60.0
    ) -> Call[added_signal_schemas.PostedSignal]:
        """Post a signal named `app.…`, which policies may act on; it is absent after `ttl_s` unless posted again."""
        body = added_signal_schemas.SignalPost(value=value, unit=unit, meaning=meaning, ttl_s=ttl_s)
        sent = body.model_dump_json().encode()
        return call(lambda: added_signal_schemas.PostedSignal, "PUT", place("signals", name), body=sent)

    @Method
    def remove_signal(self, name: str) -> Call[schemas.Deleted]:
        """Remove a posted signal."""
        return delete(lambda: schemas.Deleted, place("signals", name))

    @Method
    def history(
        self, from_s: float | None = None, to_s: float | None = None, points: int | None = None
    ) -> Call[history_schemas.History]:
        """What was in a period between two Unix times; without them, in the last 24 hours."""
        query = {"from": from_s, "to": to_s, "points": points}
        return call(lambda: history_schemas.History, "GET", "/v1/history", query, timeout_s=WORK_TIMEOUT_S)

    @Method
    def recent_decisions(self, limit: int | None = None) -> Call[explain_schemas.DecisionList]:
        """The latest decisions, newest first."""
        return get(lambda: explain_schemas.DecisionList, "/v1/decisions", {"limit": limit})

    @Method
    def decision(self, decision_id: str) -> Call[decisions.Decision]:
        """One decision."""
        return get(lambda: decisions.Decision, place("decisions", decision_id))

    @Method
    def explain(
        self,
        *,
        decision: str | None = None,
        request: str | None = None,
        at_s: float | None = None,
        task: str | None = None,
    ) -> Call[explain_schemas.Explain]:
        """Why: now, of `decision`, for the prediction `request`, or at the Unix time `at_s`; of one task if given."""
        query = {"decision": decision, "request": request, "at": at_s, "task": task}
        return get(lambda: explain_schemas.Explain, "/v1/explain", query)

    @Method
    def recent_requests(self, limit: int | None = None, task: str | None = None) -> Call[explain_schemas.RequestList]:
        """The last predictions that were answered, newest first."""
        return get(lambda: explain_schemas.RequestList, "/v1/requests", {"limit": limit, "task": task})

    @Method
    def request_record(self, request_id: str) -> Call[explain_schemas.RequestRecord]:
        """What is kept of one answered prediction."""
        return get(lambda: explain_schemas.RequestRecord, place("requests", request_id))

    @Method
    def policies(self) -> Call[schemas.PolicyList]:
        """The presets and the policy files the daemon knows."""
        return get(lambda: schemas.PolicyList, "/v1/policies")

    @Method
    def policy(self, name: str, *, effective: bool = False) -> Call[schemas.PolicyText]:
        """The text of a policy; `effective` is that of all its files together."""
        query = {"effective": "true"} if effective else None
        return get(lambda: schemas.PolicyText, place("policies", name), query)

    @Method
    def policy_schema(self) -> Call[bytes]:
        """The JSON Schema of policy files, for editors."""
        return fetch("/v1/policies/schema")

    @Method
    def use_policy(self, *, name: str | None = None, path: Path | None = None) -> Call[schemas.PolicyState]:
        """Put a policy in force, by name or by the absolute path of a file that the daemon can read."""
        body = schemas.PolicyUse(name=name, path=None if path is None else os.fspath(path))
        return post(lambda: schemas.PolicyState, "/v1/policies/use", body)

    @Method
    def events(
        self, since: int | None = None, limit: int | None = None, level: str | None = None
    ) -> Call[schemas.EventList]:
        """The newest `limit` events with an id above `since`, oldest first; `level` is that level only."""
        return get(lambda: schemas.EventList, "/v1/events", {"since": since, "limit": limit, "level": level})

    @Method
    def profile(self) -> Call[schemas.Profile]:
        """The measured costs, and what the last requests took."""
        return get(lambda: schemas.Profile, "/v1/profile")

    @Method
    def run_profile(self, run: schemas.ProfileRun) -> Call[schemas.Profile]:
        """Measure the costs now."""
        return post(lambda: schemas.Profile, "/v1/profile", run, WORK_TIMEOUT_S)

    @Method
    def trace(self) -> Call[schemas.TraceState]:
        """Whether a trace is being replayed into the monitor, and where it stands."""
        return get(lambda: schemas.TraceState, "/v1/monitor/trace")

    @Method
    def start_trace(self, replay: schemas.TraceReplay) -> Call[schemas.TraceState]:
        """Feed a trace to the monitor in place of the device."""
        return post(lambda: schemas.TraceState, "/v1/monitor/trace", replay)

    @Method
    def stop_trace(self) -> Call[schemas.TraceState]:
        """Give the monitor back to the device."""
        return delete(lambda: schemas.TraceState, "/v1/monitor/trace")

    @Method
    def bases(self) -> Call[schemas.BaseList]:
        """The packaged bases and their versions, with the tasks that use them."""
        return get(lambda: schemas.BaseList, "/v1/bases")

    @Method
    def base(self, name: str) -> Call[schemas.BaseView]:
        """One base."""
        return get(lambda: schemas.BaseView, place("bases", name))

    @Method
    def remove_base(self, name: str) -> Call[schemas.Deleted]:
        """Delete a base version that nobody uses, with the patches made for it."""
        return delete(lambda: schemas.Deleted, place("bases", name))

    @Method
    def openapi(self) -> Call[bytes]:
        """The OpenAPI document of the API, JSON."""
        return fetch("/v1/openapi.json")

    @Method
    def metrics(self) -> Call[bytes]:
        """What `/metrics` tells Prometheus, text."""
        return fetch("/metrics")
