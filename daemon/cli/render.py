"""Text for people: tables, wrapped lines, numbers with units. Plain characters, at most the terminal's width."""

from __future__ import annotations

import re
import shutil
import textwrap
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ...policies.task import Evaluation

ABSENT = "-"
_GAP = 2  # blanks between two columns
_UNIT = re.compile(r"(?<=\d) (?=(?:%|px|ms|s|min|h|B|KiB|MiB|GiB|°C)(?![a-zA-Z]))")


def width() -> int:
    """Columns to write in: the terminal's, or 80 where there is none."""
    return max(40, shutil.get_terminal_size((80, 24)).columns)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), indent: int = 0) -> str:
    """Columns under a bold header; the numbers of the columns `right` are flush right, the last column is wrapped."""
    if not rows:
        return ""
    sizes = [max(len(str(row[i])) for row in (header, *rows)) for i in range(len(header))]
    fixed = indent + sum(sizes[:-1]) + _GAP * (len(header) - 1)
    sizes[-1] = min(sizes[-1], max(12, width() - fixed))
    lines = [click.style(line, bold=True) for line in _row(header, sizes, right, indent)]
    for row in rows:
        lines.extend(_row(row, sizes, right, indent))
    return "\n".join(lines)


def _row(cells: Sequence[str], sizes: Sequence[int], right: Sequence[int], indent: int) -> list[str]:
    *first, last = cells
    columns = [cell.rjust(sizes[i]) if i in right else cell.ljust(sizes[i]) for i, cell in enumerate(first)]
    wrapped = wrap(last, sizes[-1])
    if len(cells) - 1 in right:
        wrapped = [line.rjust(sizes[-1]) for line in wrapped]
    gap = " " * _GAP
    head = " " * indent + "".join(column + gap for column in columns)
    return [(head + wrapped[0]).rstrip(), *(" " * len(head) + line for line in wrapped[1:])]


def fields(pairs: Sequence[tuple[str, str]]) -> str:
    """`name  value` lines, the values aligned and wrapped."""
    size = max(len(name) for name, _ in pairs) + _GAP
    lines: list[str] = []
    for name, value in pairs:
        wrapped = wrap(value, max(24, width() - size))
        lines.append(click.style(name.ljust(size), bold=True) + wrapped[0])
        lines.extend(" " * size + line for line in wrapped[1:])
    return "\n".join(lines)


def sentences(told: Sequence[str]) -> str:
    """One wrapped line group a sentence; a sentence that begins with blanks belongs to the one before it."""
    lines: list[str] = []
    for sentence in told:
        lead = "    - " if sentence.startswith(" ") else ""
        first, *rest = wrap(sentence.strip(), width() - len(lead))
        lines += [lead + first, *(" " * len(lead) + line for line in rest)]
    return "\n".join(lines)


def wrap(text: str, columns: int) -> list[str]:
    """Lines of at most `columns`; a number stays with its unit. One empty line for an empty text."""
    kept = _UNIT.sub("\u00a0", text)
    lines = textwrap.wrap(kept, columns, break_on_hyphens=False) or [""]
    return [line.replace("\u00a0", " ") for line in lines]


def heading(text: str) -> str:
    """A heading with an empty line before it."""
    return "\n" + click.style(text, bold=True, underline=True)


def bytes_(count: float | None) -> str:
    """1536 -> '1.5 KiB'."""
    if count is None:
        return ABSENT
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def percent(share: float | None, digits: int = 0) -> str:
    """0.125 -> '12 %'."""
    return ABSENT if share is None else f"{share * 100:.{digits}f} %"


def number(value: float | None, unit: str = "", digits: int = 3) -> str:
    """A number with significant `digits` and its unit; absent is '-'."""
    return ABSENT if value is None else f"{value:.{digits}g}{' ' + unit if unit else ''}"


def milliseconds(value: float | None) -> str:
    """Milliseconds with a fitting number of decimals."""
    if value is None:
        return ABSENT
    return f"{value:.2f} ms" if value < 10 else f"{value:.1f} ms" if value < 1000 else f"{value / 1000:.2f} s"


def duration(seconds: float) -> str:
    """75 -> '1 min 15 s'."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def ago(then_s: float, now_s: float | None = None) -> str:
    """How long ago a Unix time is."""
    return duration(max(0.0, (time.time() if now_s is None else now_s) - then_s)) + " ago"


def clock(time_s: float) -> str:
    """Local time of day of a Unix time, with the date when it is not today."""
    moment = datetime.fromtimestamp(time_s).astimezone()
    today = moment.date() == datetime.now().astimezone().date()
    return moment.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")


def short(identifier: str | None, length: int = 12) -> str:
    """The beginning of a long identifier, enough to name it in a command."""
    return ABSENT if identifier is None else identifier[:length]


def accuracy(evaluation: Evaluation | None) -> str:
    """'93.1 % [91.0-94.7] n=360': top-1 with its 95 % interval."""
    if evaluation is None:
        return ABSENT
    low, high = evaluation.low * 100, evaluation.high * 100
    return f"{evaluation.accuracy * 100:.1f} % [{low:.1f}-{high:.1f}] n={evaluation.samples}"
