"""What the live screen opens over itself: a text to scroll through, a choice, a question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from .. import render
from .glyphs import Glyphs
from .panel import Panel
from .words import Line

BACK = "Esc goes back"


class TextScreen(ModalScreen[None]):
    """A text, as wide as the terminal."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,e,question_mark", "back", "Back", show=False)]

    def __init__(self, title: str, text: str, glyphs: Glyphs) -> None:
        super().__init__()
        self._title, self._text, self._glyphs = title, text, glyphs

    def compose(self) -> ComposeResult:
        """The text fills the screen."""
        yield Panel(self._title, self._glyphs, id="text", reading=True)
        yield Static(f" {BACK}; arrows, Page Up and Page Down scroll", classes="hint", markup=False)

    def on_mount(self) -> None:
        """Show the text."""
        self._wrap()
        self.query_one(Panel).focus()

    def on_resize(self) -> None:
        """Wrap it anew."""
        self._wrap()

    def _wrap(self) -> None:
        width = max(20, self.app.size.width)
        wrapped = [part for line in self._text.splitlines() for part in _wrapped(line, width)]
        self.query_one(Panel).show([Line(str(place), part) for place, part in enumerate(wrapped)])

    def action_back(self) -> None:
        """Close it."""
        self.dismiss(None)


class Choice(ModalScreen[str | None]):
    """A list to choose from; the answer is the key of a line, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "back", "Back", show=False)]

    def __init__(self, title: str, lines: Sequence[Line], glyphs: Glyphs) -> None:
        super().__init__()
        self._title, self._lines, self._glyphs = title, lines, glyphs

    def compose(self) -> ComposeResult:
        """The list in a box."""
        with Vertical(classes="box"):
            yield Panel(self._title, self._glyphs, id="choice", empty="There is nothing to choose from.")
            yield Static(f" Enter chooses, {BACK}", classes="hint", markup=False)

    def on_mount(self) -> None:
        """Show the list."""
        panel = self.query_one(Panel)
        panel.show(self._lines)
        panel.focus()
        self.query_one(".box").styles.height = min(len(self._lines) + 2, self.app.size.height - 2)

    def on_panel_chosen(self, event: Panel.Chosen) -> None:
        """It is chosen."""
        event.stop()
        self.dismiss(event.key)

    def action_back(self) -> None:
        """Choose nothing."""
        self.dismiss(None)


class Question(ModalScreen[bool]):
    """Yes or no."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "answer(True)", "Yes", show=False),
        Binding("n,escape,q", "answer(False)", "No", show=False),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        """The question in a box."""
        with Vertical(classes="box question"):
            yield Static(f"{self._question}\n\ny or Enter: yes     n or Esc: no", markup=False)

    def action_answer(self, yes: bool) -> None:
        """It is answered."""
        self.dismiss(yes)


def _wrapped(line: str, width: int) -> list[str]:
    """The line in parts of at most `width`; those after the first are indented as it is."""
    indent = " " * (len(line) - len(line.lstrip()))
    if len(line) <= width:
        return [line]
    return [indent + part for part in render.wrap(line.strip(), max(10, width - len(indent)))]
