"""The state's decisions: they come back as they were, and take no more room than is allowed, however many the tasks."""

from __future__ import annotations

import secrets
import sqlite3
from pathlib import Path

import pytest
from patchd.daemon import store as store_module
from patchd.daemon.api.schemas import PolicyState
from patchd.daemon.migrations import MIGRATIONS
from patchd.daemon.sqlite import Database
from patchd.daemon.store import Store, Stored
from patchd.policies.decide import decide
from patchd.policies.decision import Ladder, Rung
from patchd.policies.policy import Policy
from patchd.policies.presets_loader import load_preset
from patchd.policies.rules import initial_state
from patchd.policies.snapshot import Cpu, Snapshot
from patchd.policies.verdicts import verdicts

POLICY: Policy = load_preset("balanced")
STATE = PolicyState(name="balanced", source="preset:balanced", sha256="0" * 64, loaded_s=0.0)


def decided(number: int, tasks: int) -> Stored:
    snapshot = Snapshot(time_s=float(number), cpu=Cpu(count=2))
    ladders = {
        f"t{task}": Ladder(task=f"t{task}", rungs=(Rung(resolution=128, patch_id=secrets.token_hex(32)),))
        for task in range(tasks)
    }
    decision, after = decide(POLICY, snapshot, initial_state(), ladders, None, None, f"d-{number}")
    return Stored(decision, snapshot, STATE, verdicts(POLICY, snapshot, after))


def test_a_decision_comes_back_as_it_was_by_id_and_by_moment(tmp_path: Path) -> None:
    store = Store(tmp_path)
    stored = [decided(number, tasks=3) for number in range(3)]
    for each in stored:
        store.put_decision(each)
    assert store.decision_at(decision_id="d-1") == stored[1]
    assert store.decision_at(time_s=1.5) == stored[1]
    assert store.decisions(2) == [stored[2][0], stored[1][0]]
    store.close()


def test_decisions_over_many_tasks_stay_within_their_bytes_and_the_newest_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "DECISION_BYTES", 40_000)
    store = Store(tmp_path)
    for number in range(60):
        store.put_decision(decided(number, tasks=50))
    kept = store.decisions(1000)
    assert [decision.id for decision in kept] == [f"d-{59 - place}" for place in range(len(kept))]
    assert 1 < len(kept) < 30
    monkeypatch.setattr(store_module, "DECISION_BYTES", 1)
    store.trim(100, 100)
    assert [decision.id for decision in store.decisions(1000)] == ["d-59"]
    store.close()


def test_decisions_of_an_older_state_are_read_on(tmp_path: Path) -> None:
    decision, snapshot, state, _ = decided(1, tasks=2)
    database = Database(sqlite3.connect(tmp_path / "patchd.db", isolation_level=None))
    MIGRATIONS.apply(database, stop_before="m004_compressed_decisions")
    row = {"id": decision.id, "time_s": 1.0, "decision": decision.model_dump_json()}
    row |= {"snapshot": snapshot.model_dump_json(), "policy": state.model_dump_json()}
    database.table("decisions").insert(row)
    database.conn.close()
    store = Store(tmp_path)
    assert store.decision_at(decision_id=decision.id) == Stored(decision, snapshot, state, None)
    store.close()
