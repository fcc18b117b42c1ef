"""The routes of policies: which there are, their text, their schema, and which is in force."""

from __future__ import annotations

from starlette.responses import Response

from ...policies.errors import BadInputError
from ..services import Services
from . import schemas as s
from .routing import Context, Route, dumps


class PolicyRoutes:
    """The handlers, bound to one daemon's services."""

    def __init__(self, services: Services) -> None:
        self._s = services

    async def list(self, _: Context) -> s.PolicyList:
        return self._s.policies.listing()

    async def show(self, c: Context) -> s.PolicyText:
        return self._s.policies.text(c.path("name"), c.switch("effective", False))

    async def schema(self, _: Context) -> Response:
        from ...policies.policy_schema import policy_json_schema  # a model that nothing else of a daemon needs

        return Response(dumps(policy_json_schema()), media_type="application/schema+json")

    async def use(self, c: Context) -> s.PolicyState:
        choice = c.body.path or c.body.name
        if (c.body.path is None) == (c.body.name is None):
            raise BadInputError("Give either the name of a policy or the path of a file.")
        state = self._s.policies.use(choice)
        self._s.deciding.refresh()
        return state

    def table(self) -> tuple[Route, ...]:
        """Every route of policies; the schema's comes before that of a policy's name."""
        return (
            Route("GET", "/v1/policies", "Presets and the policy in force", self.list, s.PolicyList),
            Route(
                "GET",
                "/v1/policies/schema",
                "The JSON Schema of policy files, for editors",
                self.schema,
                answer_type="application/schema+json",
            ),
            Route(
                "GET",
                "/v1/policies/{name}",
                "A policy's text",
                self.show,
                s.PolicyText,
                query=(("effective", "boolean", "true: all its files as one text, each key with where it comes from"),),
            ),
            Route(
                "POST",
                "/v1/policies/use",
                "Put a policy in force",
                self.use,
                s.PolicyState,
                s.PolicyUse,
                changes=True,
            ),
        )
