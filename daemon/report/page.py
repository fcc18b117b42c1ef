"""The document: style, sentences, data and script in one file that loads nothing and says so in its policy."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from datetime import tzinfo
from html import escape
from importlib.resources import files

from ..api.history_schemas import History
from .figures import Figures, figures
from .panels import constant_signals, data
from .summary import headline, sentences
from .tables import tables
from .words import ABSENT, counted, duration, in_unit, listed, milliseconds, moment, number, thousands

GENERATOR = "patchd report"


def page(history: History, host: str = "", zone: tzinfo | None = None) -> str:
    """The whole file. `zone` is that of the times; without it, the machine's own."""
    style, scripts = _asset("report.css"), [_asset(name) for name in ("report.js", "tables.js")]
    told = figures(history)
    title = f"patchd on {host}" if host else "patchd"
    # Only these texts may act, and nothing is loaded from anywhere.
    acting = " ".join(f"'{_digest(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src {acting}; base-uri 'none'; form-action 'none'"
    )
    packed = json.dumps(data(history, zone), separators=(",", ":"), ensure_ascii=False)
    made = f"Made {moment(history.now_s, zone, seconds=False)} by patchd {history.version}."
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta name="generator" content="{GENERATOR}">',
            '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">',
            f"<title>{escape(title)}: {escape(headline(history, zone))}</title>",
            f"<style>{style}</style></head><body>",
            f"<header><div><h1>{escape(title)}</h1><p class=period>{escape(headline(history, zone))}</p></div>",
            "<button type=button id=theme hidden aria-live=polite>Theme: system</button></header>",
            "<main>",
            _summary(history, told, zone),
            _charts(history),
            *tables(history, told, zone),
            "</main>",
            f"<footer><p>{escape(made)} It needs no network and loads nothing.</p></footer>",
            f'<script type="application/json" id="data">{_harmless(packed)}</script>',
            *(f"<script>{script}</script>" for script in scripts),
            "</body></html>",
            "",
        )
    )


def _summary(history: History, told: Figures, zone: tzinfo | None) -> str:
    tiles = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd><dd class=sub>{escape(sub)}</dd></div>"
        for name, value, sub in _tiles(history, told)
    )
    told_in = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences(history, told, zone))
    figures_in = f"<dl>{tiles}</dl>" if tiles else ""
    return f"<section id=summary><h2>Summary</h2>{figures_in}<div class=told>{told_in}</div></section>"


def _tiles(history: History, told: Figures) -> Iterator[tuple[str, str, str]]:
    if not history.rows:
        return
    yield "Inference allocation", number(told.inference.mean, 2), "on average, of 1"
    yield "Training allocation", number(told.training.mean, 2), "on average, of 1"
    errors = told.refused.total()
    yield "Predictions", thousands(told.requests), f"and {counted(errors, 'error')}" if errors else "and no errors"
    asked = [task for task in history.tasks.values() if task.requests]
    most = max(asked, key=lambda task: task.requests, default=None)
    yield "Median latency", milliseconds(most.p50_ms) if most else ABSENT, "of the task asked most"
    trained = duration(history.trained.seconds) if history.slices else "none"
    yield "Training", trained, counted(history.trained.jobs, "job") if history.slices else "in this period"
    grave = sum(event.level != "info" for event in history.events)
    yield "Warnings, errors", thousands(grave), f"of {counted(sum(history.events_by_kind.values()), 'event')}"


def _charts(history: History) -> str:
    steady = [f"{name} {in_unit(value, history.units[name])}" for name, value in constant_signals(history).items()]
    unchanged = f"<p class=note>Unchanged all the time: {escape(listed(steady))}.</p>" if steady else ""
    buttons = (
        ("earlier", "Earlier", "←"),
        ("later", "Later", "→"),
        ("in", "Zoom in", "+"),
        ("out", "Zoom out", "&minus;"),
    )
    tools = "".join(
        f'<button type=button data-do="{name}" aria-label="{label}" title="{label}">{sign}</button>'
        for name, label, sign in buttons
    )
    return (
        "<section id=charts aria-label=Charts><h2>Over time</h2>"
        "<p class=note id=plain>The charts need JavaScript. The tables below hold the same figures.</p>"
        "<div id=plots hidden><p class=note id=how>Drag across a chart to zoom in, or pinch, or turn the wheel with "
        "Ctrl; drag with Shift, or with a finger, to move on. Keys: arrows move the marker, with Shift the period, "
        "+ and &minus; zoom, 0 shows everything.</p>"
        f"<div id=axis><div id=tools>{tools}<button type=button data-do=reset>Reset</button>"
        "<output id=readout></output></div></div>"
        '<div id=panels tabindex=0 role=group aria-label="Charts on one time axis" aria-describedby=how></div>'
        f"{unchanged}</div></section>"
    )


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _harmless(packed: str) -> str:
    """JSON that no tag can end: these characters stand in its strings alone."""
    return packed.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
