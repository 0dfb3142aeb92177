"""Results folder of a benchmark: its files, and the checks before a run continues in it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from encoder.errors import LlavaRadError
from encoder.files import DIGESTS
from encoder.json_files import read_json
from llava_rad.outputs.files import OutputError, write_whole

RUN: Final = "run.json"
SCHEMA: Final = "llava-rad.benchmark-run/1"


@dataclass(frozen=True)
class Folder:
    """Paths of a benchmark's files. A later run continues from ``predictions/`` and ``run.json``."""

    path: Path

    @property
    def run(self) -> Path:
        """Record of the data set, and of the settings of each system."""
        return self.path / RUN

    def predictions(self, slug: str) -> Path:
        """Merged predictions of a system."""
        return self.path / "predictions" / f"{slug}.jsonl"

    def shards(self, slug: str) -> Path:
        """Folder of a system's predictions until they are merged."""
        return self.path / "predictions" / "shards" / slug

    def reference_point(self, slug: str) -> Path:
        """Texts of a reference point."""
        return self.path / "reference_points" / f"{slug}.jsonl"

    @property
    def digests(self) -> Path:
        """Memory of :class:`encoder.files.Digests`: of images and weights."""
        return self.path / DIGESTS

    def features(self, slug: str) -> Path:
        """Folder of the image vectors of a model's encoder."""
        return self.path / "features" / slug

    def open(self, task: dict[str, Any], systems: dict[str, dict[str, Any]], *, overwrite: bool) -> list[str]:
        """Create the folder, or check that its results have the same task, settings and contents of images.

        Systems that the folder does not hold yet are added. Up to version 0.2.0 no contents of images were
        recorded: merged predictions of these versions are kept, unfinished ones are removed.

        Returns:
            Systems whose predictions may be of other images, since their contents were not recorded.

        Raises:
            OutputError: if the folder holds other files, or results on other data or with other settings.
        """
        before = self._before(overwrite=overwrite)
        known: dict[str, Any] = before["systems"] if before else {}
        if before and before["task"] != task:
            raise OutputError(
                "the results folder holds a benchmark on other data", hint="name another, or --overwrite to replace it"
            )
        unverified = []
        for slug, settings in systems.items():
            old = known.get(slug, settings)
            if unknown := {key: settings[key] for key in ("images", "base") if key in settings and key not in old}:
                if self.predictions(slug).is_file():
                    unverified.append(slug)
                else:
                    self.forget(slug)
                    del known[slug]
                old = old | unknown
            if old != settings:
                changed = {key for key in settings if old.get(key) != settings[key]}
                raise OutputError(
                    f"the results folder holds reports of {slug} on image files that have changed since"
                    if changed == {"images"}
                    else f"the results folder holds reports of {slug} from other images or texts of the studies"
                    if changed <= {"images", "inputs_sha256"}
                    else f"the results folder holds reports of {slug} with other settings",
                    hint="name another, or --overwrite to replace it",
                )
        content = {"schema": SCHEMA, "task": task, "systems": systems | known}
        data = (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.run, data, overwrite=True)  # first: a folder with others and without it is not ours
            for folder in (self.path / "predictions" / "samples", self.path / "reference_points"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"the results folder cannot be made ({os.strerror(error.errno or 0)})") from None
        return unverified

    def _before(self, *, overwrite: bool) -> dict[str, Any] | None:
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_dir()):
            raise OutputError("the results folder is a file or a link")
        if not self.path.exists() or not any(self.path.iterdir()):
            return None
        try:
            content: dict[str, Any] = read_json(self.run)
            if content["schema"] != SCHEMA:
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError):
            raise OutputError("the folder is not empty and holds no results of a benchmark") from None
        if not overwrite:
            return content
        for one in self.path.iterdir():  # the folder itself stays: this process holds it
            if one.is_dir() and not one.is_symlink():
                shutil.rmtree(one)
            else:
                one.unlink()
        return None

    def shared(self, task: dict[str, Any], systems: dict[str, dict[str, Any]]) -> None:
        """Check that this process sees the file that the first process wrote, and the same data, models and images.

        Raises:
            LlavaRadError: if the processes do not share the folder or the data.
        """
        try:
            found = read_json(self.run)
            kept = found["systems"]
            if found["task"] == task and all(settings | kept[slug] == settings for slug, settings in systems.items()):
                return
        except (OSError, ValueError, KeyError):
            pass
        raise LlavaRadError(
            "this process does not see the results folder of the first one, or other data, models or images",
            hint="all machines need the same folder (NFS or the like), the same data and the same models",
        )

    def forget(self, slug: str) -> None:
        """Remove the shards of a system whose predictions are merged."""
        shutil.rmtree(self.shards(slug), ignore_errors=True)
        for folder in (self.shards(slug).parent, self.path / "predictions" / "shards"):
            with contextlib.suppress(OSError):  # not empty yet
                folder.rmdir()


def slugs(names: Iterable[str]) -> dict[str, str]:
    """Return a unique file name for each system, of the letters, digits, dots and dashes of its name."""
    found: dict[str, str] = {}
    for name in names:
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:80] or "system"
        number = 2
        while slug in found.values():
            slug = f"{slug.rsplit('_', 1)[0]}_{number}"
            number += 1
        found[name] = slug
    return found
