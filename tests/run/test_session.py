"""The resources of a run: shards in flight, and the files of its feature store."""

from __future__ import annotations

import os

import pytest

from pipeline.config import DecodeOptions, EncodeOptions, RunOptions, ShardOptions
from pipeline.run import session as module
from pipeline.run.load import open_session
from pipeline.run.session import max_shards_in_flight
from pipeline.storage import temporary_path


@pytest.mark.parametrize(("gib", "expected"), [(64, 9), (8, 4), (1, 2)])
def test_window_follows_the_memory_of_a_container(monkeypatch, gib, expected):
    monkeypatch.setattr(module, "available_memory_bytes", lambda: gib << 30)

    assert max_shards_in_flight(ShardOptions(max_bytes=1 << 29), workers=8) == expected


def test_a_run_deletes_abandoned_files_of_its_feature_store(
    tmp_path, tiny_recognizer, engine_cache
):
    options = RunOptions(
        recognizer=str(tiny_recognizer),
        features=str(tmp_path / "shared"),
        decode=DecodeOptions(workers=1),
        encode=EncodeOptions(device="cpu", precision="float32"),
    )

    def open_store():
        with open_session(tmp_path / "out", options, engine_cache) as session:
            return session.store.folder

    folder = open_store()
    folder.mkdir(parents=True)
    path = temporary_path(folder / "part-1.parquet")
    abandoned = path.with_name(path.name.replace(f"-{os.getpid()}-", f"-{2**22 + 1}-"))
    for file in (path, abandoned):
        file.write_bytes(b"half")
    open_store()

    assert list(folder.iterdir()) == [path]
