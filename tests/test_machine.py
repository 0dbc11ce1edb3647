"""Limits of containers, read from files of cgroups, version 1 and 2."""

from __future__ import annotations

import os

import pytest

from pipeline.config import DecodeOptions
from pipeline.machine import available_cpus, available_memory_bytes

GIB = 1 << 30
NO_LIMIT_V1 = 9223372036854771712


@pytest.fixture(autouse=True)
def _eight_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def write(root, files):
    """Write files into a fake root folder."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def fake_root(root, cgroup, files):
    """Write a root folder of a machine with 10 GiB of available memory."""
    meminfo = f"MemTotal: {16 * GIB >> 10} kB\nMemAvailable: {10 * GIB >> 10} kB"
    files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    return write(root, {"proc/self/cgroup": cgroup, "proc/meminfo": meminfo, **files})


def test_this_machine_has_cpus_and_memory(monkeypatch):
    monkeypatch.undo()

    assert 1 <= available_cpus() <= len(os.sched_getaffinity(0))
    assert available_memory_bytes() > 0


def test_without_cgroups_the_host_counts(tmp_path):
    root = fake_root(tmp_path, "", {})
    (root / "proc/self/cgroup").unlink()

    assert available_cpus(root) == 8
    assert available_memory_bytes(root) == 10 * GIB


class TestCpus:
    @pytest.mark.parametrize(
        ("quota", "expected"),
        [("max", 8), ("200000", 2), ("150000", 2), ("20000", 1), ("1600000", 8)],
    )
    def test_quota_of_version_2(self, tmp_path, quota, expected):
        root = fake_root(tmp_path, "0::/", {"cpu.max": f"{quota} 100000"})

        assert available_cpus(root) == expected

    @pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("300000", 3), ("250000", 3)])
    @pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpu"])
    def test_quota_of_version_1(self, tmp_path, folder, quota, expected):
        files = {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "100000"}
        root = fake_root(tmp_path, "4:cpu,cpuacct:/\n2:memory:/", files)

        assert available_cpus(root) == expected

    def test_quota_of_an_outer_cgroup_applies(self, tmp_path):
        files = {
            "a/b/cpu.max": "max 100000",
            "a/cpu.max": "200000 100000",
            "c/cpu.max": "100000 100000",
        }
        root = fake_root(tmp_path, "0::/a/b", files)

        assert available_cpus(root) == 2

    def test_path_of_the_host_is_not_visible_in_a_container(self, tmp_path):
        files = {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}
        root = fake_root(tmp_path, "4:cpu:/docker/0123456789ab", files)

        assert available_cpus(root) == 2

    def test_both_versions_at_once(self, tmp_path):
        files = {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}
        root = fake_root(tmp_path, "4:cpu:/\n0::/", {**files, "unified/cpu.max": "300000 100000"})

        assert available_cpus(root) == 3

    def test_affinity_applies_too(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
        root = fake_root(tmp_path, "0::/", {"cpu.max": "400000 100000"})

        assert available_cpus(root) == 1

    @pytest.mark.parametrize("text", ["", "many 100000", "100000"])
    def test_files_of_another_format_are_ignored(self, tmp_path, text):
        assert available_cpus(fake_root(tmp_path, "0::/", {"cpu.max": text})) == 8


class TestMemory:
    def files(self, limit, used, cache=0, folder=""):
        return {
            f"{folder}memory.max": limit,
            f"{folder}memory.current": used,
            f"{folder}memory.stat": f"anon {used - cache}\ninactive_file {cache}",
        }

    def test_rest_of_the_limit_of_version_2(self, tmp_path):
        root = fake_root(tmp_path, "0::/", self.files(4 * GIB, GIB))

        assert available_memory_bytes(root) == 3 * GIB

    def test_inactive_file_cache_is_available(self, tmp_path):
        root = fake_root(tmp_path, "0::/", self.files(4 * GIB, 4 * GIB, cache=3 * GIB))

        assert available_memory_bytes(root) == 3 * GIB

    @pytest.mark.parametrize("limit", ["max", 64 * GIB])
    def test_host_counts_if_the_limit_is_higher(self, tmp_path, limit):
        root = fake_root(tmp_path, "0::/", self.files(limit, GIB))

        assert available_memory_bytes(root) == 10 * GIB

    def test_smallest_limit_of_outer_cgroups_applies(self, tmp_path):
        files = {**self.files("max", GIB, folder="a/b/"), **self.files(3 * GIB, 2 * GIB, 0, "a/")}

        assert available_memory_bytes(fake_root(tmp_path, "0::/a/b", files)) == GIB

    def test_it_is_never_negative(self, tmp_path):
        root = fake_root(tmp_path, "0::/", self.files(GIB, 2 * GIB))

        assert available_memory_bytes(root) == 0

    @pytest.mark.parametrize(("limit", "expected"), [(4 * GIB, 2 * GIB), (NO_LIMIT_V1, 10 * GIB)])
    def test_version_1(self, tmp_path, limit, expected):
        files = {
            "memory/memory.limit_in_bytes": limit,
            "memory/memory.usage_in_bytes": 3 * GIB,
            "memory/memory.stat": f"cache {2 * GIB}\ntotal_inactive_file {GIB}",
        }
        root = fake_root(tmp_path, "3:memory:/docker/0123456789ab\n1:cpu:/", files)

        assert available_memory_bytes(root) == expected


def test_decode_processes_follow_the_quota(monkeypatch):
    monkeypatch.setattr("pipeline.config.available_cpus", lambda: 3)

    assert DecodeOptions().num_workers == 3
    assert DecodeOptions(workers=5).num_workers == 5
