"""Studies that a link of another program names by StudyInstanceUID: opened if the user has them, else fetched.

They come from the archive that the server was started with; no request names another. The archive knows the server, not
its users: every user can open every study of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from app.database import NotFound
from app.readers import Readers, always
from app.review import ReviewError
from encoder.errors import LlavaRadError, ReadError
from encoder.files import sha256_of
from llava_rad.pacs.client import Pacs, checked_uid
from llava_rad.pacs.transport import PacsError, PacsUsageError, StatusError
from llava_rad.pacs.watch import MAX_BYTES, MAX_IMAGES

if TYPE_CHECKING:
    from app.grouping import Grouping
    from app.store import Store
    from app.uploads import Uploads

_UNKNOWN: Final = "the archive has no such study, or none with radiographs"


@dataclass(frozen=True)
class Fetched:
    """Study of a StudyInstanceUID.

    Attributes:
        study: its id.
        notes: sentences about images of the archive that the study lacks.
    """

    study: str
    notes: Sequence[str]


class Fetching:
    """Opens studies of one archive.

    Args:
        url: of its DICOMweb service; credentials as for ``llava-rad pacs``.
        store: studies of the users.
        uploads: creates studies from images.
        readers: read the identifiers of images.
        grouping: derives the key of a study from them.

    Raises:
        PacsError: if the URL or the credentials have another form, or requests is not installed.
    """

    def __init__(self, url: str, store: Store, uploads: Uploads, readers: Readers, grouping: Grouping) -> None:
        Pacs(url).close()
        self._url, self._store, self._uploads = url, store, uploads
        self._readers, self._grouping = readers, grouping

    def study(self, user: str, uid: str, *, wanted: Callable[[], bool] = always) -> Fetched:
        """Return the user's study of a StudyInstanceUID, with the archive's images that an open study lacks.

        The user's newest study counts, or one that another user has assigned; a discarded one does not. A signed study
        and that of another user stay as they are.

        Args:
            user: who opens it.
            uid: StudyInstanceUID.
            wanted: returns False if nobody waits for the study any more.

        Raises:
            ReviewError: if it is no UID.
            NotFound: if the archive has no radiographs of it.
            ReadError: if none of them can be read: a lateral view alone, for instance.
            LlavaRadError: if the archive cannot be reached, refuses, or sends another study.
        """
        with ExitStack() as files:
            paths, surplus = self._images(uid, files, wanted)
            found: str | None = None
            refused, kept_out = list[ReadError](), 0
            for last in (False, True):  # a lateral view is read once its frontal one is
                waiting, paths = paths, []
                for path in waiting:
                    try:
                        study, holds = self._opened(user, uid, path, wanted)
                    except ReadError as error:
                        if error.reason == "lateral" and not last:
                            paths.append(path)
                        else:
                            refused.append(error)
                    else:
                        found, kept_out = found or study, kept_out + (not holds)
        if found is None:
            raise ReadError(refused[0].reason, f"no image of the study can be read: {refused[0]}")
        notes = [f"{_images(count)} of the study: {reason}" for reason, count in Counter(map(str, refused)).items()]
        if kept_out:
            notes.append(f"the archive has {_images(kept_out)} that the study lacks; it stays as it is")
        if surplus:
            notes.append(f"only the first {_images(MAX_IMAGES)} were fetched, or {MAX_BYTES >> 30} GiB")
        return Fetched(found, notes)

    def _opened(self, user: str, uid: str, path: Path, wanted: Callable[[], bool]) -> tuple[str, bool]:
        """Return the study that an image belongs to, created if there is none, and whether it holds the image."""
        with self._readers.turn(user, wanted) as reader:
            identity = reader.identity(path)
        if identity.study_uid != uid:
            raise LlavaRadError("the archive sends an image of another study")
        key = self._grouping.of(identity).study
        known = self._store.newest(user, key)
        if known is not None and self._store.holds(user, known, sha256_of(path)):
            return known, True
        if known is not None and self._store.open_study(user, key) != known:
            return known, False
        return self._uploads.study(user, path, wanted=wanted).study, True

    def _images(self, uid: str, files: ExitStack, wanted: Callable[[], bool]) -> tuple[list[Path], bool]:
        """Fetch the images of a study to files that last as long as ``files``; also tells whether there are more."""
        with _told(), closing(Pacs(self._url)) as pacs:
            found = list(islice(pacs.images(checked_uid(uid)), MAX_IMAGES + 1))
            paths, size = list[Path](), 0
            for image in found[:MAX_IMAGES]:
                if not wanted():
                    raise ReadError("abandoned", "nobody waits for the study any more")
                content = pacs.image(image)
                size += len(content)
                if paths and size > MAX_BYTES:
                    return paths, True
                file, path = files.enter_context(self._uploads.file())
                file.write(content)
                file.flush()
                paths.append(path)
        if not paths:
            raise NotFound(_UNKNOWN)
        return paths, len(found) > MAX_IMAGES


@contextmanager
def _told() -> Iterator[None]:
    """Raise errors of the archive without the hints, which are for who runs the server."""
    try:
        yield
    except PacsUsageError:
        raise ReviewError("the link names no study: a StudyInstanceUID has numbers with dots between them") from None
    except PacsError as error:
        if isinstance(error, StatusError) and error.status == 404:
            raise NotFound(_UNKNOWN) from None
        raise LlavaRadError(str(error)) from None


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
