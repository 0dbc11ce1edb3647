"""
Limits of this machine: CPUs and memory that this process may use.

A container (cgroup) may have less than its host, which `os.cpu_count` and `/proc/meminfo` do not
show: the limits of cgroups, version 1 and 2, are read too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/")


def available_cpus(root: Path = ROOT) -> int:
    """
    Return the number of CPUs that this process may use, at least 1.

    It is the smaller one of the CPU affinity and the CPU quota; a quota of 1.5 CPUs counts as 2.

    Args:
        root: folder in which `proc` and `sys` are found.
    """
    quotas = (math.ceil(quota) for quota in _limits(root, "cpu", _cpu_quota))
    return max(1, min([len(os.sched_getaffinity(0)), *quotas]))


def available_memory_bytes(root: Path = ROOT) -> int:
    """
    Return the memory, in bytes, that can be allocated without swapping.

    It is the smaller one of `MemAvailable` of the host and the unused rest of each memory limit.

    Args:
        root: folder in which `proc` and `sys` are found.
    """
    lines = (root / "proc/meminfo").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    available = int(fields["MemAvailable"].split()[0]) << 10
    return max(0, int(min([available, *_limits(root, "memory", _free_memory)])))


def _limits(root: Path, controller: str, read: Callable[[Path], float | None]) -> Iterator[float]:
    """Read the limits of the cgroups of this process; limits of outer cgroups apply too."""
    for folder in _cgroup_folders(root, controller):
        with suppress(OSError, ValueError, IndexError):  # no such file: no limit here
            limit = read(folder)
            if limit is not None:
                yield limit


def _cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """
    Yield the folders of the cgroups of this process, innermost first.

    Inside a container the path may be that on the host, and not exist: the container's own cgroup
    is then mounted at the top.
    """
    mounts = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2, alone or beside version 1
            tops = [mounts, mounts / "unified"]
        elif controller in controllers.split(","):
            tops = [mounts / name for name in dict.fromkeys((controllers, controller))]
        else:
            continue
        inner = Path(path.lstrip("/"))
        for top in tops:
            yield from (top / folder for folder in (inner, *inner.parents))


def _cpu_quota(folder: Path) -> float | None:
    """Return the CPUs that a cgroup may use; None without a limit."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()  # version 2: "max 100000"
    except FileNotFoundError:
        quota = (folder / "cpu.cfs_quota_us").read_text().strip()  # version 1: -1 is no limit
        period = (folder / "cpu.cfs_period_us").read_text()
    return None if quota in ("max", "-1") else int(quota) / int(period)


def _free_memory(folder: Path) -> int | None:
    """
    Return the bytes that a cgroup may still allocate; None without a limit.

    The file cache counts as used there, but its inactive part is freed when memory is needed.
    """
    try:
        limit, used = _read(folder / "memory.max"), int(_read(folder / "memory.current"))
        cache = "inactive_file"
    except FileNotFoundError:
        limit = _read(folder / "memory.limit_in_bytes")  # version 1: a huge number is no limit
        used = int(_read(folder / "memory.usage_in_bytes"))
        cache = "total_inactive_file"
    if limit == "max":
        return None
    statistics = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
    return int(limit) - used + int(statistics.get(cache, 0))


def _read(path: Path) -> str:
    return path.read_text().strip()
