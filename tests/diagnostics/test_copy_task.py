"""The copy task."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.diagnostics.copy_task import LABELS, make_copy_task


class TestCopyTask:
    def test_the_label_is_at_the_lag(self):
        """In the mean over 400 sequences the noise cancels; marker and label remain."""
        examples = make_copy_task(400, 30, lag=12)
        mean = np.mean([one.features for one in examples], axis=0)
        label = np.mean([one.features[17, one.label] for one in examples])

        assert mean[:, LABELS].argmax() == 29 - 12
        assert mean[17, LABELS] == pytest.approx(1, abs=0.1)
        assert np.abs(np.delete(mean, 17, axis=0)).max() < 0.1
        assert label == pytest.approx(1, abs=0.1)

    def test_without_a_lag_all_lags_occur(self):
        markers = np.mean([one.features[:, LABELS] for one in make_copy_task(4000, 8)], axis=0)

        np.testing.assert_allclose(markers, 1 / 8, atol=0.04)

    def test_the_same_seed_gives_the_same_sequences(self):
        one, other, third = make_copy_task(3, 5), make_copy_task(3, 5), make_copy_task(3, 5, seed=1)

        assert all(np.array_equal(a.features, b.features) for a, b in zip(one, other, strict=True))
        assert not np.array_equal(one[0].features, third[0].features)
