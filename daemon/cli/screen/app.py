"""The live screen: a head, what was decided, four panels, and what the keys do."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

import click
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.widgets import Footer, Static

from ....client import AsyncClient
from ....policies.errors import PatchdError
from .. import render
from . import words
from .details import details
from .dialogs import Choice, Question, TextScreen
from .glyphs import Glyphs, glyphs
from .layout import rows
from .panel import Panel
from .watcher import Watcher

TOLD_S = 8.0  # how long a message stays
WIDE = 120  # columns from which two panels stand side by side
TALL = 30  # lines from which reasons have another one

Answer = TypeVar("Answer")

HELP = """\
Keys
  Tab, Shift-Tab   the next panel, the one before
  arrows, j k      the line in hand; Page Up, Page Down, Home and End as well
  Enter, /         look at the line in hand: a task with its rungs and cascade, a signal, a job, an event
  p                put another policy in force, after a question
  t                pause the training job in hand, or resume it
  e                explain: why everything is as it is
  ?                this text
  q                quit; patchd goes on

Signs
  >   the panel and the line in hand
  *   a signal that decides now
  !   a warning or an error
  ~   a cost that is estimated, not measured
  -   there is none

Panels
  Signals    value, course of the last looks (shares from 0 to 1, others from their least to their most), meaning
  Tasks      resolution in force and its cost; answers per second and the times that half and 95 % of them did not pass,
             over the last 10 s; of a cascade the share of answers of each stage, else why this resolution
  Training   how far a job is; its plan, and the plan's cost, a share of a full training step, beside the allocation
  Events     the newest first
"""


class TopApp(App[None]):
    """`patchctl top`."""

    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (WIDE, "-wide")]  # noqa: RUF012 (an instance variable in Textual)
    CSS = """
    Screen { background: ansi_default; color: ansi_default; }
    ModalScreen { align: center middle; }
    #head, #notice, #decided { height: auto; }
    #head { text-style: bold; }
    #notice { display: none; text-style: bold; color: ansi_yellow; }
    #panels { layout: grid; grid-size: 1 4; }
    .-wide #panels { grid-size: 2 2; grid-gutter: 0 2; }
    Panel { scrollbar-size: 0 0; background: ansi_default; border-title-align: left; border-title-style: bold; }
    .box { width: 90%; height: auto; background: ansi_default; }
    .question { padding: 1 2; }
    .hint { height: 1; }
    #text { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "policy", "Policy"),
        Binding("t", "training", "Pause/resume training"),
        Binding("e", "explain", "Explain"),
        Binding("slash", "look", "Look", show=False),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, client: AsyncClient, drawn_with: Glyphs | None = None) -> None:
        super().__init__()
        self.theme = "ansi-dark"  # the terminal's own colours, and its own background
        self._client, self._glyphs = client, drawn_with or glyphs()
        self._watcher = Watcher(client, self._changed)
        self._told: tuple[str, float] = ("", 0.0)
        self._shown: dict[str, str] = {}

    def compose(self) -> ComposeResult:
        """Head, notices, what was decided, four panels, the keys."""
        yield Static("patchd", id="head", markup=False)
        yield Static("", id="notice", markup=False)
        yield Static("", id="decided", markup=False)
        with Container(id="panels"):
            yield Panel("Signals", self._glyphs, id="signals", empty="Nothing has been sampled yet.")
            yield Panel("Tasks", self._glyphs, id="tasks", empty="There is no task.", header=True)
            yield Panel("Training", self._glyphs, id="training", empty="No job runs, waits or is paused.")
            yield Panel("Events", self._glyphs, id="events", empty="Nothing has happened yet.")
        yield Footer(show_command_palette=False, compact=False)

    def on_mount(self) -> None:
        """Begin to look."""
        self.query_one("#tasks").focus()
        self.run_worker(self._watcher.watch())
        self.run_worker(self._watcher.listen())

    # drawing

    def _changed(self) -> None:
        if self._watcher.returned:
            self._tell("patchd answers again.")
        self._draw()

    def _tell(self, message: str) -> None:
        """Show a sentence for some seconds."""
        self._told = (message, time.monotonic() + TOLD_S)
        self._draw()

    def on_resize(self) -> None:
        """Draw for the new size."""
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        if not self.is_running or len(self.screen_stack) > 1:
            return  # a dialog covers it
        self._draw_notice()
        seen, width = self._watcher, self.size.width
        state, recent, drawn = seen.state, seen.recent, self._glyphs
        if state is None:
            return
        decision = state.decision
        self._put("head", words.head(state, time.strftime("%H:%M:%S"), width))
        self._put(
            "decided",
            "\n".join(words.decided_lines(decision, recent, drawn, width, 2 if self.size.height < TALL else 3)),
        )
        now_s = state.now_s + seen.away_s
        inner = self._panel("tasks").size.width or width
        panels = {
            "signals": words.signal_lines(state, recent, drawn, now_s, inner),
            "tasks": words.task_lines(state, recent, drawn, inner),
            "training": words.job_lines(seen.jobs, decision, drawn),
            "events": words.event_lines(seen.events, inner),
        }
        for name, lines in panels.items():
            self._panel(name).show(lines, words.task_header(inner) if name == "tasks" else "")
        self._lay_out(*(len(lines) for lines in panels.values()))

    def _lay_out(self, signals: int, tasks: int, training: int, events: int) -> None:
        """Give each panel its height; titles and the header of the tasks are rows as well."""
        grid = self.query_one("#panels")
        height = grid.size.height
        wanted: tuple[tuple[int, int], ...]
        if self.size.width >= WIDE:
            wanted = ((max(signals + 1, tasks + 2), 6), (max(2, training, events) + 1, 4))
        else:
            wanted = ((signals + 1, 5), (max(1, tasks) + 2, 4), (max(1, training) + 1, 3), (events + 1, 3))
        heights = " ".join(map(str, rows(height, wanted)))
        if self._shown.get("heights") != heights:
            self._shown["heights"] = heights
            grid.styles.grid_rows = heights

    def _draw_notice(self) -> None:
        seen = self._watcher
        lines = [] if seen.state is None else words.notices(seen.state)
        if seen.away is not None:
            old = "" if seen.state is None else f" Shown is what was at {render.clock(seen.state.now_s)}."
            lines.insert(0, f"{seen.away} Trying again, for {render.duration(seen.away_s)} now.{old}")
        message, until_s = self._told
        if message and time.monotonic() < until_s:
            lines.append(message)
        self.query_one("#notice").display = bool(lines)
        self._put("notice", "\n".join(f"! {line}" for line in lines))

    def _put(self, name: str, text: str) -> None:
        if self._shown.get(name) != text:
            self._shown[name] = text
            self.query_one(f"#{name}", Static).update(text)

    def _panel(self, name: str) -> Panel:
        return self.query_one(f"#{name}", Panel)

    # keys

    async def _asked(self, request: Awaitable[Answer]) -> Answer | None:
        """The answer; None where it is an error, which is told."""
        try:
            return await request
        except PatchdError as error:
            self._tell(str(error))
            return None

    def action_help(self) -> None:
        """Say what the keys and signs mean."""
        self.push_screen(TextScreen("Help", HELP, self._glyphs), self._back)

    def action_explain(self) -> None:
        """Why everything is as it is."""
        self.run_worker(self._explain())

    async def _explain(self) -> None:
        from ..explain import explain_text

        if (answer := await self._asked(self._client.explain())) is not None:
            self._open("Explain", explain_text(answer))

    def action_policy(self) -> None:
        """Put another policy in force."""
        self.run_worker(self._choose_policy())

    async def _choose_policy(self) -> None:
        listed = await self._asked(self._client.policies())
        if listed is None:
            return
        lines = words.policy_lines(listed.policies)
        chosen = await self.push_screen_wait(Choice("Policies", lines, self._glyphs))
        policy = next((each for each in listed.policies if each.source == chosen), None)
        if policy is not None and await self.push_screen_wait(Question(f"Put policy {policy.name} in force?")):
            given = policy.source.removeprefix("preset:")
            named = given != policy.source
            used = self._client.use_policy(name=given) if named else self._client.use_policy(path=Path(given))
            if (state := await self._asked(used)) is not None:
                self._tell(f"Policy {state.name} is in force.")
        self._back()

    def action_training(self) -> None:
        """Pause the job in hand, or resume it."""
        self.run_worker(self._pause_or_resume())

    async def _pause_or_resume(self) -> None:
        key = self._panel("training").key
        job = next((each for each in self._watcher.jobs if each.id == key), None)
        if job is None:
            self._tell("There is no training job to pause or to resume.")
            return
        action: Literal["pause", "resume"] = "resume" if job.state.value == "paused" else "pause"
        changed = await self._asked(self._client.change_job(job.id, action))
        if changed is not None:
            self._tell(f"Job {job.id} {'is paused' if action == 'pause' else 'goes on'}.")
            self._watcher.look_soon()

    def action_look(self) -> None:
        """Look at the line in hand, as Enter does."""
        if isinstance(self.focused, Panel):
            self.focused.action_choose()

    def on_panel_chosen(self, event: Panel.Chosen) -> None:
        """Tell all about what a line stands for."""
        self.run_worker(self._look(event.panel.id or "", event.key))

    async def _look(self, panel: str, key: str) -> None:
        told = await self._asked(details(self._client, self._watcher, panel, key))
        if told is not None:
            self._open(f"{panel.rstrip('s').capitalize()} {key}", told)

    def _open(self, title: str, text: str) -> None:
        self.push_screen(TextScreen(title, click.unstyle(text), self._glyphs), self._back)

    def _back(self, _: object = None) -> None:
        """A dialog was closed: catch up."""
        self._watcher.look_soon()
        self.call_after_refresh(self._draw)
