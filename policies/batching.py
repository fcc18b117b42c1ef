"""Which waiting requests run next, together: gathered for a while, the urgent first, fair between clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

URGENT, USUAL, PATIENT = 1, 2, 3  # priorities, as Triton counts them: the smaller, the sooner
AGEING_S = 1.0  # a request that has waited so long counts as one of the next priority: nothing waits for ever


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that is ready to run. Times are seconds of one clock that only goes forward."""

    id: int
    group: str  # requests of one group can share a batch
    client: str
    arrived_s: float
    release_s: float  # it waits for company until then
    expires_s: float | None = None  # nobody wants the answer after that
    priority: int = USUAL


@dataclass(frozen=True, slots=True)
class Batch:
    """The requests to run now, in order; without any, `wait_until_s` says when there will be some.

    `turns` counts for each client what it was served while it had something waiting: hand it to the next choice.
    """

    members: tuple[int, ...]
    turns: Mapping[str, int]
    wait_until_s: float | None = None


def release_s(arrived_s: float, delay_s: float, expires_s: float | None, cost_s: float) -> float:
    """When a request stops waiting for company: after `delay_s`, or while `cost_s` still fits before its deadline."""
    latest = arrived_s + delay_s
    return latest if expires_s is None else max(arrived_s, min(latest, expires_s - cost_s))


def expired(waiting: Sequence[Waiting], now_s: float) -> tuple[int, ...]:
    """Those whose deadline has passed: running them would only make others late."""
    return tuple(each.id for each in waiting if each.expires_s is not None and each.expires_s <= now_s)


def next_batch(waiting: Sequence[Waiting], turns: Mapping[str, int], now_s: float, most: int) -> Batch:
    """The batch to run at `now_s`, of at most `most` requests.

    A group may run when one of its requests need wait no longer, or `most` of them are there. The most urgent request,
    among equals that of the client that was served least, goes first and names the group; the others of the batch
    follow by the same order. So a client with a hundred requests and one with a single one take turns.
    """
    if not waiting:
        return Batch((), {})
    groups: dict[str, list[Waiting]] = {}
    for each in waiting:
        groups.setdefault(each.group, []).append(each)
    ready = {name for name, own in groups.items() if len(own) >= most or any(each.release_s <= now_s for each in own)}
    if not ready:
        return Batch((), turns, min(each.release_s for each in waiting))
    present = {each.client for each in waiting}
    floor = min((turns[client] for client in present if client in turns), default=0)
    served = {client: turns.get(client, floor) for client in present}  # a newcomer has no credit from before
    ordered = _in_turn(waiting, served, now_s)
    group = next(each.group for each in ordered if each.group in ready)
    members = [each for each in ordered if each.group == group][:most]
    chosen = {each.id for each in members}
    for each in members:
        served[each.client] += 1
    left = {each.client for each in waiting if each.id not in chosen}
    least = min((served[client] for client in left), default=0)
    return Batch(tuple(each.id for each in members), {client: served[client] - least for client in left})


def _in_turn(waiting: Sequence[Waiting], served: Mapping[str, int], now_s: float) -> list[Waiting]:
    """All of them, the urgent first, then by what their client will have been served before them, then by arrival."""
    before = dict(served)
    ranked = []
    for each in sorted(waiting, key=lambda each: (_urgency(each, now_s), each.arrived_s, each.id)):
        ranked.append((_urgency(each, now_s), before[each.client], each.arrived_s, each.id, each))
        before[each.client] += 1
    return [each for *_, each in sorted(ranked, key=lambda rank: rank[:4])]


def _urgency(each: Waiting, now_s: float) -> int:
    """Its priority, lifted by one for every `AGEING_S` that it has waited."""
    lifts = max(0.0, now_s - each.arrived_s) / AGEING_S
    return each.priority - int(min(each.priority - URGENT, lifts))


def has_place(client: str, held: Mapping[str, int], limit: int) -> bool:
    """Whether a queue of `limit` places takes one more request of `client`; `held` counts the places taken by each.

    The last eighth of the places is for clients that hold less than an equal share of all, one more client counted
    in: so one that asks without end leaves room for the others.
    """
    taken = sum(held.values())
    if taken >= limit:
        return False
    own = held.get(client, 0)
    clients = sum(count > 0 for count in held.values()) + 1
    return own == 0 or taken < limit - limit // 8 or own < limit // clients
