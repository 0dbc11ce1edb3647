"""Corrupt Parquet files as failing disks do."""

from __future__ import annotations

import pyarrow.parquet as pq


def corrupt_footer(path):
    """Overwrite the start of the metadata, but not the magic number at the end of the file."""
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[-8:-4], "little")
    start = len(data) - 8 - size
    data[start : start + 8] = b"\xff" * 8
    path.write_bytes(data)


def corrupt_page(path, column):
    """Flip one bit in the last page of a column; the footer stays valid."""
    group = pq.read_metadata(path).row_group(0)
    chunks = [group.column(n) for n in range(group.num_columns)]
    chunk = next(c for c in chunks if c.path_in_schema.split(".")[0] == column)
    start = chunk.data_page_offset
    if chunk.has_dictionary_page:
        start = min(start, chunk.dictionary_page_offset)
    data = bytearray(path.read_bytes())
    data[start + chunk.total_compressed_size - 1] ^= 1
    path.write_bytes(data)
