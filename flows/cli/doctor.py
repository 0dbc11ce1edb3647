"""The command `doctor`: decode every frame of files, and show what is wrong with them."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from flows.cli.derive import Given, takes
from flows.cli.options import DECODING, RUN, SAMPLING, AsJson, Videos
from flows.signals import SOME_FAILED
from pipeline.config import DEFAULT_SAMPLING, DecodeOptions, RunOptions, Sampling

if TYPE_CHECKING:
    from pipeline.records import DecodeReport, Video

SAMPLING_HELP = "Sampled frames per second in later runs; the choice of the reader depends on it."


@takes(
    RUN.only("image_fps", "strict"),
    SAMPLING.only("fps").change(fps={"help": SAMPLING_HELP, "default": f"{DEFAULT_SAMPLING.fps}"}),
    DECODING,
)
def doctor(*videos: Videos, as_json: AsJson = False, given: Given) -> int:
    """Decode every frame, and compare what files claim with what they hold."""
    from flows.cli.console import print_line, print_table
    from pipeline.decode.doctor import examine
    from pipeline.sources.discovery import find_videos

    sampling = Sampling(**given[Sampling]) if given[Sampling] else DEFAULT_SAMPLING
    options = DecodeOptions(**given[DecodeOptions])
    found = find_videos(list(videos), **given[RunOptions])
    reports = [
        (path, video, report)
        for video, report in examine(found, options, sampling)
        for path in (video.path, *(copy for copy, _ in video.copies))
    ]
    bad = sum(report.status != "ok" for *_, report in reports)
    if as_json:
        rows = [
            {
                "video": path,
                "video_id": video.video_id,
                "copy_of": video.path if path != video.path else None,
                **report.to_json(),
            }
            for path, video, report in reports
        ]
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        columns = ["video", "status", "reader", "codec", "size", "frames", "rate", "notes"]
        print_table(columns, [_cells(*row) for row in reports])
        print_line()
        print_line(f"{len(reports)} files, {bad} not fully decodable")
    return SOME_FAILED if bad else 0


def _cells(path: str, video: Video, report: DecodeReport) -> list[str]:
    """Return the row of a file in the table; a copy has the report of the first file."""
    claimed = report.frames_from_header
    copy = [f"same content as {video.path}"] if path != video.path else []
    return [
        path,
        report.status,
        report.decoder,
        report.codec or "",
        f"{report.width}×{report.height}" if report.width else "",
        str(report.frames_decoded) + (f" of {claimed} claimed" if claimed else ""),
        f"{report.frame_rate:.3g}/s" if report.frame_rate else "",
        "; ".join([*copy, *_notes(report)]),
    ]


def _notes(report: DecodeReport) -> list[str]:
    notes = []
    if report.variable_frame_rate:
        notes.append(f"variable frame rate, longest gap {report.longest_gap_seconds:.2f} s")
    if report.rotation:
        notes.append(f"rotated {report.rotation}°")
    if report.edit_list:
        notes.append(f"{report.packets_discarded} of {report.packets} frames cut by an edit list")
    if (report.video_streams or 0) > 1:
        notes.append(f"{report.video_streams} video streams")
    if report.frames_duplicated:
        notes.append(f"{report.frames_duplicated} duplicate timestamps")
    if report.error:
        notes.append(report.error)
    return notes
