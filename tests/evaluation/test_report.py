"""Tables, metrics and the page of an evaluation with known predictions."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline.evaluation.evaluate import Evaluation
from pipeline.evaluation.predictions import MODEL, PRIOR, Predictions
from pipeline.evaluation.report import MISTAKES_SHOWN, write_page
from pipeline.evaluation.scores import ClipMetrics, score_methods, score_sequences
from pipeline.evaluation.segmentation import LabelledFrames
from pipeline.evaluation.tables import SCHEMAS, format_mean_std, metrics, write_evaluation
from pipeline.temporal.batching import Examples
from tests.temporal.synthetic_clips import make_example

EVIL = "<script>alert('\"&x')</script>"
NAMES = ("a", f"b{EVIL}")
EXAMPLES = Examples(
    tuple(
        make_example(label, np.zeros((8, 1)), name=f"clip{n}{EVIL}", group=f"g{n % 2}")
        for n, label in enumerate((0, 0, 1, 1))
    ),
    NAMES,
)
FOLDS = [
    {"name": f"g{n}", "groups": [f"g{n}"], "clips_learned": 2, "clips_judged": 2} for n in (0, 1)
]


def predictions(method, labels, seed=0):
    """Test clips of the folds are 0 and 2, and 1 and 3; predicted labels have probability 3/4."""
    return [
        Predictions(method, seed, f"g{n}", clips, np.eye(2)[np.array(labels)[clips]] * np.log(3))
        for n, clips in enumerate((np.array([0, 2]), np.array([1, 3])))
    ]


def made(*, seeds=(0,), frames=(), folds=FOLDS, warnings=()) -> Evaluation:
    """The model predicts a for clip 3; with seed 1 all are correct. The prior always predicts a."""
    found = predictions(PRIOR, [0, 0, 0, 0])
    for seed in seeds:
        found += predictions(MODEL, [0, 0, 1, seed], seed)
    return Evaluation(
        EXAMPLES,
        tuple(found),
        tuple(score_methods(EXAMPLES, found)),
        tuple(frames),
        tuple(score_sequences(frames)),
        tuple(warnings),
        {"recognizer": f"mine{EVIL}", "folds": folds},
    )


FRAMES = LabelledFrames(
    f"v{EVIL}", "id", 0, "g0", np.arange(4) / 8, np.array([0, 0, 1, -1]), np.array([0, 1, 1, -1])
)


class TestTables:
    @pytest.fixture(scope="class")
    @classmethod
    def out(cls, tmp_path_factory):
        out = tmp_path_factory.mktemp("evaluation")
        write_evaluation(made(seeds=(0, 1), frames=[FRAMES]), out)
        return out

    def test_have_the_columns_of_their_schema(self, out):
        for name, schema in SCHEMAS.items():
            assert pq.read_schema(out / f"{name}.parquet").equals(schema)

    def test_predictions_have_a_row_per_prediction(self, out):
        table = pd.read_parquet(out / "predictions.parquet")

        assert len(table) == 4 * 3
        wrong = table[(table.method == MODEL) & (table.label != table.predicted)].iloc[0]
        assert (wrong.seed, wrong.fold, wrong.label, wrong.predicted) == (0, "g1", NAMES[1], "a")
        assert wrong.score == pytest.approx(0.75)
        assert wrong.scores.tolist() == pytest.approx([0.75, 0.25])

    def test_confusion_is_a_mean_over_seeds(self, out):
        table = pd.read_parquet(out / "confusion.parquet").set_index("method").loc[MODEL]

        assert table.clips.tolist() == [2, 0, 0.5, 1.5]

    def test_classes_have_rows_for_each_method(self, out):
        table = pd.read_parquet(out / "classes.parquet").set_index(["method", "label"])

        assert table.loc[(MODEL, "a")].tolist() == pytest.approx([2 / 2.5, 1, 4 / 4.5, 2])
        assert table.loc[(PRIOR, "a")].tolist() == pytest.approx([1 / 2, 1, 2 / 3, 2])

    def test_frames_without_a_label_have_none(self, out):
        rows = pq.read_table(out / "sequences.parquet").to_pydict()

        assert rows["label"] == ["a", "a", NAMES[1], None]
        assert rows["predicted"] == ["a", NAMES[1], NAMES[1], None]

    def test_metrics_have_mean_standard_deviation_and_seeds(self, out):
        found = json.loads((out / "metrics.json").read_text())

        accuracy = found["methods"][MODEL]["accuracy"]
        assert accuracy["mean"] == 0.875
        assert accuracy["seeds"] == [0.75, 1.0]
        assert accuracy["spread"] == pytest.approx(0.125 * 2**0.5)
        assert (found["clips"], found["groups"], found["labels"]) == (4, 2, list(NAMES))
        assert found["sequences"][MODEL]["frame_accuracy"]["mean"] == pytest.approx(2 / 3)

    def test_metrics_of_one_seed_have_no_standard_deviation(self):
        assert metrics(made())["methods"][MODEL]["accuracy"]["spread"] is None

    def test_metrics_are_printed_with_their_standard_deviation(self):
        seeds = [ClipMetrics(accuracy, 0, 0, 0, 0) for accuracy in (0.7, 0.9)]

        assert format_mean_std(seeds, "accuracy") == "0.800 ± 0.141"
        assert format_mean_std(seeds[:1], "accuracy") == "0.700"


class TestPage:
    def text(self, folder, **given):
        return write_page(made(**given), folder).read_text()

    def test_shows_what_it_has_to_beat(self, tmp_path):
        text = self.text(tmp_path, seeds=(0, 1), warnings=[f"beware {EVIL}"])

        assert "0.875 ± 0.177" in text
        assert "trained anew in 2 folds, 2 times each" in text
        assert "<td class=name>chance" in text
        assert "beware &lt;script&gt;" in text

    def test_escapes_names(self, tmp_path):
        text = self.text(tmp_path, frames=[FRAMES])

        assert "<script" not in text
        assert text.count("&lt;script&gt;") > 5

    def test_pictures_lie_beside_it(self, tmp_path):
        text = self.text(tmp_path)

        for name in ("methods.png", "confusion.png", "reliability.png"):
            assert f"src='{name}'" in text
            assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")

    def test_lists_mistakes_once(self, tmp_path):
        text = self.text(tmp_path)

        mistakes = text[text.index("Surest mistakes") :].split("</table>")[0]
        assert mistakes.count("<tr>") == 1 + 1
        assert "clip3" in mistakes
        assert "0.75" in mistakes

    def test_without_mistakes_lists_none(self, tmp_path):
        assert "Surest mistakes" not in self.text(tmp_path, seeds=(1,))
        assert MISTAKES_SHOWN > 1

    def test_draws_frames_beside_their_labels(self, tmp_path):
        text = self.text(tmp_path, frames=[FRAMES])

        assert text.count("<svg") == 2
        assert text.count("<rect") == 4
        assert "<rect x='2' width='1'" in text

    def test_of_a_saved_recognizer_shows_no_folds(self, tmp_path):
        text = self.text(tmp_path, folds=[])

        assert "as it was saved" in text
        assert "<h2>Folds" not in text

    def test_shows_the_accuracy_of_each_fold(self, tmp_path):
        folds = self.text(tmp_path).split("<h2>Folds")[1].split("</table>")[0]

        assert "<td class=name>g0<td class=n>g0<td class=n>2<td class=n>2<td class=n>1.000" in folds
        assert "<td class=n>0.500" in folds

    def test_labels_of_other_scripts_and_formulas_are_drawn(self, tmp_path):
        found = replace(made(), examples=Examples(EXAMPLES.items, ("手を振る", "$x_{")))

        write_page(found, tmp_path)

        assert (tmp_path / "confusion.png").exists()
