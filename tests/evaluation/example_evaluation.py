"""An evaluation with known predictions and hostile names."""

from __future__ import annotations

import numpy as np

from pipeline.evaluation.evaluate import Evaluation
from pipeline.evaluation.predictions import MODEL, PRIOR, Predictions
from pipeline.evaluation.scores import score_methods, score_sequences
from pipeline.evaluation.segmentation import LabelledFrames, predict_most_frequent
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


def make_evaluation(*, seeds=(0,), frames=(), folds=FOLDS, warnings=()) -> Evaluation:
    """The model predicts a for clip 3; with seed 1 all are correct. The prior always predicts a."""
    results = predictions(PRIOR, [0, 0, 0, 0])
    for seed in seeds:
        results += predictions(MODEL, [0, 0, 1, seed], seed)
    return Evaluation(
        EXAMPLES,
        tuple(results),
        tuple(score_methods(EXAMPLES, results)),
        tuple(frames),
        tuple(score_sequences([*frames, *predict_most_frequent(frames)])),
        tuple(warnings),
        {"recognizer": f"mine{EVIL}", "folds": folds},
    )


FRAMES = LabelledFrames(
    f"v{EVIL}", "id", 0, "g0", np.arange(4) / 8, np.array([0, 0, 1, -1]), np.array([0, 1, 1, -1])
)
