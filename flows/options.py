"""The options of the commands: their names, units and help, and how they become `RunOptions`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipeline.config import DecodeOptions, RunOptions

Videos = Annotated[
    list[str],
    typer.Argument(
        help="Files, folders, globs, lists (.csv, .parquet, .txt), folders of numbered images.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Results folder.", show_default=False)]
RecognizerName = Annotated[
    str, typer.Option(help="A bundled recognizer, or the folder of a saved one.")
]
BackboneName = Annotated[
    str | None,
    typer.Option(help="timm name, local-dir:PATH, or random:NAME for untrained weights."),
]
Weights = Annotated[
    Path | None, typer.Option(help="Safetensors file with the weights of the backbone.")
]
Tap = Annotated[str | None, typer.Option(help="Module of the backbone to read, such as blocks.4.")]
Grid = Annotated[
    int | None, typer.Option(help="Keep where things are: pool to GRID × GRID cells.", min=1)
]
SampleFps = Annotated[
    float | None,
    typer.Option(help="Frames a second of video: those displayed at k / SAMPLE_FPS seconds."),
]
Every = Annotated[int | None, typer.Option(help="Every n-th frame instead; 1 takes all.", min=1)]
ClipSeconds = Annotated[
    float | None, typer.Option(help="Length of a clip in seconds; 0 makes one clip a shot.")
]
StrideSeconds = Annotated[
    float | None,
    typer.Option(help="From clip to clip in seconds; by default the length of a clip."),
]
ImageFps = Annotated[float | None, typer.Option(help="Images a second of image sequences.")]
Frames = Annotated[bool, typer.Option("--frames", help="Also write one row a sampled frame.")]
Embeddings = Annotated[
    bool, typer.Option("--embeddings", help="Also write the pooled state of each clip.")
]
Novelty = Annotated[
    Path | None,
    typer.Option(help="Folder of a novelty model: also tell how unusual clips and frames are."),
]
Features = Annotated[
    Path | None, typer.Option(help="Folder of the feature store; by default OUT/features.")
]
DeviceName = Annotated[str, typer.Option("--device", help="auto, cpu, or cuda.")]
PrecisionName = Annotated[
    str, typer.Option("--precision", help="auto, float32, bfloat16, or float16 (CUDA).")
]
BatchSize = Annotated[int, typer.Option(help="Frames a batch; 0 chooses by device.", min=0)]
ReaderOption = Annotated[
    str, typer.Option("--reader", help="Reader to try first: auto, decord, opencv, or pyav.")
]
Workers = Annotated[int, typer.Option(help="Decode processes; 0 is one a core.", min=0)]
FrameTimeout = Annotated[
    float, typer.Option(help="Seconds without a new frame after which a decoder is killed.")
]
VideoTimeout = Annotated[
    float, typer.Option(help="Seconds that one attempt at one file or segment may take.")
]
MaxPixels = Annotated[int, typer.Option(help="Pixels a frame; larger ones are refused.")]
MaxVideoSeconds = Annotated[
    float, typer.Option(help="Length in seconds above which a video is refused.")
]
DecodeMemory = Annotated[
    int, typer.Option(help="Memory in MiB that one decode process may take.", min=64)
]
FullHash = Annotated[
    bool, typer.Option("--full-hash", help="Fingerprint whole files, not blocks of them.")
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Delete the results and features in OUT first.")
]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait for another run on the same results folder.")
]
Timings = Annotated[bool, typer.Option("--timings", help="Also print where the time went.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def gather_options(values: dict[str, Any]) -> RunOptions:
    """
    Gather the options of a command, by the names of its parameters.

    Raises:
        OptionError: a value that is none.
    """
    from pipeline.config import ClipWindows, EncodeOptions, RunOptions, Sampling

    get = values.get
    sampling = None
    if get("sample_fps") is not None or get("every") is not None:
        sampling = Sampling(fps=get("sample_fps"), every=get("every"))
    clips = None
    if get("clip_seconds") is not None or get("stride_seconds") is not None:
        clips = ClipWindows(get("clip_seconds") or None, get("stride_seconds"))
    return RunOptions(
        recognizer=get("recognizer"),
        backbone=get("backbone"),
        weights=str(get("weights")) if get("weights") else None,
        features=str(get("features")) if get("features") else None,
        tap=get("tap"),
        grid=get("grid"),
        sampling=sampling,
        clips=clips,
        frames=get("frames", False),
        embeddings=get("embeddings", False),
        novelty=str(get("novelty")) if get("novelty") else None,
        image_fps=get("image_fps"),
        full_hash=get("full_hash", False),
        wait=get("wait", False),
        decode=gather_decode_options(values),
        encode=EncodeOptions(
            device=_one_of("device", values["device"], ("auto", "cpu", "cuda")),
            precision=_one_of(
                "precision", values["precision"], ("auto", "float32", "bfloat16", "float16")
            ),
            batch_size=values["batch_size"],
        ),
    )


def gather_decode_options(values: dict[str, Any]) -> DecodeOptions:
    """Gather the options that say how files are decoded, as `gather_options` does."""
    from pipeline.config import DecodeOptions

    return DecodeOptions(
        reader=_one_of("reader", values["reader"], ("auto", "decord", "opencv", "pyav")),
        workers=values["workers"],
        frame_timeout_seconds=values["frame_timeout"],
        video_timeout_seconds=values["video_timeout"],
        max_pixels=values["max_pixels"],
        max_video_seconds=values["max_video_seconds"],
        memory_bytes=values["decode_memory"] << 20,
    )


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> Any:
    from pipeline.errors import OptionError

    if value not in choices:
        raise OptionError(f"--{name} must be one of {', '.join(choices)}, got {value}")
    return value
