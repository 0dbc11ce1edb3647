"""Files written by commit 95dab6b are still read and give the same rows: see fixtures/README.md."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.anomaly.storage import load_novelty
from pipeline.config import RunOptions
from pipeline.encode.feature_store import FeatureStore
from pipeline.evaluation.evaluate import trained_on, training_options
from pipeline.recognition.recognizer import load_recognizer
from pipeline.results.report import write_report
from pipeline.results.tables import load, read_run
from pipeline.run.process import process_videos
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions
from pipeline.training.options import LearningOptions
from tests.results.read_page import read_page

FIXTURES = Path(__file__).parent / "fixtures"
OPTIONS = json.loads((FIXTURES / "options.json").read_text())
MODELS = json.loads((FIXTURES / "temporal_models.json").read_text())
WRITTEN_IN = "/example/"
"""The folder in which the files of the archive were written."""
RUNS = ("camera_motion", "fine_tuned", "attention", "plain")
"""Each a configuration of `results`; `plain` is the newest, and the only one with frames."""
FRAMES = 58
CLIPS = {"camera_motion": 4, "fine_tuned": 8, "attention": 8, "plain": 8}
ORDER = {
    "videos": ["video"],
    "clips": ["video", "clip_index"],
    "segments": ["video", "segment_index"],
    "frames": ["video", "sample_index"],
}
SCORES = ("score", "scores", "novelty", "embedding")


@pytest.fixture
def written(tmp_path, monkeypatch, engine_cache):
    """Unpack the archive, as if it had been written there, and make it the working folder."""
    shutil.unpack_archive(FIXTURES / "written_by_95dab6b.tar.xz", tmp_path, filter="data")
    for path in (tmp_path / "results" / "videos").iterdir():
        table = pq.read_table(path)
        moved = [p.replace(WRITTEN_IN, f"{tmp_path}/") for p in table["path"].to_pylist()]
        column = table.schema.get_field_index("path")
        table = table.set_column(column, table.schema.field("path"), pa.array(moved, pa.string()))
        pq.write_table(table, path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(engine_cache))
    return tmp_path


def run_of(written, name):
    """Give what `run.json` said after a run."""
    return json.loads((written / "runs" / f"{name}.json").read_text())


def options_of(written, name):
    """Give the options of a run, with one decode process."""
    options = RunOptions.from_json(run_of(written, name)["options"])
    return replace(options, decode=replace(options.decode, workers=1))


def read_parts(written, table, config_id):
    """Read the rows of a configuration without the package."""
    paths = sorted((written / "results" / table).glob(f"part-{config_id}-*.parquet"))
    rows = [pq.read_table(path).to_pandas() for path in paths]
    return pd.concat(rows, ignore_index=True).sort_values(ORDER[table], ignore_index=True)


def read_tables(written, name):
    """Read all tables of a configuration without the package."""
    config_id = run_of(written, name)["config_id"]
    tables = set(ORDER) if name == "plain" else set(ORDER) - {"frames"}
    return {table: read_parts(written, table, config_id) for table in tables}


def remove_rows(written):
    for table in ORDER:
        shutil.rmtree(written / "results" / table)


def part_files(out):
    """Give every Parquet file with its time of writing."""
    return {path: path.stat().st_mtime_ns for path in out.glob("**/part-*.parquet")}


def assert_same_rows(rows, before, within=1e-4):
    """
    Compare the columns that there were before: scores within a tolerance, all else exactly.

    The words of errors may change; where there is one may not.
    """
    assert set(before.columns) <= set(rows.columns)
    scores = [name for name in SCORES if name in before]
    plain = [name for name in before if name not in (*scores, "error")]
    if "error" in before:
        assert (rows.error != "").tolist() == (before.error != "").tolist()
    pd.testing.assert_frame_equal(rows[plain], before[plain])
    for name in scores:
        for found, wanted in zip(rows[name], before[name], strict=True):
            if wanted is None or (np.isscalar(wanted) and np.isnan(wanted)):
                assert found is None or np.isnan(found)
            else:
                relative = within if name == "novelty" else 0
                np.testing.assert_allclose(found, wanted, rtol=relative, atol=within)


class TestResults:
    @pytest.mark.parametrize("table", ORDER)
    def test_tables_of_the_newest_run_are_loaded(self, written, table):
        rows = load("results", table)

        before = read_parts(written, table, run_of(written, "plain")["config_id"])
        assert len(before) > 0
        assert_same_rows(rows.sort_values(ORDER[table], ignore_index=True), before, within=0)

    @pytest.mark.parametrize("name", RUNS)
    def test_tables_of_other_configurations_are_loaded(self, written, name):
        config_id = run_of(written, name)["config_id"]

        assert len(load("results", "clips", config_id)) == CLIPS[name]
        assert set(load("results", "videos", config_id).config_id) == {config_id}

    def test_features_of_the_newest_run_are_loaded(self, written):
        features = load("results", "features")

        assert len(features) == FRAMES
        assert np.stack(features.feature).shape == (FRAMES, 64)

    def test_the_run_record_is_read(self, written):
        run = read_run(Path("results"))

        assert run["config_id"] == run_of(written, "plain")["config_id"]
        assert set(run["configurations"]) == {run_of(written, n)["config_id"] for n in RUNS}
        assert RunOptions.from_json(run["options"]).recognizer == "recognizers/plain"

    def test_a_report_is_written_from_them(self, written):
        write_report(Path("results"))

        page = read_page(Path("results/report.html"))
        assert "clips/a.mp4" in page["tables"]["videos"]["name"]


class TestResume:
    @pytest.mark.parametrize("name", RUNS)
    def test_a_finished_run_has_nothing_to_do(self, written, name):
        before = part_files(written / "results")

        run = process_videos(["clips"], Path("results"), options_of(written, name))

        assert run["failures"] == []
        assert (run["counts"]["videos_skipped"], run["counts"]["videos_done"]) == (4, 0)
        assert run["counts"]["frames_decoded"] == run["counts"]["frames_encoded"] == 0
        for key in ("recognizer_id", "features_id", "novelty_id"):
            assert run["configuration"][key] == run_of(written, name)["configuration"][key]
        assert run["config_id"] == run_of(written, name)["config_id"]
        assert set(read_run(Path("results"))["configurations"]) == {
            run_of(written, other)["config_id"] for other in RUNS
        }
        assert part_files(written / "results") == before

    @pytest.mark.parametrize("name", RUNS)
    def test_stored_features_give_the_same_rows_without_decoding(self, written, name):
        before = read_tables(written, name)
        remove_rows(written)

        run = process_videos(["clips"], Path("results"), options_of(written, name))

        assert run["failures"] == []
        assert run["counts"]["frames_reused"] == FRAMES
        assert run["counts"]["frames_decoded"] == run["counts"]["frames_encoded"] == 0
        for table, rows in before.items():
            assert_same_rows(read_parts(written, table, run["config_id"]), rows)

    @pytest.mark.parametrize("name", ["plain", "fine_tuned"])
    def test_a_run_without_features_gives_the_same_rows(self, written, name):
        """On another processor a feature may be rounded to another float16."""
        before = read_tables(written, name)
        remove_rows(written)
        shutil.rmtree(written / "results" / "features")

        run = process_videos(["clips"], Path("results"), options_of(written, name))

        assert run["failures"] == []
        assert run["counts"]["frames_encoded"] == FRAMES
        decoded_by = ["decoder", "attempts"]  # which reader works depends on the processor
        for table, rows in before.items():
            found = read_parts(written, table, run["config_id"])
            assert_same_rows(
                found.drop(columns=decoded_by, errors="ignore"),
                rows.drop(columns=decoded_by, errors="ignore"),
                within=5e-3,
            )

    def test_failed_videos_are_retried(self, written):
        before = read_tables(written, "plain")
        options = replace(options_of(written, "plain"), retry=("not_video",))

        run = process_videos(["clips"], Path("results"), options)

        assert (run["counts"]["videos_skipped"], run["counts"]["videos_done"]) == (3, 1)
        assert run["counts"]["frames_decoded"] == 0
        for table, rows in before.items():
            assert_same_rows(read_parts(written, table, run["config_id"]), rows)


@pytest.mark.parametrize("name", RUNS)
def test_the_feature_store_finds_every_video(written, name):
    made_by = run_of(written, name)["configuration"]
    folder = written / "results" / "features" / made_by["features_id"]
    rows = pq.read_table(folder).to_pandas()

    store = FeatureStore(folder, made_by["feature_size"])

    videos = load("results", "videos")
    assert all(store.has(video_id) for video_id in videos.video_id)
    for video in videos.itertuples():
        (report,) = store.reports(video.video_id)
        (part,) = store.stream(video.video_id)
        kept = rows[rows.video_id == video.video_id]
        assert (report.status, report.frames_sampled) == (video.status, len(kept))
        np.testing.assert_array_equal(part.pts_seconds, kept.pts_seconds)
        values = np.array([*kept.feature]).reshape(len(kept), made_by["feature_size"])
        np.testing.assert_array_equal(part.values, values)


class TestModels:
    @pytest.mark.parametrize("name", RUNS[1:])
    def test_recognizers_are_loaded(self, written, name):
        recognizer = load_recognizer(written / "recognizers" / name)

        assert recognizer.identity == run_of(written, name)["configuration"]["recognizer_id"]
        assert recognizer.labels == ("left", "right")
        assert (recognizer.network is not None) == (name == "fine_tuned")

    def test_the_bundled_recognizer_is_the_same(self, written):
        identity = run_of(written, "camera_motion")["configuration"]["recognizer_id"]

        assert load_recognizer("camera-motion").identity == identity

    @pytest.mark.parametrize("name", RUNS[1:])
    def test_how_a_recognizer_was_trained_is_read(self, written, name):
        recognizer = load_recognizer(written / "recognizers" / name)

        assert (training_options(recognizer).epochs, len(trained_on(recognizer))) == (8, 12)

    def test_the_novelty_model_is_loaded(self, written):
        model = load_novelty(written / "novelty")

        assert model.identity == run_of(written, "plain")["configuration"]["novelty_id"]
        assert model.notes["videos"] == 12

    @pytest.mark.parametrize(
        "given", MODELS, ids=[f"{n}-{m['options']['cell']}" for n, m in enumerate(MODELS)]
    )
    def test_temporal_models_have_the_same_weights_and_outputs(self, given):
        model = TemporalModel(3, 2, TemporalOptions(**given["options"])).eval()
        shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
        assert shapes == given["state"]
        fill(model)
        x = torch.cos(torch.arange(30, dtype=torch.float64)).float().reshape(2, 5, 3)
        mask = torch.arange(5) < torch.tensor([[5], [3]])  # (N, L)

        with torch.inference_mode():
            frames, clips, embeddings = model(x, mask)

        found = {"frames": frames[mask], "clips": clips, "embeddings": embeddings}
        for name, values in found.items():
            np.testing.assert_allclose(values.flatten(), given[name], rtol=0, atol=1e-4)


def fill(model):
    """Fill weights and buffers with sine waves, in the order of their names."""
    trained = dict(model.named_parameters())
    with torch.no_grad():
        for number, (name, value) in enumerate(sorted(model.state_dict().items())):
            waves = torch.sin(torch.arange(value.numel(), dtype=torch.float64) + number)
            values = 0.5 * waves if name in trained else 0.6 + 0.4 * waves
            value.copy_(values.reshape(value.shape))


def assert_contains(found, given):
    """Require every value that was written; newer options may stand beside them."""
    for name, value in given.items():
        if isinstance(value, dict):
            assert_contains(found[name], value)
        else:
            assert found[name] == value, name


class TestOptions:
    @pytest.mark.parametrize("name", OPTIONS["run"])
    def test_run_options_are_read(self, name):
        found = RunOptions.from_json(OPTIONS["run"][name]).to_json()

        assert_contains(json.loads(json.dumps(found)), OPTIONS["run"][name])

    @pytest.mark.parametrize("name", OPTIONS["learning"])
    def test_options_of_a_training_are_read(self, name):
        found = LearningOptions.from_json(OPTIONS["learning"][name]).to_json()

        assert_contains(json.loads(json.dumps(found)), OPTIONS["learning"][name])

    def test_the_flow_takes_the_parameters_of_a_deployment(self):
        """In a process of its own: in this one, flow tests have to import Prefect first."""
        code = (
            "import json, sys; from flows.process_folder import process_folder\n"
            "process_folder.validate_parameters(json.loads(sys.argv[1]))"
        )
        given = json.dumps(OPTIONS["deployment"])

        subprocess.run([sys.executable, "-c", code, given], check=True)
