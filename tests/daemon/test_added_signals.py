"""Signals that applications post and plug-ins give, in a real daemon that acts on them, and by themselves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patchd.daemon.api.added_signal_schemas import SignalPost
from patchd.daemon.monitor.plugins import MOST_READINGS, Plugin, SignalPlugins
from patchd.daemon.posted_signals import MOST, PostedSignals
from patchd.daemon.sockets import Caller
from patchd.policies.errors import BadInputError, ConflictError, NotFoundError
from patchd.policies.signal_readings import SignalReading
from running import RunningDaemon

ANNA = Caller(7, 1000, 1000, "anna")
POLICY = """
[policy]
name = "people"
[[rule]]
name = "people"
when = [{ signal = "app.people", above = 0.5 }]
inference = 0.2
[[rule]]
name = "rain"
when = [{ signal = "plugin.weather.rain", above = 0.5 }]
training = 0.1
"""
PLUGIN = """
import ssl
import time
def read():
    ssl.create_default_context()  # plug-ins may speak TLS, which patchd itself keeps out
    return [{"name": "rain", "value": 0.75, "unit": "share", "meaning": "chance of rain"},
            {"name": "wind", "value": None}]
read.period_s = 0.5
def hang():
    time.sleep(10_000)
def fail():
    raise ValueError("no such\\nstation")
number = 3
"""
ENTRY_POINTS = """
[patchd.signals]
weather = tiny_weather:read
hangs = tiny_weather:hang
fails = tiny_weather:fail
number = tiny_weather:number
unused = tiny_weather:missing
"""


def distribution(root: Path) -> Path:
    """A directory with an installed distribution, as pip leaves it."""
    (root / "tiny_weather.py").write_text(PLUGIN)
    info = root / "tiny_weather-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-weather\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return root


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon with plug-ins good and bad, which samples once a minute unless something happens."""
    root = tmp_path_factory.mktemp("added")
    (root / "policy.toml").write_text(POLICY)
    (root / "config.toml").write_text(
        "sample_period_s = 0.5\nsample_period_calm_s = 60\nmeasure_training_s = 0\n"
        'signal_plugins = ["weather", "hangs", "fails", "number", "nowhere"]\n'
    )
    options = ("--config", str(root / "config.toml"), "--policy", str(root / "policy.toml"))
    path = os.pathsep.join([str(distribution(root)), os.environ.get("PYTHONPATH", "")])
    with RunningDaemon(root / "state", *options, environ={"PYTHONPATH": path}) as daemon:
        yield daemon


def told(running: RunningDaemon, name: str) -> SignalReading | None:
    return next((each for each in running.client.signals().signals if each.name == name), None)


def allocations(running: RunningDaemon) -> tuple[float, float]:
    decision = running.client.status().decision
    assert decision is not None
    return decision.inference.value, decision.training.value


# posting


def test_a_posted_signal_is_acted_on_shown_with_who_posted_it_and_gone_when_removed(running: RunningDaemon) -> None:
    running.client.post_signal("app.people", 3, unit="people", meaning="people in view", ttl_s=3600)
    running.until(lambda: allocations(running)[0] == 0.2, 30)
    seen = told(running, "app.people")
    assert seen is not None
    assert (seen.value, seen.unit, seen.meaning) == (3.0, "people", "people in view")
    assert f"(process {os.getpid()})" in (seen.source or "")
    assert "app.people is 3" in " ".join(running.client.explain().sentences)
    assert running.client.remove_signal("app.people").deleted == "app.people"
    running.until(lambda: told(running, "app.people") is None, 30)
    with pytest.raises(NotFoundError, match="no posted signal"):
        running.client.remove_signal("app.people")


def test_a_signal_that_is_not_posted_again_is_absent_and_says_why(running: RunningDaemon) -> None:
    running.client.post_signal("app.brief", 1, ttl_s=1)
    expired = running.until(lambda: (seen := told(running, "app.brief")) and seen.value is None and seen, 30)
    assert "it was posted for 1 s, which ended" in expired.absent_because
    assert "app.brief" not in {each.name for each in running.client.snapshot().added}


def test_the_command_posts_and_removes_and_names_mistakes(running: RunningDaemon) -> None:
    def patchctl(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "patchd.daemon.cli.main", "--socket", str(running.socket), "signal"]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60, check=False)

    done = patchctl("post", "app.door", "1", "--unit", "0 or 1", "--ttl", "30")
    assert (done.returncode, done.stdout) == (0, "app.door is 1 0 or 1 for 30 s.\n")
    assert patchctl("rm", "app.door").stdout == "app.door is removed.\n"
    wrong = patchctl("post", "cpu.busy", "1")
    assert wrong.returncode != 0
    assert "'cpu.busy' is no name for a signal that is posted" in wrong.stderr
    assert (
        "--ttl is 0.0: Input should be greater than or equal to 1"
        in patchctl("post", "app.x", "1", "--ttl", "0").stderr
    )


def test_whoever_may_not_change_things_may_not_post(running: RunningDaemon) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can ask as somebody else")
    running.socket.parent.chmod(0o755)
    running.socket.chmod(0o666)
    put = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
        "s.connect(sys.argv[1]); s.sendall(b'PUT /v1/signals/app.x HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 12\\r\\n"
        'Connection: close\\r\\n\\r\\n{"value": 1}\');'
        "print(b''.join(iter(lambda: s.recv(4096), b'')).decode())"
    )
    answer = subprocess.run(
        [sys.executable, "-S", "-c", put, str(running.socket)], capture_output=True, text=True, timeout=60, check=False
    )
    assert answer.stdout.startswith("HTTP/1.1 403"), answer.stderr
    assert "nobody may not do this" in answer.stdout
    assert told(running, "app.x") is None


def post(
    signals: PostedSignals, name: str, value: float = 1.0, unit: str = "", ttl_s: float = 60.0, by: Caller = ANNA
) -> None:
    signals.post(name, SignalPost(value=value, unit=unit, ttl_s=ttl_s), by)


@given(
    st.lists(st.tuples(st.sampled_from(["app.a", "app.b", "app.c"]), st.floats(1, 100), st.floats(0, 60)), max_size=20)
)
@settings(max_examples=50)
def test_at_any_time_exactly_those_hold_whose_last_posting_has_not_expired(
    posts: list[tuple[str, float, float]],
) -> None:
    now = [0.0]
    signals = PostedSignals(clock=lambda: now[0])
    until: dict[str, float] = {}
    for name, ttl_s, wait_s in posts:
        post(signals, name, ttl_s=ttl_s)
        until[name] = now[0] + ttl_s
        now[0] += wait_s
        holding = {name for name, end_s in until.items() if end_s > now[0]}
        assert {reading.name for reading in signals.readings(0.0)} == holding
        assert set(signals.origins()) == set(until) - holding
        due_s = signals.due_in_s()
        assert due_s == (min(until[name] for name in holding) - now[0] if holding else None)


@pytest.mark.parametrize(
    ("name", "value", "unit", "said"),
    [
        ("cpu.busy", 1.0, "", "no name for a signal that is posted"),
        ("plugin.x", 1.0, "", "no name for a signal that is posted"),
        ("app.X", 1.0, "", "no name for a signal that is posted"),
        ("app.x", 1.5, "share", "a share from 0 to 1"),
        ("app.x", 0.5, "0 or 1", "is 0 or 1, not 0.5"),
    ],
)
def test_what_cannot_be_posted_is_refused_in_one_sentence(name: str, value: float, unit: str, said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        post(PostedSignals(), name, value, unit)


def test_there_are_at_most_so_many_and_one_of_them_can_be_posted_again() -> None:
    signals = PostedSignals()
    for number in range(MOST):
        post(signals, f"app.n{number}")
    with pytest.raises(ConflictError, match=f"{MOST} signals are posted already"):
        post(signals, "app.more")
    post(signals, "app.n0", 2.0)
    assert len(signals.readings(0.0)) == MOST


# plug-ins


def test_a_plugin_of_an_installed_distribution_gives_signals_that_a_policy_acts_on(running: RunningDaemon) -> None:
    running.until(lambda: allocations(running)[1] == 0.1, 30)
    seen = told(running, "plugin.weather.rain")
    assert seen is not None
    assert (seen.value, seen.unit, seen.source) == (0.75, "share", "plug-in weather")
    wind = told(running, "plugin.weather.wind")
    assert wind is not None
    assert wind.absent_because == "the plug-in has no value for it now"


def test_bad_plugins_are_absent_with_the_reason_told_once_and_stop_nothing(running: RunningDaemon) -> None:
    def why(name: str) -> str:
        seen = told(running, f"plugin.{name}")
        return "" if seen is None else seen.absent_because or ""

    running.until(lambda: "it has not answered for" in why("hangs"), 60)
    assert why("fails") == "plug-in fails: it raised ValueError: no such station"
    assert why("number") == "plug-in number: tiny_weather:number is int, which cannot be called"
    assert why("nowhere").startswith("plug-in nowhere: it is not installed; of the group patchd.signals there is")
    events = [event.message for event in running.client.events().events if event.kind == "signals.plugin_failed"]
    assert len([message for message in events if "plug-in fails" in message]) == 1


def test_a_daemon_with_a_plugin_that_hangs_still_stops_in_order(running: RunningDaemon) -> None:
    code, _ = running.stop()
    assert code == 0


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def absent_because(plugin: Plugin, limit_s: float = 30.0) -> str:
    """What a plug-in's absence is put down to."""
    failures: list[tuple[str, str]] = []
    plugins = SignalPlugins(["p"], lambda *told: failures.append(told), limit_s=limit_s, find=lambda _: lambda: plugin)
    plugins.start()
    until(lambda: not plugins.readings(0.0) and failures)
    plugins.stop()
    assert failures[0][0] == "p"
    assert (
        plugins.origins()["plugin.p"].absent_because == f"plug-in p: {failures[0][1]}" or "answered" in failures[0][1]
    )
    return failures[0][1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "it returned NoneType, not a list of readings"),
        ({"name": "x", "value": 1.0}, "it returned dict, not a list"),
        ([{"name": "x"}], "cannot be used: value: Field required"),
        ([{"name": "x", "value": "much"}], "cannot be used: value"),
        ([{"name": "x", "value": float("nan")}], "cannot be used: value"),
        ([{"name": "x y", "value": 1.0}], "is no name of a signal"),
        ([{"name": "x", "value": 1.0}] * 2, "one signal twice"),
        ([{"name": f"x{number}", "value": 1.0} for number in range(MOST_READINGS + 1)], "more than"),
    ],
    ids=["nothing", "one reading", "no value", "text", "not a number", "name", "twice", "many"],
)
def test_readings_that_cannot_be_used_are_named(given: object, said: str) -> None:
    assert said in absent_because(lambda: given)  # type: ignore[arg-type, return-value]


def test_a_call_that_takes_too_long_makes_the_signals_absent_and_the_next_answer_brings_them_back() -> None:
    calls: list[float] = []

    def slow() -> list[dict[str, object]]:
        calls.append(time.monotonic())
        if len(calls) == 2:
            time.sleep(1.0)
        return [{"name": "x", "value": float(len(calls))}]

    slow.period_s = 0.5  # type: ignore[attr-defined]
    failures: list[tuple[str, str]] = []
    plugins = SignalPlugins(["p"], lambda *told: failures.append(told), limit_s=0.2, find=lambda _: lambda: slow)
    plugins.start()
    until(lambda: plugins.readings(0.0))
    until(lambda: not plugins.readings(0.0))
    assert "it has not answered for" in (plugins.origins()["plugin.p.x"].absent_because or "")
    until(lambda: plugins.readings(0.0))
    plugins.stop()
    assert plugins.origins() == {}
    assert len(failures) == 1


def test_a_period_that_is_none_is_named() -> None:
    def read() -> list[dict[str, object]]:
        return []

    for period_s, said in (("often", "its period_s is 'often', not seconds"), (0.0, "its period_s is 0, not from 0.5")):
        read.period_s = period_s  # type: ignore[attr-defined]
        assert said in absent_because(read)


def test_a_plugin_that_ends_its_process_does_not_end_this_one() -> None:
    assert absent_because(lambda: sys.exit(3)) == "it raised SystemExit: 3"
