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
    str,
    typer.Option(
        help="Model name in timm, local-dir:PATH of a downloaded one, or random:NAME for untrained "
        "weights."
    ),
]
BackbonePlace = Annotated[
    str | None,
    typer.Option(
        help="Where the recognizer's own backbone is found, where not by its saved name: "
        "local-dir:PATH, say. Its weights must be the same."
    ),
]
Weights = Annotated[
    Path | None, typer.Option(help="Safetensors file with the weights of the backbone.")
]
Tap = Annotated[
    str | None,
    typer.Option(
        help="Read the backbone after this module, such as blocks.4.",
        show_default="its end",
    ),
]
Grid = Annotated[
    int | None,
    typer.Option(
        help="Pool feature maps to GRID × GRID cells, which keeps where things are.",
        min=1,
        show_default="1, global pooling",
    ),
]
SAMPLE_FPS = "Frames per second of video to sample: those displayed at k / SAMPLE_FPS seconds."
SampleFps = Annotated[
    float | None,
    typer.Option(help=SAMPLE_FPS, show_default="the recognizer's"),
]
SampleFpsOr8 = Annotated[
    float | None,
    typer.Option(help=SAMPLE_FPS, show_default="8, unless --every is given"),
]
Every = Annotated[
    int | None, typer.Option(help="Sample every n-th frame instead; 1 takes all.", min=1)
]
ClipSeconds = Annotated[
    float | None,
    typer.Option(
        help="Length of clips in seconds; 0 makes one clip of each shot.",
        show_default="the recognizer's, 2 with camera-motion",
    ),
]
StrideSeconds = Annotated[
    float | None,
    typer.Option(
        help="Seconds from the start of a clip to that of the next; needs --clip-seconds.",
        show_default="as CLIP_SECONDS",
    ),
]
ImageFps = Annotated[
    float | None,
    typer.Option(help="Frame rate of image sequences, in images per second; needed for them."),
]
Frames = Annotated[bool, typer.Option("--frames", help="Also write one row per sampled frame.")]
Embeddings = Annotated[
    bool, typer.Option("--embeddings", help="Also write the pooled hidden state of each clip.")
]
Novelty = Annotated[
    Path | None,
    typer.Option(
        help="Folder of a novelty model: also tell how unusual clips are, and with --frames frames."
    ),
]
Features = Annotated[
    Path | None,
    typer.Option(help="Folder of the feature store.", show_default="OUT/features"),
]
SharedFeatures = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the feature store; train, evaluate, diagnose and novelty fit share theirs, "
        "so that no frame is decoded twice.",
        show_default="features in the user's cache folder",
    ),
]
DeviceName = Annotated[
    str, typer.Option("--device", help="auto (CUDA where there is one), cpu, or cuda.")
]
PrecisionName = Annotated[
    str,
    typer.Option(
        "--precision",
        help="auto, float32, bfloat16, or float16 (CUDA); auto takes a reduced one only where its "
        "features equal those of float32.",
    ),
]
BatchSize = Annotated[int, typer.Option(help="Frames per batch; 0 finds the fastest.", min=0)]
READERS = ("auto", "decord", "opencv", "pyav")
READER = "Reader to try first: auto, decord, opencv, or pyav."
WORKERS = "Decode processes; 0 is one per core."
FRAME_TIMEOUT = "Seconds without a new frame after which a decoder is killed."
VIDEO_TIMEOUT = (
    "Seconds that one attempt at one file or segment of up to 30,000 frames may take; more frames, "
    "more in proportion."
)
MAX_PIXELS = "Pixels per frame above which a video is refused."
MAX_VIDEO_SECONDS = "Length in seconds above which a video is refused."
DECODE_MEMORY = "Memory in MiB that one decode process may take."
ReaderOption = Annotated[str, typer.Option("--reader", help=READER)]
Workers = Annotated[int, typer.Option(help=WORKERS, min=0)]
FrameTimeout = Annotated[float, typer.Option(help=FRAME_TIMEOUT)]
VideoTimeout = Annotated[float, typer.Option(help=VIDEO_TIMEOUT)]
MaxPixels = Annotated[int, typer.Option(help=MAX_PIXELS)]
MaxVideoSeconds = Annotated[float, typer.Option(help=MAX_VIDEO_SECONDS)]
DecodeMemory = Annotated[int, typer.Option(help=DECODE_MEMORY, min=64)]


def _as_last(said: str, **bounds: Any) -> Any:
    return typer.Option(help=said, show_default="as in the last run", **bounds)


LastReader = Annotated[str | None, _as_last(READER)]
LastWorkers = Annotated[int | None, _as_last(WORKERS, min=0)]
LastFrameTimeout = Annotated[float | None, _as_last(FRAME_TIMEOUT)]
LastVideoTimeout = Annotated[float | None, _as_last(VIDEO_TIMEOUT)]
LastMaxPixels = Annotated[int | None, _as_last(MAX_PIXELS)]
LastMaxVideoSeconds = Annotated[float | None, _as_last(MAX_VIDEO_SECONDS)]
LastDecodeMemory = Annotated[int | None, _as_last(DECODE_MEMORY, min=64)]
FullHash = Annotated[
    bool,
    typer.Option(
        "--full-hash", help="Fingerprint whole files, not blocks of their head, middle and tail."
    ),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Delete the results and features in OUT first.")
]
Wait = Annotated[
    bool,
    typer.Option("--wait", help="Wait for another run on the same results folder; else refuse."),
]
Timings = Annotated[bool, typer.Option("--timings", help="Also print where the time went.")]
Seed = Annotated[int, typer.Option(help="Random seed.", min=0)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
LabelsTable = Annotated[
    Path,
    typer.Argument(
        metavar="LABELS",
        help="Table video,label[,start_seconds,end_seconds][,group][,split] in CSV, or a folder "
        "with one sub-folder of videos per label.",
        show_default=False,
    ),
]
VideosFolder = Annotated[
    Path | None,
    typer.Option(
        "--videos",
        help="Folder that the paths of LABELS count from.",
        show_default="that of LABELS",
    ),
]
OutputFolder = Annotated[
    Path, typer.Option("--out", "-o", help="Output folder.", show_default=False)
]


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


def change_decode_options(last: DecodeOptions, values: dict[str, Any]) -> DecodeOptions:
    """Change those options that are given, by the names of the parameters of a command."""
    from dataclasses import replace

    changes = {
        "reader": values["reader"] and _one_of("reader", values["reader"], READERS),
        "workers": values["workers"],
        "frame_timeout_seconds": values["frame_timeout"],
        "video_timeout_seconds": values["video_timeout"],
        "max_pixels": values["max_pixels"],
        "max_video_seconds": values["max_video_seconds"],
        "memory_bytes": values["decode_memory"] and values["decode_memory"] << 20,
    }
    return replace(last, **{name: value for name, value in changes.items() if value is not None})


def gather_decode_options(values: dict[str, Any]) -> DecodeOptions:
    """Gather the options that say how files are decoded, as `gather_options` does."""
    from pipeline.config import DecodeOptions

    return DecodeOptions(
        reader=_one_of("reader", values["reader"], READERS),
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
