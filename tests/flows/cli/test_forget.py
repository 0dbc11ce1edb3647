"""The command `forget`."""

from __future__ import annotations

import pytest

from flows.cli.app import run_command
from pipeline.records import Video
from pipeline.results.rows import VideoRows
from pipeline.results.tables import load
from tests.results.example_report import write_example
from tests.results.example_rows import good


@pytest.fixture
def out(tmp_path):
    """Results of two videos, the second of which is deleted."""
    rows = []
    for name in ("a.mp4", "b.mp4"):
        one = good(name)
        video = Video(name, str(tmp_path / name), "file", one.video.video_id, 1000)
        rows.append(VideoRows(video, one.report, one.recognition))
    (tmp_path / "a.mp4").write_bytes(b"")
    write_example(tmp_path / "out", rows)
    return tmp_path / "out"


def test_rows_of_deleted_files_are_listed_and_dropped(out, capsys):
    assert run_command(["forget", str(out), "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        str(out.parent / "b.mp4"),
        "rows of 1 file that no longer exist would be dropped",
    ]
    assert len(load(out, "videos")) == 2

    assert run_command(["forget", str(out)]) == 0
    assert "rows of 1 file that no longer exist were dropped" in capsys.readouterr().out
    assert load(out, "videos").video.tolist() == ["a.mp4"]

    assert run_command(["forget", str(out)]) == 0
    assert capsys.readouterr().out == "rows of 0 files that no longer exist were dropped\n"


def test_a_folder_whose_files_are_all_gone_is_left_alone(out, capsys):
    """A disk may not be mounted."""
    (out.parent / "a.mp4").unlink()

    assert run_command(["forget", str(out)]) == 2
    assert "none of the 2 files of" in capsys.readouterr().err
    assert len(load(out, "videos")) == 2


def test_inspect_tells_of_deleted_files(out, capsys):
    run_command(["inspect", str(out)])

    assert f"1 of the files no longer exist: clipline forget {out} drops" in (
        capsys.readouterr().out
    )


def test_a_folder_without_results_fails(tmp_path, capsys):
    assert run_command(["forget", str(tmp_path)]) == 2
    assert "holds no results" in capsys.readouterr().err
