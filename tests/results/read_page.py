"""Reads the columns of a report as its script does."""

from __future__ import annotations

import base64
import gzip
import json
import re

import numpy as np

DTYPES = {"Uint8Array": "u1", "Uint16Array": "<u2", "Uint32Array": "<u4", "Float32Array": "<f4"}


def read_page(path):
    """Return the JSON of the page; its tables hold arrays, and lists of texts."""
    text = path.read_text("utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    data = json.loads(found)
    data["tables"] = {
        table: {name: read_column(column) for name, column in columns.items()}
        for table, columns in data["tables"].items()
    }
    return data


def read_column(column):
    values = gzip.decompress(base64.b64decode(column["data"]))
    if column["array"] == "texts":
        return [] if column["empty"] else values.decode("utf-8").split("\0")
    numbers = np.frombuffer(values, DTYPES[column["array"]])
    return np.cumsum(numbers, dtype=numbers.dtype) if column["differences"] else numbers
