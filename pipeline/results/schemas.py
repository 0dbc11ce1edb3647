"""Parquet schemas of the result tables. Columns may be added, never renamed or re-typed."""

from __future__ import annotations

import pyarrow as pa

_VIDEO = [("video", pa.string()), ("video_id", pa.string())]
_PREDICTION = [("label", pa.string()), ("score", pa.float32())]
_NOVELTY = ("novelty", pa.float32())
_PROVENANCE = [("recognizer", pa.string()), ("config_id", pa.string())]

SCHEMAS: dict[str, pa.Schema] = {
    "clips": pa.schema(
        [
            *_VIDEO,
            ("clip_index", pa.int32()),
            ("shot_index", pa.int32()),
            ("start_seconds", pa.float64()),
            ("end_seconds", pa.float64()),
            ("num_frames", pa.int32()),
            *_PREDICTION,
            ("scores", pa.list_(pa.float32())),
            _NOVELTY,
            ("embedding", pa.list_(pa.float32())),
            *_PROVENANCE,
        ]
    ),
    "segments": pa.schema(
        [
            *_VIDEO,
            ("segment_index", pa.int32()),
            ("shot_index", pa.int32()),
            ("start_seconds", pa.float64()),
            ("end_seconds", pa.float64()),
            *_PREDICTION,
            *_PROVENANCE,
        ]
    ),
    "frames": pa.schema(
        [
            *_VIDEO,
            ("sample_index", pa.int64()),
            ("frame_index", pa.int64()),
            ("pts_seconds", pa.float64()),
            ("shot_index", pa.int32()),
            *_PREDICTION,
            _NOVELTY,
            *_PROVENANCE,
        ]
    ),
    "shots": pa.schema(
        [
            *_VIDEO,
            ("shot_index", pa.int32()),
            ("start_seconds", pa.float64()),
            ("end_seconds", pa.float64()),
            ("start_frame", pa.int64()),
            ("kind", pa.string()),
            ("score", pa.float32()),
            ("transition_seconds", pa.float64()),
            ("timing", pa.string()),
            *_PROVENANCE,
        ]
    ),
    "videos": pa.schema(
        [
            *_VIDEO,
            ("path", pa.string()),
            ("copy_of", pa.string()),
            ("status", pa.string()),
            ("error", pa.string()),
            ("decoder", pa.string()),
            ("attempts", pa.string()),
            ("codec", pa.string()),
            ("pixel_format", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("rotation", pa.int16()),
            ("duration_seconds", pa.float64()),
            ("frame_rate", pa.float64()),
            ("variable_frame_rate", pa.bool_()),
            ("longest_gap_seconds", pa.float64()),
            ("edit_list", pa.bool_()),
            ("video_streams", pa.int16()),
            ("packets", pa.int64()),
            ("packets_discarded", pa.int64()),
            ("frames_from_header", pa.int64()),
            ("frames_expected", pa.int64()),
            ("frames_decoded", pa.int64()),
            ("frames_duplicated", pa.int64()),
            ("frames_missing", pa.int64()),
            ("frames_damaged", pa.int64()),
            ("frames_sampled", pa.int64()),
            ("one_sample_per_frame", pa.bool_()),
            ("note", pa.string()),
            ("frame_rate_assumed", pa.bool_()),
            ("decoding_version", pa.int16()),
            ("clips", pa.int32()),
            ("size_bytes", pa.int64()),
            *_PROVENANCE,
        ]
    ),
}
"""Columns of every table, in their order."""
COMMIT_TABLE = "videos"
"""Written last: a shard is finished once its part of this table exists."""
