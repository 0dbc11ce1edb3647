"""Pictures of figures, drawn without a display and written whole or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from pipeline.storage import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 120
LEARNED, HELD_BACK = "tab:blue", "tab:orange"


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of a size in inches, which belongs to no window."""
    # else it makes a folder among the settings of the user
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    os.environ.setdefault("MPLCONFIGDIR", str(cache / "clipline" / "matplotlib"))
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG picture."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DOTS_PER_INCH)
    write_bytes(drawn.getvalue(), path)


def plot_learning(
    curves: Sequence[tuple[str, Sequence[float], Sequence[float | None]]],
    best: int,
    path: Path,
) -> None:
    """
    Draw how figures changed from epoch to epoch, side by side.

    Args:
        curves: name of each figure, its values on the examples learned from, and on those held
            back, None where there are none; one value an epoch.
        best: number of the epoch, from 1, whose weights are used.
        path: of the picture.
    """
    figure = new_figure(4.2 * len(curves), 3.2)
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (name, learned, held_back) in zip(panels, curves, strict=True):
        _plot_curve(axes, learned, "learned from", LEARNED)
        _plot_curve(axes, held_back, "held back", HELD_BACK)
        axes.axvline(best, color="0.6", linewidth=1, linestyle=":")
        axes.set_title(name)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
        if len(axes.get_lines()) > 2:
            axes.legend(frameon=False)
    save_figure(figure, path)


def _plot_curve(axes: Axes, values: Sequence[float | None], name: str, colour: str) -> None:
    known = [(number, value) for number, value in enumerate(values, start=1) if value is not None]
    if known:
        numbers, heights = zip(*known, strict=True)
        marker = "o" if len(known) == 1 else None
        axes.plot(numbers, heights, label=name, color=colour, marker=marker)


SMALLEST_SHARE = 1e-9
"""Below it a gradient is not drawn: no step of training would notice it."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a picture of several panels."""

    panel: str
    name: str
    x: NDArray[Any]
    y: NDArray[Any]


def plot_diagnosis(curves: Sequence[Curve], path: Path) -> None:
    """
    Draw gradients by lag before and after training, and gradient norms during it.

    Args:
        curves: panels `before training` and `after training` over seconds, as shares of the
            greatest; panel `during training` over epochs.
        path: of the picture.
    """
    panels = list(dict.fromkeys(curve.panel for curve in curves))
    names = list(dict.fromkeys(curve.name for curve in curves))
    figure = new_figure(5.2 * len(panels), 4.4)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for panel, axes in zip(panels, grid, strict=True):
        for curve in curves:
            if curve.panel == panel:
                marker = "o" if len(curve.x) == 1 else None
                colour = f"C{names.index(curve.name)}"
                axes.plot(curve.x, curve.y, label=curve.name, color=colour, marker=marker)
        _name_panel(axes, panel)
    lines = {str(line.get_label()): line for axes in grid for line in axes.get_lines()}
    figure.legend(list(lines.values()), list(lines), loc="outside lower center", ncols=len(names))
    save_figure(figure, path)


def _name_panel(axes: Axes, panel: str) -> None:
    axes.set_title(panel)
    axes.set_yscale("log")
    axes.grid(alpha=0.25)
    if panel == "during training":
        axes.set_xlabel("epoch")
        axes.set_ylabel("gradient norm before clipping")
        return
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, SMALLEST_SHARE), max(high, 2.0))
    axes.set_xlabel("lag in seconds")
    axes.set_ylabel("‖∂L_T/∂x_{T−k}‖, share of its greatest")
