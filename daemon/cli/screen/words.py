"""The lines of the live screen, as text: what is seen, decided, served, trained, and what has happened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....policies.signal_readings import read_s
from ....policies.signals import SWITCH, signal_spec, signals
from .. import render
from ..follow import screen_lines, share_done
from ..signals import value_text
from .glyphs import Glyphs, span
from .recent import Recent

if TYPE_CHECKING:
    from ....policies.decision import AllocationDecision, Decision, RungDecision
    from ....policies.snapshot import Snapshot
    from ...api.schemas import Event, JobView, PolicyInfo, Status

# Shown first; all others follow by scrolling.
CHOSEN = (
    "cpu.busy",
    "memory.available",
    "battery.charge",
    "temperature.max",
    "pressure.memory.some",
    "pressure.cpu.some",
    "cpu.busy_own",
    "power.watts",
    "power.on_mains",
)
COLOURS: Mapping[str, str | None] = {"info": None, "warning": "yellow", "error": "red"}
OLD_S = 5.0  # a signal that was read longer ago says so
NAME_WIDTH, VALUE_WIDTH = 24, 10
SPARK_WIDTH, LONGEST_SPARK, MEANING_WIDTH = 20, 60, 30
BAR_WIDTH = 20
INDENT, SHORTEST_SPARK = 10, 10
TITLES = {"inference": "Inference", "training": "Training"}


@dataclass(frozen=True)
class Line:
    """One line of a panel: what it stands for, and its text."""

    key: str
    text: str
    strong: bool = False  # shown in bold where the terminal can; never the only sign of anything
    colour: str | None = None  # the same


def head(state: Status, clock: str, width: int) -> str:
    """Version, policy, age, requests; the time at the right."""
    up = render.duration(state.now_s - state.started_s)
    left = f"patchd {state.version}  policy {state.policy.name}  up {up}  {state.requests_total} answered"
    return left if len(left) + len(clock) + 2 > width else left + clock.rjust(width - len(left))


def notices(state: Status) -> list[str]:
    """What an operator has to know before the rest."""
    told = []
    if state.policy.error:
        told.append(f"Policy refused, the last good one is in force: {state.policy.error}")
    if state.trace:
        told.append(f"The trace {state.trace} is replayed in place of the device.")
    return told


def decided_lines(decision: Decision | None, recent: Recent, glyphs: Glyphs, width: int, why_lines: int) -> list[str]:
    """Both allocations and why; what does not fit in `why_lines` is for `explain`."""
    if decision is None:
        return ["Nothing has been decided yet."]
    lines = []
    for name, of, more in (
        ("inference", decision.inference, ""),
        ("training", decision.training, decision.times.text or f"Plan: {decision.plan.text}"),
    ):
        lines.append(_allocation(name, of, recent, glyphs, width))
        why = of.reasons[0].text if of.reasons else ""
        told = [f"{each.rstrip('.')}." for each in (why, more) if each]
        wrapped = render.wrap(" ".join(told), width - INDENT)
        if len(wrapped) > why_lines:
            wrapped = [*wrapped[: why_lines - 1], glyphs.fitted(" ".join(wrapped[why_lines - 1 :]), width - INDENT)]
        lines += [" " * INDENT + line for line in wrapped]
    return lines


def _allocation(name: str, of: AllocationDecision, recent: Recent, glyphs: Glyphs, width: int) -> str:
    """Name, value and bar; what the rules ask for where that differs; the last minute."""
    asked = "" if of.value == of.target else f"  rules ask for {of.target:.2f}"
    text = f"{TITLES[name]:<{INDENT}}{of.value:.2f} {glyphs.bar(of.value, BAR_WIDTH)}{asked}"
    left = width - len(text) - 2
    if left < SHORTEST_SPARK:
        return text
    values = list(recent.allocations.get(name, ()))
    return f"{text}  {glyphs.spark(values, min(left, len(values)), 0.0, 1.0)}"


def signal_lines(state: Status, recent: Recent, glyphs: Glyphs, now_s: float, width: int) -> list[Line]:
    """A line a signal: name, value, the last looks, what it is. Those that decide are marked and come first."""
    seen, decision = state.snapshot, state.decision
    if seen is None:
        return []
    values = signals(seen)
    deciding = () if decision is None else tuple(name for name in _deciding(decision) if name in values)
    names = [name for name in dict.fromkeys((*deciding, *CHOSEN, *values)) if name in values]
    return [_signal(name, values[name], name in deciding, seen, recent, glyphs, now_s, width) for name in names]


def _deciding(decision: Decision) -> Iterable[str]:
    reasons = (*decision.inference.reasons, *decision.training.reasons)
    return dict.fromkeys(reason.signal for reason in reasons if reason.signal is not None)


def _signal(
    name: str,
    value: float,
    decides: bool,
    seen: Snapshot,
    recent: Recent,
    glyphs: Glyphs,
    now_s: float,
    width: int,
) -> Line:
    spec = signal_spec(name, seen)
    unit, meaning = ("", "") if spec is None else (spec.unit, spec.meaning)
    told = f"{value * 100:.1f} %" if unit == "share" else value_text(value, unit)
    first = f"{'*' if decides else ' '}{glyphs.fitted(name, NAME_WIDTH):<{NAME_WIDTH}} {told:>{VALUE_WIDTH}} "
    age_s = now_s - read_s(name, seen)
    last = f" {age_s:.0f} s old" if age_s > OLD_S else ""
    left = width - 1 - len(first) - len(last)
    size = left if left < SPARK_WIDTH + MEANING_WIDTH else SPARK_WIDTH
    kept = list(recent.signals.get(name, ()))
    low, high = (0.0, 1.0) if unit in ("share", SWITCH) else span(kept)
    spark = glyphs.spark(kept, max(0, min(size, LONGEST_SPARK)), low, high)
    return Line(name, f"{first}{spark}{last}" + ("" if size == left else f"  {meaning}"), decides)


def task_header(width: int) -> str:
    """The names of the columns of `task_lines`."""
    return f" {'task':<{_name_width(width)}} {'input':>6} {'cost':>8} {'req/s':>7} {'p50':>8} {'p95':>8}"


def task_lines(state: Status, recent: Recent, glyphs: Glyphs, width: int) -> list[Line]:
    """Two lines a task: resolution, cost, requests a second, latency; shares of the stages, and why this resolution."""
    rungs = () if state.decision is None else state.decision.rungs
    lines = [line for rung in rungs for line in _task(rung, recent, glyphs, width)]
    if (others := state.tasks - len(rungs)) > 0:
        which = "1 task has" if others == 1 else f"{others} tasks have"
        lines.append(Line("", f" {which} no rung that can answer yet: `patchctl task list`"))
    return lines


def _task(rung: RungDecision, recent: Recent, glyphs: Glyphs, width: int) -> tuple[Line, Line]:
    lately = recent.lately(rung.task)
    chosen = next((each for each in rung.candidates if each.chosen), None)
    cost = "-" if chosen is None else ("~" if chosen.estimated else "") + short_ms(chosen.cost_ms)
    size = _name_width(width)
    side = f"{rung.resolution} px"
    numbers = f"{side:>6} {cost:>8} {lately.rate:>7.1f} {short_ms(lately.p50_ms):>8} {short_ms(lately.p95_ms):>8}"
    more = [f"{lately.refused} refused"] if lately.refused else []
    if lately.stages:
        more.append("stages " + ", ".join(f"{stage} {share * 100:.0f} %" for stage, share in lately.stages))
    more.append(rung.text if chosen is None else chosen.verdict)
    return (
        Line(rung.task, f" {glyphs.fitted(rung.task, size):<{size}} {numbers}"),
        Line(rung.task, f"   {'; '.join(more)}"),
    )


def _name_width(width: int) -> int:
    return max(8, min(28, width - 46))


def short_ms(value: float | None) -> str:
    """'9.5 ms' in at most 8 columns."""
    if value is None:
        return "-"
    return f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms" if value < 1000 else f"{value / 1000:.1f} s"


def job_lines(jobs: Sequence[JobView], decision: Decision | None, glyphs: Glyphs) -> list[Line]:
    """Two lines a job that has not ended: how far it is; its plan, and its cost beside the allocation."""
    allocation = None if decision is None else decision.training.value
    lines = []
    for job in jobs:
        done = share_done(job)
        bar = f"{glyphs.bar(done, 10)} {done * 100:3.0f} %"
        state = job.state.value
        where, *more = screen_lines(job, allocation)
        if state == "running" and job.progress.loss is not None:
            where = f"{where}, {more.pop(0)}"
        if state != "queued" and not any(line.startswith("cost ") for line in more):
            more += _predicted(job, allocation)
        names = job.spec.task if not job.spec.tasks else ", ".join(job.spec.tasks)
        told = where.removeprefix(state).removeprefix(": ")
        lines.append(Line(job.id, f" {glyphs.fitted(names, 16)} {state} {bar}  {told}"))
        lines.append(Line(job.id, f"   {job.id}: {'; '.join(more) or 'has not begun'}"))
    return lines


def _predicted(job: JobView, allocation: float | None) -> list[str]:
    """What the plan is predicted to cost, before it has been measured."""
    plan = None if job.plan is None else job.plan.plan
    if plan is None or plan.paused:
        return []
    beside = "" if allocation is None else f", allocation {allocation:.2f}"
    return [f"predicted cost {plan.cost:.2f} of a full step{beside}"]


def policy_lines(policies: Sequence[PolicyInfo]) -> list[Line]:
    """A line a policy, by its source; the one in force is marked."""
    lines = []
    for each in policies:
        mark, said = ("*", "in force: ") if each.in_force else (" ", "")
        lines.append(Line(each.source, f"{mark} {each.name:<12} {said}{each.description}"))
    return lines


def event_lines(events: Sequence[Event], width: int) -> list[Line]:
    """A line an event, the newest first; the kind where there is room for it."""
    lines = []
    for event in reversed(events):
        level = "" if event.level == "info" else f"{event.level}: "
        kind = f"{event.kind:<18} " if width >= 100 else ""
        text = f"{'!' if level else ' '}{render.clock(event.time_s)} {kind}{level}{event.message}"
        lines.append(Line(str(event.id), text, event.level != "info", COLOURS[event.level]))
    return lines


def event_text(event: Event) -> str:
    """All of an event."""
    pairs = [
        ("time", render.clock(event.time_s)),
        ("level", event.level),
        ("kind", event.kind),
        ("event", event.message),
    ]
    return render.fields([*pairs, *((name, str(value)) for name, value in event.data.items())])
