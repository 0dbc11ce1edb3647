"""Tables, metrics and the report of an evaluation with known predictions."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline.evaluation.predictions import MODEL, PRIOR
from pipeline.evaluation.report import MAX_ERRORS, write_report
from pipeline.evaluation.scores import ClipMetrics
from pipeline.evaluation.tables import SCHEMAS, format_mean_std, metrics, write_evaluation
from pipeline.temporal.batching import Examples
from tests.evaluation.example_evaluation import EVIL, EXAMPLES, FRAMES, NAMES, make_evaluation


class TestTables:
    @pytest.fixture(scope="class")
    @classmethod
    def out(cls, tmp_path_factory):
        out = tmp_path_factory.mktemp("evaluation")
        write_evaluation(make_evaluation(seeds=(0, 1), frames=[FRAMES]), out)
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
        assert metrics(make_evaluation())["methods"][MODEL]["accuracy"]["spread"] is None

    def test_metrics_are_printed_with_their_standard_deviation(self):
        seeds = [ClipMetrics(accuracy, 0, 0, 0, 0) for accuracy in (0.7, 0.9)]

        assert format_mean_std(seeds, "accuracy") == "0.800 ± 0.141"
        assert format_mean_std(seeds[:1], "accuracy") == "0.700"


class TestReport:
    def text(self, folder, **given):
        return write_report(make_evaluation(**given), folder).read_text()

    def test_metrics_baselines_and_warnings_are_shown(self, tmp_path):
        text = self.text(tmp_path, seeds=(0, 1), warnings=[f"beware {EVIL}"])

        assert "0.875 ± 0.177" in text
        assert "cross-validation with 2 folds, 2 trainings per fold · 4 clips · ±" in text
        assert '<td class="name">chance</td>' in text
        assert "beware &lt;script&gt;" in text

    def test_names_are_escaped(self, tmp_path):
        text = self.text(tmp_path, frames=[FRAMES])

        assert "<script" not in text
        assert text.count("&lt;script&gt;") > 5
        assert "&amp;lt;" not in text

    def test_plots_are_beside_it(self, tmp_path):
        text = self.text(tmp_path)

        for name in ("methods.png", "confusion.png", "reliability.png"):
            assert f'src="{name}"' in text
            assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")

    def test_each_error_is_listed_once(self, tmp_path):
        text = self.text(tmp_path)

        errors = text[text.index("Most confident errors") :].split("</table>")[0]
        assert errors.count("<tr>") == 1 + 1
        assert "clip3" in errors
        assert "0.75" in errors

    def test_without_errors_the_list_is_left_out(self, tmp_path):
        assert "Most confident errors" not in self.text(tmp_path, seeds=(1,))
        assert MAX_ERRORS > 1

    def test_labels_and_predictions_of_frames_are_drawn(self, tmp_path):
        text = self.text(tmp_path, frames=[FRAMES])

        assert text.count('<svg class="timeline"') == 2
        assert text.count("<rect x=") == 4
        assert '<rect x="2" y="0" width="1"' in text

    def test_a_saved_recognizer_has_no_folds(self, tmp_path):
        text = self.text(tmp_path, folds=[])

        assert "saved recognizer, without training" in text
        assert "<h2>Folds" not in text

    def test_the_accuracy_of_each_fold_is_shown(self, tmp_path):
        folds = self.text(tmp_path).split("<h2>Folds")[1].split("</table>")[0]

        numbers = "".join(f'<td class="number">{value}</td>' for value in ("2", "2", "1.000"))
        assert f'<td class="name">g0</td><td class="name">g0</td>{numbers}' in folds
        assert '<td class="number">0.500</td>' in folds

    def test_labels_of_other_scripts_and_formulas_are_drawn(self, tmp_path):
        result = replace(make_evaluation(), examples=Examples(EXAMPLES.items, ("手を振る", "$x_{")))

        write_report(result, tmp_path)

        assert (tmp_path / "confusion.png").exists()
