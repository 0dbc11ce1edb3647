from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from pipeline.records import DecodeReport
from pipeline.results.schemas import SCHEMAS
from pipeline.results.tables import write_rows
from tests.results.example_rows import FULL, bad, good


class TestSchemas:
    def test_columns_are_fixed(self):
        video, provenance = ["video", "video_id"], ["recognizer", "config_id"]
        prediction = ["label", "score"]
        interval = ["start_seconds", "end_seconds"]
        assert SCHEMAS["clips"].names == [
            *video,
            "clip_index",
            "shot_index",
            *interval,
            "num_frames",
            *prediction,
            "scores",
            "novelty",
            "embedding",
            *provenance,
        ]
        assert SCHEMAS["segments"].names == [
            *video,
            "segment_index",
            "shot_index",
            *interval,
            *prediction,
            *provenance,
        ]
        assert SCHEMAS["frames"].names == [
            *video,
            "sample_index",
            "frame_index",
            "pts_seconds",
            "shot_index",
            *prediction,
            "novelty",
            *provenance,
        ]

        assert SCHEMAS["shots"].names == [
            *video,
            "shot_index",
            *interval,
            "start_frame",
            "kind",
            "score",
            "transition_seconds",
            "timing",
            *provenance,
        ]

    def test_every_field_of_a_decode_report_has_a_column(self):
        assert set(DecodeReport.__dataclass_fields__) <= set(SCHEMAS["videos"].names)

    @pytest.mark.parametrize("table", SCHEMAS)
    def test_parts_are_written_with_the_schema(self, tmp_path, table):
        write_rows(tmp_path, [good("a.mp4"), bad("b.mp4")], FULL)

        (part,) = (tmp_path / table).iterdir()
        assert pq.read_schema(part).equals(SCHEMAS[table])

    @pytest.mark.parametrize("table", SCHEMAS)
    def test_empty_parts_have_the_same_schema(self, tmp_path, table):
        """Otherwise pandas could not read the folder as one table."""
        write_rows(tmp_path, [bad("b.mp4")], FULL)

        (part,) = (tmp_path / table).iterdir()
        assert pq.read_schema(part).equals(SCHEMAS[table])
