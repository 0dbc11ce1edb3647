from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.records import DecodeReport, Video
from pipeline.results import tables
from pipeline.results.rows import VideoRows
from pipeline.results.schemas import SCHEMAS
from pipeline.results.tables import finished_videos, remove_incomplete, write_rows
from pipeline.storage import write_table
from tests.results.example_rows import FULL, OPTIONS, bad, good


class TestWriteRows:
    def test_the_number_of_clips_is_returned(self, tmp_path):
        copies = (("c.mp4", "/videos/c.mp4"),)

        assert write_rows(tmp_path, [good("a.mp4", 3), bad("b.mp4")], OPTIONS) == 3
        assert write_rows(tmp_path, [good("a.mp4", 3, copies=copies)], OPTIONS) == 6

    def test_clips_have_their_predictions(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4")], FULL)

        clips = pd.read_parquet(tmp_path / "clips")
        assert clips.video.tolist() == ["a.mp4"] * 2
        assert clips.video_id.tolist() == ["id-a.mp4"] * 2
        assert clips.clip_index.tolist() == [0, 1]
        assert clips.start_seconds.tolist() == [0, 1]
        assert clips.end_seconds.tolist() == [1, 2]
        assert clips.num_frames.tolist() == [4, 4]
        assert clips.label.tolist() == ["left", "right"]
        assert clips.score.tolist() == [0.5, 0.5]
        assert clips.scores[1].tolist() == [0.25, 0.5, 0.25]
        assert clips.embedding[1].tolist() == [1, 1]
        assert set(clips.recognizer) == {"toy"}
        assert set(clips.config_id) == {FULL.config_id}

    def test_without_a_label_above_its_threshold_label_and_score_are_null(self, tmp_path):
        rows = good("a.mp4", clips=1)
        clips = rows.recognition.clips
        clips[0] = replace(clips[0], label=None, embedding=None)
        rows.recognition.scores[0][0] = np.nan
        write_rows(tmp_path, [rows], FULL)

        (clip,) = pd.read_parquet(tmp_path / "clips").to_dict("records")
        assert pd.isna(clip["label"])
        assert clip["embedding"] is None
        assert np.isnan(clip["score"])
        assert len(clip["scores"]) == 3
        frames = pd.read_parquet(tmp_path / "frames")
        assert frames.label.isna().tolist() == [True, False, False, False]
        assert frames.score.isna().tolist() == [True, False, False, False]

    def test_embeddings_are_null_by_default(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4")], OPTIONS)

        assert pd.read_parquet(tmp_path / "clips").embedding.isna().all()

    def test_unknown_novelty_is_null(self, tmp_path):
        row = good("a.mp4")
        row.recognition.novelty.append(np.array([np.nan] + [1.5] * 7, np.float32))
        row.recognition.clips[1] = replace(row.recognition.clips[1], novelty=2.5)
        write_rows(tmp_path, [row, good("b.mp4")], FULL)

        clips, frames = (pd.read_parquet(tmp_path / table) for table in ("clips", "frames"))
        assert clips.novelty.isna().tolist() == [True, False, True, True]
        assert clips.novelty[1] == 2.5
        assert frames.novelty.isna().tolist() == [True] + [False] * 7 + [True] * 8
        assert set(frames.novelty.dropna()) == {1.5}

    def test_segments_and_frames_have_their_predictions(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4")], FULL)

        segments = pd.read_parquet(tmp_path / "segments")
        assert segments.segment_index.tolist() == [0, 1]
        assert segments.label.tolist() == ["left", "right"]
        frames = pd.read_parquet(tmp_path / "frames")
        assert frames.sample_index.tolist() == list(range(8))
        assert frames.frame_index.tolist() == list(range(0, 16, 2))
        assert frames.pts_seconds.tolist() == [n / 4 for n in range(8)]
        assert frames.label[0] is None or pd.isna(frames.label[0])  # in no clip
        assert frames.label[1:].tolist() == ["left"] * 7

    def test_frames_are_not_written_by_default(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4")], OPTIONS)

        assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "segments", "videos"]

    def test_a_failed_video_has_a_row_in_videos_only(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4"), bad("b.mp4")], FULL)

        videos = pd.read_parquet(tmp_path / "videos").set_index("video")
        assert videos.status.to_dict() == {"a.mp4": "ok", "b.mp4": "not_video"}
        assert videos.attempts["b.mp4"] == "decord: no; opencv: no"
        assert videos.error["b.mp4"] == "no video container"
        assert videos.clips.to_dict() == {"a.mp4": 2, "b.mp4": 0}
        assert videos.width["a.mp4"] == 96
        assert pd.isna(videos.width["b.mp4"])
        assert videos.path["b.mp4"] == "/videos/b.mp4"
        for table in ("clips", "segments", "frames"):
            assert set(pd.read_parquet(tmp_path / table).video) == {"a.mp4"}

    def test_copies_have_rows_in_every_table(self, tmp_path):
        copies = (("c.mp4", "/elsewhere/c.mp4"),)

        write_rows(tmp_path, [good("a.mp4", copies=copies)], FULL)

        videos = pd.read_parquet(tmp_path / "videos").set_index("video")
        assert videos.copy_of.dropna().to_dict() == {"c.mp4": "a.mp4"}
        assert videos.path["c.mp4"] == "/elsewhere/c.mp4"
        for table in ("clips", "segments", "frames"):
            rows = pd.read_parquet(tmp_path / table)
            one = rows[rows.video == "a.mp4"].drop(columns="video").reset_index(drop=True)
            other = rows[rows.video == "c.mp4"].drop(columns="video").reset_index(drop=True)
            pd.testing.assert_frame_equal(one, other)
            assert len(one) > 0

    def test_videos_are_written_last(self, tmp_path, monkeypatch):
        """A shard is finished once its file in `videos` exists."""
        written = []

        def record(table, path):
            written.append(path.parent.name)
            write_table(table, path)

        monkeypatch.setattr(tables, "write_table", record)
        write_rows(tmp_path, [good("a.mp4")], FULL)

        assert sorted(written) == sorted(SCHEMAS)
        assert written[-1] == "videos"

    def test_a_shard_with_a_failed_write_is_not_finished(self, tmp_path, monkeypatch):
        def fail_late(table, path):
            if path.parent.name == "videos":
                raise OSError(28, "No space left on device")
            write_table(table, path)

        monkeypatch.setattr(tables, "write_table", fail_late)
        with pytest.raises(OSError, match="No space left"):
            write_rows(tmp_path, [good("a.mp4")], OPTIONS)

        assert finished_videos(tmp_path, OPTIONS.config_id) == []
        assert remove_incomplete(tmp_path, OPTIONS) == 2
        assert not list(tmp_path.glob("*/*.parquet"))

    def test_a_shard_written_again_replaces_its_files(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4", 1)], OPTIONS)
        write_rows(tmp_path, [good("a.mp4", 3)], OPTIONS)

        assert len(pd.read_parquet(tmp_path / "clips")) == 3

    def test_undecodable_names_can_be_stored(self, tmp_path):
        source = Video("caf\\xe9.mp4", "/videos/caf\udce9.mp4", "file", "1", 2)

        write_rows(tmp_path, [VideoRows(source, DecodeReport("ok"), None)], OPTIONS)

        assert pd.read_parquet(tmp_path / "videos").path.tolist() == ["/videos/caf\\xe9.mp4"]
