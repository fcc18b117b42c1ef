"""The period in plain sentences: what ran, at which allocation, what held it down, what was asked and learned."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import tzinfo

from ..api.history_schemas import History
from .figures import AllocationFigures, Figures
from .words import counted, duration, listed, milliseconds, moment, number, percent, zone_name

MOST_VALUES = 4
MOST_CAUSES = 3


def sentences(history: History, told: Figures, zone: tzinfo | None = None) -> Iterator[str]:
    """One sentence or two a matter."""
    if not history.rows:
        yield "Nothing was recorded in this period: patchd did not run, or its history is kept no longer."
        return
    yield _recorded(history, told, zone)
    yield _allocation("inference", told.inference)
    yield _training(history, told)
    yield _requests(history, told)
    if cascades := list(_cascades(history)):
        yield " ".join(cascades)
    if events := _events(history):
        yield events


def _recorded(history: History, told: Figures, zone: tzinfo | None) -> str:
    span_s, gaps = history.to_s - history.from_s, history.gaps
    names = listed([f"“{name}”" for name in told.policies]) if told.policies else ""
    under = f" under the {'policy' if len(told.policies) == 1 else 'policies'} {names}" if names else ""
    sentence = f"patchd ran for {duration(told.recorded_s)} of {duration(span_s)}{under}."
    if gaps:
        longest = max(gaps, key=lambda gap: gap.to_s - gap.from_s)
        at = moment(longest.from_s, zone, seconds=False)
        length = duration(longest.to_s - longest.from_s)
        if len(gaps) == 1:
            return f"{sentence} Nothing was recorded for {length} from {at}."
        silent_s = sum(gap.to_s - gap.from_s for gap in gaps)
        return (
            f"{sentence} Nothing was recorded for {duration(silent_s)} in {len(gaps)} gaps,"
            f" the longest of {length} from {at}."
        )
    return sentence


def _allocation(name: str, told: AllocationFigures) -> str:
    if told.mean is None:
        return f"No {name} allocation was decided."
    held = told.at[:MOST_VALUES]
    values = [f"{number(value)} for {percent(seconds / told.seconds)}" for value, seconds in held]
    if (rest := len(told.at) - len(held)) > 0:
        values.append(f"{counted(rest, 'other value')} for the rest")
    if len(told.at) == 1:
        sentence = f"The {name} allocation was {number(told.at[0][0])} all the time."
    else:
        sentence = f"The {name} allocation was {listed(values)} of the time, {number(told.mean, 2)} on average."
    return f"{sentence} {_causes(told)}".rstrip()


def _causes(told: AllocationFigures) -> str:
    """What held an allocation down, the longest first."""
    causes = [f"{cause(why)} ({duration(seconds)})" for why, seconds in told.held_by[:MOST_CAUSES] if seconds >= 1]
    return f"It was held down most by {causes[0]}{_then(causes[1:])}." if causes else ""


def _then(more: list[str]) -> str:
    return f", then by {listed(more)}" if more else ""


def cause(why: str) -> str:
    """A key of `held_by` in words."""
    if why == "hold":
        return "the slow rise after a rule"
    kind, _, name = why.partition(" ")
    if kind == "rule" and name:
        return f"the rule “{name}”"
    return f"the policy's condition {why}"


def _training(history: History, told: Figures) -> str:
    allocation = _allocation("training", told.training)
    if not history.slices:
        return f"No training in this period. {allocation}"
    trained = history.trained
    jobs, slices = counted(trained.jobs, "job"), counted(trained.slices, "slice")
    images = counted(trained.samples, "image")
    return (
        f"Training ran for {duration(trained.seconds)} in {slices} of {jobs}: {duration(trained.cpu_seconds)} of "
        f"processor time, {images} through training steps. {allocation}"
    )


def _requests(history: History, told: Figures) -> str:
    if not told.requests and not told.refused:
        return "No predictions were asked for."
    asked = {name: task for name, task in history.tasks.items() if task.requests}
    sentence = f"{counted(told.requests, 'prediction')} {'was' if told.requests == 1 else 'were'} answered"
    sentence += f" for {counted(len(asked), 'task')}" if asked else ""
    if asked:
        name, most = max(asked.items(), key=lambda each: each[1].requests)
        whom = "" if len(asked) == 1 else f"; {name} had the most, {counted(most.requests, 'prediction')}"
        sentence += (
            f"{whom}: half took no longer than {milliseconds(most.p50_ms)}, 95 % no longer than "
            f"{milliseconds(most.p95_ms)}, the longest {milliseconds(most.most_ms)}"
        )
    if told.refused:
        whys = listed([f"{count} “{code}”" for code, count in told.refused.most_common()])
        total = told.refused.total()
        return f"{sentence}. {counted(total, 'request')} ended in an error: {whys}."
    return f"{sentence}."


def _cascades(history: History) -> Iterator[str]:
    for name, task in history.tasks.items():
        if task.stages:
            stage, first = next(iter(task.stages.items()))
            share = percent(first / sum(task.stages.values()))
            yield f"The first stage of {name}'s cascade ({stage.partition(' ')[2]}) gave {share} of its answers."


def _events(history: History) -> str:
    grave = [counted(n, level) for level in ("error", "warning") if (n := _count(history, level))]
    if not grave:
        return ""
    last = next(event for event in reversed(history.events) if event.level != "info")
    were = "was" if grave[0].startswith("1 ") else "were"
    return f"There {were} {listed(grave)}; the last: {last.message.rstrip('.')}."


def _count(history: History, level: str) -> int:
    return sum(event.level == level for event in history.events)


def headline(history: History, zone: tzinfo | None = None) -> str:
    """The period in words, with its zone."""
    first, last = (moment(at, zone, seconds=False) for at in (history.from_s, history.to_s))
    same_day = first[:10] == last[:10]
    return f"{first} to {last[11:] if same_day else last}, {zone_name(history.from_s, history.to_s, zone)}"
