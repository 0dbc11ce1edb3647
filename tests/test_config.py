from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import (
    OMIT_DEFAULT,
    ClipWindows,
    DecodeOptions,
    EncodeOptions,
    Geometry,
    RunOptions,
    Sampling,
    ShardOptions,
    fingerprint,
    resolve_device,
)
from pipeline.errors import OptionError
from pipeline.machine import available_cpus

ROOT = Path(__file__).resolve().parents[1]
positive = st.floats(min_value=1e-3, max_value=1e6)


class TestFingerprint:
    def test_it_is_16_hex_digits(self):
        assert re.fullmatch("[0-9a-f]{16}", fingerprint("anything"))

    @pytest.mark.parametrize("seed", ["0", "1", "random"])
    def test_it_is_the_same_in_every_process(self, seed):
        code = (
            "from pipeline.config import *;"
            "print(fingerprint('x', Sampling(fps=8), ClipWindows(2), {'b': 1, 'a': None}))"
        )
        said = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

        assert said == fingerprint("x", Sampling(fps=8), ClipWindows(2), {"b": 1, "a": None})

    def test_it_is_the_same_as_ever(self):
        """Results of older runs are found by it: a change here makes users decode all again."""
        assert fingerprint("features", Sampling(fps=8.0), "float32") == "f64a2337d78b24c1"
        assert fingerprint(ClipWindows(2.0), None, [1, 2.5], {"a": True}) == "787018a2682a7137"

    def test_order_of_names_does_not_matter_and_order_of_values_does(self):
        assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
        assert fingerprint([1, 2]) != fingerprint([2, 1])

    def test_classes_with_equal_fields_differ(self):
        one = dataclasses.make_dataclass("One", ["x"])(1)
        other = dataclasses.make_dataclass("Other", ["x"])(1)

        assert fingerprint(one) != fingerprint(other)

    def test_any_field_changes_it(self):
        different = [
            Sampling(fps=8),
            Sampling(fps=9),
            Sampling(every=8),
            Geometry(8, 8),
            Geometry(8, 9),
            Geometry(9, 8),
            Geometry(8, 8, "squash"),
            Geometry(8, 8, crop_fraction=0.9),
            Geometry(8, 8, reducing_gap=1),
            ClipWindows(),
            ClipWindows(2),
            ClipWindows(3),
            ClipWindows(2, 1),
        ]

        assert len(set(map(fingerprint, different))) == len(different)

    @given(fps=st.integers(1, 1000))
    def test_whole_numbers_are_the_same_however_they_are_written(self, fps):
        assert fingerprint(Sampling(fps=fps)) == fingerprint(Sampling(fps=float(fps)))
        assert fingerprint(Sampling(every=fps)) == fingerprint(Sampling(every=float(fps)))
        assert fingerprint(ClipWindows(fps)) == fingerprint(ClipWindows(float(fps)))

    def test_what_has_no_plain_form_fails(self):
        with pytest.raises(TypeError, match="cannot hash a set"):
            fingerprint({1, 2})


class TestSampling:
    def test_it_says_itself(self):
        assert str(Sampling(fps=7.5)) == "7.5 frames/s"
        assert str(Sampling(every=3)) == "one frame in 3"
        assert str(Sampling(every=1)) == "every frame"

    def test_neither_or_both_fails(self):
        with pytest.raises(OptionError, match=r"set one of fps and every, got self.fps=None"):
            Sampling()
        with pytest.raises(OptionError, match=r"self\.fps=8 and self\.every=2"):
            Sampling(fps=8, every=2)

    @pytest.mark.parametrize("fps", [0, -1, math.inf, math.nan])
    def test_a_rate_that_is_none_fails(self, fps):
        with pytest.raises(OptionError, match=f"fps must be a number above 0, got {fps}"):
            Sampling(fps=fps)

    def test_a_step_that_is_none_fails(self):
        with pytest.raises(OptionError, match="every must be a number above 0, got 0"):
            Sampling(every=0)
        with pytest.raises(OptionError, match=r"every must be a whole number, got 1.5"):
            Sampling(every=1.5)


class TestGeometry:
    def test_the_scaled_frame_is_larger_by_the_crop(self):
        assert Geometry(224, 224, crop_fraction=0.875).scaled == (256, 256)
        assert Geometry(72, 96, "squash").scaled == (72, 96)
        assert Geometry(160, 160, crop_fraction=0.95).scaled == (168, 168)

    @pytest.mark.parametrize("fraction", [0, 1.01, -0.5, math.nan])
    def test_a_crop_outside_the_frame_fails(self, fraction):
        with pytest.raises(OptionError, match=r"crop_fraction must be in \(0, 1\], got"):
            Geometry(8, 8, crop_fraction=fraction)

    @pytest.mark.parametrize("name", ["height", "width", "reducing_gap"])
    def test_no_size_fails(self, name):
        with pytest.raises(OptionError, match=f"{name} must be a number above 0, got 0"):
            Geometry(**{"height": 8, "width": 8, name: 0})

    def test_an_unknown_fit_fails(self):
        with pytest.raises(OptionError, match="fit must be one of short, squash, got long"):
            Geometry(8, 8, "long")


class TestDecodeOptions:
    def test_no_number_of_workers_is_one_a_core(self):
        assert DecodeOptions().num_workers == available_cpus()
        assert DecodeOptions(workers=5).num_workers == 5

    @pytest.mark.parametrize(
        "name",
        [
            "frame_timeout_seconds",
            "video_timeout_seconds",
            "max_pixels",
            "max_video_seconds",
            "memory_bytes",
        ],
    )
    @pytest.mark.parametrize("value", [0, -3])
    def test_a_limit_of_nothing_fails(self, name, value):
        with pytest.raises(OptionError, match=f"{name} must be a number above 0, got {value}"):
            DecodeOptions(**{name: value})

    def test_fewer_than_no_workers_fails(self):
        with pytest.raises(OptionError, match=r"0 \(one per core\) or more, got -1"):
            DecodeOptions(workers=-1)

    def test_an_unknown_reader_fails(self):
        with pytest.raises(OptionError, match=r"reader must be one of auto, decord.*got vlc"):
            DecodeOptions(reader="vlc")


class TestEncodeOptions:
    def test_a_negative_batch_fails(self):
        with pytest.raises(OptionError, match=r"batch_size must be 0 .* or more, got -4"):
            EncodeOptions(batch_size=-4)

    def test_an_unknown_device_or_precision_fails(self):
        with pytest.raises(OptionError, match="device must be one of auto, cpu, cuda, got tpu"):
            EncodeOptions(device="tpu")
        with pytest.raises(OptionError, match=r"precision must be one of .*float16, got int8"):
            EncodeOptions(precision="int8")


class TestClipWindows:
    def test_a_stride_without_length_fails(self):
        with pytest.raises(OptionError, match="stride_seconds needs clip_seconds"):
            ClipWindows(stride_seconds=1)

    def test_no_length_or_stride_fails(self):
        with pytest.raises(OptionError, match="clip_seconds must be a number above 0, got 0"):
            ClipWindows(0)
        with pytest.raises(OptionError, match="stride_seconds must be a number above 0, got -1"):
            ClipWindows(1, -1)


class TestShardOptions:
    @pytest.mark.parametrize("name", ["max_frames", "max_bytes", "max_videos"])
    def test_a_limit_of_nothing_fails(self, name):
        with pytest.raises(OptionError, match=f"{name} must be a number above 0, got 0"):
            ShardOptions(**{name: 0})

    def test_a_negative_window_fails(self):
        with pytest.raises(OptionError, match=r"window must be 0 \(automatic\) or more, got -1"):
            ShardOptions(window=-1)


samplings = st.one_of(
    positive.map(lambda fps: Sampling(fps=fps)),
    st.integers(1, 100).map(lambda every: Sampling(every=every)),
)
windows = st.one_of(st.just(ClipWindows()), st.builds(ClipWindows, positive, st.none() | positive))
run_options = st.builds(
    RunOptions,
    recognizer=st.text(min_size=1),
    backbone=st.none() | st.text(),
    sampling=st.none() | samplings,
    clips=st.none() | windows,
    frames=st.booleans(),
    image_fps=st.none() | positive,
    retry=st.lists(st.sampled_from(["partial", "not_video"])).map(tuple),
    decode=st.builds(DecodeOptions, workers=st.integers(0, 9), max_video_seconds=positive),
    encode=st.builds(EncodeOptions, precision=st.sampled_from(["auto", "bfloat16"])),
    shards=st.builds(ShardOptions, max_frames=st.integers(1, 5000)),
)


class TestRunOptions:
    @given(options=run_options)
    def test_json_gives_them_back(self, options):
        text = json.dumps(options.to_json())

        assert RunOptions.from_json(json.loads(text)) == options

    def test_what_is_left_out_has_its_default(self):
        assert RunOptions.from_json({}) == RunOptions()
        assert RunOptions.from_json({"decode": {"workers": 3}}).decode == DecodeOptions(workers=3)

    def test_options_cannot_be_changed(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            RunOptions().frames = True

    def test_an_unknown_name_fails(self):
        with pytest.raises(OptionError, match=r"invalid options: .*'fps'"):
            RunOptions.from_json({"fps": 8})
        with pytest.raises(OptionError, match=r"invalid options: .*'threads'"):
            RunOptions.from_json({"decode": {"threads": 8}})

    def test_a_value_of_a_wrong_kind_fails(self):
        with pytest.raises(OptionError, match="invalid options"):
            RunOptions.from_json({"sampling": {"fps": "eight"}})

    def test_a_bad_value_keeps_its_message(self):
        with pytest.raises(OptionError, match="fps must be a number above 0, got -1"):
            RunOptions.from_json({"sampling": {"fps": -1}})

    def test_an_unknown_status_to_retry_fails(self):
        assert RunOptions(retry=("partial", "ok")).retry == ("partial", "ok")
        with pytest.raises(OptionError, match="no status odd, sad; there are ok, partial"):
            RunOptions(retry=("sad", "partial", "odd"))
        with pytest.raises(OptionError, match="no status "):
            RunOptions.from_json({"retry": "partial"})

    def test_no_recognizer_and_no_backbone_fails(self):
        with pytest.raises(OptionError, match=r"a backbone is required \(--backbone\)"):
            RunOptions(recognizer=None, sampling=Sampling(fps=8))

    def test_no_recognizer_and_no_sampling_fails(self):
        with pytest.raises(OptionError, match=r"the sampling is required \(--sample-fps\)"):
            RunOptions(recognizer=None, backbone="resnet18")

    def test_no_image_rate_fails(self):
        with pytest.raises(OptionError, match="image_fps must be a number above 0, got 0"):
            RunOptions(image_fps=0)


class TestDevice:
    @pytest.mark.parametrize(
        ("device", "available", "expected"),
        [
            ("cpu", True, "cpu"),
            ("cpu", False, "cpu"),
            ("auto", True, "cuda"),
            ("auto", False, "cpu"),
            ("cuda", True, "cuda"),
        ],
    )
    def test_auto_is_cuda_if_available(self, monkeypatch, device, available, expected):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: available)

        assert resolve_device(device) == expected

    def test_cuda_without_a_cuda_device_fails(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

        with pytest.raises(OptionError, match="no CUDA device here; use --device cpu or auto"):
            resolve_device("cuda")


def test_fields_that_were_added_later_change_no_fingerprint_at_their_default():
    @dataclasses.dataclass(frozen=True)
    class Options:
        size: int = 1

    before = fingerprint(Options())

    @dataclasses.dataclass(frozen=True)
    class Options:
        size: int = 1
        depth: int = dataclasses.field(default=2, metadata=OMIT_DEFAULT)

    assert fingerprint(Options()) == before
    assert fingerprint(Options(depth=3)) != before
