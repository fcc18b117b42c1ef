"""See patchd at work in a few minutes: `make demo`.

Starts the real daemon on a temporary state directory and socket and drives it through `patchctl` only: predictions, a
new task, training of its patches, and a recorded change of the device's resources. Leaves nothing running.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import textwrap
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from session import DemoError, Session

RESOLUTIONS = (128, 96, 64)
EPOCHS = 3
HELD_OUT_DIGIT = 17  # of scikit-learn's 1797; one of the test part, a 7
REPEATS = 5


def main() -> int:
    """Run the demo; 0 if every step did what it must."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", default="demo", help="trace to replay: a built-in name or a file [default: demo]")
    parser.add_argument("--speed", default="1", help="times as fast as recorded [default: 1]")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="also save the part with the trace as SVG")
    arguments = parser.parse_args()
    began = time.monotonic()
    try:
        with Session() as session:
            story(session, arguments)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; the daemon is stopped and its files are removed.", file=sys.stderr)
        return 130
    print(f"\nThe demo took {time.monotonic() - began:.0f} s and has left nothing behind.")
    return 0


def story(session: Session, arguments: argparse.Namespace) -> None:
    """All steps, in order. Raises DemoError at the first that fails."""
    photographs = sample_photographs()
    digit = write_digit(session.folder / "held-out-7.png")

    heading(session, 1, "The daemon, on a temporary state directory and socket")
    session.start(Path(__file__).with_name("steady.toml"))
    session.show("status")

    heading(session, 2, "The built-in task: 1000 ImageNet labels, EfficientNet-Lite0")
    session.show("infer", "--task", "imagenet", "--top", "3", *map(str, photographs))

    heading(session, 3, "A new task on the same base: handwritten digits")
    sides = ",".join(map(str, RESOLUTIONS))
    session.show("task", "add", "digits", "--data", "sklearn:digits", "--resolutions", sides, "--crop", "1.0")

    heading(session, 4, "Train its patches in the background: the head alone, then scale and bias with the head")
    epochs = str(EPOCHS)
    session.follow("train", "submit", "--task", "digits", "--kinds", "head", "--epochs", epochs, "--follow")
    session.follow("train", "submit", "--task", "digits", "--kinds", "scale_bias,head", "--epochs", epochs, "--follow")
    accuracies = accuracy_rows(session.ask("train", "list")[0]["jobs"])
    session.say("\nTop-1 on held-out digits, with the 95 % interval:\n")
    session.say(table(("input", "head alone", "scale and bias + head", "images", "patch, of base"), accuracies))

    heading(session, 5, "The device changes: a recorded trace takes its place in the monitor")
    session.show("policy", "use", "balanced")  # so far steady.toml has kept other work out of the comparison
    session.show("profile", "--run")  # the costs that decisions rest on, measured while nothing trains
    mark = len(session.transcript)
    watched = watch_trace(session, arguments, photographs[0], digit)
    session.say("\nWhat was seen, with the median of the daemon's own timing:\n")
    session.say(table(("device", "allocation", "task", "input", "rounds", "median ms"), summary_rows(watched)))
    if arguments.picture:
        save_picture(session.transcript[mark:], arguments.picture)

    heading(session, 6, "Why it decided so, at the first prediction on a low battery")
    restricted = next(answer for answer in watched if answer["allocation"] < 1)
    session.show("explain", "--request", restricted["request_id"])

    heading(session, 7, "The end: SIGTERM")
    status, took, left = session.stop()
    session.say(f"patchd ended with exit status {status} after {took:.1f} s; {len(left)} processes left.")
    if status != 0 or left:
        raise DemoError("patchd did not end in order.")


def heading(session: Session, number: int, text: str) -> None:
    """The title of a step."""
    line = f"{number}. {text}"
    session.say(f"\n{line}\n{'=' * len(line)}")


def sample_photographs() -> list[Path]:
    """The two photographs that scikit-learn ships. Found without importing it."""
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DemoError("scikit-learn is not installed; `make demo` installs it.")
    folder = Path(spec.origin).parent / "datasets" / "images"
    return [folder / "china.jpg", folder / "flower.jpg"]


def write_digit(file: Path) -> Path:
    """One held-out handwritten digit as a PNG file."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    pixels = load_digits().images[HELD_OUT_DIGIT]
    Image.fromarray(np.rint(pixels * (255 / 16)).astype(np.uint8)).save(file)
    return file


def accuracy_rows(jobs: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """One row a resolution: held-out accuracy of the head alone and of scale and bias with the head."""
    found: dict[tuple[int, bool], dict[str, Any]] = {}
    for job in jobs:
        for result in job["results"]:
            found[result["resolution"], "scale_bias" in job["spec"]["kinds"]] = result
    rows: list[tuple[str, ...]] = []
    for side in RESOLUTIONS:
        head, both = found[side, False], found[side, True]
        share = f"{head['share']:.2%} | {both['share']:.2%}"
        rows.append((f"{side} px", accuracy(head), accuracy(both), str(both["test"]["samples"]), share))
    return rows


def accuracy(result: dict[str, Any]) -> str:
    """Held-out accuracy with its interval, in percent."""
    test = result["test"]
    return f"{test['accuracy'] * 100:.1f} [{test['low'] * 100:.1f}, {test['high'] * 100:.1f}]"


def watch_trace(session: Session, arguments: argparse.Namespace, photograph: Path, digit: Path) -> list[dict[str, Any]]:
    """Replay the trace and predict all the while; a change of allocation or resolution is shown with its reasons."""
    session.show("replay", arguments.trace, "--live", "--speed", arguments.speed)
    while not session.ask("status")[0]["snapshot"]["source"].startswith("trace:"):
        time.sleep(0.1)
    began, watched = time.monotonic(), list[dict[str, Any]]()
    shown: tuple[float | int, ...] = ()
    while (status := session.ask("status")[0])["trace"] is not None:
        device = device_words(status["snapshot"])
        answers = [
            median_answer(session.ask("infer", "--task", task, *[str(file)] * REPEATS))
            for task, file in (("imagenet", photograph), ("digits", digit))
        ]
        if {answer["allocation"] for answer in answers} != {status["decision"]["inference"]["value"]}:
            continue  # it changed between the commands: `device` is not what these answers rest on
        watched += [{"device": device, **answer} for answer in answers]
        state = (answers[0]["allocation"], *(answer["resolution"] for answer in answers))
        if state != shown:
            session.say(f"\n{time.monotonic() - began:4.0f} s  {device}")
            show_change(session, status, answers)
            shown = state
    if len({answer["resolution"] for answer in watched}) < 2 or min(answer["allocation"] for answer in watched) == 1:
        raise DemoError("neither allocation nor resolution changed while the trace was replayed.")
    return watched


def median_answer(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The answer whose time is the median of a few predictions."""
    return sorted(answers, key=lambda answer: float(answer["timing"]["total_ms"]))[len(answers) // 2]


def show_change(session: Session, status: dict[str, Any], answers: Sequence[dict[str, Any]]) -> None:
    """Allocations, then each task's resolution, time and answer, then why."""
    training = status["decision"]["training"]["value"]
    session.say(f"        allocation: inference {answers[0]['allocation']:.2f}, training {training:.2f}")
    for answer in answers:
        best, time_ms = answer["predictions"][0], answer["timing"]["total_ms"]
        session.say(
            f"        {answer['task']:<9} {answer['resolution']:>3} px  {time_ms:6.1f} ms  "
            f"{best['label']} ({best['probability']:.0%})"
        )
    indent = " " * 8
    session.say(
        textwrap.fill(f"why: {answers[0]['why']}", 98, initial_indent=indent, subsequent_indent=indent + " " * 5)
    )


def device_words(snapshot: dict[str, Any]) -> str:
    """The device in a few words, in steps coarse enough to group by."""
    power, busy = snapshot["power"], snapshot["cpu"]["busy"]
    words = []
    if power["on_mains"] is not None:
        words.append("on mains" if power["on_mains"] else "on battery")
    if power["battery_charge"] is not None:
        words.append("battery low" if power["battery_charge"] < 0.3 else "battery well")
    if busy is not None:
        words.append("processor busy" if busy > 0.6 else "processor free")
    return ", ".join(words)


def summary_rows(watched: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Answers grouped by allocation, task and resolution; the device is the one seen most often with the group."""
    groups: dict[tuple[float, str, int], list[dict[str, Any]]] = {}
    for answer in watched:
        groups.setdefault((answer["allocation"], answer["task"], answer["resolution"]), []).append(answer)
    rows: list[tuple[str, ...]] = []
    for (allocation, task, side), answers in sorted(groups.items(), reverse=True):
        device = statistics.mode(answer["device"] for answer in answers)
        median_ms = statistics.median(answer["timing"]["total_ms"] for answer in answers)
        rows.append((device, f"{allocation:.2f}", task, f"{side} px", str(len(answers)), f"{median_ms:.1f}"))
    return rows


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns."""
    sizes = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [header, ["-" * size for size in sizes], *rows]
    return "\n".join(
        "  ".join(cell.ljust(size) for cell, size in zip(line, sizes, strict=True)).rstrip() for line in lines
    )


def save_picture(lines: Sequence[str], file: Path) -> None:
    """What was printed, as an SVG of a terminal."""
    import io

    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=100, file=io.StringIO())
    for line in "\n".join(lines).strip().splitlines():
        console.print(Text(line, style="bold green" if line.startswith("$ ") else ""))
    svg = console.export_svg(title="make demo")
    file.write_text(
        re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL), encoding="utf-8"
    )  # no fonts from elsewhere


if __name__ == "__main__":
    sys.exit(main())
