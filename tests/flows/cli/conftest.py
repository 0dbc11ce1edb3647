"""Videos that several commands are tested with."""

from __future__ import annotations

import pytest

from tests.videos import write_video


@pytest.fixture(scope="module")
def clips_folder(tmp_path_factory):
    """Two valid videos of two seconds."""
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "a.mp4", 48, fps=24)
    write_video(folder / "b.mp4", 48, fps=24, first=200)
    return folder


@pytest.fixture
def mixed_folder(tmp_path, clips_folder):
    """A valid video, and a file that is no video."""
    made = tmp_path / "mixed"
    made.mkdir()
    (made / "a.mp4").write_bytes((clips_folder / "a.mp4").read_bytes())
    (made / "empty.mp4").touch()
    return made


@pytest.fixture(scope="module")
def labelled_folder(tmp_path_factory):
    """Six videos of two seconds, with two labels."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = ["video,label"]
    for number in range(6):
        write_video(folder / f"v{number}.mp4", 48, fps=24, first=90 * number)
        rows.append(f"v{number}.mp4,{('left', 'right')[number % 2]}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder
