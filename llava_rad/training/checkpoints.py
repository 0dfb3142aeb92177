"""The Trainer's checkpoints, made so that a crash cannot damage them: written elsewhere, then renamed into place.

::

    checkpoints/
      checkpoint-100/      complete: it was renamed after every process had written its part
      checkpoint-200/
      .partial/            being written, or left over from a crash: never read, removed by the next save
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from encoder.errors import ConfigError, LlavaRadError

_FOLDER = re.compile(r"checkpoint-(\d+)")
_FACTS = "llava-rad.json"


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they lie.
        keep: so many of the newest stay.
        facts: what a checkpoint belongs to: processes and way of spreading. One of other facts cannot be gone on from.
    """

    def __init__(self, folder: Path, keep: int, facts: dict[str, Any]) -> None:
        self.folder, self.keep, self.facts = folder, keep, facts

    @property
    def partial(self) -> Path:
        """Where a checkpoint is written."""
        return self.folder / ".partial"

    def all(self) -> list[Path]:
        """The complete ones, oldest first."""
        found = [
            (int(match[1]), path)
            for path in self.folder.glob("checkpoint-*")
            if (match := _FOLDER.fullmatch(path.name))
        ]
        return [path for _, path in sorted(found)]

    def latest(self) -> Path | None:
        """The newest, or None.

        Raises:
            ConfigError: it was written by another number of processes, or spread in another way.
        """
        found = self.all()
        if not found:
            return None
        try:
            facts = json.loads((found[-1] / _FACTS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise LlavaRadError(
                f"{found[-1].name} in the run folder is damaged",
                hint="remove its folder to go on from the checkpoint before it, or begin anew with --restart",
            ) from None
        for name, value in self.facts.items():
            if facts.get(name) != value:
                raise ConfigError(
                    f"{found[-1].name} was written with {name} = {facts.get(name)}, this run has {value}",
                    hint="go on as before, or begin anew with --restart",
                )
        return found[-1]

    def clear(self) -> None:
        """Remove what a crash has left."""
        shutil.rmtree(self.partial, ignore_errors=True)

    def publish(self, name: str) -> None:
        """Put a checkpoint that every process has written in place, and remove those that are no longer kept.

        Raises:
            LlavaRadError: the disk refuses.
        """
        written, final = self.partial / name, self.folder / name
        try:
            (written / _FACTS).write_text(json.dumps(self.facts) + "\n", encoding="utf-8")
            for path in sorted(written.rglob("*"), reverse=True):
                _sync(path)
            _sync(written)
            if final.exists():
                shutil.rmtree(final)
            written.replace(final)
            _sync(self.folder)
        except OSError as error:
            raise LlavaRadError(
                f"{name} could not be written: {error.strerror or type(error).__name__}",
                hint="the checkpoints before it are intact; the same command goes on from the newest",
            ) from error
        for old in self.all()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        self.clear()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
