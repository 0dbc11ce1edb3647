"""Plots of measured rates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.bench.rates import Roofline, format_rate
from pipeline.results.plots import new_figure, save_figure

COLOURS, OTHER_COLOUR = {"run": "tab:blue", "bound": "tab:orange"}, "0.75"


def bars_of(found: Roofline) -> dict[str, float]:
    """Return the bars of one group of videos, the fastest part first."""
    parts: dict[str, float] = {}
    for rate in found.decode:
        for cores, value in (("1 core", rate.per_core), ("all cores", rate.all_cores)):
            if value is not None:
                sampled = value * found.frames / found.decoded
                parts[f"decode: {rate.reader}, {cores}"] = sampled
    for engine in found.engines:
        parts[f"engine: {engine.engine}, {engine.precision}"] = engine.rate
    ordered = dict(sorted(parts.items(), key=lambda bar: -bar[1]))
    return ordered | {"bound": found.bound, "run": found.run}


def plot_rates(groups: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """
    Plot rates as bars, one panel for each group of videos.

    Args:
        groups: for each group, frames per second of each part, in the order to be drawn.
        path: PNG file.
    """
    heights = [len(rates) + 2.5 for rates in groups.values()]
    figure = new_figure(9.0, 0.3 * sum(heights))
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for (title, rates), axes in zip(groups.items(), panels, strict=True):
        colours = [COLOURS.get(name, OTHER_COLOUR) for name in rates]
        bars = axes.barh(list(rates), list(rates.values()), height=0.7, color=colours)
        axes.bar_label(bars, [format_rate(rate) for rate in rates.values()], padding=3)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.margins(x=0.12, y=0.02)
        axes.grid(axis="x", alpha=0.3)
        axes.set_title(title.replace("$", r"\$"), loc="left")
    panels[-1].set_xlabel("sampled frames per second")
    save_figure(figure, path)
