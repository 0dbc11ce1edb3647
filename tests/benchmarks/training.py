"""
Measure trainings: a cross-validation on idle CPUs and beside a busy one, and GRU against LSTM.

    python -m tests.benchmarks.training [--folds N] [--seeds N] [--json]
    python -m tests.benchmarks.training --evaluate RECOGNIZER LABELS.csv --videos DIR ...

Without `--evaluate`, drawn features of the size of UT-Interaction's are used: 10 folds, 3 seeds.
With it, the command `clipline evaluate` is measured, whose arguments follow; the features should be
stored, which a first run does.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.diagnostics.timing import time_step
from pipeline.evaluation.cross_validation import group_folds
from pipeline.evaluation.predictions import cross_validate
from pipeline.machine import available_cpus
from pipeline.temporal.batching import Example, Examples
from pipeline.temporal.options import TrainingOptions
from pipeline.temporal.training_loop import single_thread
from pipeline.training.options import DEFAULT_GRID, DEFAULT_MODEL
from tests.benchmarks.commands import time_command
from tests.benchmarks.output import make_parser, print_values

LABELS = ("one", "two", "three", "four", "five", "six")
FRAMES, CHANNELS = 32, 96
"""Mean length of a clip, and channels of the feature map, as of UT-Interaction by MobileNetV2."""
STEP_FRAMES = 4096
BUSY = "while True: pass"


def draw_examples(groups: int) -> Examples:
    """Draw noise with six labels in each group."""
    rng = np.random.default_rng(0)
    size, items = CHANNELS * DEFAULT_GRID**2, []
    for number in range(groups * len(LABELS)):
        length = int(rng.integers(FRAMES // 2, FRAMES * 3 // 2))
        x = rng.normal(size=(length, size)).astype(np.float32)
        group, label = divmod(number, len(LABELS))
        name, mask = f"clip-{number}", np.ones(length, np.bool_)
        items.append(Example(name, name, f"{group:02}", label, x, mask, 0.0, length / 8))
    return Examples(tuple(items), LABELS)


def time_cross_validation(examples: Examples, options: TrainingOptions, seeds: int) -> float:
    """Time trainings with the defaults of `clipline train`, one for each group and seed."""
    groups = [item.group for item in examples.items]
    folds = group_folds(groups, [LABELS[item.label] for item in examples.items], 0)
    start = time.perf_counter()
    for _ in cross_validate(examples, folds, DEFAULT_MODEL, options, seeds=seeds):
        pass
    return time.perf_counter() - start


@contextlib.contextmanager
def busy_cpu() -> Iterator[None]:
    """Keep one CPU busy with another process."""
    with subprocess.Popen([sys.executable, "-c", BUSY]) as process:
        try:
            yield
        finally:
            process.kill()


def measure_training(run: Callable[[], float]) -> dict[str, Any]:
    """
    Time trainings on idle CPUs and beside a busy process, and training steps of two cells.

    Args:
        run: runs the trainings, and gives their seconds.
    """
    idle = run()
    with busy_cpu():
        busy = run()
    with single_thread():
        cells = {cell: 1000 * time_step(cell, STEP_FRAMES).seconds for cell in ("lstm", "gru")}
    return {
        "cpus": available_cpus(),
        "idle_seconds": idle,
        "seconds_with_one_cpu_busy": busy,
        "busy_to_idle": busy / idle,
        f"ms_per_step_of_{STEP_FRAMES}_frames": cells,
        "gru_to_lstm": cells["gru"] / cells["lstm"],
    }


def time_evaluate(arguments: Sequence[str], folder: Path) -> float:
    """Time `clipline evaluate` with all folds and three seeds."""
    command = ["evaluate", *arguments, "-o", str(folder / "out"), "--folds", "0", "--seeds", "3"]
    seconds, _ = time_command([*command, "--quiet"], folder / "state")
    return seconds


def main() -> None:
    """Measure, and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--folds", type=int, default=10, help="groups of drawn clips")
    parser.add_argument("--seeds", type=int, default=3, help="trainings per fold")
    parser.add_argument("--evaluate", nargs="...", help="arguments of `clipline evaluate`")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clipline-training-") as name:
        folder = Path(name)
        examples = draw_examples(given.folds)

        def run() -> float:
            if given.evaluate:
                return time_evaluate(given.evaluate, folder)
            return time_cross_validation(examples, TrainingOptions(), given.seeds)

        found = measure_training(run)
    print_values(found, as_json=given.json)


if __name__ == "__main__":
    main()
