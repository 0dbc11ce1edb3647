"""The commands `run`, `features` and `retry`: process videos, and say how it went."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.options import (
    AsJson,
    BackboneName,
    BackbonePlace,
    BatchSize,
    ClipSeconds,
    DecodeMemory,
    DeviceName,
    Embeddings,
    Every,
    Features,
    Frames,
    FrameTimeout,
    Fresh,
    FullHash,
    Grid,
    ImageFps,
    LastDecodeMemory,
    LastFrameTimeout,
    LastMaxPixels,
    LastMaxVideoSeconds,
    LastReader,
    LastVideoTimeout,
    LastWorkers,
    MaxPixels,
    MaxVideoSeconds,
    Novelty,
    Out,
    PrecisionName,
    Quiet,
    ReaderOption,
    RecognizerName,
    SampleFps,
    SampleFpsOr8,
    StrideSeconds,
    Tap,
    Timings,
    Videos,
    VideoTimeout,
    Wait,
    Weights,
    Workers,
    change_decode_options,
    gather_options,
)
from flows.signals import BROKEN, SOME_FAILED, exit_now

if TYPE_CHECKING:
    from pipeline.config import RunOptions


def run(
    videos: Videos,
    out: Out,
    recognizer: RecognizerName = "camera-motion",
    backbone: BackbonePlace = None,
    weights: Weights = None,
    sample_fps: SampleFps = None,
    every: Every = None,
    clip_seconds: ClipSeconds = None,
    stride_seconds: StrideSeconds = None,
    image_fps: ImageFps = None,
    frames: Frames = False,
    embeddings: Embeddings = False,
    novelty: Novelty = None,
    features: Features = None,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    batch_size: BatchSize = 0,
    reader: ReaderOption = "auto",
    workers: Workers = 0,
    frame_timeout: FrameTimeout = 20.0,
    video_timeout: VideoTimeout = 900.0,
    max_pixels: MaxPixels = 200_000_000,
    max_video_seconds: MaxVideoSeconds = 172_800.0,
    decode_memory: DecodeMemory = 4096,
    full_hash: FullHash = False,
    fresh: Fresh = False,
    wait: Wait = False,
    timings: Timings = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Label videos: clips, segments and frames as rows in OUT, whatever state the files are in.

    The same command again does only what is missing.
    """
    shown = Shown(as_json, quiet, timings)
    _run_and_exit(videos, out, gather_options(locals()), shown, fresh=fresh)


def features(
    videos: Videos,
    out: Out,
    backbone: BackboneName,
    weights: Weights = None,
    tap: Tap = None,
    grid: Grid = None,
    sample_fps: SampleFpsOr8 = None,
    every: Every = None,
    image_fps: ImageFps = None,
    features: Features = None,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    batch_size: BatchSize = 0,
    reader: ReaderOption = "auto",
    workers: Workers = 0,
    frame_timeout: FrameTimeout = 20.0,
    video_timeout: VideoTimeout = 900.0,
    max_pixels: MaxPixels = 200_000_000,
    max_video_seconds: MaxVideoSeconds = 172_800.0,
    decode_memory: DecodeMemory = 4096,
    full_hash: FullHash = False,
    fresh: Fresh = False,
    wait: Wait = False,
    timings: Timings = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Only fill the feature store: one row of features a sampled frame."""
    values = {**locals(), "recognizer": None}
    if sample_fps is None and every is None:
        values["sample_fps"] = 8.0
    shown = Shown(as_json, quiet, timings)
    _run_and_exit(videos, out, gather_options(values), shown, fresh=fresh)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a run prints at its end."""

    as_json: bool
    quiet: bool
    timings: bool = False


def _run_and_exit(
    videos: list[str], out: Path, options: RunOptions, shown: Shown, *, fresh: bool
) -> None:
    from flows.cli import console
    from flows.server.launch import run_once

    if fresh:
        _delete_results(out, wait=options.wait)
    outcome = run_once(
        videos,
        out,
        options,
        lambda pipeline: console.watch(pipeline, quiet=shown.quiet or shown.as_json),
    )
    code = _conclude(out, outcome.failures, shown)
    sys.stdout.flush()
    exit_now(code)


def _delete_results(out: Path, *, wait: bool) -> None:
    import shutil

    from pipeline.results.schemas import SCHEMAS
    from pipeline.results.tables import lock_results

    if not out.exists():
        return
    with lock_results(out, wait=wait):
        for name in (*SCHEMAS, "features"):
            shutil.rmtree(out / name, ignore_errors=True)
        for name in ("run.json", "report.html"):
            (out / name).unlink(missing_ok=True)


def _conclude(out: Path, failures: int, shown: Shown) -> int:
    """Print how a run ended, and give its exit code."""
    from flows.cli import console
    from flows.cli.timings import print_timings
    from pipeline.results.tables import load, read_run

    summary = read_run(out)
    videos = load(out, "videos")
    statuses = videos.status.value_counts().to_dict()
    bad = int((videos.status != "ok").sum())
    if shown.as_json:
        said = {**summary, "statuses": {str(k): int(v) for k, v in statuses.items()}}
        sys.stdout.write(json.dumps(said, indent=2) + "\n")
    elif not shown.quiet:
        _print_summary(out, summary, statuses)
        if shown.timings:
            print_timings(summary)
    if failures:
        console.print_error(f"{failures} shards failed: {summary['failures'][0]}")
        console.print_error("Nothing else is lost. The same command tries them again.")
        return BROKEN
    if bad and not shown.quiet and not shown.as_json:
        console.print_error(
            f"{bad} of {len(videos)} videos could not be fully decoded: "
            f"clipline inspect {out} --failures"
        )
    return SOME_FAILED if bad else 0


def _print_summary(out: Path, summary: dict[str, Any], statuses: dict[str, int]) -> None:
    from flows.cli.console import print_line

    counts, seconds = summary["counts"], summary["timings_seconds"]["run"]
    found = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
    again = f" ({counts['videos_skipped']} were done before)" if counts["videos_skipped"] else ""
    rows = sum(statuses.values())  # copies, and what other commands put there, have rows as well
    print_line(f"{counts['videos_total']} videos{again}; {rows} rows: {found}")
    print_line(
        f"{counts['clips']} new clips; {counts['frames_encoded']} frames encoded, "
        f"{counts['frames_reused']} reused, in {seconds:.1f} s"
    )
    others = len(summary.get("configurations", {})) - 1
    if others:
        print_line(
            f"{out} also holds rows of {others} other configurations, told apart by config_id; "
            "pipeline.results.load reads the newest"
        )
    print_line(f"rows: {out / 'clips'}   page: {out / 'report.html'}")


def retry(
    out: Annotated[Path, typer.Argument(help="Results folder.", show_default=False)],
    status: Annotated[
        str,
        typer.Option(help="Statuses to try again, with commas between.", show_default="all but ok"),
    ] = "",
    reader: LastReader = None,
    workers: LastWorkers = None,
    frame_timeout: LastFrameTimeout = None,
    video_timeout: LastVideoTimeout = None,
    max_pixels: LastMaxPixels = None,
    max_video_seconds: LastMaxVideoSeconds = None,
    decode_memory: LastDecodeMemory = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Process again what failed in the last run on OUT, and only that: with other limits, say."""
    from dataclasses import replace

    from pipeline.config import RunOptions
    from pipeline.errors import OptionError
    from pipeline.records import STATUSES
    from pipeline.results.tables import read_run

    given = locals()
    last = read_run(out)
    if not last:
        raise OptionError(f"{out} holds no results: no run.json")
    chosen = [name.strip() for name in status.split(",") if name.strip()]
    wanted = tuple(chosen or sorted(set(STATUSES) - {"ok"}))
    options = RunOptions.from_json(last["options"])
    decode = change_decode_options(options.decode, given)
    options = replace(options, retry=wanted, decode=decode)
    out = out.absolute()
    with _in_folder(last["working_folder"], last["sources"]):
        _run_and_exit(last["sources"], out, options, Shown(as_json, quiet), fresh=False)


@contextlib.contextmanager
def _in_folder(folder: str, sources: list[str]) -> Iterator[None]:
    """Work where the last run did: its sources, and all that its options name, count from there."""
    from pipeline.errors import SourceError

    if os.path.isdir(folder):
        with contextlib.chdir(folder):
            yield
    elif all(map(os.path.isabs, sources)):
        yield
    else:
        raise SourceError(
            f"the folder {folder}, from which the paths of the last run count, is gone: "
            "give them to clipline run again"
        )
