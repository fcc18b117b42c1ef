"""All about one line of the live screen: a task, a signal, a training job, an event."""

from __future__ import annotations

from ....client import AsyncClient
from ....policies.decision import RungCandidate
from .. import render
from .watcher import Watcher
from .words import event_text


async def details(client: AsyncClient, seen: Watcher, panel: str, key: str) -> str:
    """The text for a line of a panel. Raises the errors of the client."""
    if panel == "tasks":
        return await _task(client, seen, key)
    if panel == "signals":
        return await _signal(client, key)
    if panel == "training":
        return await _job(client, key)
    return next((event_text(event) for event in seen.events if str(event.id) == key), "It is no longer kept.")


async def _task(client: AsyncClient, seen: Watcher, name: str) -> str:
    from ..cascade import cascade_text
    from ..task import task_text

    decision = None if seen.state is None else seen.state.decision
    rung = next((each for each in decision.rungs if each.task == name), None) if decision else None
    parts = [] if rung is None else [rung.text, *map(_candidate, rung.candidates), ""]
    parts.append(task_text(await client.task(name)))
    cascade = await client.cascade(name)
    if cascade.state is not None:
        parts += ["", "Cascade", cascade_text(cascade)]
    return "\n".join(parts)


def _candidate(of: RungCandidate) -> str:
    return f"{'*' if of.chosen else ' '} {of.rung.resolution:>4} px  {of.verdict}"


async def _signal(client: AsyncClient, name: str) -> str:
    told = await client.signals()
    reading = next((each for each in told.signals if each.name == name), None)
    if reading is None:
        return f"Nothing tells {name} any more."
    pairs = [("signal", reading.name), ("meaning", reading.meaning), ("unit", reading.unit)]
    if reading.value is not None:
        pairs += [("value", f"{reading.value:g}"), ("read", f"{render.duration(reading.age_s or 0.0)} ago")]
    else:
        pairs.append(("absent", reading.absent_because or "nothing here tells it"))
    if reading.source:
        pairs.append(("source", reading.source))
    absent = [f"  {each.name}: {each.absent_because}" for each in told.signals if each.value is None]
    return "\n".join([render.fields(pairs), "", "Absent on this machine:", *(absent or ["  none"])])


async def _job(client: AsyncClient, job_id: str) -> str:
    from ..train import job_text

    return job_text(await client.job(job_id))
