"""What a policy's course over a trace would have given and cost: predictions, processor time, energy, training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field

from .policy import Policy
from .replay_steps import Course, Outcome, Terms
from .snapshot import Frozen
from .trace import TraceRecord

ASSUMED_RATE = 1.0  # predictions a second where neither trace nor user tells

RateSource = Literal["given", "trace", "assumed"]


class TaskReplay(Frozen):
    """One task's predictions over the trace."""

    task: str
    seconds_at: dict[int, float] = Field(description="by resolution, pixels")
    predictions_at: dict[int, float] = Field(description="by resolution, pixels")
    rate_from: RateSource = Field(description="where the predictions a second come from")
    changes: int = Field(description="of resolution")
    shortest_s: float | None = Field(description="least time between two changes of resolution; absent: under two")
    over_budget_s: float = Field(description="while the rung cost more than what the rules asked for affords")


class InferenceUse(Frozen):
    """What all predictions together cost."""

    predictions: float
    processor_s: float | None = Field(description="absent where the costs of the rungs are not measured")
    relative: float = Field(description="in predictions at the dearest rung, by cost where measured, else by pixels")


class TrainingReplay(Frozen):
    """What training would have got done, had there been something to train all the time."""

    seconds: float
    processor_s: float
    slices: int = Field(description="of the policy's slice_s, begun")
    steps: float = Field(description="optimiser steps of the plans in force, as predicted")
    full_steps: float = Field(description="the same time in full fine-tuning steps' worth: each step by its cost")
    over_budget_s: float = Field(description="while the plan cost more than what the rules asked for affords")
    waits: dict[str, float] = Field(description="seconds that each condition kept it from running")


class EnergyUse(Frozen):
    """Joules of predictions and training; absent where nothing tells, and then `why` says so."""

    source: Literal["trace", "watts_per_core"] | None = None
    inference_joules: float | None = None
    training_joules: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Used:
    """All of it, for one policy."""

    tasks: tuple[TaskReplay, ...]
    inference: InferenceUse
    training: TrainingReplay
    energy: EnergyUse


@dataclass(frozen=True, slots=True)
class _Record:
    """What counts of a record of the trace here."""

    rates: Mapping[str, float]  # predictions a second by task, where it tells
    joules: float | None  # of a processor second, where it tells


class Account:
    """Adds up courses of policies over one trace."""

    def __init__(
        self, run: Terms, *, rate: float | None, watts_per_core: float | None, measured: bool, threads: float
    ) -> None:
        self._run, self._rate, self._watts, self._measured = run, rate, watts_per_core, measured
        self._threads = threads
        self._dearest = {
            name: max(_cost(rung.cost_ms, rung.resolution) for rung in ladder.rungs)
            for name, ladder in run.ladders.items()
        }
        self._records = [self._seen(record) for record in run.trace.records]
        told = {task for record in self._records for task in record.rates}
        self._from = {name: self._source(name, told) for name in run.ladders}
        self._joules_told = any(record.joules is not None for record in self._records)

    @property
    def by_record(self) -> bool:
        """Whether what a step gives and costs depends on the record that holds, not on the outcome alone."""
        return "trace" in self._from.values() or (self._joules_told and self._watts is None)

    def _source(self, task: str, told: set[str]) -> RateSource:
        if self._rate is not None:
            return "given"
        return "trace" if task in told or (told and task == _only(self._run.ladders)) else "assumed"

    def _seen(self, record: TraceRecord) -> _Record:
        rates: dict[str, float] = {}
        if record.work is not None:
            rates = {n: w.per_second for n, w in record.work.tasks.items() if w.per_second is not None}
            only = _only(self._run.ladders)
            if rates and only is not None and only not in rates:  # a stand-in for all tasks takes all their requests
                rates = {only: math.fsum(rates.values())}
        return _Record(rates, _joules_per_processor_s(record.given))

    def of(self, policy: Policy, course: Course) -> Used:
        """What a course gives and costs."""
        step_s = self._run.step_s
        seconds: dict[str, dict[int, float]] = {name: {} for name in self._run.ladders}
        predictions: dict[str, dict[int, float]] = {name: {} for name in self._run.ladders}
        processor_s = relative = joules = training_joules = 0.0
        told = True
        for span in course.spans:
            time_s, record = span.steps * step_s, self._records[span.record]
            used = 0.0
            for (task, side), cost_ms in zip(span.outcome.rungs, span.outcome.costs_ms, strict=True):
                count = self._per_second(task, record) * time_s
                at, made = seconds[task], predictions[task]
                at[side] = at.get(side, 0.0) + time_s
                made[side] = made.get(side, 0.0) + count
                used += count * cost_ms / 1e3 * self._threads
                relative += count * cost_ms / self._dearest[task]
            trained = time_s * self._run.training_threads if span.outcome.trains else 0.0
            processor_s += used
            per_s = self._watts if self._watts is not None else record.joules
            if per_s is not None:
                joules += used * per_s
                training_joules += trained * per_s
            elif used or trained:
                told = False
        tasks = tuple(
            TaskReplay(
                task=name,
                seconds_at=dict(sorted(seconds[name].items())),
                predictions_at=dict(sorted(predictions[name].items())),
                rate_from=self._from[name],
                over_budget_s=math.fsum(s for o, s in course.outcomes.items() if name in o.over),
                **_swings(name, course),
            )
            for name in sorted(self._run.ladders)
        )
        return Used(
            tasks,
            InferenceUse(
                predictions=math.fsum(n for made in predictions.values() for n in made.values()),
                processor_s=processor_s if self._measured else None,
                relative=relative,
            ),
            self._trained(policy, course),
            self._energy(joules, training_joules, told),
        )

    def _per_second(self, task: str, record: _Record) -> float:
        if self._rate is not None:
            return self._rate
        return record.rates.get(task, 0.0) if self._from[task] == "trace" else ASSUMED_RATE

    def _trained(self, policy: Policy, course: Course) -> TrainingReplay:
        ran = {o: s for o, s in course.outcomes.items() if o.trains}
        seconds, threads = math.fsum(ran.values()), self._run.training_threads
        done = {o: s * threads * 1e3 / o.step_ms for o, s in ran.items() if o.step_ms}
        waits: dict[str, float] = {}
        for outcome, time_s in course.outcomes.items():
            for key in outcome.waits:
                waits[key] = waits.get(key, 0.0) + time_s
        return TrainingReplay(
            seconds=seconds,
            processor_s=seconds * threads,
            slices=sum(math.ceil(spell / policy.training.slice_s) for spell in _spells(course)),
            steps=math.fsum(done.values()),
            full_steps=math.fsum(steps * o.plan_cost for o, steps in done.items()),
            over_budget_s=math.fsum(s for o, s in ran.items() if o.trains_over),
            waits=dict(sorted(waits.items())),
        )

    def _energy(self, joules: float, training_joules: float, told: bool) -> EnergyUse:
        if self._watts is None and not self._joules_told:
            return EnergyUse(why="the trace has no power.watts beside cpu.busy; --watts-per-core takes its place")
        if self._watts is None and not told:
            return EnergyUse(why="the trace tells no power at some of the moments; --watts-per-core takes its place")
        return EnergyUse(
            source="trace" if self._watts is None else "watts_per_core",
            inference_joules=joules if self._measured else None,
            training_joules=training_joules,
            why="" if self._measured else "that of predictions needs measured costs (--measured)",
        )


def _cost(cost_ms: float | None, resolution: int) -> float:
    return cost_ms if cost_ms is not None else 2e-4 * resolution**2


def _only(ladders: Mapping[str, Any]) -> str | None:
    return next(iter(ladders)) if len(ladders) == 1 else None


def _joules_per_processor_s(given: Mapping[str, Any]) -> float | None:
    """What the machine takes by the processor seconds in use; None where the trace tells not both, or none are."""
    cpu, power = given.get("cpu"), given.get("power")
    watts = getattr(power, "watts", None)
    if watts is None or cpu is None or not cpu.busy:
        return None
    return float(watts / (cpu.busy * cpu.cores))


def _swings(task: str, course: Course) -> dict[str, Any]:
    """Changes of a task's resolution, and the least time between two of them."""
    at: int | None = None
    moments: list[int] = []
    for span in course.spans:
        side = dict(span.outcome.rungs).get(task)
        if side != at:
            moments.append(span.first)
            at = side
    steps = [later - earlier for earlier, later in pairwise(moments[1:])]
    return {"changes": len(moments) - 1, "shortest_s": min(steps) * course.step_s if steps else None}


def _spells(course: Course) -> list[float]:
    """Seconds of each spell in which training ran without a break."""
    spells: list[float] = []
    before: Outcome | None = None
    for span in course.spans:
        if span.outcome.trains:
            if before is None or not before.trains:
                spells.append(0.0)
            spells[-1] += span.steps * course.step_s
        before = span.outcome
    return spells
