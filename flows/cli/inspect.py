"""The commands `inspect`, `doctor` and `recognizers`: look at what is there, change nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import (
    AsJson,
    DecodeMemory,
    FrameTimeout,
    ImageFps,
    MaxPixels,
    MaxVideoSeconds,
    ReaderOption,
    Videos,
    VideoTimeout,
    Workers,
    gather_decode_options,
)
from flows.signals import SOME_FAILED

if TYPE_CHECKING:
    from pipeline.records import DecodeReport, Video


def inspect(
    out: Annotated[Path, typer.Argument(help="Results folder.", show_default=False)],
    failures: Annotated[
        bool, typer.Option("--failures", help="List the videos that were not fully decoded.")
    ] = False,
    rows: Annotated[int, typer.Option(help="Rows of clips to print.", min=0)] = 5,
    as_json: AsJson = False,
) -> None:
    """Show what a results folder holds: counts, labels, failures, a few rows."""
    from flows.cli.console import print_line, print_table
    from pipeline.results.tables import load, read_run

    run_ = read_run(out)
    videos, clips = load(out, "videos"), load(out, "clips")
    bad = videos[videos.status != "ok"]
    counted = clips.groupby("label").size().sort_values(ascending=False)
    if as_json:
        said = {
            "config_id": run_["config_id"],
            "videos": len(videos),
            "statuses": {str(k): int(v) for k, v in videos.status.value_counts().items()},
            "clips": len(clips),
            "labels": {str(k): int(v) for k, v in counted.items()},
            "failures": bad[["video", "status", "error"]].to_dict("records"),
        }
        sys.stdout.write(json.dumps(said, indent=2) + "\n")
        return
    seconds = float(videos.duration_seconds.fillna(0).sum())
    print_line(f"{len(videos)} videos, {seconds / 3600:.2f} hours; {len(clips)} clips")
    if failures:
        print_table(
            ["video", "status", "error"],
            [[v.video, v.status, v.error or ""] for v in bad.itertuples()],
        )
        return
    if len(counted):
        print_line()
        most = counted.iloc[0]
        bars = [[str(k), str(v), "█" * max(1, round(40 * v / most))] for k, v in counted.items()]
        print_table(["label", "clips", ""], bars)
    if len(bad):
        print_line()
        counts = bad.status.value_counts()
        print_table(["status", "videos"], [[str(k), str(v)] for k, v in counts.items()])
        print_line(f"clipline inspect {out} --failures lists them")
    if len(clips) and rows:
        print_line()
        shown = ["video", "start_seconds", "end_seconds", "label", "score"]
        print_table(
            shown,
            [
                [
                    r.video,
                    f"{r.start_seconds:.2f}",
                    f"{r.end_seconds:.2f}",
                    r.label,
                    f"{r.score:.2f}",
                ]
                for r in clips.head(rows).itertuples()
            ],
        )


def recognizers(
    folder: Annotated[
        Path | None, typer.Argument(help="A saved recognizer; by default the bundled ones.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which recognizers are bundled, or what the folder of one holds."""
    from flows.cli.console import print_line, print_table
    from pipeline.recognition.recognizer import DESCRIPTION, bundled_recognizers, find_recognizer

    names = [str(folder)] if folder else bundled_recognizers()
    found = [json.loads((find_recognizer(name) / DESCRIPTION).read_text()) for name in names]
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    for said in found:
        print_line(said["name"])
        cell, spec = said["temporal"]["cell"], said["backbone"]
        tuned = ", fine-tuned" if said.get("network") else ""
        facts = [
            ["labels", ", ".join(said["labels"])],
            ["sampling", json.dumps(said["sampling"])],
            ["clips", json.dumps(said["clips"])],
            ["backbone", f"{spec['name']}{tuned}, weights {spec['weights_hash']}"],
            [
                "temporal model",
                f"{cell}, {said['temporal']['layers']} × {said['temporal']['size']}",
            ],
            *([key, json.dumps(value)] for key, value in said["notes"].items()),
        ]
        print_table(["", ""], facts)


def doctor(
    videos: Videos,
    sample_fps: Annotated[
        float, typer.Option(help="Frames a second of the runs to come; decides the reader.")
    ] = 8.0,
    image_fps: ImageFps = None,
    reader: ReaderOption = "auto",
    workers: Workers = 0,
    frame_timeout: FrameTimeout = 20.0,
    video_timeout: VideoTimeout = 900.0,
    max_pixels: MaxPixels = 200_000_000,
    max_video_seconds: MaxVideoSeconds = 172_800.0,
    decode_memory: DecodeMemory = 4096,
    as_json: AsJson = False,
) -> None:
    """Decode every frame and say of each file what it claims, what it holds, and what is wrong."""
    from flows.cli.console import print_line, print_table
    from pipeline.config import Sampling
    from pipeline.decode.doctor import examine
    from pipeline.sources.discovery import find_videos

    options = gather_decode_options(locals())
    found = find_videos(videos, image_fps=image_fps)
    verdicts = list(examine(found, options, Sampling(fps=sample_fps)))
    bad = sum(report.status != "ok" for _, report in verdicts)
    if as_json:
        said = [{"video": v.path, "video_id": v.video_id, **r.to_json()} for v, r in verdicts]
        sys.stdout.write(json.dumps(said, indent=2) + "\n")
    else:
        columns = ["video", "status", "reader", "codec", "size", "frames", "rate", "notes"]
        print_table(columns, [_verdict(video, report) for video, report in verdicts])
        print_line()
        print_line(f"{len(verdicts)} files, {bad} not fully decodable")
    raise typer.Exit(SOME_FAILED if bad else 0)


def _verdict(video: Video, report: DecodeReport) -> list[str]:
    """Give the cells of one file in the table of `doctor`."""
    notes = []
    if report.variable_frame_rate:
        notes.append(f"variable rate, longest gap {report.longest_gap_seconds:.2f} s")
    if report.rotation:
        notes.append(f"turned {report.rotation}°")
    if report.edit_list:
        notes.append(f"{report.packets_discarded} of {report.packets} frames cut away")
    if (report.video_streams or 0) > 1:
        notes.append(f"{report.video_streams} video streams")
    if report.frames_duplicated:
        notes.append(f"{report.frames_duplicated} repeated times")
    if report.error:
        notes.append(report.error)
    claimed = report.frames_from_header
    return [
        video.path,
        report.status,
        report.decoder,
        report.codec or "",
        f"{report.width}×{report.height}" if report.width else "",
        str(report.frames_decoded) + (f" of {claimed} claimed" if claimed else ""),
        f"{report.frame_rate:.3g}/s" if report.frame_rate else "",
        "; ".join(notes),
    ]
