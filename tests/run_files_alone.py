"""
Run every test file in a process of its own, so that no file depends on another one.

Usage: python tests/run_files_alone.py [--jobs N] [FILE OR FOLDER ...]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NO_TESTS_COLLECTED = 5  # exit code of pytest: all tests of the file are slow, or need a GPU


def find_test_files(paths: list[str]) -> list[Path]:
    """List the test files in files and folders, sorted by path."""
    found: set[Path] = set()
    for path in map(Path, paths or [str(ROOT / "tests")]):
        found |= set(path.rglob("test_*.py")) if path.is_dir() else {path}
    return sorted(found)


def run_file(path: Path) -> tuple[Path, int, str, float]:
    """Run one test file. Returns its path, exit code, output, and seconds."""
    start = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(path)],
        check=False,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    return path, ended.returncode, ended.stdout, time.monotonic() - start


def main() -> int:
    parser = argparse.ArgumentParser(description="Run every test file alone.")
    parser.add_argument("--jobs", type=int, default=2, help="files that run at the same time")
    parser.add_argument("paths", nargs="*", help="files or folders; by default all tests")
    arguments = parser.parse_args()
    files = find_test_files(arguments.paths)
    failed = []
    start = time.monotonic()
    with ThreadPoolExecutor(arguments.jobs) as threads:
        for path, code, output, seconds in threads.map(run_file, files):
            summary = output.strip().splitlines()[-1].strip("= ") if output.strip() else ""
            print(f"{path.resolve().relative_to(ROOT)}: {summary} ({seconds:.0f} s)", flush=True)
            if code not in (0, NO_TESTS_COLLECTED):
                failed.append(path)
                print(output, flush=True)
    print(f"{len(files)} files, {len(failed)} failed, {time.monotonic() - start:.0f} s")
    for path in failed:
        print(f"FAILED {path.resolve().relative_to(ROOT)}")
    return 1 if failed or not files else 0


if __name__ == "__main__":
    sys.exit(main())
