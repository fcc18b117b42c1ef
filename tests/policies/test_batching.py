"""Batches are gathered no longer than allowed, keep deadlines, and give every client its turn."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st
from patchd.policies.batching import (
    AGEING_S,
    PATIENT,
    URGENT,
    Waiting,
    expired,
    has_place,
    next_batch,
    release_s,
)
from patchd.policies.domain import nearest_rung

TIMES = st.floats(0, 100, allow_nan=False)


@st.composite
def queues(draw) -> list[Waiting]:
    made = []
    for identity in range(draw(st.integers(0, 20))):
        arrived = draw(TIMES)
        spare = draw(st.none() | TIMES)
        expires = None if spare is None else arrived + spare
        made.append(
            Waiting(
                id=identity,
                group=draw(st.sampled_from("ab")),
                client=draw(st.sampled_from("xyz")),
                arrived_s=arrived,
                release_s=release_s(arrived, draw(st.floats(0, 1)), expires, draw(st.floats(0, 1))),
                expires_s=expires,
                priority=draw(st.integers(1, 3)),
            )
        )
    return made


@given(queues(), st.dictionaries(st.sampled_from("xyz"), st.integers(0, 50)), TIMES, st.integers(1, 8))
def test_a_batch_is_of_one_group_no_larger_than_allowed_and_runs_as_soon_as_one_need_wait_no_longer(
    waiting: list[Waiting], turns: dict[str, int], now_s: float, most: int
) -> None:
    batch = next_batch(waiting, turns, now_s, most)
    by_id = {each.id: each for each in waiting}
    assert len(set(batch.members)) == len(batch.members) <= most
    assert len({by_id[identity].group for identity in batch.members}) <= 1
    due = any(each.release_s <= now_s for each in waiting)
    full = any(sum(each.group == group for each in waiting) >= most for group in "ab")
    assert bool(batch.members) == (due or full)
    if waiting and not batch.members:
        assert batch.wait_until_s == min(each.release_s for each in waiting) > now_s
    assert next_batch(list(reversed(waiting)), turns, now_s, most) == batch


@given(queues(), st.integers(1, 8))
def test_every_request_runs_in_the_end_and_clients_that_wait_are_served_alike(
    waiting: list[Waiting], most: int
) -> None:
    left, order = list(waiting), list[int]()
    turns: Mapping[str, int] = {}
    while left:
        batch = next_batch(left, turns, 1e9, most)
        assert batch.members
        order += batch.members
        turns = batch.turns
        left = [each for each in left if each.id not in batch.members]
    assert sorted(order) == [each.id for each in waiting]
    if len({each.group for each in waiting}) == 1:
        served = dict.fromkeys("xyz", 0)
        remaining = {client: sum(each.client == client for each in waiting) for client in "xyz"}
        by_id = {each.id: each for each in waiting}
        for identity in order:
            client = by_id[identity].client
            others = [served[c] for c in "xyz" if remaining[c] and c != client]
            assert all(served[client] <= other for other in others)
            served[client] += 1
            remaining[client] -= 1


def test_a_client_with_one_request_does_not_wait_for_all_of_one_with_a_hundred() -> None:
    flood = [Waiting(i, "a", "flood", arrived_s=i / 1000, release_s=0.0) for i in range(100)]
    late = Waiting(1000, "b", "late", arrived_s=0.5, release_s=0.5)
    first = next_batch(flood, {}, 0.5, 8)
    left = [each for each in flood if each.id not in first.members]
    second = next_batch([*left, late], first.turns, 0.6, 8)
    third = next_batch([each for each in [*left, late] if each.id not in second.members], second.turns, 0.7, 8)
    assert late.id in (*second.members, *third.members)


@given(queues(), st.integers(1, 8), TIMES)
def test_nothing_runs_while_something_more_urgent_of_its_group_is_left_behind(
    waiting: list[Waiting], most: int, now_s: float
) -> None:
    batch = next_batch(waiting, {}, now_s, most)
    by_id = {each.id: each for each in waiting}

    def level(each: Waiting) -> int:
        return max(URGENT, each.priority - int(max(0.0, now_s - each.arrived_s) / AGEING_S))

    for identity in batch.members:
        for left in waiting:
            if left.id not in batch.members and left.group == by_id[identity].group:
                assert level(by_id[identity]) <= level(left)


def test_work_in_the_background_gives_way_and_has_its_turn_once_it_has_waited() -> None:
    def first(of: list[Waiting], now_s: float) -> int:
        return next_batch(of, {}, now_s, 1).members[0]

    patient = Waiting(1, "a", "x", arrived_s=0.0, release_s=0.0, priority=PATIENT)
    urgent = Waiting(2, "b", "y", arrived_s=1.5, release_s=1.5, priority=URGENT)
    assert first([patient, urgent], 1.5) == urgent.id
    assert first([patient, urgent], 0.0 + (PATIENT - URGENT) * AGEING_S) == patient.id


@given(TIMES, st.floats(0, 10), st.none() | TIMES, st.floats(0, 10))
def test_waiting_for_company_never_makes_a_request_late(
    arrived: float, delay: float, expires: float | None, cost: float
) -> None:
    released = release_s(arrived, delay, expires, cost)
    assert arrived <= released <= arrived + delay
    if expires is not None and arrived + cost <= expires:
        assert released + cost <= expires + 1e-9


@given(queues(), TIMES)
def test_only_requests_past_their_deadline_are_dropped(waiting: list[Waiting], now_s: float) -> None:
    dropped = expired(waiting, now_s)
    for each in waiting:
        assert (each.id in dropped) == (each.expires_s is not None and each.expires_s <= now_s)


@given(st.integers(1, 200), st.dictionaries(st.sampled_from("xyz"), st.integers(0, 200)))
def test_a_queue_is_never_over_its_limit_and_a_client_without_a_place_gets_one_while_there_is_one(
    limit: int, held: dict[str, int]
) -> None:
    free = sum(held.values()) < limit
    assert has_place("new", held, limit) == free
    for client in held:
        assert free or not has_place(client, held, limit)


@given(st.integers(8, 200))
def test_one_client_alone_cannot_take_the_last_places(limit: int) -> None:
    held = {"flood": 0}
    while has_place("flood", held, limit):
        held["flood"] += 1
    assert held["flood"] == limit - limit // 8
    assert has_place("other", held, limit)


SIDES = st.lists(st.integers(32, 512), min_size=1, max_size=6, unique=True)


@given(st.integers(1, 5000), st.integers(1, 5000), SIDES, st.data())
def test_an_image_goes_to_the_nearest_rung_that_the_decision_affords(
    width: int, height: int, sides: list[int], data: st.DataObject
) -> None:
    decided, short = data.draw(st.sampled_from(sides)), min(width, height)
    chosen = nearest_rung(width, height, sides, decided)
    assert chosen in sides
    assert chosen <= decided
    assert all(abs(chosen - short) <= abs(side - short) for side in sides if side <= decided)
    if short >= decided:
        assert chosen == decided
    if short in sides and short <= decided:
        assert chosen == short
