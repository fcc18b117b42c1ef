"""What is taken away from a task or an application, by whatever says so: rules, its section, the policy's tables.

Of several limits on one thing the tightest counts, and its source is remembered, so that an answer can name it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from .decision import Cap, CapKey
from .policy import Policy
from .sections import ApplicationSection, Section

TABLE = "[inference]"


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound, and who says so."""

    value: float
    by: str


@dataclass(frozen=True, slots=True)
class Restrictions:
    """All that is restricted; what is None is not. A permission that is taken away names who takes it."""

    inference: Limit | None = None
    min_resolution: Limit | None = None
    max_resolution: Limit | None = None
    epsilon: Limit | None = None
    delta: Limit | None = None
    no_cascade: str | None = None
    no_training: str | None = None
    no_examples: str | None = None

    def and_also(self, other: Restrictions) -> Restrictions:
        """Both at once: of each bound the tighter one."""
        return Restrictions(
            inference=_lower(self.inference, other.inference),
            min_resolution=_higher(self.min_resolution, other.min_resolution),
            max_resolution=_lower(self.max_resolution, other.max_resolution),
            epsilon=_lower(self.epsilon, other.epsilon),
            delta=_lower(self.delta, other.delta),
            no_cascade=self.no_cascade or other.no_cascade,
            no_training=self.no_training or other.no_training,
            no_examples=self.no_examples or other.no_examples,
        )

    @property
    def resolutions(self) -> tuple[int | None, int | None]:
        """Lowest and highest resolution; a floor above the ceiling gives way."""
        low, high = self.min_resolution, self.max_resolution
        top = None if high is None else int(high.value)
        if low is None:
            return None, top
        return int(low.value) if top is None else min(int(low.value), top), top

    def allocation(self, device: float) -> float:
        """The inference allocation where the device's is `device`."""
        return device if self.inference is None else min(device, self.inference.value)

    def in_words(self, device: float | None = None) -> tuple[str, ...]:
        """What rules and sections restrict; not an allocation that the device's own is below anyway."""
        said = []
        if self.inference is not None and (device is None or self.inference.value < device):
            said.append(f"{self.inference.by} allows an allocation of {self.inference.value:.2f} at most")
        if self.max_resolution is not None and self.max_resolution.by != TABLE:
            said.append(f"{self.max_resolution.by} allows {self.max_resolution.value:g} px at most")
        if self.min_resolution is not None and self.min_resolution.by != TABLE:
            said.append(f"{self.min_resolution.by} asks for {self.min_resolution.value:g} px at least")
        return tuple(said)

    @property
    def any(self) -> bool:
        """Whether anything is restricted."""
        return any(getattr(self, each.name) is not None for each in fields(self))


FREE = Restrictions()


def together(many: Iterable[Restrictions]) -> Restrictions:
    """All of them at once."""
    found = FREE
    for each in many:
        found = found.and_also(each)
    return found


def of_section(section: Section, by: str) -> Restrictions:
    """What a section restricts."""
    return Restrictions(
        inference=_limit(section.inference, by),
        min_resolution=_limit(section.min_resolution, by),
        max_resolution=_limit(section.max_resolution, by),
        epsilon=_limit(section.cascade.epsilon, by),
        delta=_limit(section.cascade.delta, by),
        no_cascade=None if section.cascade.enabled else by,
        no_training=None if section.training else by,
        no_examples=None if section.examples else by,
    )


def of_rules(caps: Iterable[Cap]) -> Restrictions:
    """What the matching rules restrict beside the allocations, of what concerns single predictions and requests."""
    known = {cap.key: cap for cap in caps}

    def limit(key: CapKey) -> Limit | None:
        return Limit(known[key].value, f"rule '{known[key].rule}'") if key in known else None

    def forbids(key: CapKey) -> str | None:
        return f"rule '{known[key].rule}'" if key in known else None

    return Restrictions(
        max_resolution=limit(CapKey.MAX_RESOLUTION),
        epsilon=limit(CapKey.EPSILON),
        delta=limit(CapKey.DELTA),
        no_cascade=forbids(CapKey.CASCADE),
        no_training=forbids(CapKey.TRAINING),
        no_examples=forbids(CapKey.EXAMPLES),
    )


def of_device(policy: Policy, caps: Iterable[Cap]) -> Restrictions:
    """What holds for all tasks: the bounds of the policy's tables, and what matching rules restrict."""
    table = policy.inference
    own = Restrictions(
        min_resolution=_limit(table.min_resolution, TABLE),
        max_resolution=_limit(table.max_resolution, TABLE),
        no_cascade=None if policy.cascade.enabled else "[cascade]",
    )
    return own.and_also(of_rules(caps))


def of_task(policy: Policy, caps: Iterable[Cap], task: str) -> Restrictions:
    """What holds for one task: what holds for all, and its section."""
    device, section = of_device(policy, caps), policy.task.get(task)
    return device if section is None else device.and_also(of_section(section, f"[task.{task}]"))


def of_applications(sections: Iterable[tuple[str, ApplicationSection]]) -> Restrictions:
    """What the sections that match a caller restrict."""
    return together(of_section(section, f"[application.{name}]") for name, section in sections)


def training_forbidden(policy: Policy, tasks: Iterable[str]) -> str | None:
    """Why the policy permits none of its jobs to train one of these tasks; None where it does."""
    for task in tasks:
        if task in policy.task and not policy.task[task].training:
            return f"the policy's [task.{task}] does not permit the task to be trained"
    return None


def _limit(value: float | None, by: str) -> Limit | None:
    return None if value is None else Limit(value, by)


def _lower(one: Limit | None, other: Limit | None) -> Limit | None:
    if one is None or other is None:
        return one or other
    return one if one.value <= other.value else other


def _higher(one: Limit | None, other: Limit | None) -> Limit | None:
    if one is None or other is None:
        return one or other
    return one if one.value >= other.value else other
