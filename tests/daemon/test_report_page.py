"""The report as a file: what it says, that it harms nobody, and how the command that writes it behaves."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from lived import decision as decided
from lived import device, live
from patchd.daemon.api.history_schemas import History, TrainedTotal, TrainingSlice
from patchd.daemon.api.schemas import Event
from patchd.daemon.cli.main import cli
from patchd.daemon.history_reader import Period, read_history
from patchd.daemon.report.figures import figures
from patchd.daemon.report.page import page
from patchd.daemon.report.panels import data
from patchd.daemon.report.summary import headline, sentences
from patchd.daemon.report.words import duration, in_unit, offsets, percent, zone_name

NOON = 1_780_000_800.0 - 1_780_000_800.0 % 3600
HOSTILE = "</script><img src=x onerror=alert(1)><b a='\"&amp;"


def told(state: Path, from_s: float, to_s: float) -> History:
    return History.model_validate_json(read_history(state, Period(from_s, to_s, 720), to_s))


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> History:
    """Six hours with everything in them."""
    state = tmp_path_factory.mktemp("lived")
    with device(state, NOON) as made:
        live(made, 6.0)
    return told(state, NOON, NOON + 6 * 3600)


class Reader(HTMLParser):
    """The tags of a document with their attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.raw: list[tuple[str, str]] = []
        self.inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in ("script", "style"):
            self.raw.append((self.inside, data))
        else:
            self.texts.append(data)


# sentences


def test_the_summary_tells_time_at_each_allocation_what_held_it_down_and_what_was_asked(tmp_path: Path) -> None:
    with device(tmp_path, NOON) as made:
        for minute in range(60):
            made.served.answered("faces", 10.0)
            made.see(
                decided(
                    made.now_s,
                    *(
                        (
                            0.25,
                            0.0,
                        )
                        if minute >= 45
                        else (1.0, 0.5)
                    ),
                    rule="hot" if minute >= 45 else None,
                )
            )
            made.wait(60)
        made.served.refused("faces", "busy")
        made.recorder.close()
    history = told(tmp_path, NOON, NOON + 7200)
    text = list(sentences(history, figures(history), ZoneInfo("UTC")))
    assert text[0] == (
        "patchd ran for 1 h of 2 h under the policy “balanced”. Nothing was recorded for 1 h from 2026-05-28 21:00."
    )
    assert text[1] == (
        "The inference allocation was 1 for 75 % and 0.25 for 25 % of the time, 0.81 on average. "
        "It was held down most by the rule “hot” (15 min)."
    )
    assert text[2].startswith("No training in this period. The training allocation was 0.5 for 75 % and 0 for 25 %")
    assert text[3] == (
        "60 predictions were answered for 1 task: half took no longer than 9.93 ms, 95 % no longer than 9.93 ms, "
        "the longest 10 ms. 1 request ended in an error: 1 “busy”."
    )


def test_a_period_without_anything_says_so_everywhere(tmp_path: Path) -> None:
    with device(tmp_path, NOON):
        pass
    history = told(tmp_path, NOON, NOON + 3600)
    text = " ".join(Reader(page(history)).texts)
    for sentence in (
        "Nothing was recorded in this period: patchd did not run",
        "No training in this period.",
        "No events in this period.",
        "No prediction passed a cascade in this period.",
    ):
        assert sentence in text
    assert all(panel.get("empty") for panel in data(history)["panels"])


def test_numbers_are_written_for_people() -> None:
    assert [percent(share) for share in (0.0, 0.00004, 0.034, 0.5, 0.99999, 1.0, None)] == [
        "0 %", "< 0.1 %", "3.4 %", "50 %", "> 99.9 %", "100 %", "\u2013",
    ]  # fmt: skip
    assert [duration(s) for s in (4.2, 61, 3600, 5400, 200_000)] == [
        "4.2 s",
        "1 min 1 s",
        "1 h",
        "1 h 30 min",
        "2 d 8 h",
    ]
    assert in_unit(1.0, "0 or 1") == "yes"
    assert in_unit(1536, "bytes") == "1.5 KiB"
    assert in_unit(40.0, "degrees Celsius") == "40 °C"
    assert in_unit(3.0, "widgets") == "3 widgets"


def test_times_are_the_devices_own_across_a_change_of_clocks() -> None:
    zone = ZoneInfo("Europe/Berlin")
    autumn = 1_792_886_400.0  # 2026-10-25 00:00 UTC; clocks go back at 01:00 UTC
    assert [(at - autumn, offset) for at, offset in offsets(autumn - 7200, autumn + 7200, zone)] == [
        (-7200.0, 7200),
        (3600.0, 3600),
    ]
    assert zone_name(autumn - 7200, autumn + 7200, zone) == "UTC+02:00, then UTC+01:00"


# data


def test_every_series_has_a_value_for_every_row_and_gaps_break_steps(lived: History) -> None:
    drawn = data(lived)
    ids = [panel["id"] for panel in drawn["panels"]]
    assert ids[:8] == ["inference", "training", "rungs", "requests", "latency", "cascade-0", "slices", "events"]
    assert any(each.startswith("signal-temperature") for each in ids)
    assert len(lived.gaps) == 1
    for panel in drawn["panels"]:
        for series in panel.get("series", ()):
            if "t" in series:
                assert len(series["t"]) == len(series["v"])
                assert series["t"] == sorted(series["t"])
                assert series["v"].count(None) == 2  # at the gap and at the end
            elif "v" in series:
                assert len(series["v"]) == len(lived.rows)
            else:
                assert sum(len(each["bars"]) for each in panel["series"]) == len(lived.slices)
    shares = next(panel for panel in drawn["panels"] if panel["id"] == "cascade-0")["series"]
    answered = [values for values in zip(*(s["v"] for s in shares), strict=True) if None not in values]
    assert len(answered) > 300
    assert all(sum(values) == pytest.approx(1.0, abs=2e-3) for values in answered)


def test_a_day_fits_a_phone(tmp_path: Path) -> None:
    with device(tmp_path, NOON) as made:
        live(made, 24.0, every_s=60.0)
    assert len(page(told(tmp_path, NOON, NOON + 86_400)).encode()) < 1_000_000


# harm


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    with device(tmp_path, NOON) as made:
        made.store.put_event(
            Event(id=1, time_s=NOON + 1, level="warning", kind=HOSTILE, message=f"message {HOSTILE}", data={})
        )
        made.served.answered(HOSTILE, 10.0)
        made.served.refused(HOSTILE, HOSTILE)
        made.see(decided(NOON, 0.5, rule=HOSTILE, policy=HOSTILE, pixels={HOSTILE: 96}))
        made.recorder.keep(
            TrainingSlice(start_s=NOON, end_s=NOON + 9, job=HOSTILE, task=HOSTILE, plan=HOSTILE, cost=0.5)
        )
        made.wait(20)
        made.recorder.close()
    text = page(told(tmp_path, NOON, NOON + 60), host=HOSTILE)
    read = Reader(text)
    assert {tag for tag, _ in read.tags}.isdisjoint({"img", "b", "iframe", "object", "link", "a", "base", "form"})
    assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)
    assert [tag for tag, _ in read.tags].count("script") == 3
    assert f"message {HOSTILE}" in read.texts
    (packed,) = (content for kind, content in read.raw if kind == "script" and content.startswith("{"))
    assert json.loads(packed)["panels"][2]["series"][0]["name"] == HOSTILE


@settings(max_examples=30)
@given(st.text(max_size=40))
def test_any_text_is_read_back_as_it_was(text: str) -> None:
    event = Event(id=1, time_s=NOON, level="info", kind="a.b", message=text, data={})
    history = History(
        from_s=NOON, to_s=NOON + 60, now_s=NOON, version="1", step_s=60, rows=(), gaps=(), tasks={}, slices=(),
        trained=TrainedTotal(), events=(event,), events_by_kind={"a.b": 1}, units={},
    )  # fmt: skip
    assert text in "".join(Reader(page(history, host=text)).texts)


def test_nothing_is_loaded_and_only_its_own_texts_may_act(lived: History) -> None:
    read = Reader(page(lived))
    policy = next(a["content"] or "" for tag, a in read.tags if a.get("http-equiv") == "Content-Security-Policy")
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    acting = [content for kind, content in read.raw if kind == "style" or not content.startswith("{")]
    allowed = f"{directives['style-src']} {directives['script-src']}".split()
    assert sorted(allowed) == sorted(
        f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in acting
    )
    assert not any({"src", "href", "style"} & attributes.keys() for _, attributes in read.tags)
    assert "http://" not in "".join(content for kind, content in read.raw).replace("http://www.w3.org/2000/svg", "")


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def themes() -> Iterator[dict[str, str]]:
    style = next(content for kind, content in Reader(page(EMPTY)).raw if kind == "style")
    for block in re.findall(r":root[^{]*\{([^}]*)\}", style)[:3]:
        yield dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6})", block))


EMPTY = History(
    from_s=NOON, to_s=NOON + 60, now_s=NOON, version="1", step_s=60, rows=(), gaps=(), tasks={}, slices=(),
    trained=TrainedTotal(), events=(), events_by_kind={}, units={},
)  # fmt: skip


def test_text_and_lines_stand_out_in_both_themes() -> None:
    light, dark, dark_by_system = themes()
    assert dark == dark_by_system
    for theme in (light, dark):
        for ground in ("bg", "card"):
            for ink in ("ink", "soft", "warn", "err", "accent"):
                assert contrast(theme[ink], theme[ground]) >= 4.5, (ink, ground)
            for place in range(8):
                assert contrast(theme[f"c{place}"], theme[ground]) >= 4.5, place


def test_the_headline_has_the_period_and_its_zone(lived: History) -> None:
    assert headline(lived, ZoneInfo("UTC")) == "2026-05-28 20:00 to 2026-05-29 02:00, UTC"
    assert headline(EMPTY, ZoneInfo("Asia/Kolkata")) == "2026-05-29 01:30 to 01:31, UTC+05:30"


# the command


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["report", *arguments])


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    with device(folder, NOON) as made:
        live(made, 0.5)
    return folder


def test_a_state_directory_is_reported_without_its_daemon(state: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    done = run("--state", str(state), "--from", str(NOON), "--since", "30m", "-o", str(target))
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{target}: ")
    assert target.read_text().startswith("<!doctype html>")
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []
    again = run("--state", str(state), "--from", str(NOON), "--to", str(NOON + 600), "-o", str(target))
    assert again.exit_code == 0  # a report is replaced
    as_json = run("--state", str(state), "--from", str(NOON), "--to", str(NOON + 1800), "--json")
    assert History.model_validate_json(as_json.stdout).from_s == NOON
    printed = run("--state", str(state), "--from", str(NOON), "--to", str(NOON + 600), "-o", "-")
    assert printed.stdout == target.read_text().replace(
        re.search(r"Made [\d: -]+", target.read_text())[0], re.search(r"Made [\d: -]+", printed.stdout)[0]
    )


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--since", "soon"), 2, "'soon' is no length of time; write a number and s, m, h, d or w, such as 24h"),
        (("--since", "1h", "--from", "-2h", "--to", "-1h"), 2, "Give two of --since, --from and --to, not all three."),
        (("--from", "-1h", "--to", "-2h"), 2, "before it begins."),
        (("--from", "99999999999"), 2, "which is not yet."),
        (("--json", "-o", "a.html"), 2, "--json and --output exclude each other."),
        (("-o", "{tmp}"), 5, "is a directory. Name a file in it: -o DIR/report.html."),
        (("-o", "{tmp}/none/a.html"), 5, "there is no directory"),
        (("-o", "{tmp}/notes.txt"), 5, "is there already, and is no report. Replace it with --force."),
        (("--state", "{tmp}"), 1, "There is no state of patchd in"),
    ],
    ids=["length", "three", "backwards", "future", "json", "directory", "nowhere", "other-file", "no-state"],
)
def test_mistakes_are_told_in_one_sentence(
    arguments: tuple[str, ...], code: int, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    done = run(*(each.format(tmp=tmp_path) for each in arguments))
    assert done.exit_code == code, done.output
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"
