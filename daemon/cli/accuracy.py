"""Top-1 over a list of images whose directories name their classes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...policies.errors import BadInputError, NotFoundError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


def wilson(correct: int, samples: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion (Wilson, 1927), for `samples` of at least 1."""
    share, z2 = correct / samples, _Z95 * _Z95
    centre = (share + z2 / (2 * samples)) / (1 + z2 / samples)
    half = _Z95 / (1 + z2 / samples) * math.sqrt(share * (1 - share) / samples + z2 / (4 * samples * samples))
    # At the ends the interval touches 0 and 1 exactly; rounding would miss them.
    return (0.0 if correct == 0 else centre - half), (1.0 if correct == samples else centre + half)


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The given files, and for a directory all images below it in the order of their paths.

    Raises NotFoundError for a path that does not exist, BadInputError for a directory without images.
    """
    return [file for path in paths for file in _below(path)]


def _below(path: Path) -> Iterator[Path]:
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
        if not found:
            raise BadInputError(f"{path}: holds no {', '.join(IMAGE_SUFFIXES)} file.")
        yield from found
    elif path.exists():
        yield path
    else:
        raise NotFoundError(f"{path}: there is no such file or directory.")


class Classes:
    """Finds the class a name stands for: a label of the task, its index, or a name that a map file gives."""

    def __init__(self, task: str, labels: Sequence[str], label_map: Path | None = None) -> None:
        self._task = task
        self._labels = tuple(labels)
        self._indices = {label.casefold(): index for index, label in reversed(list(enumerate(labels)))}
        self._indices |= {label: index for index, label in enumerate(labels)}
        self._named = {} if label_map is None else self._read_map(label_map)

    def index(self, name: str, what: str) -> int:
        """The class's index. Raises BadInputError that says `what` has no class."""
        for found in (self._named.get(name), self._plain(name)):
            if found is not None:
                return found
        some = ", ".join(self._labels[:8]) + (", ..." if len(self._labels) > 8 else "")
        raise BadInputError(
            f"{what} '{name}' is no label of task '{self._task}' ({some}).",
            hint="Name it as the label or its index, or map names to labels with --label-map.",
        )

    def _plain(self, name: str) -> int | None:
        exact = self._indices.get(name, self._indices.get(name.casefold()))
        if exact is None and name.isdecimal() and int(name) < len(self._labels):
            return int(name)
        return exact

    def _read_map(self, file: Path) -> dict[str, int]:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInputError(f"{file}: cannot be read as UTF-8 text.") from error
        named: dict[str, int] = {}
        for line in lines:
            columns = [column.strip() for column in line.split("\t")]
            index = next((found for column in columns if (found := self._plain(column)) is not None), None)
            if index is not None:
                named.update({column: index for column in columns if column})
        if not named:
            raise BadInputError(f"{file}: no line names a label of task '{self._task}' or its index.")
        return named


@dataclass
class Tally:
    """Right and wrong answers, in all and per class."""

    images: int = 0
    correct: int = 0
    failed: int = 0
    per_class: dict[str, tuple[int, int]] = field(default_factory=dict)
    resolutions: dict[int, int] = field(default_factory=dict)
    total_ms: float = 0.0

    def add(self, label: str, right: bool, resolution: int, total_ms: float) -> None:
        """Count one answer to an image of class `label`."""
        self.images += 1
        self.correct += right
        seen, hits = self.per_class.get(label, (0, 0))
        self.per_class[label] = (seen + 1, hits + right)
        self.resolutions[resolution] = self.resolutions.get(resolution, 0) + 1
        self.total_ms += total_ms

    def as_dict(self, task: str) -> dict[str, object]:
        """The tally for `--json`."""
        low, high = wilson(self.correct, self.images) if self.images else (None, None)
        return {
            "task": task,
            "images": self.images,
            "correct": self.correct,
            "failed": self.failed,
            "top1": self.correct / self.images if self.images else None,
            "low": low,
            "high": high,
            "mean_ms": self.total_ms / self.images if self.images else None,
            "resolutions": self.resolutions,
            "classes": {
                label: {"images": seen, "correct": hits} for label, (seen, hits) in sorted(self.per_class.items())
            },
        }

    def text(self, task: str) -> str:
        """The tally in two lines."""
        failed = f", {self.failed} failed" if self.failed else ""
        if not self.images:
            return f"top-1 of task '{task}': no image was answered{failed}."
        low, high = wilson(self.correct, self.images)
        used = ", ".join(f"{count} at {side} px" for side, count in sorted(self.resolutions.items(), reverse=True))
        return (
            f"top-1 of task '{task}': {self.correct / self.images * 100:.1f} % "
            f"({self.correct} of {self.images}{failed}), 95 % interval {low * 100:.1f} to {high * 100:.1f} %\n"
            f"{used}; mean {self.total_ms / self.images:.1f} ms an image"
        )
