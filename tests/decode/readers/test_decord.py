from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Geometry
from pipeline.decode.fallback import index_video
from tests.decode.decoding import as_video, decode, numbers, read_with
from tests.videos import spoil, write_video

ROOT = Path(__file__).resolve().parents[3]


def test_a_file_that_it_cannot_open_is_refused(tmp_path, process):
    path = write_video(tmp_path / "a.mp4", 4, size=(128, 64))
    index = index_video(process, as_video(path))
    path.write_bytes(b"no video any more")

    answer, _ = read_with(process, "decord", path, index=index)

    assert answer["refused"].startswith("Decord cannot open it: Error reading")


def test_a_packet_that_fails_is_refused(tmp_path, process):
    path = write_video(tmp_path / "a.mp4", 20, size=(128, 64))

    answer, _ = read_with(process, "decord", spoil(path, tmp_path / "b.mp4", [9]))

    assert answer["refused"].startswith("Decord stopped: ")


def test_more_frames_than_the_index_promises_are_refused(tmp_path, process):
    path = write_video(tmp_path / "a.mp4", 20, size=(128, 64))
    index = index_video(process, as_video(path))
    short = replace(index, pts=index.pts[:15], packets=15)

    answer, _ = read_with(process, "decord", path, index=short)

    assert answer["refused"] == "Decord gave more frames than the container holds"


PADDED = "return types.SimpleNamespace(asnumpy=lambda: numpy.zeros((64, 96, 4), 'uint8'))"
"""What Decord returns on processors where it pads a row of 96 pixels to the length of 128."""


def test_rows_with_padding_are_refused(tmp_path, start_process, fake_decord):
    path = write_video(tmp_path / "a.mp4", 4, size=(96, 64))
    fake_decord(PADDED)

    answer, _ = read_with(start_process(), "decord", path)

    assert answer["refused"] == "Decord cannot convert frames of this width: got (64, 96, 4)"


def test_another_reader_follows_where_rows_have_padding(tmp_path, start_process, fake_decord):
    path = write_video(tmp_path / "a.mp4", 4, size=(96, 64))
    fake_decord(PADDED)

    batch = decode(start_process(), path)

    assert numbers(batch.images) == [0, 1, 2, 3]
    assert (batch.report.status, batch.report.decoder) == ("ok", "pyav")
    assert batch.report.attempts == (
        "decord: Decord cannot convert frames of this width: got (64, 96, 4)",
    )


@pytest.mark.parametrize("width", [48, 80, 96, 112, 160, 176, 224])
def test_frames_of_any_width_are_right_or_refused(tmp_path, process, width):
    """The padding of rows depends on the processor: the fallback decides at run time."""
    path = write_video(tmp_path / "a.mp4", 4, size=(width, 64))
    answer, images = read_with(process, "decord", path)

    batch = decode(process, path, geometry=Geometry(64, width, "squash", reducing_gap=1))

    _, expected = read_with(process, "pyav", path)
    assert np.array_equal(batch.images, expected)
    assert batch.report.status == "ok"
    assert batch.report.decoder == ("pyav" if "refused" in answer else "decord")
    assert "refused" in answer or np.array_equal(images, expected)


def test_decord_loads_no_cuda_libraries():
    """It would load all that torch has installed, 600 MiB per process."""
    code = """
from pathlib import Path
from pipeline.decode.readers.decord import import_decord
print(import_decord().__name__, "/nvidia/" in Path("/proc/self/maps").read_text())
"""
    completed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert completed.stdout == "decord False\n"


def test_a_build_of_decord_that_needs_them_finds_them(tmp_path):
    (tmp_path / "nvidia").mkdir()
    (tmp_path / "nvidia" / "__init__.py").touch()
    (tmp_path / "decord.py").write_text("import nvidia")
    code = (
        "from pipeline.decode.readers.decord import import_decord; print(import_decord().__file__)"
    )
    completed = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    assert completed.stdout == f"{tmp_path / 'decord.py'}\n"
