"""Plots of an evaluation: confusion matrix, accuracy of methods, reliability diagram."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.results.plots import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_NUMBERED_LABELS = 20
"""With more labels, the cells of a confusion matrix are too small for numbers."""

Numbers = NDArray[np.float64]


def plot_confusion(counts: Numbers, labels: Sequence[str], path: Path) -> None:
    """
    Plot a confusion matrix: shares of each row as colours, clips as numbers.

    Args:
        counts: clips by true (row) and predicted label (column), (K, K).
        labels: K names.
        path: PNG file.
    """
    side = float(np.clip(1.6 + 0.55 * len(labels), 4.0, 14.0))
    figure, axis = _new_figure(side + 1.0, side)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1e-12)
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axis, label="share of the true label", shrink=0.8)
    names = [label.replace("$", r"\$") for label in labels]  # $ would start a formula
    ticks = range(len(labels))
    axis.set_xticks(ticks, names, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(ticks, names)
    axis.set(xlabel="predicted label", ylabel="true label")
    if len(labels) <= MAX_NUMBERED_LABELS:
        _write_numbers(axis, counts, shares)
    _save(figure, path)


def _write_numbers(axis: Axes, counts: Numbers, shares: Numbers) -> None:
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "black"
        number = f"{counts[row, column]:.3g}"
        axis.text(column, row, number, ha="center", va="center", color=colour)


def plot_methods(accuracies: Mapping[str, Sequence[float]], path: Path) -> None:
    """
    Plot the accuracy of each method as a bar, with a dot per seed.

    Args:
        accuracies: by method in plotting order, one per seed.
        path: PNG file.
    """
    figure, axis = _new_figure(8.0, 0.8 + 0.42 * len(accuracies))
    means = [float(np.mean(values)) for values in accuracies.values()]
    positions = range(len(means))
    axis.barh(positions, means, color=["C0", *["0.78"] * (len(means) - 1)], height=0.65)
    for position, values in zip(positions, accuracies.values(), strict=True):
        if len(values) > 1:
            axis.plot(values, [position] * len(values), "o", color="black", ms=4, alpha=0.5)
        axis.text(1.01, position, f"{means[position]:.3f}", va="center")
    axis.set_yticks(positions, list(accuracies))
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xlabel="accuracy")
    axis.grid(axis="x", alpha=0.3)
    _save(figure, path)


def plot_reliability(confidence: Numbers, accuracy: Numbers, clips: Numbers, path: Path) -> None:
    """
    Plot a reliability diagram: accuracy by confidence; the diagonal is perfect calibration.

    Args:
        confidence: mean predicted probability of each bin, (bins,).
        accuracy: share of correct predictions in each bin, (bins,).
        clips: predictions in each bin, (bins,); empty bins are not plotted.
        path: PNG file.
    """
    figure, axis = _new_figure(5.2, 4.6)
    filled = clips > 0
    axis.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
    axis.plot(confidence[filled], accuracy[filled], color="C0", alpha=0.4)
    sizes = 20 + 400 * clips[filled] / clips.sum()
    axis.scatter(confidence[filled], accuracy[filled], s=sizes, color="C0", alpha=0.8)
    axis.set(xlim=(0, 1.02), ylim=(-0.02, 1.02), xlabel="predicted probability")
    axis.set_ylabel("accuracy (larger dots: more clips)")
    axis.grid(alpha=0.3)
    _save(figure, path)


def _new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Make an empty figure; its size is in inches."""
    figure = new_figure(width, height)
    return figure, figure.subplots()


def _save(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", r"Glyph \d+ .* missing"
        )  # labels in scripts that the font lacks
        save_figure(figure, path)
