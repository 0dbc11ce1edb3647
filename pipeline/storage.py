"""Atomic writes of files, and a file lock that ends with the process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DamagedFileError, MachineError, OptionError

logger = logging.getLogger(__name__)


def printable(path: str | os.PathLike[str]) -> str:
    """Convert a path to text; bytes that are not UTF-8 are escaped with backslashes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def redact_url(source: str) -> str:
    """Remove user, password and query from a URL; a path is returned unchanged."""
    scheme, separator, rest = source.partition("://")
    if not separator:
        return source
    host, slash, path = rest.partition("?")[0].partition("#")[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def temporary_path(path: Path) -> Path:
    """Return the hidden path to which this thread writes a file before renaming it."""
    writer = f"{_host_id()}-{os.getpid()}-{threading.get_ident()}"
    return path.with_name(f".{path.name}.{writer}.new")


TEMPORARY_NAME = re.compile(r"\..+\.((?P<host>[0-9a-f]{8})-)?(?P<process>\d+)-(?P<thread>\d+)\.new")
"""Earlier versions wrote no host."""
MAX_WRITE_SECONDS = 24 * 3600.0
"""A temporary file of another host that was not changed for so long is abandoned."""


def _host_id() -> str:
    """Return an id, 8 hex digits, of what process ids belong to: host, boot and container."""
    try:
        host = Path("/proc/sys/kernel/random/boot_id").read_text()
        host += os.readlink("/proc/self/ns/pid")
    except OSError:
        host = platform.node()
    return hashlib.blake2b(host.encode(), digest_size=4).hexdigest()


def _fsync(path: Path) -> None:
    """Flush a file to disk, so that a power cut cannot leave its name without its content."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """
    Write to a temporary file, then rename it: readers see the complete file or none.

    Raises:
        MachineError: the file cannot be written, for example because the disk is full.
    """
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        _fsync(temporary)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise MachineError(
            f"{path} cannot be written: {error.strerror or error}; "
            "free disk space, or change the permissions, and run the same command again"
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file atomically."""
    # values in lists rarely repeat: dictionary encoding makes reading them seven times slower
    flat = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
    _write_atomically(
        path,
        lambda temporary: pq.write_table(
            table, temporary, compression="zstd", use_dictionary=flat, write_page_checksum=True
        ),
    )


def read_table(path: Path, schema: pa.Schema | None = None) -> pa.Table:
    """
    Read a Parquet file, and verify the checksums of what is read.

    Args:
        path: file.
        schema: columns to read, with their types; a column that the file lacks is null in every
            row. All columns of the file by default.

    Raises:
        DamagedFileError: the file is truncated or corrupted.
    """
    with _parquet_file(path) as file:
        if schema is None:
            return file.read()
        table = file.read(columns=schema.names)
        arrays = [
            table[field.name].cast(field.type)
            if field.name in table.column_names
            else pa.nulls(file.metadata.num_rows, field.type)
            for field in schema
        ]
        return pa.Table.from_arrays(arrays, schema=schema)


def read_schema(path: Path) -> pa.Schema:
    """
    Read the columns and the metadata of a Parquet file, but none of its rows.

    Raises:
        DamagedFileError: the file is truncated or corrupted.
    """
    with _parquet_file(path) as file:
        return file.schema_arrow


@contextlib.contextmanager
def _parquet_file(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        # Arrow reports corrupted content as OSError without errno, or as ArrowInvalid
        is_other_error = isinstance(error, OSError) and error.errno not in (None, errno.EIO)
        if is_other_error or isinstance(error, MemoryError):
            raise
        raise DamagedFileError(path, str(error)) from error


def set_aside(path: Path) -> Path:
    """Rename a damaged file so that no table includes it. Returns the new path."""
    renamed = path.with_name(f"_damaged-{path.name}")  # readers of folders skip names with "_"
    with contextlib.suppress(FileNotFoundError):  # another thread was faster
        path.replace(renamed)
    return renamed


def write_text(text: str, path: Path) -> None:
    """Write a text file atomically, as UTF-8."""
    write_bytes(text.encode("utf-8", "backslashreplace"), path)


def write_bytes(data: bytes, path: Path) -> None:
    """Write a file atomically."""
    _write_atomically(path, lambda temporary: temporary.write_bytes(data))


def write_json(value: Any, path: Path) -> None:
    """Write a JSON file atomically, with sorted keys."""
    write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", path)


def remove_temporary_files(folder: Path, *, shared: bool = False) -> int:
    """
    Delete the temporary files of killed writers in a folder.

    Args:
        folder: folder.
        shared: other threads and hosts may write to it now, as no lock is held on it; only files
            whose writer has certainly ended are deleted.

    Returns:
        Number of files deleted.
    """
    is_leftover = _is_abandoned if shared else _is_leftover
    leftovers = [path for path in folder.glob(".*.new") if is_leftover(path)]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def _is_leftover(path: Path) -> bool:
    """Whether a file is a temporary file, and no thread or process of this host writes it."""
    match = TEMPORARY_NAME.fullmatch(path.name)
    if match is None:
        return False
    process, thread = int(match["process"]), int(match["thread"])
    if process == os.getpid():  # also that of earlier runs in a container
        return thread not in {other.ident for other in threading.enumerate()}
    return not os.path.exists(f"/proc/{process}")


def _is_abandoned(path: Path) -> bool:
    """Whether a file is a temporary file whose writer, of any host or thread, has ended."""
    match = TEMPORARY_NAME.fullmatch(path.name)
    if match is None:
        return False
    if match["host"] == _host_id():
        return not os.path.exists(f"/proc/{match['process']}")
    try:
        return time.time() - path.stat().st_mtime > MAX_WRITE_SECONDS
    except FileNotFoundError:  # just renamed by its writer
        return False


@contextlib.contextmanager
def file_lock(path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """
    Hold an exclusive lock; the kernel releases it when the process ends, also after a crash.

    Args:
        path: lock file; it contains the id of the process that holds the lock.
        what: what is locked, for messages.
        wait: wait for the lock instead of raising an error.

    Raises:
        OptionError: another process holds the lock, or the file cannot be created.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise OptionError(f"{what} cannot be written: {error.strerror}: {path.parent}") from error
    with file:
        if not _try_lock(file):
            holder = f"{what} is in use by {_holder(path)}"
            if not wait:
                raise OptionError(f"{holder}; wait for it (--wait), or stop it")
            logger.warning("%s; waiting for it", holder)
            while not _try_lock(file):
                time.sleep(0.2)
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield


def _try_lock(file: IO[str]) -> bool:
    """Lock an open file; returns False if another process holds the lock."""
    # not filelock: without flock it falls back to marker files, which remain after a crash
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text() or "another run"
    return "another run"
