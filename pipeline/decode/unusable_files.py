"""
Say in one sentence why a file cannot be used as a video: what it is instead, or what it lacks.

FFmpeg's own messages, such as "invalid data found when processing input", name neither.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av.error
import av.stream

from pipeline.errors import VideoError

HEAD_BYTES = 512
PLAYLIST_SIGNATURES = {b"#EXTM3U": "hls", b"ffconcat version": "concat"}
"""First bytes of playlists that FFmpeg would follow, or wait for, as soon as they are opened."""
GIT_LFS_SIGNATURE = b"version https://git-lfs"
HTML_SIGNATURES = (b"<!doctype html", b"<html", b"<head", b"<body")
"""In lower case; a comment or a declaration of XML may precede them."""
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
CONTROL_BYTES = frozenset(range(32)) - frozenset(b"\t\r\n\f\x1b")
"""Of which text has none."""
MIN_ASCII = 0.8
"""Share of letters of the Latin alphabet and the like in text of an older encoding."""
ANIMATIONS = {
    b"\x8aMNG\r\n\x1a\n": "MNG",
    b"FLIF": "FLIF",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
}
"""First bytes of animated formats that the readers may not decode."""
ENCRYPTED = "the video is encrypted (DRM): it cannot be decoded without its key"
INDEX_IS_CUT = "cut off: the file ends within its index (moov); copy it again"
MESSAGES = {
    errno.EPERM: ENCRYPTED,
    errno.EAGAIN: "the file ends too early",
}
"""Instead of the messages of the operating system for errors that come from FFmpeg."""
IO_MESSAGES = {
    errno.EPERM: "access to it is denied",
    errno.EAGAIN: "it is in use by another program, or its disk does not answer",
}
"""Instead of messages that do not say what to do."""
TOP_BOXES = frozenset(
    {b"ftyp", b"styp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"uuid", b"sidx"}
    | {b"pnot", b"udta", b"meta", b"pdin", b"mfra", b"prft", b"emsg", b"ssix", b"junk"}
)
"""Types of the boxes of MP4 and MOV files outside of other boxes."""
PROTECTED_BOXES = (b"encv", b"pssh", b"sinf")
"""Boxes of encrypted MP4 files; they lie in `moov`, or beside it."""
MOOV_BYTES = 1 << 20
"""Of `moov` that are searched for them."""
TS_PACKET, TS_SYNC = 188, 0x47
TS_PACKETS = 2000
"""Packets of a transport stream that are searched for scrambled ones."""


def refuse_by_head(location: str) -> None:
    """
    Refuse what the first bytes of a file show to be no video, or FFmpeg must not open.

    Raises:
        VideoError: the file is empty, a playlist, a Git LFS pointer, or a web page.
        OSError: the file cannot be read.
    """
    head = _read_head(location)
    if not head:
        raise VideoError("not_video", "the file is empty")
    for signature, kind in PLAYLIST_SIGNATURES.items():
        if head.startswith(signature):
            raise playlist_error(kind)
    if head.startswith(GIT_LFS_SIGNATURE):
        raise VideoError(
            "not_video",
            "a Git LFS pointer instead of the video: fetch the content with `git lfs pull`",
        )
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<") and any(signature in text for signature in HTML_SIGNATURES):
        raise VideoError(
            "not_video", "a web page (HTML) instead of a video: the download went wrong"
        )


def _read_head(location: str) -> bytes:
    with open(location, "rb") as file:
        return file.read(HEAD_BYTES)


def playlist_error(kind: str) -> VideoError:
    """Create the error about a file that names other files."""
    return VideoError("not_video", f"a playlist ({kind}): give the files that it names")


def error_text(error: Exception) -> str:
    """Return the message of an FFmpeg error, starting in lower case."""
    known = MESSAGES.get(getattr(error, "errno", None) or 0)
    if known and isinstance(error, av.error.FFmpegError):
        return known
    text = getattr(error, "strerror", None) or str(error)
    return text[0].lower() + text[1:] if text else type(error).__name__


def io_error_text(error: OSError) -> str:
    """Return why the operating system cannot read a file."""
    return IO_MESSAGES.get(error.errno or 0) or error.strerror or str(error)


def explain_unopenable(location: str, error: Exception) -> VideoError:
    """Explain why FFmpeg cannot open a file that can be read."""
    boxes = _Boxes(location)
    reason = boxes.problem() if boxes else ""
    if reason or boxes.protected:
        return VideoError("undecodable", reason or ENCRYPTED)
    kind = _unsupported_animation(location)
    if kind:
        return _animation_error(kind)
    head = _read_head(location)
    if not head.strip(b"\0"):
        return VideoError("not_video", "the file holds zeros: it was never written completely")
    if _is_text(head):
        return VideoError("not_video", "a text file")
    return VideoError("not_video", f"no video container: {error_text(error)}")


def explain_missing_stream(location: str, container: Any) -> VideoError:
    """Explain what an open container without a video stream holds."""
    if _Boxes(location).index_is_cut:
        return VideoError("undecodable", INDEX_IS_CUT)
    attached = av.stream.Disposition.attached_pic
    covers = [s for s in container.streams.video if s.disposition & attached]
    kinds = sorted({s.type for s in container.streams if s not in covers}) or ["nothing"]
    cover = " and a cover picture" if covers else ""
    return VideoError("not_video", f"holds no video stream, only {', '.join(kinds)}{cover}")


def explain_missing_picture(location: str, packets: int, claimed: int, reason: str) -> VideoError:
    """
    Explain why no picture of a video stream could be decoded.

    Args:
        location: of the file.
        packets: number of packets of the stream.
        claimed: number of frames by the header; 0 where it is unknown.
        reason: the first error, or what else is known.
    """
    if claimed and not packets:
        found = f"the header claims {claimed} frames, the file holds none of them"
        return VideoError("undecodable", f"cut off: {found}")
    boxes = _Boxes(location)
    if boxes and not packets and boxes.problem():
        return VideoError("undecodable", boxes.problem())
    if is_encrypted(location):
        return VideoError("undecodable", ENCRYPTED)
    kind = _unsupported_animation(location)
    if kind:
        return _animation_error(kind)
    found = f"{packets} packets" if packets else "no packets"
    return VideoError("undecodable", f"no picture from {found}: {reason}")


def _unsupported_animation(location: str) -> str:
    """Return the name of an animated format that no reader decodes; empty for other files."""
    head = _read_head(location)
    return next((name for start, name in ANIMATIONS.items() if head.startswith(start)), "")


def _animation_error(kind: str) -> VideoError:
    return VideoError(
        "undecodable",
        f"an image or animation in the format {kind}, which cannot be read: convert it, for "
        "example to MP4 or GIF",
    )


class _Boxes:
    """
    The boxes of an MP4 or MOV file outside of other boxes; false for other files.

    Args:
        location: of a file.
    """

    def __init__(self, location: str) -> None:
        self.size = Path(location).stat().st_size
        self.found: dict[bytes, int] = {}
        """End of the last box of each type."""
        self.protected = False
        with open(location, "rb") as file:
            for kind, start, end in _boxes(file, self.size):
                self.found[kind] = end
                if kind in (b"moov", b"moof", b"pssh"):
                    file.seek(start)
                    content = file.read(min(end - start, MOOV_BYTES))
                    self.protected |= any(name in content for name in PROTECTED_BOXES)

    def __bool__(self) -> bool:
        return bool(self.found)

    @property
    def index_is_cut(self) -> bool:
        """Whether the file ends within its index."""
        return self.found.get(b"moov", 0) > self.size

    def problem(self) -> str:
        """Describe what the file lacks; empty if all kinds of boxes are there."""
        has_moov, has_moof = b"moov" in self.found, b"moof" in self.found
        if self.index_is_cut:
            return INDEX_IS_CUT
        if not has_moov and has_moof:
            return (
                "a media segment without its initialization segment (moov): "
                "join both, the initialization segment first"
            )
        if not has_moov and b"mdat" in self.found:
            return (
                "cut off: the index (moov) is missing, since the recording was not finished or the "
                "copy is incomplete; tools such as untrunc can repair it, given an intact "
                "recording of the same camera"
            )
        if not has_moov:
            return "cut off: the file ends before its index (moov) and its media"
        if b"mdat" not in self.found and not has_moof:
            return (
                "an initialization segment without media: join it with its media segments, "
                "or copy the file again if it is cut off"
            )
        return ""


def _boxes(file: Any, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of each box, up to the first that is none."""
    start = 0
    while start + 8 <= size:
        file.seek(start)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if kind not in TOP_BOXES:
            return
        if length == 1 and len(head) == 16:
            length = int.from_bytes(head[8:], "big")
        end = start + length if length else size
        if end < start + 8:
            return
        yield kind, start, end
        start = end


def _is_text(head: bytes) -> bool:
    if head.startswith(UTF16_MARKS):
        return True
    if not CONTROL_BYTES.isdisjoint(head):
        return False
    if sum(byte < 128 for byte in head) >= MIN_ASCII * len(head):
        return True
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # the last character may be incomplete
            return False
        text = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character.isspace() for character in text)


def is_encrypted(location: str) -> bool:
    """Whether an MP4 file or a transport stream says that its video is encrypted."""
    if not Path(location).is_file():
        return False  # a folder of images
    return _Boxes(location).protected or _is_scrambled(location)


def _is_scrambled(location: str) -> bool:
    """Whether most packets of a transport stream are encrypted."""
    with open(location, "rb") as file:
        data = file.read(TS_PACKET * TS_PACKETS)
    if len(data) < 2 * TS_PACKET or data[0] != TS_SYNC or data[TS_PACKET] != TS_SYNC:
        return False
    flags = data[3::TS_PACKET]
    return sum(flag & 0xC0 != 0 for flag in flags) * 2 > len(flags)
