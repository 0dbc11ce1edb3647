"""Pictures of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.bench.rates import Roofline, rounded
from pipeline.results.plots import new_figure, save_figure

RUN, BOUND, PART = "tab:blue", "tab:orange", "0.75"


def bars_of(found: Roofline) -> dict[str, float]:
    """Give the bars of one group of videos, fastest part first."""
    parts: dict[str, float] = {}
    for rate in found.decode:
        for cores, value in (("1 core", rate.per_core), ("all cores", rate.all_cores)):
            if value is not None:
                sampled = value * found.frames / found.decoded
                parts[f"decode: {rate.reader}, {cores}"] = sampled
    for engine in found.engines:
        parts[f"engine: {engine.engine}, {engine.precision}"] = engine.rate
    ordered = dict(sorted(parts.items(), key=lambda bar: -bar[1]))
    whole = {"floor": found.floor, "run": found.run}
    return ordered | whole | ({"naive loop": found.naive} if found.naive else {})


def plot_rates(groups: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """
    Draw rates as bars, a panel for each group of videos.

    Args:
        groups: of each group, frames a second by what was measured, in the order to be drawn.
        path: PNG file.
    """
    heights = [len(rates) + 2.5 for rates in groups.values()]
    figure = new_figure(9.0, 0.3 * sum(heights))
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for (name, rates), axes in zip(groups.items(), panels, strict=True):
        colours = [{"run": RUN, "floor": BOUND}.get(what, PART) for what in rates]
        bars = axes.barh(list(rates), list(rates.values()), height=0.7, color=colours)
        axes.bar_label(bars, [rounded(rate) for rate in rates.values()], padding=3)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.margins(x=0.12, y=0.02)
        axes.grid(axis="x", alpha=0.3)
        axes.set_title(name.replace("$", r"\$"), loc="left")
    panels[-1].set_xlabel("sampled frames a second")
    save_figure(figure, path)


def plot_memory(
    seconds: Sequence[float], gibibytes: Sequence[float], limit: float, path: Path
) -> None:
    """
    Draw the memory of a run over its time.

    Args:
        seconds: of each sample, (n,).
        gibibytes: of the whole process tree, (n,).
        limit: that it must stay below, in GiB.
        path: PNG file.
    """
    figure = new_figure(8.0, 3.6)
    axes = figure.subplots()
    axes.fill_between(seconds, gibibytes, alpha=0.25, color=RUN)
    axes.plot(seconds, gibibytes, color=RUN)
    axes.axhline(limit, color="tab:red", linestyle="--", linewidth=1)
    axes.set(xlabel="seconds", ylabel="GiB, all processes", xlim=(0, max(seconds)))
    axes.set_ylim(0, 1.1 * max(limit, *gibibytes))
    axes.grid(alpha=0.3)
    save_figure(figure, path)
