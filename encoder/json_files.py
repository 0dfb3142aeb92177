"""JSON from others' files and services, read with limits: on type and size of the file, and on depth."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

MAX_BYTES = 64 << 20
"""Largest JSON file that is read; an index of a model's shards has a few MB."""


class TooDeep(ValueError):
    """JSON that is nested more deeply than Python can parse."""


def read_json(path: Path, *, limit: int = MAX_BYTES) -> Any:
    """Read a JSON file.

    Args:
        path: of a regular file; pipes, sockets and devices are refused at once, not waited for.
        limit: largest size in bytes.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no regular file, larger than ``limit``, or holds no JSON.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        if status.st_size > limit:
            raise ValueError(f"larger than {limit >> 20} MiB")
        return parse_json(file.read(status.st_size))


def parse_json(data: bytes | str) -> Any:
    """Parse JSON that somebody else wrote.

    Raises:
        ValueError: if it is no JSON.
        TooDeep: if it is nested too deeply.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise TooDeep("nested too deeply") from None
