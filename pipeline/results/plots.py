"""Matplotlib plots, drawn without a display and written atomically as PNG."""

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
TRAINING_COLOUR, VALIDATION_COLOUR = "tab:blue", "tab:orange"
MIN_GRADIENT_SHARE = 1e-9
"""Lower limit of the gradient axis: a smaller gradient changes no weight."""


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of a size in inches, without pyplot and its windows."""
    # by default matplotlib creates a folder in ~/.config
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    os.environ.setdefault("MPLCONFIGDIR", str(cache / "clipline" / "matplotlib"))
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG image."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DOTS_PER_INCH)
    write_bytes(png.getvalue(), path)


def plot_training(
    curves: Sequence[tuple[str, Sequence[float], Sequence[float | None]]],
    best_epoch: int,
    path: Path,
) -> None:
    """
    Plot metrics by epoch, one panel per metric.

    Args:
        curves: name of each metric, its training values and its validation values (None where
            an epoch was not validated); one value per epoch.
        best_epoch: epoch whose weights are used, counted from 1.
        path: PNG file to write.
    """
    figure = new_figure(4.2 * len(curves), 3.2)
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (name, training, validation) in zip(panels, curves, strict=True):
        _plot_curve(axes, training, "training", TRAINING_COLOUR)
        _plot_curve(axes, validation, "validation", VALIDATION_COLOUR)
        axes.axvline(best_epoch, color="0.6", linewidth=1, linestyle=":")
        axes.set_title(name)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
        if len(axes.get_lines()) > 2:
            axes.legend(frameon=False)
    save_figure(figure, path)


def _plot_curve(axes: Axes, values: Sequence[float | None], name: str, colour: str) -> None:
    points = [(epoch, value) for epoch, value in enumerate(values, start=1) if value is not None]
    if points:
        epochs, heights = zip(*points, strict=True)
        marker = "o" if len(points) == 1 else None
        axes.plot(epochs, heights, label=name, color=colour, marker=marker)


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a figure with several panels."""

    panel: str
    name: str
    x: NDArray[Any]
    y: NDArray[Any]


def plot_diagnosis(curves: Sequence[Curve], path: Path) -> None:
    """
    Plot gradients by lag before and after training, and gradient norms during training.

    Args:
        curves: panels `before training` and `after training`: gradient norm by lag in seconds,
            divided by its maximum; panel `during training`: gradient norm by epoch.
        path: PNG file to write.
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
        _format_panel(axes, panel)
    lines = {str(line.get_label()): line for axes in grid for line in axes.get_lines()}
    figure.legend(list(lines.values()), list(lines), loc="outside lower center", ncols=len(names))
    save_figure(figure, path)


def _format_panel(axes: Axes, panel: str) -> None:
    axes.set_title(panel)
    axes.set_yscale("log")
    axes.grid(alpha=0.25)
    if panel == "during training":
        axes.set_xlabel("epoch")
        axes.set_ylabel("gradient norm before clipping")
        return
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, MIN_GRADIENT_SHARE), max(high, 2.0))
    axes.set_xlabel("lag in seconds")
    axes.set_ylabel("‖∂L_T/∂x_{T−k}‖, divided by its maximum")
