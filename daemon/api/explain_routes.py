"""The routes that tell why: explanations, stored decisions, and the record of requests."""

from __future__ import annotations

from ...policies.decision import Decision
from ...policies.errors import BadInputError
from ..services import Services
from .explain_schemas import DecisionList, Explain, RequestList, RequestRecord
from .routing import Context, Route


class ExplainRoutes:
    """The handlers, bound to one daemon's services."""

    def __init__(self, services: Services) -> None:
        self._s = services

    async def decisions(self, c: Context) -> DecisionList:
        limit = c.number("limit", 20, 1, 1000)
        return DecisionList(decisions=tuple(self._s.store.decisions(limit or 20)))

    async def decision(self, c: Context) -> Decision:
        found = self._s.explaining.of_decision(c.path("id")).decision
        assert found is not None
        return found

    async def requests(self, c: Context) -> RequestList:
        task = c.text("task")
        if task is not None:
            self._s.tasks.task(task)
        return self._s.requests.recent(c.number("limit", 20, 1, 1000) or 20, task)

    async def request(self, c: Context) -> RequestRecord:
        return self._s.requests.find(c.path("id"))

    async def explain(self, c: Context) -> Explain:
        decision_id, request_id, at, task = c.text("decision"), c.text("request"), c.real("at"), c.text("task")
        if sum(given is not None for given in (decision_id, request_id, at)) > 1:
            raise BadInputError("Give only one of decision, request and at.")
        explaining = self._s.explaining
        if request_id is not None:
            if task is not None:
                raise BadInputError("Give no task with a request: it belongs to one.")
            return explaining.of_request(request_id)
        if decision_id is not None:
            return explaining.of_decision(decision_id, task)
        return explaining.now(task) if at is None else explaining.at(at, task)

    def table(self) -> tuple[Route, ...]:
        """Every route that tells why."""
        limit = ("limit", "integer", "at most this many, 1 to 1000; default 20")
        return (
            Route(
                "GET",
                "/v1/decisions",
                "The last decisions that changed something, newest first",
                self.decisions,
                DecisionList,
                query=(limit,),
            ),
            Route("GET", "/v1/decisions/{id}", "One stored decision", self.decision, Decision),
            Route(
                "GET",
                "/v1/requests",
                "The last predictions that were answered, newest first",
                self.requests,
                RequestList,
                query=(limit, ("task", "string", "only this task's")),
            ),
            Route("GET", "/v1/requests/{id}", "One answered prediction", self.request, RequestRecord),
            Route(
                "GET",
                "/v1/explain",
                "Why the daemon does what it does, or did",
                self.explain,
                Explain,
                query=(
                    ("decision", "string", "a decision's id"),
                    ("request", "string", "a prediction's request id"),
                    ("at", "number", "a moment, Unix time in seconds"),
                    ("task", "string", "of this task alone"),
                ),
            ),
        )
