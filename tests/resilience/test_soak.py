"""
A long run over 2,000 clips: memory, files, threads and processes do not grow.

    python -m pytest -m slow -s tests/resilience/test_soak.py
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.resilience.commands import committed, counts, temporary_files
from tests.videos import write_video

CLIPS = 2000
MIN_CLIPS = 200
"""Number of finished clips after which nothing may grow."""
MAX_HISTORY_BYTES = 64 << 20


@dataclass(frozen=True)
class Resources:
    """Resources of a process."""

    memory_bytes: int
    shared_bytes: int
    files: int
    threads: int
    children: int

    @classmethod
    def of(cls, pid: int, children: int) -> Resources:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        facts = dict(line.split(":\t") for line in lines if ":\t" in line)
        size = {name: int(facts[name].split()[0]) << 10 for name in ("RssAnon", "RssShmem")}
        files = len(os.listdir(f"/proc/{pid}/fd"))
        threads = int(facts["Threads"])
        return cls(size["RssAnon"], size["RssShmem"], files, threads, children)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("soak") / "clips"
    folder.mkdir()
    contents = [write_video(folder / f"{n}.mp4", 24, first=90 * n).read_bytes() for n in range(5)]
    for number in range(CLIPS):
        content = contents[number % 5] + b"%d" % number  # different content: no copies
        (folder / f"{number}.mp4").write_bytes(content)
    return folder


@pytest.mark.slow
def test_resources_do_not_grow(clipline, clips, tiny_recognizer, tmp_path, capsys):
    process = clipline.begin(
        *("run", clips, "-o", tmp_path, "--recognizer", tiny_recognizer, "-q", "--workers", 2)
    )
    seen: dict[int, Resources] = {}
    while process.poll() is None:
        done = committed(tmp_path)
        if MIN_CLIPS <= done < CLIPS:  # then decode processes end
            seen[done] = Resources.of(process.pid, len(clipline.processes()) - 1)
        time.sleep(0.1)

    ended = clipline.end(process)

    assert ended.code == 0, ended.err
    assert counts(tmp_path)["videos_done"] == CLIPS
    first, last = seen[min(seen)], seen[max(seen)]
    history = clipline.home / ".local/state/clipline/prefect/prefect.db"
    with capsys.disabled():
        message = f"{min(seen)} clips: {first}\n{max(seen)} clips: {last}"
        sys.stdout.write(f"\n{message}\nrun history: {history.stat().st_size:,} bytes\n")
    assert max(seen) >= CLIPS * 3 // 4
    assert last.memory_bytes <= 1.1 * first.memory_bytes
    assert last.shared_bytes <= max(1.1 * first.shared_bytes, first.shared_bytes + (64 << 20))
    assert last.files <= first.files + 4
    assert last.threads <= first.threads + 4
    assert last.children == first.children
    assert history.stat().st_size < MAX_HISTORY_BYTES
    assert temporary_files(tmp_path) == []
    assert clipline.left() == {}
