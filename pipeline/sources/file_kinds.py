"""
Tell videos from the other files of a folder, by their names and their first bytes.

A file that neither looks nor probes like a video is left out: other programs store their files
beside videos. Files that are named by the user, or in a list, are never left out.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline.sources.image_sequence import IMAGE_SUFFIXES

SIDECAR_SUFFIXES = frozenset(
    (  # noqa: SIM905  a list would take one line for each suffix
        ".csv .tsv .txt .json .jsonl .yaml .yml .toml .xml .html .htm .md .rst .log .ini .cfg "
        ".parquet .npy .npz .pkl .pt .pth .safetensors .onnx .zip .tar .gz .tgz .bz2 .xz .7z "
        ".pdf .doc .docx .py .ipynb .sh .srt .vtt .ass .ssa .sub .nfo "
        ".wav .mp3 .flac .aac .m4a .ogg .opus .db .sqlite .lock .m3u .m3u8 .mpd "
        ".part .tmp .crdownload"
    ).split()
)
"""Files that accompany videos; skipped in folders unless their content is that of a video."""
CAMERA_SUFFIXES = frozenset({".thm", ".lrv", ".lrf"})
"""Thumbnails and low-resolution copies that cameras store beside their videos."""
VIDEO_SUFFIXES = frozenset(
    (  # noqa: SIM905
        ".mp4 .m4v .mov .qt .avi .mkv .webm .flv .f4v .wmv .asf .mpg .mpeg .mpe .mpv .m1v .m2v "
        ".vob .evo .ts .m2ts .mts .m2t .tp .trp .tod .m2p .mxf .gxf .ogv .ogm .3gp .3gpp .3g2 .dv "
        ".dif .divx .xvid .rm .rmvb .ivf .nut .y4m .h261 .h263 .h264 .264 .avc .h26l .jsv .h265 "
        ".265 .hevc .h266 .266 .vvc .vc1 .av1 .obu .mjpeg .mjpg .mjp .mj2 .dav .amv .bik .bk2 .smk "
        ".roq .swf .wtv .dvr-ms .gif .apng .mng .fli .flc .insv .360 .pva .nsv .viv .cine .braw "
        ".r3d .ari .mlv .cavs .avs2 .avs3 .m4e .m4s"
    ).split()
)
SIGNATURES = re.compile(
    rb"""
      \x1aE\xdf\xa3 | RIFF....AVI\x20 | FLV\x01 | 0&\xb2u | OggS.{24,200}theora | \.RMF
    | DKIF | nut/mult | YUV4MPEG2 | MLVI | DHAV | BIK[a-z] | [FC]WS[\x01-\x30] | GIF8[79]a
    | \x06\x0e\x2b\x34 | \x1f\x07\x00                      # MXF, DV
    | \x00\x00\x01[\xba\xb3\xb0\x20\xe0]                    # MPEG program and elementary streams
    | \x00?\x00\x00\x01(\x09|[\x27\x47\x67]|[\x40\x42\x46]\x01)   # H.264 and HEVC
    """,
    re.VERBOSE | re.DOTALL,
)
"""First bytes of videos other than MP4, QuickTime and MPEG transport streams."""
BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"styp")
"""Types of the first box of MP4 and QuickTime files."""
HEAD_BYTES = 1024
TS_SYNC, TS_PACKETS = 0x47, (188, 192, 204)
"""First byte of the packets of an MPEG transport stream, and their sizes."""


def may_be_video(path: Path, *, strict: bool = False) -> bool:
    """
    Whether a file of a folder is treated as a video.

    Args:
        path: of a file, or of a broken link.
        strict: treat every file as a video that is not known to accompany videos.
    """
    suffix = path.suffix.lower()
    if suffix in SIDECAR_SUFFIXES:
        return looks_like_video(path)
    try:
        mode = path.stat().st_mode
    except OSError:
        return True  # a broken link: gets a row with an error
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        return False
    if strict or suffix in VIDEO_SUFFIXES | IMAGE_SUFFIXES:
        return True
    return suffix not in CAMERA_SUFFIXES and looks_like_video(path, unreadable=True)


def looks_like_video(path: Path, *, unreadable: bool = False) -> bool:
    """
    Whether the first bytes are the signature of a video.

    Args:
        path: of a file.
        unreadable: what to return for a file that may not be read.
    """
    if not os.path.isfile(path):
        return False  # opening a pipe would block until another process writes to it
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return unreadable
    is_box = head[4:8] in BOXES and head[8:11] != b"M4A"
    return is_box or SIGNATURES.match(head) is not None or _is_transport_stream(head)


def _is_transport_stream(head: bytes) -> bool:
    for size in TS_PACKETS:
        start = size - 188 if size == 192 else 0
        bytes_there = head[start::size]
        if len(bytes_there) > 3 and set(bytes_there) == {TS_SYNC}:
            return True
    return False


def is_other_file(path: Path) -> bool:
    """Whether a file that is no video is not of a kind that is known to accompany videos."""
    return path.suffix.lower() not in SIDECAR_SUFFIXES and os.path.isfile(path)


def describe_others(paths: Sequence[Path]) -> str:
    """Count files that are no videos, by suffix, in one sentence."""
    number = f"{len(paths)} file{'s' * (len(paths) != 1)}"
    return f"{number} of other programs left out ({_count_suffixes(paths)})"


def describe_stills(paths: Sequence[Path]) -> str:
    """Count still pictures that are left out, by suffix, in one sentence."""
    number = f"{len(paths)} still picture{'s' * (len(paths) != 1)}"
    return f"{number} beside videos left out ({_count_suffixes(paths)}): they show no motion"


def _count_suffixes(paths: Sequence[Path]) -> str:
    counts = Counter(path.suffix.lower() or "without suffix" for path in paths)
    return ", ".join(f"{suffix} {count}" for suffix, count in sorted(counts.items()))
