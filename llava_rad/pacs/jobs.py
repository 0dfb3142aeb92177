"""Fetching images and storing documents; every step may be killed and repeated without duplicates.

A fault of one image, file or study is reported and counted, and the others are processed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from encoder.errors import LlavaRadError
from encoder.files import sha256_of
from llava_rad.outputs.files import write_whole
from llava_rad.pacs.client import MODALITIES, Instance, Pacs
from llava_rad.pacs.completeness import fault_of, is_whole_file
from llava_rad.pacs.processed import name_of
from llava_rad.pacs.transport import PacsError, PacsUsageError, SlowError, Tell, UnreachableError

SLOW_IN_A_ROW = 3
"""Requests without an answer in time after which a run ends."""


@dataclass
class Count:
    """Numbers of images, or of drafts and studies of a watch: new, known, refused, failed, and waiting."""

    new: int = 0
    known: int = 0
    refused: int = 0
    failed: int = 0
    waiting: int = 0
    _slow: int = 0
    _progress: int = 0

    def fail(self, error: LlavaRadError) -> None:
        """Count a failure.

        Raises:
            PacsError: if the archive is out of reach, or fails to answer several times in a row.
        """
        self.failed += 1
        progress = self.new + self.refused
        if not isinstance(error, SlowError) or progress != self._progress:
            self._slow = 0
        self._slow, self._progress = self._slow + isinstance(error, SlowError), progress
        if isinstance(error, UnreachableError | PacsUsageError) or self._slow == SLOW_IN_A_ROW:
            raise error

    @property
    def exit_code(self) -> int:
        """Exit code of a command: 0, 1 if nothing else than failures came, or 3 if some images or files failed."""
        if self.failed and not (self.new or self.known or self.refused):
            return 1
        return 3 if self.failed or self.refused else 0


def wanted(
    pacs: Pacs, count: Count, tell: Tell, *, studies: Sequence[str], date: str | None, modalities: Sequence[str]
) -> Iterator[Instance]:
    """Yield the images of the named studies, or of all studies that a search finds.

    A study whose images cannot be listed is counted and said; so is a named one without any.

    Raises:
        PacsError: see ``Count.fail``.
    """
    for study in studies_of(pacs, count, tell, studies=studies, date=date, modalities=modalities):
        number = 0
        try:
            for number, image in enumerate(pacs.images(study, modalities), 1):  # noqa: B007
                yield image
            if studies and not number:
                raise PacsError(f"the archive has no such study, or none with {', '.join(modalities)} images")
        except PacsError as error:
            tell(f"study {name_of(study)[:12]}: {error}")
            count.fail(error)


def studies_of(
    pacs: Pacs, count: Count, tell: Tell, *, studies: Sequence[str], date: str | None, modalities: Sequence[str]
) -> Iterator[str]:
    """Yield the UIDs of the named studies, or of all that a search finds; a search that breaks off is counted and said.

    Raises:
        PacsError: if it fails at once; see also ``Count.fail``.
    """
    found = iter(dict.fromkeys(studies) if studies else pacs.studies(date=date, modalities=modalities))
    while True:
        try:
            study = next(found, None)
        except PacsError as error:
            if not (count.new or count.known or count.refused or count.waiting):
                raise
            tell(f"search: {error}")
            count.fail(error)
            return
        if study is None:
            return
        yield study


def pull(
    pacs: Pacs, folder: Path, *, studies: Sequence[str] = (), date: str | None = None,
    modalities: Sequence[str] = MODALITIES, tell: Tell = lambda text: None,
) -> Count:  # fmt: skip
    """Fetch images into a folder, except those that it holds; a file there that is no whole DICOM file is replaced.

    Args:
        pacs: the archive.
        folder: of the images.
        studies: their Study Instance UIDs; empty for those that a search finds.
        date: of studies that are searched, see ``Pacs.studies``.
        modalities: of images.
        tell: receives one line for each failure.

    Raises:
        PacsError: if the archive is out of reach or does not answer; fetched images stay.
    """
    count = Count()
    for instance in wanted(pacs, count, tell, studies=studies, date=date, modalities=modalities):
        name = name_of(instance.instance)
        path = folder / f"{name}.dcm"
        if _is_kept(path):
            count.known += 1
            continue
        try:
            content = pacs.image(instance)
        except PacsError as error:
            tell(f"image {name[:12]}: {error}")
            count.fail(error)
        else:
            write_whole(path, content, overwrite=True)
            count.new += 1
    return count


def _is_kept(path: Path) -> bool:
    try:
        return path.is_file() and is_whole_file(path)
    except OSError:
        return False


def push(files: Sequence[Path], store: Callable[[Path], None], *, tell: Tell = lambda text: None) -> Count:
    """Store files one after the other.

    Args:
        files: paths.
        store: stores one file.
        tell: receives one line for each failure, which names the file by position and SHA-256.

    Raises:
        PacsError: if the archive is out of reach or does not answer; stored files stay.
    """
    count = Count()
    for number, path in enumerate(files, 1):
        try:
            _check(path)
            store(path)
        except PacsError as error:
            tell(f"{_file_name(path, number, len(files))}: {error}")
            count.fail(error)
        else:
            count.new += 1
    return count


def _file_name(path: Path, number: int, total: int) -> str:
    """Name a file in messages by position and SHA-256: its path may identify a patient."""
    try:
        return f"file {number} of {total} (sha256 {sha256_of(path)[:12]})"
    except OSError:
        return f"file {number} of {total}"


def _check(path: Path) -> None:
    try:
        if not is_whole_file(path):
            raise PacsError(fault_of(path.read_bytes()) or "changed while it was read")
    except OSError as error:
        raise PacsError(f"the file cannot be read ({error.strerror})") from None
