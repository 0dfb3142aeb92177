"""Output files of the commands: checks before anything is replaced, atomic writes, and logs that are continued."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoder.errors import LlavaRadError
from encoder.files import LineFile, write
from encoder.json_files import parse_json
from encoder.locks import locked_folder, locked_output

if TYPE_CHECKING:
    from llava_rad.outputs.report import Report

_FIRST_KEY = re.compile(rb'\{"schema":"llava-rad\.report/[1-3]"')
_HALF_KEY = b'{"schema":"llava-rad.report/'
"""Begin of the first key: a line of a crashed run may end in it."""
Key = tuple[str, int]


class OutputError(LlavaRadError):
    """The output is refused or cannot be written; existing files stay as they are."""

    exit_code = 2


class WriteError(OutputError):
    """A disk is full, or the system refuses to write for another reason: the command was right."""

    exit_code = 1


def check_output(path: Path, *, inputs: Iterable[Path] = (), overwrite: bool = False, resumable: bool = False) -> None:
    """Check an output path before any work is done.

    Args:
        path: of the output file.
        inputs: files that are being read, which must not be replaced.
        overwrite: an existing regular file may be replaced.
        resumable: an existing regular file may be appended to (:class:`ReportLog` checks its content).

    Raises:
        OutputError: if the path is a link, a device, a folder, an input or an existing file, or has no parent folder.
    """
    if "\0" in str(path):
        raise OutputError("the output's name has a NUL character in it")
    try:
        _check_output(path, inputs, overwrite, resumable)
    except OSError as error:
        raise OutputError(f"the output cannot be used ({os.strerror(error.errno or 0)})") from error


@contextlib.contextmanager
def held_output(path: Path) -> Iterator[None]:
    """Hold an output file, or a folder that is replaced in one step, against other processes.

    Raises:
        OutputError: if another process is writing to it.
    """
    with _held(locked_output(path, busy="another process is writing to the output")):
        yield


@contextlib.contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Hold a folder of results against other processes; a missing one is made.

    Raises:
        OutputError: if another process is writing to it.
    """
    with _held(locked_folder(folder, busy="another process is writing to the output folder")):
        yield


@contextlib.contextmanager
def _held(lock: contextlib.AbstractContextManager[None]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock)
        except LlavaRadError as error:
            raise OutputError(str(error)) from None
        yield


def _check_output(path: Path, inputs: Iterable[Path], overwrite: bool, resumable: bool) -> None:
    if path.is_symlink():
        raise OutputError("the output is a symbolic link, which is not written through", hint="name the file itself")
    if path.is_dir():
        raise OutputError("the output is a folder", hint="name a file in it")
    if not path.parent.is_dir():
        raise OutputError("the output's folder does not exist")
    if not path.exists():
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise OutputError("the output's folder is read-only")
        _check_name(path)
        return
    if not path.is_file():
        raise OutputError("the output is not a regular file", hint="leave --output out to write to standard output")
    if any(_same(path, source) for source in inputs):
        raise OutputError("the output is one of the inputs")
    if not (overwrite or resumable):
        raise OutputError("the output exists already", hint="give another name, or --overwrite to replace it")


def _check_name(path: Path) -> None:
    """Look a new name up: file systems refuse the ones that are too long or hold characters that they do not know.

    Raises:
        OSError: if it is refused.
    """
    with contextlib.suppress(FileNotFoundError):
        path.lstat()


def write_whole(path: Path, data: bytes, *, overwrite: bool = False, mode: int = 0o666) -> None:
    """Check an output path and write the file atomically.

    Args:
        path: of the file.
        data: its content.
        overwrite: an existing regular file may be replaced.
        mode: permissions, before the umask.

    Raises:
        OutputError: see :func:`check_output`; or if the file cannot be written.
    """
    check_output(path, overwrite=overwrite)
    with _refused():
        write(path, data, overwrite=overwrite, permissions=mode)


class ReportLog:
    """A JSONL file of reports that a later run of the same command continues; earlier schemas are continued too.

    Every appended line is one report and is on the disk when ``append`` returns. A half-written last line, left by a
    crash, is removed. While the log is open no other process can open it.

    Raises:
        OutputError: see :func:`check_output`; or if the file holds anything but reports, or another process has it
            open.
    """

    def __init__(self, path: Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> None:
        check_output(path, inputs=inputs, overwrite=overwrite, resumable=True)
        self._records: list[dict[str, Any]] = []
        with _refused():
            self._file = LineFile(path, busy="another process is writing to the output")
        try:
            if overwrite:
                self._file.clear()
            else:
                self._records = _reports(path.read_bytes())
        except BaseException:
            self._file.close()
            raise

    @property
    def holds_reports(self) -> bool:
        """True if the file held reports when it was opened."""
        return bool(self._records)

    def done(self, settings: dict[str, Any]) -> Counter[Key]:
        """Count the reports of each input, identified by SHA-256 and frame.

        Args:
            settings: of this run, as :func:`settings_of` returns them.

        Raises:
            OutputError: if a report was made by another model or with other settings.
        """
        keys: Counter[Key] = Counter()
        for record in self._records:
            try:
                if settings_of(record) != settings:
                    raise OutputError(
                        "the output holds reports of another model or with other settings",
                        hint="give another name, or --overwrite to replace it",
                    )
                keys[record["input"]["sha256"], record["input"]["facts"]["frame"]] += 1
            except (KeyError, TypeError):
                raise _not_ours() from None
        return keys

    def append(self, reports: Iterable[Report]) -> None:
        """Append reports and wait until they are on the disk."""
        data = "".join(report.to_json(indent=None) + "\n" for report in reports).encode()
        with _refused():
            self._file.append(data)

    def close(self) -> None:
        """Release the file; one that this run created and left empty is removed."""
        self._file.close()

    def __enter__(self) -> ReportLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def settings_of(record: dict[str, Any]) -> dict[str, Any]:
    """Return model, recipe and generation settings, which all reports of one file share.

    Settings at their defaults are left out, as in reports of versions that did not know them.
    """
    from llava_rad.outputs.report import GenerationFacts

    defaults = GenerationFacts.defaults()
    return {
        "model": record["model"]["sha256"],
        "recipe": record["input"]["recipe"],
        "generation": {
            name: value
            for name, value in record["generation"].items()
            if name not in defaults or value != defaults[name]
        },
    }


def _not_ours() -> OutputError:
    return OutputError(
        "the output exists and is not a file of reports", hint="give another name, or --overwrite to replace it"
    )


def _reports(content: bytes) -> list[dict[str, Any]]:
    """Parse the complete lines of a log."""
    records = []
    for line in io.BytesIO(content):
        whole = line.endswith(b"\n")
        half = not whole and (_HALF_KEY.startswith(line) or _FIRST_KEY.fullmatch(line + b'"'))
        if not (_FIRST_KEY.match(line) or half):
            raise _not_ours()
        if not whole:
            break
        try:
            records.append(parse_json(line))
        except ValueError:
            raise _not_ours() from None
    return records


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    """Raise ``WriteError`` for errors of the file system, ``OutputError`` for a file that another process has open."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"the output cannot be written ({os.strerror(error.errno or 0)})") from error
    except LlavaRadError as error:
        raise OutputError(str(error)) from None


def _same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except (OSError, ValueError):
        return False
