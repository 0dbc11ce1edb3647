"""
Which videos have to be decoded again, because this version decodes them differently.

Every `DecodeReport`, and so every row of `videos` and every stored chunk of features, has the
`decoding_version` with which its video was decoded: 1 plus the number of `CHANGES` at that time.
(Reports without one are of version 1.) Features and rows of an earlier version remain valid unless
a later change affects the video. The next run deletes those of affected videos, decodes these
again, and logs how many there are and why; all other videos are neither read nor decoded.

To change decoded pixels, times, or the status of some videos, append a `Change` to `CHANGES`. Its
function `affects(video, report)` returns whether the change concerns a video, given the report of
the earlier version. It must be cheap, since it is called for every row of an earlier version: test
the fields of the report first, and read at most a few bytes of the file, only if these fit. (The
reports on the chunks of a video are merged before.) Never remove or reorder changes.
`FEATURES_VERSION` of the feature store, in contrast, is for changes that affect all videos.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.records import DecodeReport, Video, merge_reports
from pipeline.sources.image_sequence import image_files
from pipeline.sources.pictures import find_value_range, list_pictures
from pipeline.sources.raw_streams import may_be_raw_stream
from pipeline.sources.stills import is_animated_webp, read_head

SEARCHED_PACKETS = 250
"""Packets among which the first picture was searched."""
ASSUMED_RATE = 25.0
COUNTED_CODECS = frozenset({"h264", "hevc", "vvc"})
"""Codecs of raw streams all of whose times came from the assumed rate."""
RAW_CODECS = COUNTED_CODECS | {"h263", "mpeg1video"}

SLOW_FRAMES_PER_SECOND = 1.01
"""Average rate of a time-lapse video, at most: whose usual frame is shown for a second or more."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the decoding of some videos."""

    reason: str
    """What is different now, for the user: "raw H.264 has the frame rate that it states"."""
    affects: Callable[[Video, DecodeReport], bool]
    """Whether a video is affected, given its report of an earlier version."""


def _repeats_frames(video: Video, report: DecodeReport) -> bool:
    slow = report.frame_rate is not None and report.frame_rate <= SLOW_FRAMES_PER_SECOND
    return slow and report.frames_sampled > report.frames_decoded


def _assumed_rate(video: Video, report: DecodeReport) -> bool:
    if report.codec not in RAW_CODECS or report.frames_from_header:
        return False
    rate = report.frame_rate or ASSUMED_RATE
    if report.codec in COUNTED_CODECS and not math.isclose(rate, ASSUMED_RATE):
        return False
    try:
        return may_be_raw_stream(video.location)
    except OSError:
        return False


def _fields_as_frames(video: Video, report: DecodeReport) -> bool:
    shown = (report.packets or 0) - (report.packets_discarded or 0)
    # of other damaged files fewer frames are missing
    share = 1.0 if report.status == "ok" else 0.75
    return report.codec == "h264" and 0 < report.frames_decoded < share * shown


def _has_pages_or_deep_pictures(video: Video, report: DecodeReport) -> bool:
    if video.kind != "images":
        return False
    try:
        first = list_pictures(image_files(video.location)[:1])
    except OSError:
        return False
    return len(first) > 1 or find_value_range(first)[0] is not None


def _is_animated_webp(video: Video, report: DecodeReport) -> bool:
    unread = report.frames_decoded < 2 and report.codec in (None, "webp")
    return unread and is_animated_webp(read_head(Path(video.location)))


def _container_was_not_read(video: Video, report: DecodeReport) -> bool:
    truncated = "the container broke off" in report.error or "header claims" in report.error
    return report.status == "partial" and truncated


def _first_frame_was_late(video: Video, report: DecodeReport) -> bool:
    found = re.match(r"no picture from (\d+) packets", report.error)
    return found is not None and int(found[1]) > SEARCHED_PACKETS


def _key_frames_were_not_marked(video: Video, report: DecodeReport) -> bool:
    return report.status == "partial" and "no key frame to begin with" in report.error


def _dropped_frames_were_missing(video: Video, report: DecodeReport) -> bool:
    missing = report.status == "partial" and report.error.startswith("the header claims ")
    return missing and video.location.lower().endswith(".avi")


def _has_several_streams(video: Video, report: DecodeReport) -> bool:
    return (report.video_streams or 0) > 1


def _is_still(video: Video, report: DecodeReport) -> bool:
    return report.duration_seconds == 0 and report.frames_sampled > 0


CHANGES: tuple[Change, ...] = (
    Change("each frame of a time-lapse video is one sample", _repeats_frames),
    Change("raw streams have the frame rate that they state", _assumed_rate),
    Change("the two fields of a frame of H.264 are one frame", _fields_as_frames),
    Change(
        "all pages of TIFF files are read, and pictures of 10 to 14 bits have their full contrast",
        _has_pages_or_deep_pictures,
    ),
    Change("animated WebP is read", _is_animated_webp),
    Change("only the video track decides where a file ends", _container_was_not_read),
    Change("the first picture is searched in the whole file", _first_frame_was_late),
    Change("key frames that the container does not mark are found", _key_frames_were_not_marked),
    Change("dropped frames of an AVI file are not missing", _dropped_frames_were_missing),
    Change("of several video streams, the one that a player shows is used", _has_several_streams),
    Change("still pictures have no clips", _is_still),
)
"""All changes, in the order in which they were made."""


def decoding_version() -> int:
    """Return the version that new reports have."""
    return 1 + len(CHANGES)


def reason_to_decode_again(video: Video, reports: Iterable[DecodeReport]) -> str:
    """
    Return why a video has to be decoded again.

    Args:
        video: as it was found now.
        reports: earlier ones on it, or on its chunks, of any version.

    Returns:
        The reason of the first change that affects it; empty if its results are still valid.
    """
    earlier = list(reports)
    if not earlier:
        return ""
    report = merge_reports(earlier)
    for change in CHANGES[min(part.decoding_version for part in earlier) - 1 :]:
        if change.affects(video, report):
            return change.reason
    return ""


def describe_reasons(reasons: Iterable[str]) -> str:
    """Describe in one sentence how many videos are decoded again, given one reason for each."""
    counts = Counter(reasons)
    videos = counts.total()
    told = "; ".join(
        reason if count == videos else f"{reason} ({count})"
        for reason, count in counts.most_common()
    )
    what = "1 video is" if videos == 1 else f"{videos:,} videos are"
    return f"{what} decoded again, because this version decodes them differently: {told}"
