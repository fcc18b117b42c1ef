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
from .trace import Trace, TraceRecord

LEAST_SPREAD_CORES = 0.05  # standard deviation of the processors in use, below which their power tells nothing
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

    source: Literal["trace", "given"] | None = None
    watts_per_core: float | None = Field(None, description="what a busy processor takes")
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
        self._rates = [self._told(record) for record in run.trace.records]
        told = {task for rates in self._rates for task in rates}
        self._from = {name: self._source(name, told) for name in run.ladders}
        self._slope = watts_per_busy_core(run.trace) if watts_per_core is None else None

    @property
    def by_record(self) -> bool:
        """Whether what a step gives and costs depends on the record that holds, not on the outcome alone."""
        return "trace" in self._from.values()

    def _source(self, task: str, told: set[str]) -> RateSource:
        if self._rate is not None:
            return "given"
        return "trace" if task in told or (told and task == _only(self._run.ladders)) else "assumed"

    def _told(self, record: TraceRecord) -> Mapping[str, float]:
        """Predictions a second by task, where a record tells."""
        rates: dict[str, float] = {}
        if record.work is not None:
            rates = {n: w.per_second for n, w in record.work.tasks.items() if w.per_second is not None}
            only = _only(self._run.ladders)
            if rates and only is not None and only not in rates:  # a stand-in for all tasks takes all their requests
                rates = {only: math.fsum(rates.values())}
        return rates

    def of(self, policy: Policy, course: Course) -> Used:
        """What a course gives and costs."""
        step_s = self._run.step_s
        seconds: dict[str, dict[int, float]] = {name: {} for name in self._run.ladders}
        predictions: dict[str, dict[int, float]] = {name: {} for name in self._run.ladders}
        processor_s = relative = 0.0
        for span in course.spans:
            time_s, rates = span.steps * step_s, self._rates[span.record]
            for (task, side), cost_ms in zip(span.outcome.rungs, span.outcome.costs_ms, strict=True):
                count = self._per_second(task, rates) * time_s
                at, made = seconds[task], predictions[task]
                at[side] = at.get(side, 0.0) + time_s
                made[side] = made.get(side, 0.0) + count
                processor_s += count * cost_ms / 1e3 * self._threads
                relative += count * cost_ms / self._dearest[task]
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
        inference = InferenceUse(
            predictions=math.fsum(n for made in predictions.values() for n in made.values()),
            processor_s=processor_s if self._measured else None,
            relative=relative,
        )
        training = self._trained(policy, course)
        return Used(tasks, inference, training, self._energy(inference, training))

    def _per_second(self, task: str, rates: Mapping[str, float]) -> float:
        if self._rate is not None:
            return self._rate
        return rates.get(task, 0.0) if self._from[task] == "trace" else ASSUMED_RATE

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

    def _energy(self, inference: InferenceUse, training: TrainingReplay) -> EnergyUse:
        watts = self._slope if self._watts is None else self._watts
        if watts is None:
            return EnergyUse(
                why="the trace does not tell what a busy processor takes (no power.watts, or its processors were "
                "equally busy all the time); --watts-per-core does"
            )
        measured = inference.processor_s is not None
        return EnergyUse(
            source="trace" if self._watts is None else "given",
            watts_per_core=watts,
            inference_joules=None if inference.processor_s is None else inference.processor_s * watts,
            training_joules=training.processor_s * watts,
            why="" if measured else "that of predictions needs measured costs (--measured)",
        )


def _cost(cost_ms: float | None, resolution: int) -> float:
    return cost_ms if cost_ms is not None else 2e-4 * resolution**2


def _only(ladders: Mapping[str, Any]) -> str | None:
    return next(iter(ladders)) if len(ladders) == 1 else None


def watts_per_busy_core(trace: Trace) -> float | None:
    """What one more busy processor takes: the slope of the machine's power over its processors in use (least squares).

    What the machine takes anyway, its display included, has no part in it. None where the trace does not tell, or
    where its processors were equally busy all the time.
    """
    points = []
    ends = [record.t for record in trace.records[1:]] + [trace.duration_s]
    for record, end in zip(trace.records, ends, strict=True):
        cpu, power = record.given.get("cpu"), record.given.get("power")
        watts = getattr(power, "watts", None)
        if watts is not None and cpu is not None and cpu.busy is not None:
            points.append((end - record.t, cpu.busy * cpu.cores, watts))
    total = math.fsum(s for s, _, _ in points)
    if not total:
        return None
    mean_cores = math.fsum(s * cores for s, cores, _ in points) / total
    mean_watts = math.fsum(s * watts for s, _, watts in points) / total
    spread = math.fsum(s * (cores - mean_cores) ** 2 for s, cores, _ in points) / total
    together = math.fsum(s * (cores - mean_cores) * (watts - mean_watts) for s, cores, watts in points) / total
    return together / spread if spread >= LEAST_SPREAD_CORES**2 and together > 0 else None


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
