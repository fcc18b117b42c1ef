"""The rungs of all tasks, turn after turn: chosen anew only where something they follow from is new."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from .decision import AllocationDecision, Ladder, RungDecision
from .dwelling import RungHold, settle
from .ladder import choose_rung
from .restrictions import FREE, Restrictions


@dataclass(frozen=True, slots=True)
class Terms:
    """What a choice among the rungs of a ladder follows from."""

    allocation: float
    min_resolution: int | None = None
    max_resolution: int | None = None
    slowdown: float = 1.0

    def choose(self, ladder: Ladder) -> RungDecision:
        """The rung of a ladder that they afford."""
        return choose_rung(
            ladder,
            self.allocation,
            min_resolution=self.min_resolution,
            max_resolution=self.max_resolution,
            slowdown=self.slowdown,
        )


def _terms(inference: AllocationDecision, restricted: Restrictions, slowdown: float) -> tuple[Terms, Terms, Terms]:
    """For what is in force, for what the rules ask for, and for what it falls to if conditions that wait hold on."""
    ahead = inference.value if inference.ahead is None else inference.ahead
    low, high = restricted.resolutions

    def at(device: float) -> Terms:
        return Terms(restricted.allocation(device), low, high, slowdown)

    return at(inference.value), at(inference.target), at(ahead)


def _told(rung: RungDecision, restrictions: tuple[str, ...]) -> RungDecision:
    """The choice with what restricted it beside the device's allocation."""
    return rung.model_copy(update={"text": "; ".join((rung.text, *restrictions))}) if restrictions else rung


class Choices:
    """Remembers what was chosen in the last turn; what is chosen does not depend on it."""

    def __init__(self) -> None:
        self._made: dict[Terms, dict[str, tuple[Ladder, RungDecision]]] = {}

    def of(
        self,
        ladders: Mapping[str, Ladder],
        inference: AllocationDecision,
        holds: dict[str, RungHold],
        now: float,
        device: Restrictions = FREE,
        tasks: Mapping[str, Restrictions] | None = None,
        slowdown: float = 1.0,
    ) -> tuple[tuple[RungDecision, ...], dict[str, RungHold]]:
        """The rung of each ladder, by name of the task, and what to remember of them.

        `device` restricts all tasks, `tasks` those that it names, with what `device` restricts in it.
        """
        before, self._made = self._made, {}
        rungs, after = [], {}
        for name, ladder in sorted(ladders.items()):
            restricted = (tasks or {}).get(name, device)
            in_force, wanted, expected = _terms(inference, restricted, slowdown)
            afforded = self._choose(in_force, name, ladder, before)
            asked = afforded if wanted == in_force else self._choose(wanted, name, ladder, before)
            rung, after[name] = settle(holds.get(name), afforded, asked, partial(expected.choose, ladder), now)
            rungs.append(_told(rung, restricted.in_words(inference.value)))
        same = len(after) == len(holds) and all(holds.get(name) is hold for name, hold in after.items())
        return tuple(rungs), holds if same else after

    def _choose(
        self, terms: Terms, name: str, ladder: Ladder, before: dict[Terms, dict[str, tuple[Ladder, RungDecision]]]
    ) -> RungDecision:
        known = before.get(terms, {}).get(name)
        if known is None or known[0] != ladder:
            known = ladder, terms.choose(ladder)
        self._made.setdefault(terms, {})[name] = known
        return known[1]
