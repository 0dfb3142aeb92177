"""Resolve the source of a model, a folder or a Hugging Face hub repository, to a local folder."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from encoder.errors import ModelError

_POINTER = b"version https://git-lfs.github.com/spec/"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def fetch(source: str | Path, *, patterns: Iterable[str], revision: str | None = None, offline: bool = False) -> Path:
    """Return the local folder of a model; a hub repository is downloaded into the cache if allowed.

    Args:
        source: a folder, or a repository id ``owner/name``.
        patterns: glob patterns of the files to download.
        revision: branch, tag or commit of the repository.
        offline: use the cache only, as ``HF_HUB_OFFLINE=1`` does.

    Raises:
        ModelError: if there is no such folder, the name is not a repository id, the download fails, or one of these
            files is a Git LFS pointer.
    """
    name, patterns = str(source), tuple(patterns)
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            _refuse_pointers(path, patterns)
            return path
        is_file = path.exists()
    except (OSError, ValueError, RuntimeError):  # path too long, NUL character, unknown user
        raise ModelError(f"{name[:80]!r} is neither a folder nor a hub repository (owner/name)") from None
    if is_file:
        raise ModelError(f"{source} is a file; a model is a folder or a hub repository")
    if name.startswith((".", "/", "~")) or not _REPOSITORY.fullmatch(name):
        raise ModelError(f"there is no folder {name}, and it is not a hub repository (owner/name) either")

    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

    offline = offline or constants.HF_HUB_OFFLINE
    at = f"{name} at {revision}" if revision else name
    command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=list(patterns), local_files_only=offline)
    except LocalEntryNotFoundError as error:
        _refuse_access(error, at, name, gated=False)
        where = os.environ.get("HF_HOME") or "the Hugging Face cache"
        why = "the hub is switched off" if offline else "the hub cannot be reached"
        raise ModelError(
            f"{at} is not in {where} and {why}",
            hint=f"run '{command}' where the hub can be reached, or give a local folder instead of {name}",
        ) from error
    except Exception as error:  # an interrupted download raises exceptions of the HTTP client
        _refuse_access(error, at, name, gated=isinstance(error, GatedRepoError))
        raise ModelError(
            f"{at} could not be fetched from the hub ({type(error).__name__})",
            hint=f"check the name, your access (HF_TOKEN) and the network, try '{command}', or give a local folder; "
            "what has been downloaded is kept",
        ) from error
    _refuse_pointers(Path(folder), patterns)
    return Path(folder)


@contextmanager
def refused_packages(*names: str) -> Iterator[None]:
    """Make packages look absent to libraries that import them unasked.

    With ``kernels``, transformers and bitsandbytes fetch compiled code from the hub; PEFT imports bitsandbytes as soon
    as it is installed.

    Args:
        names: of the packages; default: ``kernels``, ``flash_attn`` and ``bitsandbytes``.
    """
    names = names or ("kernels", "flash_attn", "bitsandbytes")
    before = {name: sys.modules[name] for name in names if name in sys.modules}
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type] # None: the import system takes it as absent
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(before)


def refuse_pointer(path: Path) -> None:
    """Refuse a Git LFS pointer, the few lines that stand for a large file in a clone without Git LFS.

    Raises:
        ModelError: if the file is one.
    """
    if not path.is_file():  # opening a pipe would wait for ever
        return
    try:
        with path.open("rb") as file:
            pointer = file.read(len(_POINTER)) == _POINTER
    except OSError:  # whoever reads the file reports it
        return
    if pointer:
        raise ModelError(
            f"{path.name} is a Git LFS pointer, not the file that it stands for",
            hint="run 'git lfs pull' in the model's folder, or fetch the file again",
        )


def _refuse_pointers(folder: Path, patterns: Iterable[str]) -> None:
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        refuse_pointer(path)


def _refuse_access(error: BaseException, at: str, name: str, *, gated: bool) -> None:
    """Explain a refusal of the hub (HTTP 401 or 403).

    Raises:
        ModelError: if ``error`` is such a refusal.
    """
    for cause in (error, error.__cause__):
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if gated or status in (401, 403):
            why = "it is gated" if gated else "it is gated or private, or there is no such repository"
            code = f" ({status})" if status in (401, 403) else ""
            raise ModelError(
                f"the hub gives no access to {at}{code}: {why}",
                hint=f"ask for access on https://huggingface.co/{name}, then set HF_TOKEN to a token of your account",
            ) from error
