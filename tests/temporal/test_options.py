from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import fingerprint
from pipeline.errors import OptionError
from pipeline.temporal.options import TemporalOptions, TrainingOptions

ROOT = Path(__file__).resolve().parents[2]


class TestTemporalOptions:
    @pytest.mark.parametrize("name", ["layers", "size", "heads", "stride", "refine_layers"])
    def test_zero_sizes_fail(self, name):
        with pytest.raises(OptionError, match=f"{name} must be a number above 0, got 0"):
            TemporalOptions(**{name: 0})

    @pytest.mark.parametrize("dropout", [-0.1, 1, 2])
    def test_a_dropout_out_of_range_fails(self, dropout):
        with pytest.raises(OptionError, match=rf"dropout must be in \[0, 1\), got {dropout}"):
            TemporalOptions(dropout=dropout)

    def test_heads_that_do_not_divide_the_size_fail(self):
        with pytest.raises(OptionError, match="size 10 is not a multiple of heads 4"):
            TemporalOptions(cell="transformer", size=10)
        assert TemporalOptions(cell="gru", size=10).size == 10

    @pytest.mark.parametrize("cell", ["mean", "transformer"])
    def test_cells_that_cannot_be_bidirectional_fail(self, cell):
        with pytest.raises(OptionError, match=f"a {cell} model cannot be bidirectional"):
            TemporalOptions(cell=cell, bidirectional=True)

    def test_an_unknown_cell_or_pooling_fails(self):
        with pytest.raises(OptionError, match=r"cell must be one of mean, .*, got qrnn"):
            TemporalOptions(cell="qrnn")
        with pytest.raises(OptionError, match=r"pooling must be one of mean, last, .*, got max"):
            TemporalOptions(pooling="max")

    def test_rectified_without_differences_fails(self):
        with pytest.raises(OptionError, match="rectified needs differences"):
            TemporalOptions(rectified=True)

    @pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(TemporalOptions)])
    def test_every_field_changes_the_fingerprint(self, field):
        others = {
            "cell": "lstm",
            "layers": 2,
            "size": 64,
            "bidirectional": True,
            "causal": True,
            "heads": 8,
            "pooling": "last",
            "differences": False,
            "rectified": True,
            "motion_grid": 4,
            "signed_root": True,
            "dropout": 0.5,
            "layer_norm": False,
            "residual": False,
            "refine": 2,
            "refine_layers": 4,
            "refine_size": 16,
            "stride": 4,
            "multi_label": True,
        }
        before = TemporalOptions(differences=True)
        changed = dataclasses.replace(before, **{field: others[field]})

        assert fingerprint(changed) != fingerprint(before)

    def test_the_fingerprint_is_that_of_earlier_versions(self):
        """Recognizers and results that are stored are found by it."""
        assert fingerprint(TemporalOptions()) == "5f3da7376c49cd93"
        assert fingerprint(TrainingOptions()) == "d70fb4e556833af3"


class TestTrainingOptions:
    @pytest.mark.parametrize(
        "name", ["epochs", "batch_size", "learning_rate", "clip_norm", "unroll"]
    )
    def test_values_that_must_be_positive_fail(self, name):
        with pytest.raises(OptionError, match=f"{name} must be a number above 0, got 0"):
            TrainingOptions(**{name: 0})

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"weight_decay": -1}, "weight_decay must be 0 or more, got -1"),
            ({"mirror_grid": -1}, "mirror_grid must be 0 or more, got -1"),
            ({"warm_up": 1.5}, r"warm_up must be in \[0, 1\], got 1.5"),
            ({"validation": 1}, r"validation must be in \[0, 1\), got 1"),
            ({"stretch": 0.5}, "stretch must be 1 or more, got 0.5"),
            ({"smoothing": -1}, "smoothing must be 0 or more, got -1"),
            ({"steps_per_second": -1}, "steps_per_second must be 0 or more, got -1"),
            ({"mix": 1}, r"mix must be in \[0, 1\), got 1"),
            ({"drop_frames": -0.1}, r"drop_frames must be in \[0, 1\), got -0.1"),
            ({"shortest_crop": 2}, r"shortest_crop must be in \[0, 1\], got 2"),
            ({"precision": "float16"}, "precision must be one of auto, float32, bfloat16"),
            ({"device": "tpu"}, "device must be one of auto, cpu, cuda, got tpu"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_values_out_of_range_fail(self, values, message):
        with pytest.raises(OptionError, match=message):
            TrainingOptions(**values)


def test_options_are_imported_without_torch():
    """The command line needs them for `--help`."""
    code = "import sys, pipeline.temporal.options; print('torch' in sys.modules)"
    completed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert completed.stdout.strip() == "False"
