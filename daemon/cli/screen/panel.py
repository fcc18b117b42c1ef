"""A panel of the live screen: lines that can be moved through and chosen from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from .glyphs import Glyphs
from .words import Line

STRONG, IN_HAND = Style(bold=True), Style(reverse=True)


class Panel(ScrollView, can_focus=True):
    """Lines under a title; the one in hand begins with '>' and stays in hand while the lines change under it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown,space", "page(1)", show=False),
        Binding("home,g", "move(-100000)", show=False),
        Binding("end,G", "move(100000)", show=False),
        Binding("enter", "choose", show=False),
    ]

    class Chosen(Message):
        """Enter was pressed on a line."""

        def __init__(self, panel: Panel, key: str) -> None:
            super().__init__()
            self.panel, self.key = panel, key

    def __init__(
        self, title: str, glyphs: Glyphs, *, id: str, empty: str = "", header: bool = False, reading: bool = False
    ) -> None:
        """`empty` is said where there are no lines; with a `header` the first line stays in place.

        A panel for `reading` scrolls, and no line of it is in hand.
        """
        super().__init__(id=id)
        self.lines: list[Line] = []
        self._title, self._glyphs, self._empty = title, glyphs, empty
        self._has_header, self._header, self._reading = header, "", reading
        self._in_hand = 0
        self.styles.border_top = (glyphs.line, "ansi_default")  # type: ignore[assignment]

    @property
    def key(self) -> str | None:
        """What the line in hand stands for."""
        return self.lines[self._in_hand].key if self.lines else None

    def show(self, lines: Sequence[Line], header: str = "") -> None:
        """Put other lines in place of those there are."""
        if lines == self.lines and header == self._header:
            return
        key = self.key
        self.lines, self._header = list(lines), header
        at_top = self._in_hand == 0
        found = next((place for place, line in enumerate(self.lines) if line.key == key), None)
        self._in_hand = 0 if at_top or found is None else found
        self.virtual_size = Size(self.size.width, max(1, len(self.lines)) + self._has_header)
        self._keep_in_view()
        self.refresh()

    def action_move(self, by: int) -> None:
        """Take another line in hand: the next with another key."""
        if not self.lines:
            return
        if self._reading:
            self._scroll(int(self.scroll_offset.y) + by)
            return
        place, step = self._in_hand, 1 if by > 0 else -1
        for _ in range(min(abs(by), len(self.lines))):
            place = self._next(place, step)
        if place != self._in_hand:
            self._in_hand = place
            self._keep_in_view()
            self.refresh()

    def _next(self, place: int, step: int) -> int:
        """The first line of the next group of lines in a direction; the same where there is none."""
        key, at = self.lines[place].key, place
        while 0 <= at < len(self.lines) and self.lines[at].key == key:
            at += step
        if not 0 <= at < len(self.lines):
            return place
        while at > 0 and self.lines[at - 1].key == self.lines[at].key:
            at -= 1
        return at

    def action_page(self, way: int) -> None:
        """Take a line in hand that is a screenful away."""
        self.action_move(way * max(1, self._visible - 1))

    def action_choose(self) -> None:
        """Tell that the line in hand is chosen."""
        if self.key is not None:
            self.post_message(self.Chosen(self, self.key))

    def watch_has_focus(self, has_focus: bool) -> None:
        """Say so in the title."""
        super().watch_has_focus(has_focus)
        self._retitle()

    def on_resize(self) -> None:
        """The lines get another width."""
        self._keep_in_view()

    def on_mount(self) -> None:
        """Begin with the title."""
        self._retitle()

    @property
    def _visible(self) -> int:
        return max(1, self.size.height - self._has_header)

    def _keep_in_view(self) -> None:
        top = int(self.scroll_offset.y)
        if self._in_hand < top:
            top = self._in_hand
        elif self._in_hand >= top + self._visible:
            top = self._in_hand - self._visible + 1
        self._scroll(int(self.scroll_offset.y) if self._reading else top)

    def _scroll(self, top: int) -> None:
        self.scroll_to(y=max(0, min(top, len(self.lines) - self._visible)), animate=False, force=True, immediate=True)
        self._retitle()
        self.refresh()

    def _retitle(self) -> None:
        count, top = len(self.lines), int(self.scroll_offset.y)
        last = min(count, top + self._visible)
        place = f" {top + 1}-{last} of {count}" if count > self._visible else ""
        self.border_title = Text(f"> {self._title}{place}" if self.has_focus else f"{self._title}{place}")

    def render_line(self, y: int) -> Strip:
        """One line of the terminal."""
        width = self.size.width
        if self._has_header and y == 0:
            return self._strip(Line("", self._header, strong=True), None)
        place = int(self.scroll_offset.y) + y - self._has_header
        if not self.lines and place == 0:
            return self._strip(Line("", f" {self._empty}"), None)
        if not 0 <= place < len(self.lines):
            return Strip.blank(width, self.rich_style)
        line = self.lines[place]
        in_hand = self.has_focus and line.key == self.key and not self._reading
        return self._strip(line, ">" if in_hand else None)

    def _strip(self, line: Line, mark: str | None) -> Strip:
        text = line.text if self._reading else f"{mark or ' '}{line.text}"
        width = self.size.width
        own = self.rich_style
        if line.strong:
            own += STRONG
        if line.colour is not None:
            own += Style(color=line.colour)
        if mark is not None:
            own += IN_HAND
        return Strip([Segment(self._glyphs.fitted(text, width), own)]).adjust_cell_length(width, own)
