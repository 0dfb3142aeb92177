"""Published report models, converted when they are first asked for by the name of their repository."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llava_rad.conversion.published import PublishedModel

_LOG = logging.getLogger("llava_rad")


def folder_of(model: PublishedModel, revision: str | None) -> Path:
    """Where the converted model is kept: ``$XDG_CACHE_HOME/llava-rad/converted``."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = model.repository.replace("/", "--")
    if revision is not None:  # a branch's name may hold anything
        name += f"@{hashlib.sha256(revision.encode()).hexdigest()[:12]}"
    return home / "llava-rad" / "converted" / name


def converted(model: PublishedModel, *, revision: str | None = None, offline: bool = False) -> Path:
    """The checkpoint of a published model, converted now if it was not before.

    Args:
        model: which.
        revision: branch, tag or commit of its repository.
        offline: never ask the hub.

    Raises:
        ModelError: it cannot be had, or is not what it should be.
        LlavaRadError: the disk has no room.
    """
    folder = folder_of(model, revision)
    if (folder / "config.json").is_file():
        return folder
    from llava_rad.conversion.convert import convert

    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder.with_name(f"{folder.name}.lock")):
        if (folder / "config.json").is_file():  # another process was first
            return folder
        for left in folder.parent.glob(f".{folder.name}.*"):  # of a conversion that was killed
            shutil.rmtree(left, ignore_errors=True)
        _LOG.warning(
            "llava-rad: %s is converted once, into %s. Its publisher's licence holds: %s (%s)",
            model.repository,
            folder,
            model.licence,
            model.page,
        )
        convert(model.kind, model.repository, folder, revision=revision, offline=offline, force=True)
    return folder


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process has the lock."""
    with path.open("w") as file:
        with contextlib.suppress(ImportError):  # not on Windows
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
