"""From annotations to a saved recognizer, and the errors on the way."""

from __future__ import annotations

import json
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import ClipWindows, EncodeOptions, RunOptions, Sampling
from pipeline.errors import OptionError, SourceError
from pipeline.progress import RunProgress
from pipeline.recognition.recognizer import BackboneSpec, load_recognizer
from pipeline.results.tables import load
from pipeline.run.features import ensure_features
from pipeline.run.load import open_session
from pipeline.run.process import process_videos
from pipeline.sources.discovery import find_videos
from pipeline.temporal.batching import Examples
from pipeline.temporal.options import TemporalOptions, TrainingOptions
from pipeline.training.annotations import Annotation, Annotations, read_annotations
from pipeline.training.build_dataset import (
    LabelledDataset,
    build_dataset,
    find_labelled_videos,
    windows_for,
)
from pipeline.training.clip_dataset import ClipDatasetBuilder, SkippedClip
from pipeline.training.feature_source import FeatureSource
from pipeline.training.options import DEFAULT_MODEL, LearningOptions
from pipeline.training.train_recognizer import (
    split,
    train_recognizer,
    with_compensation,
    with_mirror,
)
from tests.temporal.synthetic_clips import make_example
from tests.videos import write_images, write_video

RUN = RunOptions(
    recognizer=None,
    backbone="random:test_resnet",
    tap="layer1",
    grid=2,
    sampling=Sampling(fps=8),
    encode=EncodeOptions(device="cpu", precision="float32"),
)
OPTIONS = LearningOptions(
    RUN,
    TemporalOptions(size=8),
    TrainingOptions(epochs=3, batch_size=4, validation=0.34, device="cpu"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Six videos of a second, three of each label, and a table."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = ["video,label,group"]
    for number in range(6):
        write_video(folder / f"{number}.mp4", 24, fps=24, first=number * 100)
        rows.append(f"{number}.mp4,{'odd' if number % 2 else 'even'},g{number // 2}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def session(tmp_path_factory, engine_cache):
    options = replace(RUN, features=str(tmp_path_factory.mktemp("features")))
    with open_session(None, options, engine_cache) as opened:
        yield opened


def make_dataset(annotations, session, progress=None):
    """Compute the features of the labelled videos, and build the dataset."""
    videos = find_labelled_videos(annotations)
    not_stored = ensure_features(session, videos, progress)
    return build_dataset(annotations, FeatureSource.of_session(session, not_stored), videos)


@pytest.fixture(scope="module")
def dataset(folder, session) -> LabelledDataset:
    return make_dataset(read_annotations(folder / "labels.csv"), session)


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """The folder of a recognizer, its metrics, and the epochs passed to `on_epoch`."""
    out, epochs = tmp_path_factory.mktemp("made") / "mine", []
    return out, train_recognizer(dataset, out, OPTIONS, on_epoch=epochs.append), epochs


def clip(row: int, video: str = "/a.mp4", **values) -> Annotation:
    defaults = {"label": "wave", "start_seconds": None, "end_seconds": None, "group": "g"}
    return Annotation(**{"video": video, "split": None, "row": row, **defaults, **values})


class TestDataset:
    def test_each_clip_is_an_example_in_the_order_of_rows(self, dataset, session):
        items = dataset.examples.items

        assert dataset.examples.labels == ("even", "odd")
        assert [item.label for item in items] == [0, 1, 0, 1, 0, 1]
        assert [item.group for item in items] == ["g0", "g0", "g1", "g1", "g2", "g2"]
        assert {item.features.shape for item in items} == {
            (8, session.engine.backbone.feature_size)
        }
        assert [item.start_seconds for item in items] == [0.0] * 6
        assert [item.end_seconds for item in items] == pytest.approx([1.0] * 6)

    def test_the_backbone_is_described(self, dataset, session):
        assert dataset.backbone == BackboneSpec(
            name="random:test_resnet",
            weights_hash=session.engine.backbone.weights_hash,
            feature_size=session.engine.backbone.feature_size,
            tap="layer1",
            grid=2,
            precision="float32",
        )

    def test_the_second_time_nothing_is_decoded(self, folder, session, dataset, tmp_path):
        again = replace(RUN, features=str(session.store.folder.parent))

        progress = RunProgress()
        with open_session(None, again) as second:
            found = make_dataset(read_annotations(folder / "labels.csv"), second, progress)

        assert (progress.videos_skipped, progress.frames_decoded) == (6, 0)
        for a, b in zip(found.examples.items, dataset.examples.items, strict=True):
            np.testing.assert_array_equal(a.features, b.features)

    def test_an_unreadable_video_is_skipped(self, folder, session, tmp_path):
        (tmp_path / "text.mp4").write_text("no video")
        rows = f"video,label\n{folder}/0.mp4,even\n{folder}/1.mp4,odd\ntext.mp4,odd\n"
        (tmp_path / "labels.csv").write_text(rows)

        found = make_dataset(read_annotations(tmp_path / "labels.csv"), session)

        assert len(found.examples.items) == 2
        assert [(clip.row, Path(clip.video).name) for clip in found.skipped] == [(4, "text.mp4")]
        assert "not_video" in found.skipped[0].reason

    def test_a_clip_that_cannot_be_decoded_is_skipped(self, folder, session, tmp_path, monkeypatch):
        lost = SkippedClip(3, f"{folder}/0.mp4", "partial: no frame")
        build = ClipDatasetBuilder.build

        def building(self, video, clips):
            found = build(self, video, clips)
            return [lost if n == 1 else example for n, example in enumerate(found)]

        monkeypatch.setattr(ClipDatasetBuilder, "build", building)
        rows = [f"{folder}/0.mp4,even,{n},{n + 0.5}" for n in (0, 0.5)]
        rows.append(f"{folder}/1.mp4,odd,0,1")
        head = "video,label,start_seconds,end_seconds"
        (tmp_path / "labels.csv").write_text("\n".join([head, *rows]))

        found = make_dataset(read_annotations(tmp_path / "labels.csv"), session)

        assert [item.label for item in found.examples.items] == [0, 1]
        assert found.skipped == (lost,)

    def test_a_label_without_usable_clips_fails(self, folder, session, tmp_path):
        (tmp_path / "text.mp4").write_text("no video")
        (tmp_path / "labels.csv").write_text(f"video,label\n{folder}/0.mp4,even\ntext.mp4,odd\n")

        with pytest.raises(
            SourceError, match=r"no clip of the labels odd can be used.*row 3.*not_video"
        ):
            make_dataset(read_annotations(tmp_path / "labels.csv"), session)

    def test_a_failed_shard_fails(self, session, tmp_path):
        def fails(shard):
            future = Future()
            future.set_exception(RuntimeError("the disk is full"))
            return future

        new = write_video(tmp_path / "new.mp4", 24, fps=24, first=900)
        with pytest.raises(RuntimeError, match="the disk is full"):
            ensure_features(session, find_videos([str(new)]), submit=fails)


class TestImageSequences:
    @pytest.fixture
    def cameras(self, tmp_path):
        """A folder with two sequences."""
        for camera in ("camA", "camB"):
            folder = write_images(tmp_path / camera, [1, 2, 3])
            for path in folder.iterdir():
                path.rename(tmp_path / path.name.replace("img", camera))
            folder.rmdir()
        return tmp_path

    def test_one_of_several_in_a_folder_has_a_name(self, cameras):
        (cameras / "labels.csv").write_text("video,label\ncamA_*.png,odd\ncamB_*.png,even\n")
        annotations = read_annotations(cameras / "labels.csv")

        videos = find_labelled_videos(annotations, image_fps=8)

        assert [video.location for video in videos] == [
            str(cameras / "camA_*.png"),
            str(cameras / "camB_*.png"),
        ]

    def test_a_folder_of_several_fails(self, cameras):
        (cameras / "x").mkdir()
        table = cameras / "x" / "labels.csv"
        table.write_text(f"video,label\n{cameras},odd\n{cameras}/camB_*.png,even\n")

        with pytest.raises(
            SourceError, match=r"row 2 of .*holds several videos: name one of them, such as .*camA_"
        ):
            find_labelled_videos(read_annotations(table), image_fps=8)


class TestCopies:
    @pytest.fixture
    def copied(self, folder, tmp_path):
        """Write a table with two copies of one video."""
        for name in ("a.mp4", "b.mp4"):
            (tmp_path / name).write_bytes((folder / "0.mp4").read_bytes())

        def write(head, a, b):
            (tmp_path / "labels.csv").write_text(f"video,label{head}\na.mp4,{a}\nb.mp4,{b}\n")
            return read_annotations(tmp_path / "labels.csv")

        return write

    def test_they_are_one_video(self, copied):
        assert len(find_labelled_videos(copied("", "even", "even"))) == 1

    @pytest.mark.parametrize(
        ("head", "a", "b", "groups"),
        [
            ("", "even", "even", [None]),
            (",group", "even,", "even,ann", ["ann"]),
            (",group", "even,ann", "even,", ["ann"]),
            (",group", "even,ann", "even,ann", ["ann"]),
            (",start_seconds,end_seconds", "even,0,0.5", "odd,0.5,1", [None, None]),
            (",start_seconds,end_seconds,group", "even,0,0.5,", "odd,0.5,1,ann", ["ann", "ann"]),
            (",start_seconds,end_seconds", "even,0,0.5", "even,0,0.5", [None]),
        ],
    )
    def test_they_have_one_group_and_no_duplicate_clips(
        self, copied, session, tmp_path, head, a, b, groups
    ):
        items = make_dataset(copied(head, a, b), session).examples.items

        first = str(tmp_path / "a.mp4")
        assert [item.group for item in items] == [group or first for group in groups]
        assert {item.video for item in items} == {first}

    def test_different_labels_fail(self, copied):
        with pytest.raises(
            SourceError,
            match=r"rows 2, 3 of .*copies.*different labels: .*a.mp4 \(even\), .*b.mp4 \(odd\)",
        ):
            find_labelled_videos(copied("", "even", "odd"))

    @pytest.mark.parametrize("column", ["group", "split"])
    def test_different_groups_or_splits_fail(self, copied, column):
        with pytest.raises(
            SourceError,
            match=r"rows 2, 3 of .*copies.*groups or splits.*a.mp4 \(train\), .*b.mp4 \(test\)",
        ):
            find_labelled_videos(copied(f",{column}", "even,train", "even,test"))


class TestWindows:
    def test_whole_videos_have_whole_windows(self):
        assert windows_for(Annotations((clip(2),), ("wave",))) == ClipWindows()

    def test_windows_have_the_median_length_of_clips(self):
        ends = (1.0, 2.0, 7.0)
        clips = tuple(clip(n, start_seconds=0.0, end_seconds=end) for n, end in enumerate(ends))

        assert windows_for(Annotations(clips, ("wave",))) == ClipWindows(2.0, 1.0)


class TestSplit:
    @staticmethod
    def dataset_of(*splits):
        items = [make_example(n % 2, [[0]], group=f"g{n}") for n in range(len(splits))]
        spec = BackboneSpec("b", "0", 1)
        examples = Examples(tuple(items), ("even", "odd"))
        return LabelledDataset(examples, splits, spec, None, Sampling(fps=8), ClipWindows(), ())

    def test_the_splits_of_the_table_are_used(self):
        dataset = self.dataset_of("train", "train", "validation", "test", "test")

        parts = split(dataset, TrainingOptions())

        assert parts.train == list(dataset.examples.items[:2])
        assert parts.validation == [dataset.examples.items[2]]

    def test_without_a_validation_split_groups_are_held_out(self):
        dataset = self.dataset_of(*["train"] * 10, "test")

        parts = split(dataset, TrainingOptions(validation=0.3))

        assert (len(parts.train), len(parts.validation)) == (7, 3)

    def test_a_label_with_test_clips_only_fails(self):
        with pytest.raises(SourceError, match="no clip of the split `train` has the label odd"):
            split(self.dataset_of("train", "test", "train"), TrainingOptions())


class TestMirror:
    @staticmethod
    def grid_of(mirror, labels, grid=2):
        dataset = TestSplit.dataset_of("train", "train")
        dataset = replace(
            dataset,
            examples=replace(dataset.examples, labels=labels),
            backbone=replace(dataset.backbone, grid=grid),
        )
        return with_mirror(dataset, replace(OPTIONS, mirror=mirror)).mirror_grid

    @pytest.mark.parametrize(
        "labels",
        [("nod", "wave"), ("upright", "lefty"), ("pan", "roll"), ("Upright", "DoLefty")],
    )
    def test_clips_are_mirrored_if_labels_name_no_side(self, labels):
        assert self.grid_of(None, labels) == 2

    @pytest.mark.parametrize(
        "label",
        [
            *("pan_left", "Right-hook", "roll_cw", "turn2left", "PAN_LEFT", "CCW"),
            *("TurnLeft", "TurnRight", "panLeft", "moveL", "moveR", "RIGHTTurn", "LHand"),
            *("leftward", "rightwards", "lefthand_up"),
        ],
    )
    def test_clips_are_not_mirrored_if_a_label_names_a_side(self, label):
        assert self.grid_of(None, ("other", label)) == 0

    def test_the_option_takes_precedence(self):
        assert self.grid_of(True, ("left", "right")) == 2
        assert self.grid_of(False, ("nod", "wave")) == 0

    @pytest.mark.parametrize("grid", [None, 1])
    def test_features_without_a_grid_are_not_mirrored(self, grid):
        assert self.grid_of(None, ("nod", "wave"), grid) == 0
        with pytest.raises(OptionError, match="add --grid, or --no-mirror"):
            self.grid_of(True, ("nod", "wave"), grid)


class TestCompensation:
    @staticmethod
    def grid_of(compensation, grid):
        dataset = TestSplit.dataset_of("train", "train")
        dataset = replace(dataset, backbone=replace(dataset.backbone, grid=grid))
        options = replace(OPTIONS, temporal=DEFAULT_MODEL, compensation=compensation)
        return with_compensation(dataset, options).motion_grid

    def test_the_model_knows_the_grid_of_the_features(self):
        assert (self.grid_of(True, 3), self.grid_of(False, 3)) == (3, 0)

    def test_features_without_a_grid_fail(self):
        with pytest.raises(OptionError, match="add --grid"):
            self.grid_of(True, None)

    def test_it_needs_differences(self):
        with pytest.raises(OptionError, match="add --differences"):
            replace(OPTIONS, temporal=TemporalOptions(), compensation=True)


class TestTrain:
    def test_the_folder_is_a_recognizer(self, trained, dataset):
        recognizer = load_recognizer(trained[0])

        assert recognizer.name == "mine"
        assert recognizer.labels == ("even", "odd")
        assert recognizer.backbone == dataset.backbone
        assert recognizer.sampling == Sampling(fps=8)
        assert recognizer.temporal == OPTIONS.temporal

    def test_its_metadata_describe_the_training(self, trained):
        notes = load_recognizer(trained[0]).notes

        assert TrainingOptions(**notes["training"]) == replace(OPTIONS.training, mirror_grid=2)
        assert notes["metrics"]["validation"]["clips"] == 2
        assert len(notes["training_data"]) == 32
        assert len(notes["training_videos"]) == 6
        assert "weights of the backbone" in notes["licence"]

    def test_metrics_and_curves_are_in_the_folder(self, trained):
        out, metrics, epochs = trained

        assert json.loads((out / "metrics.json").read_text()) == metrics
        assert [epoch["number"] for epoch in metrics["history"]] == [1, 2, 3]
        assert [epoch.number for epoch in epochs[:3]] == [1, 2, 3]
        assert [epoch.number for epoch in epochs[3:]] == [1, 2, 3]
        assert metrics["learned_from"]["labels"] == {"even": 2, "odd": 2}
        assert metrics["validation"]["learned_afterwards"] is True
        assert metrics["mirrored"] is True
        assert (out / "learning.png").exists()
        assert not (out / "checkpoint.safetensors").exists()

    def test_it_can_be_run(self, trained, folder, tmp_path):
        process_videos([str(folder / "0.mp4")], tmp_path, RunOptions(recognizer=str(trained[0])))

        (row,) = load(tmp_path, "clips").itertuples()
        assert row.label in ("even", "odd")
        assert row.num_frames == 8

    def test_training_is_reproducible(self, trained, dataset, tmp_path):
        train_recognizer(dataset, tmp_path / "mine", OPTIONS)

        assert load_recognizer(tmp_path / "mine").identity == load_recognizer(trained[0]).identity


class TestOptions:
    def test_they_are_plain_json(self):
        read = LearningOptions.from_json(json.loads(json.dumps(OPTIONS.to_json())))

        assert read == OPTIONS

    def test_missing_options_have_their_defaults(self):
        said = {"run": RUN.to_json(), "temporal": {"cell": "lstm"}}

        assert LearningOptions.from_json({"run": said["run"]}) == LearningOptions(RUN)
        assert LearningOptions.from_json(said).temporal == replace(DEFAULT_MODEL, cell="lstm")

    @pytest.mark.parametrize("wrong", [{}, {"run": RUN.to_json(), "training": {"speed": 1}}])
    def test_unknown_ones_fail(self, wrong):
        with pytest.raises(OptionError, match="invalid options"):
            LearningOptions.from_json(wrong)
