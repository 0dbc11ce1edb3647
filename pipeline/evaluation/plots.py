"""Pictures of an evaluation, drawn without a display."""

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

MOST_NUMBERED = 20
"""Labels of a confusion matrix above which its cells have no room for numbers."""

Numbers = NDArray[np.float64]


def plot_confusion(counts: Numbers, labels: Sequence[str], path: Path) -> None:
    """
    Draw a confusion matrix: shares of each row as shades, clips as numbers.

    Args:
        counts: clips of each label (row) that were given each (column), (K, K).
        labels: their K names.
        path: PNG file.
    """
    side = float(np.clip(1.6 + 0.55 * len(labels), 4.0, 14.0))
    figure, axis = _page(side + 1.0, side)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1e-12)
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axis, label="share of the label", shrink=0.8)
    names = [label.replace("$", r"\$") for label in labels]  # no formulas
    places = range(len(labels))
    axis.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(places, names)
    axis.set(xlabel="recognized as", ylabel="label")
    if len(labels) <= MOST_NUMBERED:
        _write_numbers(axis, counts, shares)
    _save(figure, path)


def _write_numbers(axis: Axes, counts: Numbers, shares: Numbers) -> None:
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "black"
        number = f"{counts[row, column]:.3g}"
        axis.text(column, row, number, ha="center", va="center", color=colour)


def plot_methods(accuracies: Mapping[str, Sequence[float]], path: Path) -> None:
    """
    Draw the accuracy of each method as a bar, and a dot for each seed.

    Args:
        accuracies: of each method, one a seed, in the order in which they are drawn.
        path: PNG file.
    """
    figure, axis = _page(8.0, 0.8 + 0.42 * len(accuracies))
    means = [float(np.mean(values)) for values in accuracies.values()]
    places = range(len(means))
    axis.barh(places, means, color=["C0", *["0.78"] * (len(means) - 1)], height=0.65)
    for place, values in zip(places, accuracies.values(), strict=True):
        if len(values) > 1:
            axis.plot(values, [place] * len(values), "o", color="black", ms=4, alpha=0.5)
        axis.text(1.01, place, f"{means[place]:.3f}", va="center")
    axis.set_yticks(places, list(accuracies))
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xlabel="accuracy")
    axis.grid(axis="x", alpha=0.3)
    _save(figure, path)


def plot_reliability(confidence: Numbers, accuracy: Numbers, clips: Numbers, path: Path) -> None:
    """
    Draw how often answers are right against how sure they claim to be; the diagonal is honest.

    Args:
        confidence: mean claimed probability of each bin, (bins,).
        accuracy: share of its answers that are right, (bins,).
        clips: answers in each bin, (bins,); empty ones are not drawn.
        path: PNG file.
    """
    figure, axis = _page(5.2, 4.6)
    filled = clips > 0
    axis.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
    axis.plot(confidence[filled], accuracy[filled], color="C0", alpha=0.4)
    sizes = 20 + 400 * clips[filled] / clips.sum()
    axis.scatter(confidence[filled], accuracy[filled], s=sizes, color="C0", alpha=0.8)
    axis.set(xlim=(0, 1.02), ylim=(-0.02, 1.02), xlabel="claimed probability")
    axis.set_ylabel("share that is right (larger dots: more clips)")
    axis.grid(alpha=0.3)
    _save(figure, path)


def _page(width: float, height: float) -> tuple[Figure, Axes]:
    """Give an empty picture of a size in inches."""
    figure = new_figure(width, height)
    return figure, figure.subplots()


def _save(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing")  # labels in other scripts
        save_figure(figure, path)
