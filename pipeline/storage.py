"""Files that are whole or not there, and a lock that a crash does not leave behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import MachineError, OptionError

logger = logging.getLogger(__name__)


def printable(path: str | os.PathLike[str]) -> str:
    """Give a path as text that can be stored: bytes that are no UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def without_secrets(source: str) -> str:
    """Give a URL as it may be shown: without user, password and query; a path stays as it is."""
    scheme, mark, rest = source.partition("://")
    if not mark:
        return source
    host, slash, path = rest.partition("?")[0].partition("#")[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def hidden(path: Path) -> Path:
    """Give the name under which this thread writes a file that is not whole yet."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.new")


HIDDEN = re.compile(r"\..+\.(?P<process>\d+)-\d+\.new")


def _store(path: Path) -> None:
    """Have the disk take a file: a power cut must not leave its name without its content."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """
    Write under a hidden name, then rename: readers see all of a file or nothing.

    Raises:
        MachineError: the disk is full, or does not take the file.
    """
    fresh = hidden(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(fresh)
        _store(fresh)
        os.replace(fresh, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise MachineError(
            f"{path} cannot be written: {error.strerror or error}; "
            "make room, or let this user write there, and run the same command again"
        ) from error
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file, whole or not at all."""
    # numbers in lists hardly ever repeat: a dictionary of them makes reading seven times slower
    flat = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
    _replace(
        path,
        lambda fresh: pq.write_table(table, fresh, compression="zstd", use_dictionary=flat),
    )


def write_text(text: str, path: Path) -> None:
    """Write a text file, whole or not at all."""
    write_bytes(text.encode("utf-8", "backslashreplace"), path)


def write_bytes(data: bytes, path: Path) -> None:
    """Write a file, whole or not at all."""
    _replace(path, lambda fresh: _write_bytes(data, fresh))


def _write_bytes(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def write_json(value: Any, path: Path) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", path)


def remove_leftovers(folder: Path) -> int:
    """Delete what writers that were killed left half done in a folder. Returns how many."""
    leftovers = [path for path in folder.glob(".*.new") if _left_over(path)]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def _left_over(path: Path) -> bool:
    """Whether a file is a half one of ours, and nobody is about to finish it."""
    found = HIDDEN.fullmatch(path.name)
    if found is None:
        return False
    # in a container every run may have the same number
    process = int(found["process"])
    return process == os.getpid() or not os.path.exists(f"/proc/{process}")


@contextlib.contextmanager
def exclusive(path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """
    Hold a lock that the kernel gives up with the process, so that a crash leaves none behind.

    Args:
        path: lock file; it says who holds the lock.
        what: what is locked, for the message.
        wait: wait until the lock is free instead of refusing.

    Raises:
        OptionError: another process holds the lock, or the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise OptionError(f"{what} cannot be written: {error.strerror}: {path.parent}") from error
    with file:
        if not _locked(file):
            holder = f"{what} is in use by {_holder(path)}"
            if not wait:
                raise OptionError(f"{holder}; wait for it (--wait), or stop it")
            logger.warning("%s; waiting for it", holder)
            while not _locked(file):
                time.sleep(0.2)
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield


def _locked(file: IO[str]) -> bool:
    """Try to lock a file."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text() or "another run"
    return "another run"
