"""Loss against cost of every cascade that the search weighed, as PNG or SVG, with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...policies.errors import BadInputError, ConflictError, UnavailableError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ...policies.cascade import Cascade
    from ..api.schemas import CascadePoints, CascadeView

SUFFIXES = (".png", ".svg")
GREY, BLUE, ORANGE, RED = "#b8bcc2", "#1f6fb4", "#d9690f", "#b3261e"


def check_outputs(outputs: Sequence[Path], force: bool) -> None:
    """Raise BadInputError for a file that is no picture, ConflictError for one that is there already."""
    for output in outputs:
        if output.suffix.lower() not in SUFFIXES:
            raise BadInputError(f"{output}: pictures are written as .png or .svg.")
        if output.exists() and not force:
            raise ConflictError(f"{output} is there already.", hint="Overwrite it with --force.")


def draw(view: CascadeView, found: CascadePoints, outputs: Sequence[Path]) -> None:
    """Write the picture to every file. Raises UnavailableError without matplotlib, BadInputError for a bad path."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnavailableError(
            f"Plotting needs matplotlib: {error}.", hint="Install the extra: pip install 'patchd[plot]'."
        ) from error
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    others = [p for p in found.points if not p.frontier and not p.chosen]
    frontier = sorted((p for p in found.points if p.frontier), key=lambda p: p.cost_ms)
    chosen = [p for p in found.points if p.chosen]
    axes.scatter([p.cost_ms for p in others], [100 * p.loss for p in others], s=14, c=GREY, label="candidates")
    axes.plot(
        [p.cost_ms for p in frontier],
        [100 * p.loss for p in frontier],
        drawstyle="steps-post",
        marker="o",
        markersize=4,
        color=BLUE,
        label="frontier",
    )
    if view.state is not None:
        _mark(axes, view.state.cascade)
    star_x, star_y = [p.cost_ms for p in chosen], [100 * p.loss for p in chosen]
    axes.scatter(star_x, star_y, marker="*", s=170, c=ORANGE, label="chosen", zorder=5)
    basis = "accuracy lost against the reference" if found.basis == "labels" else "answers unlike the reference's"
    axes.set_xlabel("mean cost of an image, ms")
    axes.set_ylabel(f"{basis}, % of the images searched on")
    axes.set_xlim(left=0)
    axes.set_title(f"Cascades of task {found.task}")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    for output in outputs:
        try:
            figure.savefig(output)
        except OSError as error:
            raise BadInputError(f"{output}: cannot be written: {error.strerror}.") from error


def _mark(axes: Axes, cascade: Cascade) -> None:
    """The reference, and the line of what may be lost."""
    promise = cascade.promise
    label = f"reference: {cascade.reference}"
    axes.scatter([cascade.reference_cost_ms], [0.0], marker="s", s=60, c=RED, label=label)
    axes.axhline(100 * promise.epsilon, color=ORANGE, linewidth=1, linestyle="--")
    axes.annotate(
        f"{'promised' if promise.holds else 'asked for'}: at most {promise.epsilon:.1%}",
        (1.0, 100 * promise.epsilon),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        color=ORANGE,
        fontsize=8,
    )
