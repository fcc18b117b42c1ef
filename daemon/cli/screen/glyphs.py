"""What a terminal can show: sparklines and bars, in block characters or, where there are none, in ASCII."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

BLOCKS, ASCII = "▁▂▃▄▅▆▇█", "_.-:=+*#"
# Terminals that have no block characters, whatever the locale says.
BARE_TERMINALS = ("vt100", "vt102", "vt220", "ansi", "dumb")


@dataclass(frozen=True)
class Glyphs:
    """The characters to draw with."""

    steps: str
    full: str
    empty: str
    cut: str  # stands for text that has no place
    line: str  # a panel's upper edge, in the terms of Textual

    def spark(self, values: Sequence[float | None], width: int, low: float, high: float) -> str:
        """The last `width` values from `low` to `high`, the newest last; a blank where there was none."""
        drawn = "".join(self._step(value, low, high) for value in values[-width:]) if width else ""
        return drawn.ljust(width)

    def _step(self, value: float | None, low: float, high: float) -> str:
        if value is None:
            return " "
        share = 0.0 if high <= low else (value - low) / (high - low)
        return self.steps[max(0, min(len(self.steps) - 1, int(share * len(self.steps))))]

    def bar(self, share: float, width: int) -> str:
        """A filled part of `width`; something and everything are told from nothing and almost all."""
        share = max(0.0, min(1.0, share))
        filled = round(share * width)
        if 0 < share < 1:
            filled = max(1, min(width - 1, filled))
        return self.full * filled + self.empty * (width - filled)

    def fitted(self, text: str, width: int) -> str:
        """The text in `width` columns, its end cut off where it is longer."""
        return text if len(text) <= width else text[: max(0, width - len(self.cut))] + self.cut[: max(0, width)]


UNICODE = Glyphs(BLOCKS, "█", "░", "…", "solid")
PLAIN = Glyphs(ASCII, "#", ".", "..", "ascii")


def glyphs(environ: Mapping[str, str] | None = None) -> Glyphs:
    """Those that this terminal and locale have."""
    environ = os.environ if environ is None else environ
    locale = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG") or ""
    wide = "utf-8" in locale.lower() or "utf8" in locale.lower()
    return UNICODE if wide and environ.get("TERM", "") not in BARE_TERMINALS else PLAIN


def span(values: Iterable[float | None]) -> tuple[float, float]:
    """The least and the greatest value; (0, 0) without any."""
    present = [value for value in values if value is not None]
    return (min(present), max(present)) if present else (0.0, 0.0)
