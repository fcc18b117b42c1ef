"""Random policies over random traces, decided turn by turn: what must hold, held?

After every decision of every case: there is one, with reasons; no allocation is above the policy's own or above that of
a rule whose conditions are met; no rung, no plan and no memory is above a cap; one rung is chosen; no rise
is steeper than its slope; the same memory, read back from JSON, decides the same. Over every trace, noise of constant
mean or not: a resolution changes once in ten seconds at most, unless a cap forbids the one in force. What rules mean
is read here a second time, in a plainer way.

A case that breaks one of these is made smaller for as long as it still breaks it, and printed with its seed.
"""

from __future__ import annotations

import math
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from common import finish, parser, print_table
from patchd.policies.choices import Choices
from patchd.policies.conditions import Condition, Rule
from patchd.policies.curves import BAND, Curve
from patchd.policies.decide import decide
from patchd.policies.decision import CapKey, Decision
from patchd.policies.policy import Policy, parse_policy
from patchd.policies.rules import PolicyState, initial_state
from patchd.policies.training_costs import PlanLimits, TrainingSituation
from patchd.policies.training_plan import Plans, default_costs
from random_policies import Case, Values, random_case

WINDOW_S = 10.0
SLACK = 1e-6
AGAIN_EVERY = 10  # turns between two decisions that are taken a second time, from memory read back


@dataclass
class Found:
    """A broken invariant, or what was seen on the way."""

    broken: str | None = None
    turns: int = 0
    counts: Counter[str] = field(default_factory=Counter)


@dataclass
class Met:
    """Since when each condition's enter threshold has been passed without a break: the plainer reading."""

    since: dict[tuple[str, int], float] = field(default_factory=dict)
    ever: set[tuple[str, int]] = field(default_factory=set)

    def hear(self, policy: Policy, values: Values, now: float) -> None:
        """One more sample."""
        for rule in policy.rule:
            for index, condition in enumerate(rule.when):
                key = (rule.name, index)
                if _passed(condition, values.get(condition.signal)):
                    self.since.setdefault(key, now)
                    self.ever.add(key)
                else:
                    self.since.pop(key, None)

    def surely(self, rule: Rule, now: float, first: bool) -> bool:
        """Whether a rule matches without doubt."""
        return all(
            (since := self.since.get((rule.name, index))) is not None and (first or now - since >= condition.for_s)
            for index, condition in enumerate(rule.when)
        )

    def possible(self, rule: Rule) -> bool:
        """Whether a rule may match: each of its conditions was met at some time."""
        return all((rule.name, index) in self.ever for index in range(len(rule.when)))


def _passed(condition: Condition, value: float | None) -> bool:
    if value is None:
        return False
    if condition.equals is not None:
        return (value >= 0.5) == condition.equals
    return value > condition.above if condition.above is not None else value < (condition.below or 0.0)


def examine(case: Case) -> Found:
    """Decide a case from end to end."""
    found = Found()
    try:
        found.broken = next(_broken(case, found), None)
    except Exception as error:
        found.broken = f"{type(error).__name__}: {error}"
    return found


def _broken(case: Case, found: Found) -> Iterator[str]:
    policy, ladder = parse_policy(case.toml, "case.toml"), case.ladder
    situation = TrainingSituation(costs=default_costs(), limits=PlanLimits(memory_bytes=case.memory_bytes))
    state, before, choices, met = initial_state(), None, Choices(), Met()
    plans, others = Plans(), Plans()
    changed: dict[str, float] = {}
    rungs_changed: list[float] = []
    for turn, (snapshot, values, slow) in enumerate(case.snapshots()):
        now = snapshot.time_s
        given = (policy, snapshot, state, {"t": ladder}, situation, before, str(turn))
        decision, after = decide(*given, choices, None, plans, slow)
        found.turns += 1
        met.hear(policy, values, now)
        if turn % AGAIN_EVERY == 0:
            read = PolicyState.model_validate_json(state.model_dump_json())
            again, remembered = decide(
                policy, snapshot, read, {"t": ladder}, situation, before, str(turn), plans=others, measured=slow
            )
            if (again, remembered) != (decision, after):
                yield f"turn {turn}: the same again decides otherwise"
        able = [rule for rule in policy.rule if all(curve.over in values for _, curve in rule.curves)]
        sure = [rule for rule in able if met.surely(rule, now, turn == 0)]
        complaints = (*_allocations(policy, decision, met, sure, values), *_caps(policy, case, decision, sure))
        yield from (f"turn {turn}: {complaint}" for complaint in complaints)
        yield from (f"turn {turn}: {said}" for said in _slopes(policy, before, decision, changed))
        if before is not None and before.rungs[0].resolution != decision.rungs[0].resolution:
            found.counts["resolutions changed"] += 1
            forbidden = not any(
                each.rung.resolution == before.rungs[0].resolution and each.within_caps
                for each in decision.rungs[0].candidates
            )
            if not forbidden and rungs_changed and now - rungs_changed[-1] <= WINDOW_S:
                yield f"turn {turn}: the resolution changes after {now - rungs_changed[-1]:.1f} s"
            rungs_changed.append(now)
        found.counts["rules in force"] += len({r.rule for r in decision.inference.reasons if r.kind == "rule"})
        found.counts["kept by the ten seconds"] += " kept for " in decision.rungs[0].text
        found.counts["slowed"] += decision.slowed_by > 1
        found.counts["trains"] += not decision.plan.plan.paused
        before, state = decision, after


def _allocations(policy: Policy, decision: Decision, met: Met, sure: Sequence[Rule], values: Values) -> Iterator[str]:
    for name, table in (("inference", policy.inference), ("training", policy.training)):
        allocation = getattr(decision, name)
        if not allocation.reasons or not all(reason.text for reason in allocation.reasons):
            yield f"{name} has no reason"
        if allocation.value > min(allocation.target, table.allocation):
            yield f"{name} {allocation.value} is above its target or the policy's"
        for rule in sure:
            limit = _most(getattr(rule, name), values)
            if limit is not None and allocation.value > limit:
                yield f"{name} {allocation.value} is above the {limit} of rule {rule.name}, which matches"
        if allocation.target < table.allocation and not any(
            met.possible(rule) for rule in policy.rule if getattr(rule, name) is not None
        ):
            yield f"{name} is restricted, and no rule can match"


def _most(level: Any, values: Values) -> float | None:
    """The most that a rule's result may allow; None where that is nothing to do with an allocation."""
    if not isinstance(level, Curve):
        return None if level is None or level is False else float(level)
    x = values[level.over]
    band = BAND * (level.points[-1][0] - level.points[0][0]) + SLACK
    between = [y for place, y in level.points if x - band <= place <= x + band]
    return max((level.at(x - band), level.at(x + band), *between))


def _caps(policy: Policy, case: Case, decision: Decision, sure: Sequence[Rule]) -> Iterator[str]:
    (rung,) = decision.rungs
    told = {cap.key: cap.value for cap in decision.caps}
    if not all(reason.text for cap in decision.caps for reason in cap.reasons):
        yield "a cap has no reason"
    for key, of in ((CapKey.MAX_RESOLUTION, "max_resolution"), (CapKey.MEMORY_BYTES, "memory_bytes")):
        own = policy.inference.max_resolution if key is CapKey.MAX_RESOLUTION else policy.training.memory_bytes
        for rule in sure:
            limit = getattr(rule, of)
            if limit is not None and min(told.get(key, math.inf), math.inf if own is None else own) > limit:
                yield f"rule {rule.name} matches, and its {of} of {limit} does not hold"
    tops = [policy.inference.max_resolution, told.get(CapKey.MAX_RESOLUTION)]
    tops += [section.max_resolution for section in policy.task.values()]
    high = min((top for top in tops if top is not None), default=math.inf)
    low = min(policy.inference.min_resolution or 0, high)
    sides = [each["resolution"] for each in case.rungs]
    if not low <= rung.resolution <= high and any(low <= side <= high for side in sides):
        yield f"{rung.resolution} px is outside of the caps"
    if [each.rung.resolution for each in rung.candidates if each.chosen] != [rung.resolution]:
        yield "not exactly one rung is chosen"
    if not rung.text or not all(each.verdict for each in rung.candidates) or len(rung.candidates) != len(sides):
        yield "a rung is without a verdict"
    plan = decision.plan.plan
    if not plan.paused:
        if plan.cost > decision.training.value + SLACK:
            yield f"a plan of cost {plan.cost} is above the training allocation {decision.training.value}"
        if plan.fraction > policy.training.max_fraction + SLACK:
            yield f"a plan unfreezes {plan.fraction} of the base, {policy.training.max_fraction} is allowed"
        room = min(
            told.get(CapKey.MEMORY_BYTES, math.inf), math.inf if case.memory_bytes is None else case.memory_bytes
        )
        if (plan.memory_bytes or 0) > room:
            yield f"a plan takes {plan.memory_bytes} bytes, {room} are allowed"
    if any(rule.training is False for rule in sure) and not decision.times.hindrances:
        yield "a matching rule does not permit training, and nothing hinders it"
    if not decision.plan.text:
        yield "the plan has no reason"


def _slopes(policy: Policy, before: Decision | None, now: Decision, changed: dict[str, float]) -> Iterator[str]:
    for name, table in (("inference", policy.inference), ("training", policy.training)):
        old = None if before is None else getattr(before, name).value
        new = getattr(now, name).value
        since = changed.get(name, now.time_s)
        if old is not None and new - old > table.rise_per_s * (now.time_s - since) + SLACK:
            yield f"{name} rises from {old} to {new} within {now.time_s - since:.1f} s"
        if old is None or new != old:
            changed[name] = now.time_s


def shrunk(case: Case) -> Case:
    """The case with all taken away that is not needed to break something."""
    smaller = True
    while smaller:
        smaller = False
        for attempt in _smaller(case):
            if examine(attempt).broken is not None:
                case, smaller = attempt, True
                break
    return case


def _smaller(case: Case) -> Iterator[Case]:
    count = len(case.samples)
    for size in (count // 2, count // 4, 5, 1):
        if 0 < size < count:
            yield replace(case, samples=case.samples[:-size])
            yield replace(case, samples=case.samples[size:])
    rules = case.policy["rule"]
    if "task.t" in case.policy:
        yield replace(case, policy={name: table for name, table in case.policy.items() if name != "task.t"})
    for index, rule in enumerate(rules):
        yield replace(case, policy={**case.policy, "rule": rules[:index] + rules[index + 1 :]})
        for place in range(len(rule["when"])) if len(rule["when"]) > 1 else ():
            fewer = {**rule, "when": rule["when"][:place] + rule["when"][place + 1 :]}
            yield replace(case, policy={**case.policy, "rule": [*rules[:index], fewer, *rules[index + 1 :]]})
    for table in ("inference", "training"):
        for key in case.policy[table]:
            fewer = {name: value for name, value in case.policy[table].items() if name != key}
            yield replace(case, policy={**case.policy, table: fewer})
    for index in range(len(case.rungs)) if len(case.rungs) > 1 else ():
        yield replace(case, rungs=case.rungs[:index] + case.rungs[index + 1 :])
    for name in sorted({name for _, values, _ in case.samples for name in values}):
        without = [(t, {k: v for k, v in seen.items() if k != name}, slow) for t, seen, slow in case.samples]
        yield replace(case, samples=tuple(without))
    if any(slow is not None for _, _, slow in case.samples):
        yield replace(case, samples=tuple((t, seen, None) for t, seen, _ in case.samples))


def search(numbers: range, seed: int, samples: int) -> tuple[Found, int | None]:
    """Examine the cases with these numbers; what was seen, and the number of the first that breaks something."""
    seen = Found()
    for number in numbers:
        found = examine(_case(seed, number, samples))
        seen.turns += found.turns
        seen.counts.update(found.counts)
        if found.broken is not None:
            return seen, number
    return seen, None


def _case(seed: int, number: int, samples: int) -> Case:
    chance = random.Random(f"{seed}/{number}")
    return random_case(chance, chance.randint(1, samples))


def _part(arguments: tuple[int, int, int, int]) -> tuple[Found, int | None]:
    first, last, seed, samples = arguments
    return search(range(first, last), seed, samples)


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--cases", type=int, default=10_000, help="policies with a trace each [default: 10000]")
    made.add_argument("--first", type=int, default=0, help="number of the first case, to go on or to repeat one")
    made.add_argument("--samples", type=int, default=80, help="most samples of a trace [default: 80]")
    made.add_argument("--seed", type=int, default=0, help="[default: 0]")
    made.add_argument("--processes", type=int, default=2, help="[default: 2]")
    arguments = made.parse_args()
    began, size = time.monotonic(), 100
    last = arguments.first + arguments.cases
    parts = [(at, min(at + size, last), arguments.seed, arguments.samples) for at in range(arguments.first, last, size)]
    seen, wrong = Found(), []
    with multiprocessing.Pool(arguments.processes) as pool:
        for found, number in pool.imap_unordered(_part, parts):
            seen.turns += found.turns
            seen.counts.update(found.counts)
            wrong += [] if number is None else [number]
    elapsed = time.monotonic() - began
    rows: list[tuple[str, object]] = [
        ("cases", arguments.cases),
        ("decisions", seen.turns),
        *sorted(seen.counts.items()),
    ]
    print_table(("what", "number"), [*rows, ("cases that break something", len(wrong))])
    print(f"\n{elapsed:.0f} s with {arguments.processes} processes")
    for number in sorted(wrong)[:1]:
        tell(shrunk(_case(arguments.seed, number, arguments.samples)), number)
    result = {"cases": arguments.cases, "decisions": seen.turns, "counts": dict(seen.counts), "broken": sorted(wrong)}
    finish("policy_search", {**result, "seconds": elapsed, "seed": arguments.seed}, arguments.output)
    raise SystemExit(1 if wrong else 0)


def tell(case: Case, number: int) -> None:
    """Print a case that breaks something."""
    print(f"\ncase {number}: {examine(case).broken}\n\n{case.toml}\nrungs: {list(case.rungs)}")
    print(f"memory of a step: {case.memory_bytes}")
    for at, (seconds, values, slow) in enumerate(case.samples):
        print(f"turn {at}, {seconds:g} s: {values}, slowness {slow}")


if __name__ == "__main__":
    main()
