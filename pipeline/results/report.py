"""
The page that a person looks at: what was found, what it looks like over time, what failed.

One HTML file without scripts and without anything from elsewhere. Names are escaped: they come from
files that nobody has checked.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.records import STATUSES
from pipeline.results.tables import load, read_run
from pipeline.storage import write_text

VIDEOS_SHOWN = 200
COLOURS = [
    "#4e79a7",
    "#f28e2b",
    "#59a14f",
    "#e15759",
    "#76b7b2",
    "#edc948",
    "#b07aa1",
    "#ff9da7",
    "#9c755f",
    "#bab0ac",
    "#86bcb6",
    "#d37295",
    "#8cd17d",
    "#499894",
    "#f1ce63",
    "#a0cbe8",
    "#ffbe7d",
    "#d4a6c8",
    "#79706e",
    "#fabfd2",
]
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0
1rem;color:#222} h1{margin:0}h2{margin:2.2rem 0 .6rem;font-
size:1.15rem}.lead{color:#666;margin:.2rem 0 1.5rem} .cards{display:flex;gap:1rem;flex-
wrap:wrap}.card{background:#f5f5f3;border-radius:8px;padding:.7rem 1.1rem} .card
b{display:block;font-size:1.5rem}.card span{color:#666} table{border-
collapse:collapse;width:100%}td,th{text-align:left;padding:.25rem .6rem .25rem 0;vertical-
align:top} th{color:#666;font-weight:500;border-bottom:1px solid #ddd}td.n,th.n{text-
align:right;font-variant-numeric:tabular-nums} .name{max-width:22rem;overflow-
wrap:anywhere}.bar{height:.8rem;border-radius:2px} svg{display:block}.key{display:flex;flex-
wrap:wrap;gap:.3rem 1.2rem;margin:.4rem 0 .8rem} .key i{display:inline-
block;width:.8rem;height:.8rem;border-radius:2px;margin-right:.4rem}
.bad{color:#b3261e}code{background:#f5f5f3;padding:.1rem .3rem;border-radius:3px} @media(prefers-
color-scheme:dark){body{background:#161616;color:#ddd}.card,code{background:#252525} .lead,.card
span,th{color:#999}th{border-color:#444}.bad{color:#ff8a80}}
"""


def write_report(out: Path) -> Path:
    """Write `OUT/report.html` from the newest results. Returns its path."""
    run = read_run(out)
    videos, clips, segments = (load(out, table) for table in ("videos", "clips", "segments"))
    labels: list[str] = run["configuration"]["labels"]
    colours = {label: COLOURS[n % len(COLOURS)] for n, label in enumerate(labels)}
    body = [
        _head(run, videos, clips),
        _histogram(clips, colours),
        _timelines(videos, segments, colours),
        _failures(videos),
        _how(run),
    ]
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>Clipline: {escape(out.name)}</title><style>{STYLE}</style>{''.join(body)}</html>"
    )
    path = out / "report.html"
    write_text(page, path)
    return path


def _card(value: object, text: str) -> str:
    return f"<div class=card><b>{value}</b><span>{escape(text)}</span></div>"


def _head(run: dict[str, object], videos: pd.DataFrame, clips: pd.DataFrame) -> str:
    configuration = run["configuration"]
    assert isinstance(configuration, dict)
    seconds = float(videos.duration_seconds.fillna(0).sum())
    bad = int((videos.status != "ok").sum())
    cards = [
        _card(f"{len(videos):,}", "videos"),
        _card(_span(seconds), "of footage"),
        _card(f"{len(clips):,}", "clips"),
        _card(f"{bad:,}", "not fully decoded"),
    ]
    lead = f"{configuration['recognizer'] or 'features only'} · finished {run['finished_at']}"
    return (
        f"<h1>Clipline</h1><p class=lead>{escape(lead)}</p><div class=cards>{''.join(cards)}</div>"
    )


def _span(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02.0f}"


def _histogram(clips: pd.DataFrame, colours: dict[str, str]) -> str:
    if clips.empty:
        return ""
    counts = clips.groupby("label").agg(clips=("label", "size"), score=("score", "mean"))
    most = counts.clips.max()
    rows = []
    for label, colour in colours.items():
        if label not in counts.index:
            continue
        row = counts.loc[label]
        width = max(0.5, 100 * row.clips / most)
        rows.append(
            f"<tr><td class=name>{escape(label)}<td class=n>{int(row.clips):,}"
            f"<td style='width:60%'><div class=bar style='width:{width:.1f}%;background:{colour}'>"
            f"</div><td class=n>{row.score:.2f}"
        )
    head = "<tr><th>label<th class=n>clips<th><th class=n>mean score"
    return f"<h2>Labels</h2><table>{head}{''.join(rows)}</table>"


def _timelines(videos: pd.DataFrame, segments: pd.DataFrame, colours: dict[str, str]) -> str:
    if segments.empty:
        return ""
    # two lists may give two videos the same name
    known = set(zip(segments.video, segments.video_id, strict=True))
    labelled = [video for video in videos.itertuples() if (video.video, video.video_id) in known]
    shown = {(video.video, video.video_id): video for video in labelled[:VIDEOS_SHOWN]}
    runs: dict[Any, list[Any]] = {video: [] for video in shown}
    for run in segments[segments.video_id.isin({key[1] for key in shown})].itertuples():
        if (run.video, run.video_id) in runs:
            runs[run.video, run.video_id].append(run)
    rows = [_timeline(video, runs[key], colours) for key, video in shown.items()]
    key = "".join(
        f"<span><i style='background:{colour}'></i>{escape(label)}</span>"
        for label, colour in colours.items()
    )
    return (
        f"<h2>Over time</h2><div class=key>{key}</div>"
        f"<table><tr><th>video<th>segments<th class=n>length{''.join(rows)}</table>"
        f"{_more(len(labelled) - len(rows))}"
    )


def _more(count: int) -> str:
    return f"<p>{count:,} more are in the tables.</p>" if count > 0 else ""


def _timeline(video: Any, segments: list[Any], colours: dict[str, str]) -> str:
    total = max(float(video.duration_seconds), 1e-6)
    boxes, shot = [], 0
    for run in segments:
        start = 1000 * float(run.start_seconds) / total
        width = max(1.0, 1000 * float(run.end_seconds) / total - start)
        said = f"{run.start_seconds:.2f}–{run.end_seconds:.2f} s {run.label} ({run.score:.2f})"
        boxes.append(
            f"<rect x='{start:.1f}' y=0 width='{width:.1f}' height=16 "
            f"fill='{colours[str(run.label)]}'>"
            f"<title>{escape(said)}</title></rect>"
        )
        if run.shot_index != shot:
            boxes.append(f"<rect x='{start - 1:.1f}' y=0 width=2 height=16 fill='#000'/>")
        shot = int(run.shot_index)
    drawing = (
        "<svg viewBox='0 0 1000 16' preserveAspectRatio=none width='100%' height=16>"
        f"{''.join(boxes)}</svg>"
    )
    name = escape(str(video.video))
    return f"<tr><td class=name>{name}<td style='width:60%'>{drawing}<td class=n>{total:.1f} s"


def _failures(videos: pd.DataFrame) -> str:
    bad = videos[videos.status != "ok"]
    if bad.empty:
        return ""
    rows = [
        f"<tr><td class=name>{escape(str(video.video))}<td class=bad>{escape(str(video.status))}"
        f"<td>{escape(str(video.error))}<td class=n>{video.frames_decoded:,}"
        for video in bad.head(VIDEOS_SHOWN).itertuples()
    ]
    meanings = "; ".join(
        f"<b>{status}</b>: {STATUSES[status]}" for status in sorted(set(bad.status))
    )
    return (
        f"<h2>Not fully decoded</h2><p>{meanings}.</p>"
        f"<table><tr><th>video<th>status<th>why<th class=n>frames{''.join(rows)}</table>"
        f"{_more(len(bad) - len(rows))}"
    )


def _how(run: dict[str, object]) -> str:
    configuration = run["configuration"]
    assert isinstance(configuration, dict)
    facts = {
        "configuration": run["config_id"],
        "sampling": configuration["sampling"],
        "clips": configuration["clips"],
        "backbone": configuration["backbone"],
        "backbone weights": configuration["backbone_weights"],
        "engine": f"{configuration['engine']} on {configuration['device']}, "
        f"{configuration['precision']}",
    }
    rows = "".join(
        f"<tr><td>{escape(k)}<td><code>{escape(str(v))}</code>" for k, v in facts.items()
    )
    return f"<h2>How it was made</h2><table>{rows}</table>"
