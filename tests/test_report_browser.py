"""The report in a real browser, offline: drawn whole, moved about in, sorted, read without its script."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lived import decision as decided
from lived import device, live
from patchd.daemon.api.history_schemas import History
from patchd.daemon.api.schemas import Event
from patchd.daemon.history_reader import Period, read_history
from patchd.daemon.report.page import page as report_page
from patchd.daemon.report.panels import data

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")

NOON = 1_780_000_800.0 - 1_780_000_800.0 % 3600
HOURS = 3.0
DESKTOP, PHONE = (1280, 900), (360, 740)
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
HOSTILE = "</script><img src=x onerror=alert(1)>'\"&amp;"

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    state = tmp_path_factory.mktemp("state")
    with device(state, NOON) as made:
        live(made, HOURS, tasks=("imagenet", HOSTILE))
        made.store.put_event(Event(id=999, time_s=NOON + 60, level="error", kind="a.b", message=HOSTILE, data={}))
    return History.model_validate_json(read_history(state, Period(NOON, NOON + HOURS * 3600, 720), NOON + HOURS * 3600))


@pytest.fixture(scope="module")
def file(history: History, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("report") / "report.html"
    written.write_text(report_page(history, host=f"kiosk {HOSTILE}"), encoding="utf-8")
    return written


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield opened
        opened.close()


@contextmanager
def opened(browser: Any, file: Path, size: tuple[int, int] = DESKTOP, **options: Any) -> Iterator[Any]:
    """The file in a window of its own, without a network; whatever goes wrong in it fails the test."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, offline=True, **options)
    shown = context.new_page()
    wrong: list[str] = []
    shown.on("console", lambda message: wrong.append(message.text))
    shown.on("pageerror", lambda error: wrong.append(str(error)))
    shown.on("dialog", lambda dialog: wrong.append(dialog.message))
    shown.on("request", lambda request: wrong.append(request.url) if request.url != file.as_uri() else None)
    shown.goto(file.as_uri())
    if options.get("java_script_enabled", True):
        shown.wait_for_selector("#panels svg.plot path", state="attached")
    yield shown
    context.close()
    assert wrong == []


def extent(shown: Any) -> tuple[float, float]:
    """What the axis shows, in seconds from the period's start."""
    drawn = shown.locator("#plots")
    return float(drawn.get_attribute("data-from")), float(drawn.get_attribute("data-to"))


def until_extent(shown: Any, wanted: str) -> tuple[float, float]:
    """Wait until what the axis shows fulfils a condition on `a` and `b`."""
    shown.wait_for_function(
        f"() => {{ const p = document.getElementById('plots').dataset, a = +p.from, b = +p.to; return {wanted}; }}"
    )
    return extent(shown)


def grids(shown: Any) -> list[list[str]]:
    """The places of the vertical lines in each panel."""
    found: list[list[str]] = shown.evaluate(
        "() => [...document.querySelectorAll('svg.plot')].map(s => [...s.querySelectorAll('g line.grid')]"
        ".filter(l => l.getAttribute('x1') === l.getAttribute('x2')).map(l => l.getAttribute('x1')))"
    )
    return found


def plot(shown: Any, panel: str = "inference") -> dict[str, float]:
    drawn = shown.locator(f'[data-panel="{panel}"] svg.plot')
    drawn.scroll_into_view_if_needed()
    box: dict[str, float] = drawn.bounding_box()
    return box


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_is_drawn_whole_without_a_network_and_nothing_is_wider_than_the_screen(
    browser: Any, file: Path, history: History, size: tuple[int, int], scheme: str
) -> None:
    with opened(browser, file, size, color_scheme=scheme) as shown:
        panels = data(history)["panels"]
        assert shown.locator("#panels svg.plot").count() == len(panels)
        assert shown.evaluate("document.documentElement.scrollWidth") <= size[0]
        ground = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground))) > 380) == (scheme == "light")
        for panel in panels:
            box = plot(shown, panel["id"])
            assert box["width"] >= min(1100, size[0] - 40)
            assert box["x"] + box["width"] <= size[0]
            assert box["height"] > 60


def test_every_panel_draws_as_many_points_as_there_are(browser: Any, file: Path, history: History) -> None:
    with opened(browser, file) as shown:
        for panel in data(history)["panels"]:
            box = shown.locator(f'[data-panel="{panel["id"]}"]')
            if panel["kind"] == "marks":
                assert box.locator("path[class^=mark-]").count() == len(history.events)
                continue
            if panel["kind"] == "bars":
                assert box.locator("rect[data-i]").count() == len(history.slices)
                continue
            assert box.locator(".legend button").count() == len(panel["series"])
            for place, series in enumerate(panel["series"]):
                drawn = box.locator(f'path[data-series="{place}"]').get_attribute("d")
                if panel["kind"] == "step":
                    assert drawn.count("M") + drawn.count("V") == sum(value is not None for value in series["v"])
                elif panel["kind"] == "line":
                    assert drawn.count("L") == sum(value is not None for value in series["v"])
                else:
                    assert drawn.count("L") + drawn.count("M") == 4 * sum(value is not None for value in series["v"])


def test_dragging_zooms_every_panel_and_reset_shows_everything_again(browser: Any, file: Path) -> None:
    with opened(browser, file) as shown:
        whole, before = extent(shown), grids(shown)
        assert whole == (0.0, HOURS * 3600)
        assert all(each == before[0] for each in before)
        box = plot(shown, "rungs")
        for end, act in ((0.3, shown.mouse.down), (0.6, shown.mouse.up)):
            shown.mouse.move(box["x"] + 52 + end * (box["width"] - 62), box["y"] + 40)
            if end == 0.6:
                widths = shown.evaluate(
                    "() => [...document.querySelectorAll('rect.chosen')].map(r => +r.getAttribute('width'))"
                )
                assert len(widths) == len(before)
                assert min(widths) == max(widths) > 100
            act()
        from_s, to_s = until_extent(shown, f"b - a < {0.5 * whole[1]}")
        assert from_s == pytest.approx(0.3 * whole[1], abs=30)
        assert to_s == pytest.approx(0.6 * whole[1], abs=30)
        after = grids(shown)
        assert after != before
        assert all(each == after[0] for each in after)
        shown.get_by_role("button", name="Reset").click()
        assert until_extent(shown, f"b - a === {whole[1]}") == whole
        assert grids(shown) == before


def test_wheel_buttons_and_keys_move_about(browser: Any, file: Path) -> None:
    with opened(browser, file) as shown:
        whole = extent(shown)[1]
        box = plot(shown)
        shown.mouse.move(box["x"] + 52, box["y"] + 30)
        top = shown.evaluate("scrollY")
        shown.keyboard.down("Control")
        shown.mouse.wheel(0, -400)
        shown.keyboard.up("Control")
        from_s, to_s = until_extent(shown, f"b - a < {whole * 0.5}")
        assert from_s == pytest.approx(0.0, abs=30)  # it zooms where the pointer is
        assert shown.evaluate("scrollY") == top
        shown.get_by_role("button", name="Later").click()
        until_extent(shown, f"a > {from_s + 0.2 * (to_s - from_s)}")
        shown.locator("#panels").focus()
        shown.keyboard.press("0")
        until_extent(shown, f"a === 0 && b === {whole}")
        shown.keyboard.press("+")
        from_s, to_s = until_extent(shown, f"b - a < {whole * 0.6}")
        assert (from_s + to_s) / 2 == pytest.approx(whole / 2, abs=2)
        shown.keyboard.press("Shift+ArrowLeft")
        until_extent(shown, f"a < {from_s - 1}")
        shown.keyboard.press("ArrowRight")
        assert "inference" not in shown.locator("#readout").text_content()
        assert re.fullmatch(r"\w{3} \d\d-\d\d \d\d:\d\d:\d\d", shown.locator("#readout").text_content())
        values = shown.locator('[data-panel="inference"] .legend .value').all_text_contents()
        assert all(0 <= float(value) <= 1 for value in values)


def test_two_fingers_pinch_and_one_moves_on(browser: Any, file: Path) -> None:
    with opened(browser, file, PHONE, has_touch=True, is_mobile=True) as shown:
        whole = extent(shown)[1]
        box = plot(shown)
        touches = shown.context.new_cdp_session(shown)

        def touch(kind: str, *places: float) -> None:
            points = [{"x": x, "y": box["y"] + 50, "id": i} for i, x in enumerate(places)]
            touches.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        touch("touchStart", 180, 220)
        for spread in (20, 40, 60, 80):
            touch("touchMove", 180 - spread, 220 + spread)
        touch("touchEnd")
        from_s, _ = until_extent(shown, f"b - a < {whole * 0.6}")
        touch("touchStart", 200)
        for moved in (20, 40, 60):
            touch("touchMove", 200 + moved)
        touch("touchEnd")
        until_extent(shown, f"a < {from_s - 60}")


def test_a_series_can_be_hidden_and_a_press_on_a_slice_shows_its_row(browser: Any, file: Path) -> None:
    with opened(browser, file) as shown:
        rungs = shown.locator('[data-panel="rungs"]')
        assert rungs.locator(".legend button").all_text_contents() == ["imagenet", HOSTILE]
        rungs.locator(".legend button").first.click()
        assert rungs.locator(".legend button").first.get_attribute("aria-pressed") == "false"
        assert rungs.locator('path[data-series="0"]').count() == 0
        assert rungs.locator('path[data-series="1"]').count() == 1
        bar = shown.locator('[data-panel="slices"] rect[data-i="3"]')
        bar.click(force=True)
        assert shown.locator("#slices tr.picked").get_attribute("data-i") == "3"


def test_tables_sort_by_number_and_by_text_in_both_directions(browser: Any, file: Path) -> None:
    with opened(browser, file) as shown:
        answered = shown.locator("#tasks th").nth(1)

        def column(table: str, place: int) -> list[str]:
            texts: list[str] = shown.locator(f"#{table} tbody tr td:nth-child({place})").all_text_contents()
            return texts

        answered.get_by_role("button").click()
        assert answered.get_attribute("aria-sort") == "ascending"
        counts = [int(re.sub(r"\D", "", text)) for text in column("tasks", 2)]
        assert counts == sorted(counts)
        assert len(set(counts)) == 2
        answered.get_by_role("button").click()
        assert [int(re.sub(r"\D", "", text)) for text in column("tasks", 2)] == counts[::-1]
        before = column("signals", 1)
        shown.locator("#signals th button").first.click()
        assert column("signals", 1) == sorted(before, key=str.lower)
        shown.locator("#slices th button").nth(8).click()
        assert column("slices", 9) != []


def test_it_is_read_without_its_script(browser: Any, file: Path, history: History) -> None:
    with opened(browser, file, PHONE, java_script_enabled=False) as shown:
        assert shown.get_by_text("The charts need JavaScript.").is_visible()
        assert shown.locator("#plots").is_hidden()
        assert shown.locator("#theme").is_hidden()
        for table in ("by-time", "allocations", "tasks", "stages", "slices", "events", "signals"):
            assert shown.locator(f"#{table} tbody tr").first.is_visible()
        assert shown.locator("#slices tbody tr").count() == len(history.slices)
        assert shown.locator("#summary p").count() >= 5


def test_light_and_dark_can_be_chosen(browser: Any, file: Path) -> None:
    with opened(browser, file, color_scheme="light") as shown:
        seen = []
        for name in ("light", "dark", "system"):
            shown.locator("#theme").click()
            assert shown.locator("#theme").text_content() == f"Theme: {name}"
            seen.append(shown.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert seen[0] == seen[2] != seen[1]


def test_a_period_with_nothing_in_it_says_so(browser: Any, tmp_path: Path) -> None:
    with device(tmp_path / "state", NOON) as made:
        for _ in range(4):
            made.see(decided(made.now_s, 1.0))
            made.wait(20)
        made.recorder.close()
    told = History.model_validate_json(read_history(tmp_path / "state", Period(NOON, NOON + 90, 720), NOON + 90))
    file = tmp_path / "report.html"
    file.write_text(report_page(told), encoding="utf-8")
    with opened(browser, file, PHONE) as shown:
        text = shown.locator("#panels").text_content()
        for sentence in ("No training in this period.", "No events in this period.", "No predictions were asked for"):
            assert sentence in text
        assert shown.locator('[data-panel="inference"] path[data-series="0"]').get_attribute("d").startswith("M")
        assert "Unchanged all the time:" in shown.locator("#plots").text_content()
        packed = json.loads(shown.locator("#data").text_content())
        assert packed["from"] == NOON
