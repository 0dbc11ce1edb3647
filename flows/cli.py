"""
The command line: the only place that prints and exits.

Exit codes: 0 all good, 1 broken, 2 usage, 3 finished but some videos could not be fully decoded,
130 and 143 stopped by Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows import benchmark, diagnosing, judging, learning
from flows.options import (
    AsJson,
    BackboneName,
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
    MaxPixels,
    MaxVideoSeconds,
    Novelty,
    Out,
    PrecisionName,
    Quiet,
    ReaderOption,
    RecognizerName,
    SampleFps,
    StrideSeconds,
    Tap,
    Timings,
    Videos,
    VideoTimeout,
    Wait,
    Weights,
    Workers,
    gather_decode_options,
    gather_options,
)
from flows.stopping import Stopped, leave, say_and_leave, stop_on_signals
from pipeline.errors import InputError, PipelineError

if TYPE_CHECKING:
    from pipeline.config import RunOptions
    from pipeline.records import DecodeReport, Video

BROKEN, USAGE, SOME_FAILED = 1, 2, 3

app = typer.Typer(
    help="Videos and image sequences to labelled rows in Parquet.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        import importlib.metadata

        sys.stdout.write(importlib.metadata.version("clipline") + "\n")
        raise typer.Exit
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    del context


@app.command()
def run(
    videos: Videos,
    out: Out,
    recognizer: RecognizerName = "camera-motion",
    backbone: BackboneName = None,
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
    _run_and_leave(videos, out, gather_options(locals()), shown, fresh=fresh)


@app.command("features")
def features_command(
    videos: Videos,
    out: Out,
    backbone: Annotated[
        str, typer.Option(help="timm name, local-dir:PATH, or random:NAME for untrained weights.")
    ],
    weights: Weights = None,
    tap: Tap = None,
    grid: Grid = None,
    sample_fps: SampleFps = None,
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
    _run_and_leave(videos, out, gather_options(values), shown, fresh=fresh)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a run prints at its end."""

    as_json: bool
    quiet: bool
    timings: bool = False


def _run_and_leave(
    videos: list[str], out: Path, options: RunOptions, shown: Shown, *, fresh: bool
) -> None:
    from flows import console
    from flows.launch import run_once

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
    leave(code)


def _delete_results(out: Path, *, wait: bool) -> None:
    import shutil

    from pipeline.results import SCHEMAS, hold

    if not out.exists():
        return
    with hold(out, wait=wait):
        for name in (*SCHEMAS, "features"):
            shutil.rmtree(out / name, ignore_errors=True)
        for name in ("run.json", "report.html"):
            (out / name).unlink(missing_ok=True)


def _conclude(out: Path, failures: int, shown: Shown) -> int:
    """Print how a run ended, and give its exit code."""
    from flows import console
    from flows.timings import print_timings
    from pipeline.results import load, read_run

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
    from flows.console import print_line

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


@app.command()
def inspect(
    out: Annotated[Path, typer.Argument(help="Results folder.", show_default=False)],
    failures: Annotated[
        bool, typer.Option("--failures", help="List the videos that were not fully decoded.")
    ] = False,
    rows: Annotated[int, typer.Option(help="Rows of clips to print.", min=0)] = 5,
    as_json: AsJson = False,
) -> None:
    """Show what a results folder holds: counts, labels, failures, a few rows."""
    from flows.console import print_line, print_table
    from pipeline.results import load, read_run

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


@app.command()
def recognizers(
    folder: Annotated[
        Path | None, typer.Argument(help="A saved recognizer; by default the bundled ones.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which recognizers are bundled, or what the folder of one holds."""
    from flows.console import print_line, print_table
    from pipeline.temporal.recognizer import DESCRIPTION, bundled_recognizers, find_recognizer

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


@app.command()
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
    from flows.console import print_line, print_table
    from pipeline.config import Sampling
    from pipeline.doctor import examine
    from pipeline.sources import find_videos

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


@app.command()
def retry(
    out: Annotated[Path, typer.Argument(help="Results folder.", show_default=False)],
    status: Annotated[
        str, typer.Option(help="Statuses to try again, with commas between; all but ok by default.")
    ] = "",
    frame_timeout: Annotated[
        float | None, typer.Option(help="Other than that of the last run, in seconds.")
    ] = None,
    video_timeout: Annotated[
        float | None, typer.Option(help="Other than that of the last run, in seconds.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Process again what failed in the last run on OUT, and only that."""
    from dataclasses import replace

    from pipeline.config import RunOptions
    from pipeline.errors import OptionError
    from pipeline.records import STATUSES
    from pipeline.results import read_run

    last = read_run(out)
    if not last:
        raise OptionError(f"{out} holds no results: no run.json")
    chosen = [name.strip() for name in status.split(",") if name.strip()]
    options = RunOptions.from_json(last["options"])
    decode = options.decode
    if frame_timeout is not None:
        decode = replace(decode, frame_timeout_seconds=frame_timeout)
    if video_timeout is not None:
        decode = replace(decode, video_timeout_seconds=video_timeout)
    wanted = tuple(chosen or sorted(set(STATUSES) - {"ok"}))
    options = replace(options, retry=wanted, decode=decode)
    _run_and_leave(last["sources"], out, options, Shown(as_json, quiet), fresh=False)


@app.command()
def serve(
    videos: Videos,
    out: Out,
    cron: Annotated[
        str | None,
        typer.Option(help="When to run, such as '0 2 * * *' (2 a.m.); else only when triggered."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name for trigger; by default that of OUT.")
    ] = None,
    recognizer: RecognizerName = "camera-motion",
    backbone: BackboneName = None,
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
) -> None:
    """Run the same job on a schedule, and whenever it is triggered, until stopped.

    Starts its own Prefect server unless PREFECT_API_URL is set.
    """
    from dataclasses import replace

    from flows.launch import serve_forever
    from pipeline.sources import absolute

    options = replace(gather_options(locals()), wait=True)
    places = [absolute(video) for video in videos]
    serve_forever(places, out.absolute(), options, name or out.absolute().name, cron)


@app.command()
def trigger(
    name: Annotated[
        str | None, typer.Argument(help="Name of the served job, where there are several.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run to its end.")] = False,
) -> None:
    """Run a served job now, and print the id of the run."""
    from flows.console import print_error, print_line
    from flows.launch import reach_server

    reach_server()
    from flows.deployments import follow, trigger

    run_id, _ = trigger(name)
    print_line(str(run_id))
    if not wait:
        return
    for state in follow(run_id):
        print_error(f"{state.name}: {state.message}" if state.message else state.name)
        if state.is_final() and not state.is_completed():
            raise typer.Exit(BROKEN)


app.command()(learning.train)
app.command()(benchmark.bench)
app.command()(judging.evaluate)
app.command()(diagnosing.diagnose)
app.command()(diagnosing.cells)
app.add_typer(diagnosing.novelty, name="novelty")


def main() -> None:
    """Run the command line, and turn a stop into words and an exit code."""
    try:
        with stop_on_signals():
            sys.exit(_run_app())
    except Stopped as stopped:
        say_and_leave(stopped)


def _run_app() -> int:
    """Run a command, and turn what the user can mend into a message and an exit code."""
    try:
        return app(standalone_mode=False) or 0
    except typer.Abort:
        return 130
    except InputError as error:
        sys.stderr.write(f"clipline: {error}\n")
        return USAGE
    except PipelineError as error:
        sys.stderr.write(f"clipline: {error}\n")
        return BROKEN
    except Exception as error:
        if hasattr(error, "show"):  # typer's own complaint about usage
            error.show()
            return USAGE
        raise


if __name__ == "__main__":
    main()
