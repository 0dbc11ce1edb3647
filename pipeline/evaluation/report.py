"""
The page of an evaluation: what the recognizer is worth, beside what it has to beat.

One HTML file without scripts, its pictures beside it. Names are escaped: they come from files that
nobody has checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluation.evaluate import Evaluation
from pipeline.evaluation.plots import plot_confusion, plot_methods, plot_reliability
from pipeline.evaluation.predictions import MODEL
from pipeline.evaluation.segmentation import LabelledFrames
from pipeline.evaluation.tables import class_table, format_mean_std, method_table
from pipeline.recognition.smoothing import runs
from pipeline.records import Integers
from pipeline.results.report import COLOURS, STYLE
from pipeline.storage import write_text
from pipeline.temporal.calibration import softmax

MISTAKES_SHOWN = 12
VIDEOS_SHOWN = 40
MORE_STYLE = "img{max-width:100%;background:#fff;border-radius:8px}.lane{margin:.15rem 0}"
METHODS_PICTURE, CONFUSION_PICTURE = "methods.png", "confusion.png"
RELIABILITY_PICTURE = "reliability.png"


def write_page(evaluation: Evaluation, out: Path) -> Path:
    """Write `EVAL/report.html` and its pictures. Returns the path of the page."""
    _draw(evaluation, out)
    body = [
        _head(evaluation),
        _warnings(evaluation.warnings),
        "<h2>Beside what it has to beat</h2>",
        _table(method_table(evaluation.methods)),
        _picture(METHODS_PICTURE, "accuracy of each method"),
        "<h2>Labels</h2>",
        _table(class_table(evaluation)),
        _picture(CONFUSION_PICTURE, "confusion matrix"),
        "<h2>How sure it claims to be, and is</h2>",
        _picture(RELIABILITY_PICTURE, "accuracy by claimed probability"),
        _mistakes(evaluation),
        _sequences(evaluation),
        _folds(evaluation),
        _how(evaluation.metadata),
    ]
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>Clipline: {escape(_name(evaluation))}</title>"
        f"<style>{STYLE}{MORE_STYLE}</style>{''.join(body)}</html>"
    )
    path = out / "report.html"
    write_text(page, path)
    return path


def _draw(evaluation: Evaluation, out: Path) -> None:
    model = evaluation.methods[0]
    seeds = {v.method: [one.accuracy for one in v.seeds] for v in evaluation.methods}
    plot_methods(seeds, out / METHODS_PICTURE)
    plot_confusion(model.confusion, evaluation.examples.labels, out / CONFUSION_PICTURE)
    bins = model.reliability
    plot_reliability(bins.confidence, bins.accuracy, bins.clips, out / RELIABILITY_PICTURE)


def _name(evaluation: Evaluation) -> str:
    return str(evaluation.metadata.get("recognizer", "recognizer"))


def _head(evaluation: Evaluation) -> str:
    model = evaluation.methods[0]
    folds, seeds = evaluation.metadata["folds"], len(model.seeds)
    how = f"trained anew in {len(folds)} folds, {seeds} times each" if folds else "as it was saved"
    figures = {
        "accuracy": "accuracy",
        "macro_f1": "macro-F1",
        "mean_average_precision": "mean average precision",
        "calibration_error": "expected calibration error",
    }
    cards = "".join(
        f"<div class=card><b>{format_mean_std(model.seeds, name)}</b><span>{said}</span></div>"
        for name, said in figures.items()
    )
    lead = f"{how} · {len(evaluation.examples.items):,} clips"
    spread = " · ± is the standard deviation over the trainings" if seeds > 1 else ""
    return (
        f"<h1>{escape(_name(evaluation))}</h1><p class=lead>{escape(lead + spread)}</p>"
        f"<div class=cards>{cards}</div>"
    )


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    said = "".join(f"<li>{escape(text)}" for text in warnings)
    return f"<h2>Before you trust this</h2><ul class=bad>{said}</ul>"


def _table(rows: Iterable[Sequence[str]]) -> str:
    """Draw a table: its first row is the header, its first column names."""
    lines = []
    for number, (first, *others) in enumerate(rows):
        tag = "th" if number == 0 else "td"
        cells = "".join(f"<{tag} class=n>{escape(cell)}" for cell in others)
        lines.append(f"<tr><{tag} class=name>{escape(first)}{cells}")
    return f"<table>{''.join(lines)}</table>"


def _picture(name: str, said: str) -> str:
    return f"<p><img src='{name}' alt='{said}'>"


def _mistakes(evaluation: Evaluation) -> str:
    """List the wrong answers of the model that it was most sure of, each clip once."""
    worst: dict[int, tuple[float, str]] = {}
    labels, items = evaluation.examples.labels, evaluation.examples.items
    for given in evaluation.predictions:
        scores = softmax(given.logits / given.temperature)  # (n, K)
        if given.method != MODEL:
            continue
        for clip, row in zip(given.clips.tolist(), scores, strict=True):
            best = int(row.argmax())
            if best != items[clip].label and row[best] > worst.get(clip, (0.0, ""))[0]:
                worst[clip] = float(row[best]), labels[best]
    if not worst:
        return ""
    order = sorted(worst, key=lambda clip: -worst[clip][0])
    rows = [
        [items[clip].name, labels[items[clip].label], worst[clip][1], f"{worst[clip][0]:.2f}"]
        for clip in order[:MISTAKES_SHOWN]
    ]
    head = ["clip", "is", "was taken for", "score"]
    more = f"<p>{len(worst):,} clips in all.</p>" if len(worst) > MISTAKES_SHOWN else ""
    return f"<h2>Surest mistakes</h2>{_table([head, *rows])}{more}"


def _sequences(evaluation: Evaluation) -> str:
    if not evaluation.sequence_methods:
        return ""
    labels = evaluation.examples.labels
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(labels))]
    key = "".join(
        f"<span><i style='background:{colour}'></i>{escape(label)}</span>"
        for label, colour in zip(labels, colours, strict=True)
    )
    first = [video for video in evaluation.sequences if video.seed == evaluation.sequences[0].seed]
    lanes = "".join(_lanes(video, colours) for video in first[:VIDEOS_SHOWN])
    return (
        f"<h2>Whole videos, frame by frame</h2>{_table(method_table(evaluation.sequence_methods))}"
        f"<div class=key>{key}</div>"
        f"<table><tr><th>video<th>above: as labelled; below: as recognized{lanes}</table>"
    )


def _lanes(video: LabelledFrames, colours: Sequence[str]) -> str:
    name = escape(video.video)
    drawn = "".join(_lane(labels, colours) for labels in (video.target, video.predicted))
    return f"<tr><td class=name>{name}<td style='width:65%'>{drawn}"


def _lane(labels: Integers, colours: Sequence[str]) -> str:
    boxes = "".join(
        f"<rect x='{start}' width='{stop - start}' height=12 fill='{colours[label]}'/>"
        for start, stop, label in runs(labels)
        if label >= 0
    )
    size = f"viewBox='0 0 {len(labels)} 12' width='100%' height=12"
    return f"<svg class=lane preserveAspectRatio=none {size}>{boxes}</svg>"


def _folds(evaluation: Evaluation) -> str:
    """Show how much the accuracy depends on which groups are held out."""
    folds = evaluation.metadata["folds"]
    if not folds:
        return ""
    truth = np.array([item.label for item in evaluation.examples.items])
    right: dict[str, list[bool]] = {fold["name"]: [] for fold in folds}
    for given in evaluation.predictions:
        if given.method == MODEL:
            right[given.fold] += (given.logits.argmax(1) == truth[given.clips]).tolist()
    rows = [
        [
            fold["name"],
            ", ".join(fold["groups"]),
            str(fold["clips_learned"]),
            str(fold["clips_judged"]),
            f"{np.mean(right[fold['name']]):.3f}",
        ]
        for fold in folds
    ]
    head = ["fold", "groups held out", "clips learned from", "clips judged", "accuracy"]
    return f"<h2>Folds</h2>{_table([head, *rows])}"


def _how(facts: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}<td><code>{escape(str(value))}</code>"
        for name, value in facts.items()
        if name != "folds"
    )
    return f"<h2>How it was made</h2><table>{rows}</table>"
