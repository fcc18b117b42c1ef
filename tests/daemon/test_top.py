"""The live screen: its texts and numbers, and the screen itself on a running daemon, key by key."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import bodies
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patchd.client import AsyncClient
from patchd.daemon.api import schemas as s
from patchd.daemon.cli.screen import words
from patchd.daemon.cli.screen.glyphs import PLAIN, UNICODE, Glyphs, glyphs
from patchd.daemon.cli.screen.layout import rows
from patchd.daemon.cli.screen.recent import Recent
from patchd.policies.task import JobState, TrainSpec
from running import STEADY, RunningDaemon, warm

NOBODY = 65534
BOTH = pytest.mark.parametrize("drawn", [UNICODE, PLAIN], ids=["unicode", "plain"])

# -- texts and numbers -------------------------------------------------------------------------------------------------


@BOTH
@settings(max_examples=50)
@given(
    values=st.lists(st.none() | st.floats(-1e9, 1e9), max_size=50),
    width=st.integers(2, 60),
    share=st.floats(0, 1),
    text=st.text(max_size=50),
)
def test_what_is_drawn_has_its_width_and_its_characters(drawn: Glyphs, values, width, share, text) -> None:
    spark = drawn.spark(values, width, 0.0, 1.0)
    assert len(spark) == width
    assert set(spark) <= {*drawn.steps, " "}
    bar = drawn.bar(share, width)
    assert len(bar) == width
    assert (drawn.full in bar) == (share > 0)
    assert (drawn.empty in bar) == (share < 1)
    assert len(drawn.fitted(text, width)) <= width
    assert drawn.fitted(text, 0) == ""


def test_terminals_without_block_characters_get_ascii() -> None:
    assert glyphs({"TERM": "xterm-256color", "LANG": "de_DE.UTF-8"}) == UNICODE
    assert glyphs({"TERM": "xterm-256color", "LANG": "de_DE.UTF-8", "LC_ALL": "C"}) == PLAIN
    assert glyphs({"TERM": "vt100", "LANG": "de_DE.UTF-8"}) == PLAIN
    assert glyphs({}) == PLAIN
    everything = PLAIN.steps + PLAIN.full + PLAIN.empty + PLAIN.cut
    assert everything.isascii()


@given(st.integers(0, 80), st.lists(st.tuples(st.integers(1, 60), st.integers(1, 6)), min_size=1, max_size=4))
def test_rows_are_shared_without_one_too_many_and_each_panel_first_gets_what_it_needs(height, panels) -> None:
    given_rows = rows(height, panels)
    assert sum(given_rows) == height
    needed = [min(wanted, least) for wanted, least in panels]
    if height >= sum(needed):
        assert all(got >= need for got, need in zip(given_rows, needed, strict=True))


def status(now_s: float, times: dict[int, int] | None = None, **more: object) -> s.Status:
    serving = () if times is None else (s.TaskServing(task="digits", times=times, most_ms=500.0, refused={}),)
    return bodies.STATUS.model_copy(update={"now_s": now_s, "serving": serving, **more})


def test_rate_and_latency_are_those_between_the_looks() -> None:
    recent = Recent()
    recent.see(status(100.0, {24: 1000, 70: 1000}))  # 8 ms, and 430 ms, long ago
    recent.see(status(105.0, {24: 1090, 70: 1000, 56: 10}))  # since then 90 of 8 ms, 10 of 128 ms
    lately = recent.lately("digits")
    assert lately.rate == pytest.approx(20.0)
    assert lately.p50_ms == pytest.approx(8.0, rel=0.05)
    assert lately.p95_ms == pytest.approx(128.0, rel=0.05)
    for second in range(106, 130):
        recent.see(status(float(second), {24: 1090, 70: 1000, 56: 10}))
    assert (recent.lately("digits").rate, recent.lately("digits").p50_ms) == (0.0, None)
    assert recent.lately("others").rate == 0.0


def test_a_daemon_that_was_started_anew_is_not_compared_with_the_one_before() -> None:
    recent = Recent()
    recent.see(status(100.0, {24: 1000}))
    recent.see(status(101.0, {24: 5}, pid=9, started_s=100.5))
    assert recent.lately("digits").rate == 0.0
    recent.see(status(102.0, {24: 7}, pid=9, started_s=100.5))
    assert recent.lately("digits").rate == pytest.approx(2.0)


def test_shares_of_stages_are_those_of_late_and_before_that_all_there_were() -> None:
    def look(now_s: float, *answers: int) -> s.Status:
        stages = tuple(s.StageAnswers(stage=f"{n} lite0", answers=count) for n, count in enumerate(answers, 1))
        served = s.TaskServing(task="digits", times={24: sum(answers)}, most_ms=9, refused={"busy": 2}, stages=stages)
        return bodies.STATUS.model_copy(update={"now_s": now_s, "serving": (served,)})

    recent = Recent()
    recent.see(look(100.0, 60, 40))
    assert [share for _, share in recent.lately("digits").stages] == [0.6, 0.4]
    recent.see(look(101.0, 69, 41))
    assert [share for _, share in recent.lately("digits").stages] == [0.9, 0.1]
    recent.see(look(102.0, 1, 0))  # a new cascade
    assert [share for _, share in recent.lately("digits").stages] == [1.0, 0.0]
    line = "\n".join(line.text for line in words.task_lines(look(102.0, 1, 0), recent, PLAIN, 80))
    assert "stages 1 lite0 100 %, 2 lite0 0 %; best that fits" in line


def test_a_daemon_that_is_away_leaves_a_gap_in_the_lines() -> None:
    recent = Recent()
    recent.see(status(100.0))
    recent.miss()
    recent.see(status(102.0))
    assert UNICODE.spark(list(recent.signals["cpu.busy"]), 3, 0.0, 1.0) == "▃ ▃"


@BOTH
def test_a_signal_that_decides_comes_first_and_is_marked_and_an_old_one_says_so(drawn: Glyphs) -> None:
    reason = bodies.REASON.model_copy(update={"signal": "battery.charge"})
    allocation = bodies.DECISION.inference.model_copy(update={"reasons": (reason,)})
    state = status(bodies.NOW_S, decision=bodies.DECISION.model_copy(update={"inference": allocation}))
    recent = Recent()
    recent.see(state)
    lines = words.signal_lines(state, recent, drawn, bodies.NOW_S + 60, 80)
    assert lines[0].text.startswith("*battery.charge")
    assert [line.key for line in lines[1:3]] == ["cpu.busy", "memory.available"]
    assert all("60 s old" in line.text for line in lines)
    assert {line.text[0] for line in lines[1:]} == {" "}


@BOTH
@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("job", [bodies.job(), bodies.job(JobState.PAUSED), bodies.job(JobState.QUEUED)])
def test_allocations_and_jobs_say_how_far_what_and_why_in_any_width(drawn: Glyphs, width: int, job: s.JobView) -> None:
    recent = Recent()
    recent.see(bodies.STATUS)
    decided = words.decided_lines(bodies.DECISION, recent, drawn, width, 2)
    assert all(len(line) <= max(width, 60) for line in decided)
    assert "rules ask for 0.30" in decided[0]
    assert "battery.charge is 0.14, below" in " ".join(decided)
    first, second = words.job_lines([job], bodies.DECISION, drawn)
    assert (first.key, second.key) == ("job-1", "job-1")
    assert job.state.value in first.text
    if job.state is JobState.RUNNING:
        assert "cost 0.47 of a full step, allocation 0.00" in second.text


def test_warnings_and_errors_are_told_by_a_sign_and_a_word_not_by_colour_alone() -> None:
    lines = {line.key: line.text for line in words.event_lines(bodies.EVENTS, 80)}
    assert lines["1"].startswith(" ")
    assert lines["2"].startswith("!")
    assert "warning: " in lines["2"]
    assert "error: " in lines["3"]


# -- the screen --------------------------------------------------------------------------------------------------------

POLICY = STEADY.replace("allocation = 0.5", "allocation = 0.0")  # a job waits, so that no training disturbs


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon with a second task and a job that waits."""
    folder = tmp_path_factory.mktemp("top")
    (folder / "steady.toml").write_text(POLICY)
    with RunningDaemon(warm(folder / "state"), "--policy", str(folder / "steady.toml")) as running:
        running.client.add_task(s.TaskCreate(name="digits", data="sklearn:digits", resolutions=(64,)))
        running.client.submit(TrainSpec(task="digits", epochs=1))
        yield running


class Shown:
    """A running screen: press keys, read what is to be seen."""

    def __init__(self, app, pilot) -> None:
        self._app, self._pilot = app, pilot

    def text(self) -> str:
        strips = self._app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)

    async def until(self, *wanted: str, timeout_s: float = 30.0) -> str:
        deadline = time.monotonic() + timeout_s
        while not all(each in self.text() or each in " ".join(self.text().split()) for each in wanted):
            assert time.monotonic() < deadline, f"not all of {wanted} in\n{self.text()}"
            await self._pilot.pause(0.05)
        return self.text()

    async def press(self, *keys: str) -> None:
        await self._pilot.press(*keys)

    async def resize(self, columns: int, lines: int) -> None:
        await self._pilot.resize_terminal(columns, lines)


@asynccontextmanager
async def shown(socket: Path, size: tuple[int, int] = (80, 24), drawn: Glyphs = UNICODE):
    from patchd.daemon.cli.screen.app import TopApp

    async with AsyncClient(socket, retries=0) as client:
        app = TopApp(client, drawn)
        async with app.run_test(size=size) as pilot:
            yield Shown(app, pilot)


def on_screen(socket: Path, act: Callable[[Shown], Awaitable[None]], **how) -> None:
    async def run() -> None:
        async with shown(socket, **how) as screen:
            await act(screen)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("size", "drawn"), [((80, 24), UNICODE), ((80, 24), PLAIN), ((120, 40), UNICODE)], ids=["80x24", "ascii", "120x40"]
)
def test_everything_that_matters_is_on_the_first_screen(daemon: RunningDaemon, photographs, size, drawn) -> None:
    image = photographs["china"].read_bytes()

    async def act(screen: Shown) -> None:
        await screen.until("imagenet", "Events")
        for _ in range(3):
            await asyncio.to_thread(daemon.client.infer, "imagenet", image)
        row = re.compile(r"imagenet +224 px +[\d.]+ ms +(0\.[1-9]|[1-9])\S* +[\d.]+ m?s +[\d.]+ m?s")
        deadline = time.monotonic() + 30
        while not row.search(screen.text()):
            assert time.monotonic() < deadline, screen.text()
            await screen._pilot.pause(0.05)
        text = await screen.until("digits", "queued")
        for wanted in (
            "policy steady",
            "Inference 1.00",
            "Training  0.00",
            "no rule restricts inference",
            "cpu.busy",
            "memory.available",
            "224 px chosen",
            "1 task has no rung",
            "p Policy",
            "q Quit",
        ):
            assert wanted in text, f"no '{wanted}' in\n{text}"
        assert len(text.splitlines()) == size[1]
        assert drawn is UNICODE or text.isascii()

    on_screen(daemon.socket, act, size=size, drawn=drawn)


def test_another_policy_is_put_in_force_after_a_question(daemon: RunningDaemon) -> None:
    before = daemon.client.status().policy

    async def act(screen: Shown) -> None:
        await screen.until("imagenet")
        await screen.press("p")
        await screen.until("* steady", "in force", "powersave")
        await screen.press("end", "up", "enter")
        await screen.until("Put policy powersave in force?", "y or Enter")
        await screen.press("n")
        await screen.until("Signals")
        assert daemon.client.status().policy.name == "steady"
        await screen.press("p")
        await screen.until("powersave")
        await screen.press("end", "up", "enter")
        await screen.until("Put policy powersave in force?")
        await screen.press("y")
        await screen.until("policy powersave", "Policy powersave is in force.")

    try:
        on_screen(daemon.socket, act)
        assert daemon.client.status().policy.source == "preset:powersave"
    finally:
        daemon.client.use_policy(path=Path(before.source))


def test_training_is_paused_and_resumed(daemon: RunningDaemon) -> None:
    async def act(screen: Shown) -> None:
        await screen.until("digits queued")
        await screen.press("t")
        await screen.until("is paused.", "digits paused")
        assert daemon.client.jobs().jobs[0].state is JobState.PAUSED
        await screen.press("t")
        await screen.until("goes on.", "digits queued")
        assert daemon.client.jobs().jobs[0].state is JobState.QUEUED

    on_screen(daemon.socket, act)


def test_explain_help_and_the_line_in_hand_are_looked_at_and_left(daemon: RunningDaemon) -> None:
    async def act(screen: Shown) -> None:
        await screen.until("imagenet", "digits queued")
        await screen.press("e")
        first = await screen.until("> Explain", "decision", "Esc goes back")
        await screen.press("end")
        assert await screen.until("Explain") != first
        await screen.press("escape", "question_mark")
        await screen.until("> Help", "pause the training job in hand")
        await screen.press("escape", "enter")
        await screen.until("> Task imagenet", "not needed: 224 px fits too")
        await screen.press("escape", "tab")
        await screen.until("> Training")
        await screen.press("slash")
        await screen.until("> Training job-", "digits")
        await screen.press("escape", "shift+tab", "shift+tab")
        await screen.until("> Signals")
        await screen.press("enter")
        await screen.until("> Signal cpu.busy", "source", "Absent on this machine")
        await screen.press("escape", "tab", "tab", "tab", "down", "down", "enter")
        await screen.until("> Event ", "kind")
        await screen.press("escape")
        await screen.until("Inference 1.00")

    on_screen(daemon.socket, act)


def test_all_signals_are_reached_by_scrolling(daemon: RunningDaemon) -> None:
    names = {each.name for each in daemon.client.signals().signals if each.value is not None}

    async def act(screen: Shown) -> None:
        await screen.until("cpu.busy")
        await screen.press("shift+tab")
        await screen.until("> Signals 1-")
        seen: set[str] = set()
        for _ in range(len(names) // 3):
            seen |= {name for name in names if f" {name} " in screen.text()}
            await screen.press("pagedown")
        assert seen == names

    on_screen(daemon.socket, act)


def test_any_size_is_drawn_and_the_next_one_too(daemon: RunningDaemon) -> None:
    async def act(screen: Shown) -> None:
        await screen.until("imagenet")
        for columns, lines in ((120, 40), (40, 10), (200, 60), (20, 5), (80, 24)):
            await screen.resize(columns, lines)
            text = await screen.until("patchd")
            assert max(map(len, text.splitlines())) <= columns
            assert len(text.splitlines()) <= lines
        await screen.until("imagenet", "Events", "Training", "q Quit")

    on_screen(daemon.socket, act)


def test_what_a_user_may_not_do_is_refused_in_the_daemons_words(daemon: RunningDaemon) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can call as another user")
    daemon.socket.parent.chmod(0o755)
    daemon.socket.chmod(0o666)

    async def act(screen: Shown) -> None:
        await screen.until("digits ", "job-")
        await screen.press("t")
        await screen.until("! ", "may not")

    os.seteuid(NOBODY)
    try:
        on_screen(daemon.socket, act)
    finally:
        os.seteuid(0)
    assert daemon.client.jobs().jobs[0].state is not JobState.PAUSED


def test_a_daemon_that_goes_away_is_told_and_waited_for(daemon: RunningDaemon) -> None:
    async def act(screen: Shown) -> None:
        await screen.until("imagenet")
        await asyncio.to_thread(daemon.stop)
        await screen.until("! patchd does not answer at", "Trying again", "Shown is what was at", timeout_s=60)
        await screen.press("e")
        await screen.until("patchd does not answer at")
        await asyncio.to_thread(daemon.start)
        text = await screen.until("patchd answers again.", "patchd serves on", timeout_s=60)
        assert "does not answer" not in text

    on_screen(daemon.socket, act, size=(120, 40))


def test_on_a_real_terminal_without_colours_it_is_plain_text_that_keys_move(daemon: RunningDaemon, tmp_path) -> None:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    server = ["tmux", "-S", str(daemon.socket.with_name("t")), "-f", "/dev/null"]
    environ = {**os.environ, "PATCHD_SOCKET": str(daemon.socket), "NO_COLOR": "1", "LANG": "C.UTF-8", "LC_ALL": ""}
    program = f"TERM=vt100 {sys.executable} -m patchd.daemon.cli.main top; sleep 600"
    subprocess.run([*server, "new-session", "-d", "-x", "80", "-y", "24", program], env=environ, check=True)

    def captured(*options: str) -> str:
        command = [*server, "capture-pane", "-p", *options]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def until(wanted: str) -> str:
        return daemon.until(lambda: (text := captured()) and wanted in text and text, 60)

    try:
        wanted = ("Inference 1.00 ###", "cpu.busy", "> imagenet", "-Training", "-Events", "q Quit")
        text = daemon.until(lambda: (text := captured()) and all(each in text for each in wanted) and text)
        assert text.isascii()
        colours = re.findall(r"\x1b\[[\d;]*m", captured("-e"))
        assert not [each for each in colours if re.search(r"\b(3[0-8]|4[0-8]|9[0-7]|10[0-7])\b", each)], colours
        subprocess.run([*server, "send-keys", "?"], check=True)
        until("> Help")
        subprocess.run([*server, "send-keys", "Escape"], check=True)
        until("Inference 1.00 ###")
        subprocess.run([*server, "resize-window", "-x", "120", "-y", "30"], check=False)
        subprocess.run([*server, "send-keys", "q"], check=True)
        daemon.until(lambda: "Inference" not in captured())
    finally:
        subprocess.run([*server, "kill-server"], check=False)
