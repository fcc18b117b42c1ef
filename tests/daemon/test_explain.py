"""`patchctl explain` and its routes: of now, of a moment, of a decision, of a request; and the record of requests."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import bodies
import click
import pytest
from patchd.daemon.api.explain_schemas import Explain, RequestRecord
from patchd.daemon.api.schemas import PolicyState, TraceReplay
from patchd.daemon.cli.explain import explain_text
from patchd.daemon.cli.render import clock
from patchd.daemon.request_log import CHUNK, FLUSH_AFTER_S, Answered, RequestLog
from patchd.daemon.store import Store
from patchd.policies.decide import decide
from patchd.policies.decision import Ladder, Rung
from patchd.policies.errors import BadInputError, NotFoundError
from patchd.policies.explain import sections
from patchd.policies.presets_loader import load_preset
from patchd.policies.rules import initial_state
from patchd.policies.signal_readings import Origin, readings
from patchd.policies.snapshot import Cpu, Disk, Memory, Power, Pressure, Sensor, Snapshot, Stall
from patchd.policies.verdicts import verdicts
from running import RunningDaemon, warm

POLICY = """
[policy]
name = "hot-and-low"
[inference]
allocation = 1.0
raise_after_s = 0.0
[[rule]]
name = "low"
when = [{ signal = "battery.charge", below = 0.2 }]
inference = 0.1
training = 0.0
[[rule]]
name = "hot"
when = [{ signal = "temperature.max", above = 85.0, leave_below = 75.0 }]
inference = 0.5
"""
TRACE = [
    '{"format": "patchd-trace", "version": 1, "name": "low", "story": "low battery", "period_s": 1.0}',
    *(
        f'{{"t": {t}, "power": {{"on_mains": false, "battery_charge": 0.08}}, '
        '"temperatures": [{"name": "cpu", "celsius": 61.0}]}'
        for t in range(300)
    ),
]


def patchctl(daemon: RunningDaemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "patchd.daemon.cli.main", "--socket", str(daemon.socket), *arguments]
    environ = {**os.environ, "COLUMNS": "80"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environ, check=False)


def example() -> str:
    """`patchctl explain --task imagenet` on a laptop that was unplugged and is busy for a moment, in 80 columns."""
    rungs = tuple(
        Rung(base="lite0", resolution=side, cost_ms=cost) for side, cost in ((224, 11.8), (160, 7.4), (96, 4.1))
    )
    policy, ladders, state = (
        load_preset("balanced"),
        {"imagenet": Ladder(task="imagenet", rungs=rungs)},
        initial_state(),
    )
    decision = None
    for turn, busy in enumerate((0.1, 0.1, 0.72, 0.72)):
        now_s = 1_700_000_000.0 + 0.2 * turn
        snapshot = Snapshot(
            time_s=now_s,
            cpu=Cpu(count=4, busy=busy, busy_own=0.0),
            memory=Memory(total_bytes=16 * 10**9, available_bytes=9 * 10**9),
            pressure=Pressure(memory=Stall(some_avg10=0.0, some_avg60=0.0)),
            disk=Disk(total_bytes=500 * 10**9, free_bytes=212 * 10**9),
            power=Power(on_mains=False, battery_charge=0.35),
            temperatures=(Sensor(name="cpu", celsius=61.0),),
        )
        decision, state = decide(policy, snapshot, state, ladders, None, decision, "6b0cd8c5-12")
    known = ("cpu.busy_other", "power.on_mains", "battery.charge", "temperature.max", "battery.seconds_left")
    files = ("proc/stat", "sys/class/power_supply/AC0", "sys/class/power_supply/BAT0", "sys/class/thermal", "")
    origins = {name: Origin(file and f"/{file}", "BAT0 tells no time") for name, file in zip(known, files, strict=True)}
    seen = tuple(each for each in readings(snapshot, origins, now_s + 0.3) if each.name in known)
    assert decision is not None
    rules = verdicts(policy, snapshot, state)
    answer = Explain(
        asked="now",
        task="imagenet",
        as_of=f"Signals, rules and reasons are of the last sample, at {clock(now_s)}.",
        decision=decision,
        snapshot=snapshot,
        policy=PolicyState(name="balanced", source="preset:balanced", sha256="0" * 64, loaded_s=1_699_990_000.0),
        signals=seen,
        rules=rules,
        sections=sections(decision, snapshot, rules, "imagenet", seen),
    )
    return click.unstyle(explain_text(answer))


def test_the_example_of_the_documentation_is_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("COLUMNS", "80")
    time.tzset()
    text = (Path(__file__).parents[2] / "docs" / "explain.md").read_text()
    assert f"```text\n{example()}\n```" in text


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, photographs: dict[str, Path]) -> Iterator[Told]:
    """A daemon that has answered one prediction in plenty and one on a low battery, and was restarted then."""
    folder = tmp_path_factory.mktemp("explain")
    policy = folder / "policy.toml"
    policy.write_text(POLICY)
    with RunningDaemon(warm(folder / "state"), "--policy", str(policy)) as daemon:
        yield Told(daemon, photographs["flower"].read_bytes())


class Told:
    """What was asked of the daemon, and when."""

    def __init__(self, daemon: RunningDaemon, image: bytes) -> None:
        self.began_s = time.time()
        self.daemon, client = daemon, daemon.client
        self.plenty = client.infer("imagenet", image)
        self.asked = client.infer("imagenet", image, resolution=96)
        self.middle_s = time.time()
        body = TraceReplay(name="low", speed=1.0, jsonl="\n".join(TRACE)).model_dump_json().encode()
        client.request("POST", "/v1/monitor/trace", body=body)
        self.low = daemon.until(lambda: (a := client.infer("imagenet", image)).allocation < 1.0 and a, 30)
        self.while_low, self.low_s = client.explain(), time.time()
        client.request("DELETE", "/v1/monitor/trace")
        daemon.until(lambda: client.status().decision.inference.value == 1.0, 30)
        daemon.stop()
        self.stopped_s = time.time()
        time.sleep(0.05)
        daemon.start()


def test_now_says_what_matches_and_what_does_not_and_why(told: Told) -> None:
    answer = told.while_low
    assert answer.asked == "now"
    assert {rule.rule: rule.matches for rule in answer.rules} == {"low": True, "hot": False}
    text = "\n".join(answer.sentences)
    assert "'low' matches: battery.charge is 0.08, below 0.2 (left at 0.22); it allows inference at most 0.1" in text
    assert "'hot' does not match: temperature.max is 61 degrees Celsius, and it is entered above 85" in text
    assert "They come from trace:low, not from the device." in text
    assert {candidate.rung.resolution for candidate in answer.decision.rungs[0].candidates} == {224, 192, 160, 128, 96}
    by_name = {each.name: each for each in answer.signals}
    assert (by_name["battery.charge"].value, by_name["battery.charge"].source) == (0.08, "trace:low")
    assert by_name["memory.available"].source == "/proc/meminfo"
    assert by_name["memory.available"].age_s is not None
    assert by_name["battery.seconds_left"].absent_because == "trace:low does not tell it"
    assert len({section.key for section in answer.sections}) == len(answer.sections)


def test_a_request_is_told_of_with_the_decision_in_force_when_it_was_answered(told: Told) -> None:
    explained = told.daemon.client.explain(request=told.low.request_id)
    record = explained.request
    assert (record.id, record.task, record.reason) == (told.low.request_id, "imagenet", "decision")
    assert (record.resolution, record.allocation) == (told.low.resolution, told.low.allocation)
    assert record.timing == told.low.timing
    assert (record.uid, record.pid) == (os.getuid(), os.getpid())
    assert explained.decision.id == told.low.decision_id == record.decision_id
    assert explained.until_s is not None
    assert [rule.rule for rule in explained.rules if rule.matches] == ["low"]
    assert explained.task == "imagenet"
    first = explained.sections[0]
    assert first.heading == f"Request {told.low.request_id}"
    assert any(sentence.startswith("The decision in force picked the rung: ") for sentence in first.sentences)
    assert any(f"process {os.getpid()}" in sentence for sentence in first.sentences)


def test_a_request_for_a_named_rung_says_that_the_caller_named_it(told: Told) -> None:
    record = told.daemon.client.explain(request=told.asked.request_id).request
    assert (record.reason, record.resolution) == ("resolution", 96)


def test_what_is_kept_of_a_request_holds_nothing_of_its_content(told: Told) -> None:
    body = told.daemon.client.request("GET", f"/v1/requests/{told.plenty.request_id}").decode()
    assert RequestRecord.model_validate_json(body).id == told.plenty.request_id
    assert told.plenty.predictions[0].label not in body
    assert "predictions" not in body


def test_a_past_moment_is_explained_as_fully_as_it_was_then(told: Told) -> None:
    explained = told.daemon.client.explain(at_s=told.low_s)
    now = told.while_low
    assert (explained.asked, explained.at_s) == ("moment", told.low_s)
    assert explained.decision.inference == now.decision.inference
    assert {each.name: each.value for each in explained.signals}["battery.charge"] == 0.08
    assert {(rule.rule, rule.matches) for rule in explained.rules} == {(rule.rule, rule.matches) for rule in now.rules}
    assert {section.key for section in explained.sections} == {section.key for section in now.sections}
    assert "are of when it was taken" in explained.as_of
    assert told.daemon.client.explain(decision=explained.decision.id).decision == explained.decision


def test_a_moment_at_which_patchd_did_not_run_is_told_as_one(told: Told) -> None:
    explained = told.daemon.client.explain(at_s=told.stopped_s)
    assert "patchd was not running at" in explained.as_of[:1].lower() + explained.as_of[1:]


def test_moments_without_a_decision_are_refused_in_one_sentence(told: Told) -> None:
    client = told.daemon.client
    with pytest.raises(NotFoundError, match=r"^No decision is stored of .* or before it: stored decisions go back to "):
        client.explain(at_s=told.began_s - 86_400)
    with pytest.raises(BadInputError, match=r"has not come yet"):
        client.explain(at_s=time.time() + 3600)
    with pytest.raises(NotFoundError, match=r"No decision 'd-0' is stored: stored decisions go back to "):
        client.explain(decision="d-0")


def test_an_unknown_request_is_refused_with_how_far_back_the_record_goes(told: Told) -> None:
    result = patchctl(told.daemon, "explain", "--request", "nothing-1")
    assert result.returncode == 4
    assert re.match(
        r"patchctl: There is no record of a request 'nothing-1': the last 10000 are kept, and the \d+ there are go "
        r"back to \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\. ",
        result.stderr,
    )
    assert result.stderr.count("\n") == 1


def test_one_task_is_explained_alone_and_an_unknown_one_is_refused(told: Told) -> None:
    text = patchctl(told.daemon, "explain", "--task", "imagenet").stdout
    assert "Task imagenet\n" in text
    assert "Training" not in text
    assert max(map(len, text.splitlines())) <= 80
    wrong = patchctl(told.daemon, "explain", "--task", "nothing")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (4, 1)
    assert "nothing" in wrong.stderr


def test_the_command_tells_every_section_within_80_columns_and_json_has_stable_fields(told: Told) -> None:
    text = patchctl(told.daemon, "explain", "--request", told.low.request_id).stdout
    for heading in (f"Request {told.low.request_id}", "In short", "Rules that match", "Rules that do not match"):
        assert f"\n{heading}\n" in text
    assert max(map(len, text.splitlines())) <= 80
    body = json.loads(patchctl(told.daemon, "explain", "--json").stdout)
    assert set(body) == set(Explain.model_fields)
    assert {"rule", "matches", "standing", "conditions", "text"} <= set(body["rules"][0])


def test_the_answers_of_both_protocols_carry_the_id_in_a_header(told: Told, photographs: dict[str, Path]) -> None:
    curl = ["curl", "-sS", "-i", "--unix-socket", str(told.daemon.socket), "-H", "Content-Type: image/jpeg"]
    curl += ["-H", "Inference-Header-Content-Length: 0", "--data-binary", f"@{photographs['china']}"]

    def told_id(path: str) -> str:
        said = subprocess.run([*curl, f"http://localhost{path}"], capture_output=True, timeout=120, check=True).stdout
        (identity,) = re.findall(rb"^x-request-id: (\S+)\r?$", said, re.MULTILINE | re.IGNORECASE)
        assert told.daemon.client.explain(request=identity.decode()).request.id == identity.decode()
        assert identity in said.partition(b"\r\n\r\n")[2]
        return identity.decode()

    told_id("/v1/tasks/imagenet/infer")
    identity = told_id("/v2/models/imagenet/infer")
    listed = told.daemon.client.recent_requests(task="imagenet")
    assert listed.requests[0].id == identity
    assert listed.kept >= len(listed.requests) >= 5
    assert listed.oldest_s is not None
    assert listed.oldest_s >= told.began_s


def answered(number: int, task: str = "digits") -> Answered:
    answer = bodies.answer().model_copy(update={"request_id": f"r-{number}", "task": task})
    return Answered(answer, 1000.0 + number, "decision", "image", 5, (4, 3), 1.0, None, None)


def test_the_record_keeps_the_newest_requests_and_not_more_than_its_number(tmp_path: Path) -> None:
    store = Store(tmp_path)

    async def fill() -> RequestLog:
        log = RequestLog(store, most=100)
        for number in range(157):
            log.put(answered(number, task="a" if number % 2 else "b"))
        log.flush()
        return log

    log = asyncio.run(fill())
    listed = log.recent(1000, None)
    assert [each.id for each in listed.requests] == [f"r-{number}" for number in range(156, 56, -1)]
    assert (listed.kept, listed.most, listed.oldest_s) == (100, 100, 1057.0)
    assert {each.task for each in log.recent(10, "a").requests} == {"a"}
    with pytest.raises(NotFoundError, match=r"the last 100 are kept, and the 100 there are go back to"):
        log.find("r-56")
    again = RequestLog(store, most=100)
    assert again.find("r-57").id == "r-57"
    store.close()


def test_records_are_there_before_they_are_written_and_are_written_soon(tmp_path: Path) -> None:
    store = Store(tmp_path)

    async def wait() -> None:
        log = RequestLog(store, most=100)
        for number in range(CHUNK + 1):
            log.put(answered(number))
        assert log.find("r-0").time_s == 1000.0
        assert [each.id for each in log.recent(2, None).requests] == [f"r-{CHUNK}", f"r-{CHUNK - 1}"]
        assert not list(store.database.query("select * from requests"))
        deadline = time.monotonic() + 30
        while len(list(store.database.query("select n from requests"))) <= CHUNK and time.monotonic() < deadline:
            await asyncio.sleep(FLUSH_AFTER_S / 4)

    asyncio.run(wait())
    assert len(list(store.database.query("select n from requests"))) == CHUNK + 1
    assert store.database.conn.execute("PRAGMA synchronous").fetchone() == (2,)  # full, for all else
    store.close()


def test_a_state_that_cannot_be_written_costs_no_prediction_and_the_records_wait(tmp_path: Path) -> None:
    store = Store(tmp_path)

    async def fill() -> None:
        log = RequestLog(store, most=100)
        store.database.conn.execute("PRAGMA query_only = on")
        log.put(answered(1))
        log.flush()
        assert log.find("r-1").id == "r-1"
        assert log.recent(5, None).kept == 1
        store.database.conn.execute("PRAGMA query_only = off")
        log.flush()

    asyncio.run(fill())
    assert RequestLog(store, most=100).find("r-1").id == "r-1"
    store.close()
