"""The commands `serve` and `trigger`: the same job again and again, on a schedule or when told."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import (
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
    FullHash,
    ImageFps,
    MaxPixels,
    MaxVideoSeconds,
    Novelty,
    Out,
    PrecisionName,
    ReaderOption,
    RecognizerName,
    SampleFps,
    StrideSeconds,
    Videos,
    VideoTimeout,
    Weights,
    Workers,
    gather_options,
)
from flows.signals import BROKEN


def serve(
    videos: Videos,
    out: Out,
    cron: Annotated[
        str | None,
        typer.Option(
            help="When to run, such as '0 2 * * *' (2 a.m.).",
            show_default="only when triggered",
        ),
    ] = None,
    timezone: Annotated[
        str, typer.Option(help="Time zone of the schedule, such as Europe/Berlin.")
    ] = "UTC",
    name: Annotated[
        str | None,
        typer.Option(help="Name for trigger.", show_default="that of OUT"),
    ] = None,
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
) -> None:
    """Run the same job on a schedule, and whenever it is triggered, until stopped.

    Starts its own Prefect server unless PREFECT_API_URL is set. A run waits for another one on OUT.
    """
    from dataclasses import replace

    from flows.server.launch import serve_forever
    from pipeline.sources.discovery import absolute

    options = replace(gather_options(locals()), wait=True)
    places = [absolute(video) for video in videos]
    out = out.absolute()
    serve_forever(places, out, options, name or out.name, cron, timezone)


def trigger(
    name: Annotated[
        str | None, typer.Argument(help="Name of the served job, where there are several.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run to its end.")] = False,
) -> None:
    """Run a served job now, and print the id of the run."""
    from flows.cli.console import print_error, print_line
    from flows.server.launch import reach_server

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
