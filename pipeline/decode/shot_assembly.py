"""Put together the shots of a video from what was found in its chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.decode.shot_detector import merge_chunks
from pipeline.encode.shot_store import Shots, Transition

Json = dict[str, Any]


def assemble_shots(chunks: Sequence[Json]) -> Shots:
    """
    Put together the shots of a video.

    Args:
        chunks: what a `ShotDetector` returned for all chunks of the video, in order.
    """
    events = merge_chunks(chunks)
    fades = _fades(events)
    changes = [(e["from"], e["to"]) for e in events if e["kind"] in ("in", "out")]
    cuts = [event for event in events if event["kind"] == "cut"]
    dissolves = [
        event
        for event in events
        if event["kind"] == "dissolve"
        # parts of a fade resemble a dissolve, and so does a cut between similar shots
        and not any(start < event["to"] and event["from"] < end for start, end in changes)
        and not any(event["from"] < cut["seconds"] <= event["to"] for cut in cuts)
    ]
    found = sorted([*cuts, *dissolves, *fades], key=lambda event: event["frame"])
    transitions = [_transition(event) for event in found if event["frame"] > 0]
    unique = {transition.frame_index: transition for transition in transitions}
    return Shots(tuple(unique.values()), exact=all(chunk["exact"] for chunk in chunks))


def _fades(events: Sequence[Json]) -> list[Json]:
    """
    Join each fade to a flat picture with the fade from it that follows.

    One alone is no boundary of shots: it begins or ends the video, or a cut is at its other side.
    """
    fades, out = [], None
    for event in events:
        if event["kind"] == "out":
            out = event
        elif event["kind"] == "cut":
            out = None
        elif event["kind"] == "in" and out is not None:
            fades.append({**event, "kind": "fade", "from": out["from"]})
            out = None
    return fades


def _transition(event: Json) -> Transition:
    duration = event["to"] - event["from"]
    return Transition(event["frame"], event["seconds"], event["kind"], event["score"], duration)
