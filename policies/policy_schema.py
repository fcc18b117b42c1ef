"""The JSON Schema of policy files, for editors. Apart from the policy: nothing else needs a second model of it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from .policy import Policy
from .policy_tables import Head

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class PolicyFile(Policy):
    """One file of a policy, for editors: a file that is laid over others need not be whole."""

    include: tuple[str, ...] = Field(
        (), description="files that this one is laid over, relative to it, or presets such as 'preset:balanced'"
    )
    policy: Head = Field(Head(name="unnamed"), description="required in the file that is put in force")
    remove_rules: tuple[str, ...] = Field((), description="names of rules of earlier files that are taken away")


def policy_json_schema() -> dict[str, Any]:
    """The JSON Schema of a policy file, for editors."""
    schema = PolicyFile.model_json_schema()
    del schema["properties"]["policy"]["default"]
    return {"$schema": SCHEMA_DIALECT, **schema, "title": "patchd policy"}
