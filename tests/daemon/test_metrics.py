"""Metrics: the text format, and what a running daemon tells."""

from __future__ import annotations

import math
import re

from hypothesis import given
from hypothesis import strategies as st
from patchd.daemon.api.exposition import Metric, Sample, one, text_of
from running import RunningDaemon

LINE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\.)*",?)*)\})? (\S+)')
LABEL = re.compile(r'([a-z]+)="((?:[^"\\\n]|\\.)*)"')


def parsed(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What a scraper reads. Fails on anything that is not of the format."""
    found = {}
    assert text.endswith("\n")
    for line in text[:-1].split("\n"):
        if line.startswith(("# HELP ", "# TYPE ")):
            continue
        match = LINE.fullmatch(line)
        assert match, line
        labels = tuple(
            (name, re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], value))
            for name, value in LABEL.findall(match[2] or "")
        )
        assert (match[1], labels) not in found
        found[match[1], labels] = float(match[3])
    return found


@given(st.text(), st.floats())
def test_any_label_and_number_is_read_as_it_was_written(text: str, value: float) -> None:
    written = text_of([Metric("m", "gauge", text, (Sample(value, {"l": text}),))])
    (((name, labels), read),) = parsed(written).items()
    assert (name, labels) == ("m", (("l", text),))
    assert read == value or (math.isnan(read) and math.isnan(value))


def test_a_family_without_samples_is_left_out() -> None:
    assert text_of([Metric("a", "gauge", "h", one(None)), Metric("b", "counter", "h", one(3))]) == (
        "# HELP b h\n# TYPE b counter\nb 3\n"
    )


def test_a_running_daemon_tells_what_it_decides_serves_and_trains(daemon: RunningDaemon) -> None:
    text = daemon.client.request("GET", "/metrics").decode()
    found = parsed(text)
    names = {name for name, _ in found}
    assert {"patchd_info", "patchd_signal", "patchd_requests_total", "patchd_training_processor_seconds_total"} <= names
    assert found["patchd_allocation", (("kind", "training"),)] == 0.5
    assert found["patchd_predictions_total", (("task", "imagenet"),)] == 0
    assert found["patchd_jobs", (("state", "running"),)] == 0
    assert found["patchd_training_waits", (("condition", "windows"),)] == 0
    for name in names:
        assert f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}\n" in text
