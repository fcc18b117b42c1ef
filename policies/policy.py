"""A whole policy: the model that its files make together, and how it is read from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field, ValidationError, model_validator

from .conditions import Rule
from .errors import PolicyError
from .policy_layers import Layer, Merged, Origin, Read, gather
from .policy_mistakes import MistakeAtError, explain_mistakes
from .policy_tables import Cascades, Examples, Head, Inference, Retrain, Training
from .sections import ApplicationName, ApplicationSection, TaskSection
from .snapshot import Frozen
from .task import Name
from .toml_source import Path


class Policy(Frozen):
    """A policy as it is in force, of one file or of several."""

    policy: Head
    inference: Inference = Inference()
    training: Training = Training()
    cascade: Cascades = Cascades()
    examples: Examples = Examples()
    rule: tuple[Rule, ...] = ()
    task: dict[Name, TaskSection] = Field(default_factory=dict, description="[task.NAME]: what one task may at most")
    application: dict[ApplicationName, ApplicationSection] = Field(
        default_factory=dict, description="[application.NAME]: what one application may at most"
    )
    retrain: tuple[Retrain, ...] = ()

    @model_validator(mode="after")
    def _distinct(self) -> Policy:
        names = [rule.name for rule in self.rule]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise MistakeAtError(f"two rules are named '{name}'", "rule", index, "name")
        trained = [(each.task, each.base) for each in self.retrain]
        for index, each in enumerate(trained):
            if each in trained[:index]:
                text = f"task '{each[0]}' stands in two [[retrain]] tables for one base"
                raise MistakeAtError(text, "retrain", index, "task")
        return self


@dataclass(frozen=True)
class LoadedPolicy:
    """A checked policy, and the files that it comes from."""

    policy: Policy
    merged: Merged

    def where(self, path: Path) -> Origin:
        """File, line and column of a key."""
        return self.merged.where(path)


def _no_files(name: str) -> str:
    raise PolicyError(f"{name} is not at hand here.", hint="Give the path of the file that includes it.")


def load_policy(file: str, text: str, read: Read = _no_files, drop_ins: Sequence[str] = ()) -> LoadedPolicy:
    """Check a policy file with all that it includes, and `drop_ins` laid over it.

    Each file has to be right in itself, and all of them together. Raises PolicyError naming file, line, column, key
    and what to do.
    """
    merged = gather(file, text, read, drop_ins)
    if len(merged.layers) > 1:
        own = next(layer for layer in merged.layers if layer.file == file)
        head = own.data.get("policy")
        if not isinstance(head, dict) or "name" not in head:
            raise PolicyError(
                f"{own.where(('policy',))}: the key 'policy.name' is missing.",
                hint="A file that includes others has a name of its own.",
            )
        for layer in merged.layers:
            _check_alone(layer)
    try:
        return LoadedPolicy(Policy.model_validate(merged.data), merged)
    except ValidationError as error:
        raise explain_mistakes(error, Policy, merged.data, merged.where) from error


def parse_policy(text: str, file: str) -> Policy:
    """Check a policy's text, which includes no other file. Raises PolicyError as `load_policy`."""
    return load_policy(file, text).policy


def _check_alone(layer: Layer) -> None:
    """Raise PolicyError where a file's own keys are wrong, later ones over them or not."""
    head = layer.data.get("policy", {})
    named = {"name": "unnamed", **head} if isinstance(head, dict) else head
    data = {**layer.data, "policy": named}
    try:
        Policy.model_validate(data)
    except ValidationError as error:
        raise explain_mistakes(error, Policy, data, layer.where) from error
