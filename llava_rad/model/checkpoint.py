"""Checkpoint directories on disk: find one, check the SHA-256 of every file, write one in one step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from encoder.errors import LlavaRadError, ModelError
from encoder.files import Digests, check_writable, reported, sha256_of, writing_folder
from encoder.hub import fetch
from llava_rad.model.config import LlavaRadConfig

DEMO = Path(__file__).parents[1] / "demo"
ENCODER, PROJECTOR, LANGUAGE_MODEL = "encoder", "projector.safetensors", "language_model"
FAMILIARITY = "familiarity.safetensors"
"""Optional file that describes the training images; see ``llava_rad.model.familiarity``."""
FINDINGS = "findings.safetensors"
"""Optional file with probabilities of findings and their levels; see ``llava_rad.model.findings``."""
_PATTERNS = ("config.json", "README.md", PROJECTOR, FAMILIARITY, FINDINGS, f"{ENCODER}/*", f"{LANGUAGE_MODEL}/*")
_UNHASHED = {"config.json", "README.md"}


def locate(source: str | Path | None, *, revision: str | None = None, offline: bool = False) -> Path:
    """Find the local folder of a checkpoint: None is the embedded default, else a folder or hub repository.

    ``llava_rad.conversion.published.open_checkpoint`` also takes published report models of other forms.

    Raises:
        ModelError: if it cannot be found.
    """
    if source is None:
        if not (DEMO / "config.json").is_file():
            raise ModelError(
                "this installation has no embedded model", hint="name one with --model DIR-OR-HUB-ID, or install again"
            )
        return DEMO
    return fetch(source, revision=revision, offline=offline, patterns=_PATTERNS)


def load_checked(folder: Path, digests: Digests | None = None) -> LlavaRadConfig:
    """Read the config and check every file that it lists; files that it does not list are refused.

    Args:
        folder: of the checkpoint.
        digests: known from an earlier reading; default: every file is read.

    Raises:
        ModelError: if a file is missing, altered or not listed.
    """
    config = LlavaRadConfig.load(folder)
    present = {name for name in list_files(folder) if name not in _UNHASHED}
    listed = set(config.files)
    for name in sorted(listed - present):
        raise ModelError(f"the checkpoint lacks its file {name}", hint="fetch or copy the checkpoint again")
    for name in sorted(present - listed):
        raise ModelError(f"the checkpoint holds a file that its config.json does not list: {name}")
    for needed in (PROJECTOR, f"{ENCODER}/config.json"):
        if needed not in listed:
            raise ModelError(f"the checkpoint's config.json does not list {needed}")
    found = (digests or Digests()).of([folder / name for name in config.files])
    for (name, digest), other in zip(config.files.items(), found, strict=True):
        if not other:
            raise ModelError(f"the checkpoint's file {name} cannot be read")
        if other != digest:
            raise ModelError(
                f"the checkpoint's file {name} is damaged: its SHA-256 is not the one in config.json",
                hint="fetch or copy the checkpoint again",
            )
    return config


def list_files(folder: Path) -> list[str]:
    """List the relative paths of all files below a folder, sorted, without hidden ones (download metadata)."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts))


def refuse_existing(target: Path, *, force: bool = False) -> None:
    """Refuse to write over a file or a folder that is not empty, and where no folder can be made.

    Raises:
        LlavaRadError: if ``target`` exists, holds something, and ``force`` is not set; or if it cannot be made.
    """
    check_writable(target.parent if os.path.lexists(target) else target)  # it is made beside the target, and renamed
    if target.exists() and (not target.is_dir() or any(target.iterdir())) and not force:
        raise LlavaRadError(f"{target.name} exists already", hint="name another folder, or --overwrite to replace it")


@contextmanager
def writing(target: Path, config: LlavaRadConfig, *, force: bool = False) -> Iterator[Path]:
    """Give an empty folder beside ``target``; when the block ends, hash its files into ``config.json`` and rename it.

    Raises:
        LlavaRadError: if ``target`` exists, holds something, and ``force`` is not set, also if it appeared meanwhile.
    """
    refuse_existing(target, force=force)
    with reported("the checkpoint"), writing_folder(target) as folder:
        yield folder
        files = {name: sha256_of(folder / name) for name in list_files(folder) if name not in _UNHASHED}
        full = config.model_copy(update={"files": files})
        (folder / "config.json").write_text(full.model_dump_json(indent=2) + "\n", encoding="utf-8")
        refuse_existing(target, force=force)
