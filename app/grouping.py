"""Grouping of images into studies and of studies by patient, without keeping identifiers.

Identifiers of the DICOM header are replaced by their HMAC-SHA256 under a key of the installation. Times of studies are
shifted by a number of days that is secret and the same for all studies of a patient, so that only their order remains.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from encoder.errors import LlavaRadError
from encoder.files import reported, write
from encoder.reader.identity import names_nobody
from encoder.reader.views import FRONTAL, view_of

if TYPE_CHECKING:
    from encoder.reader.identity import Identity

KEY_BYTES: Final = 32
_SHIFT_DAYS: Final = 10_000


@dataclass(frozen=True)
class Group:
    """Keys by which an image joins a study, and its study earlier ones.

    Attributes:
        study: equal for images of one study; None if unknown.
        patient: equal for studies of one patient; None if unknown.
        moment: order in time of the studies of a patient, in seconds from a secret start; None if unknown.
        lateral: the file's name says that it is a lateral view.
    """

    study: str | None = None
    patient: str | None = None
    moment: int | None = None
    lateral: bool = False


class Grouping:
    """Derives keys from identifiers.

    Args:
        path: file of the installation's key, created with mode 0600 if missing.

    Attributes:
        created: there was no key before.

    Raises:
        LlavaRadError: if it cannot be read or written, or is no key.
    """

    def __init__(self, path: Path) -> None:
        with reported("the key of the data folder"):
            self.created = not path.exists()
            if self.created:
                write(path, secrets.token_bytes(KEY_BYTES), overwrite=False, permissions=0o600)
            self._key = path.read_bytes()
        if len(self._key) != KEY_BYTES:
            raise LlavaRadError(f"the file {path.name} of the data folder is damaged")

    @property
    def mark(self) -> int:
        """Number of 31 bits, not 0, by which another key is noticed."""
        return int(self._hmac("mark")[:8], 16) & 0x7FFFFFFF or 1

    def of(self, identity: Identity) -> Group:
        """Return the keys of an image by its identifiers.

        A patient is identified by ID, issuer of the ID and date of birth. An ID that stands for nobody, such as
        "ANONYMOUS" or "0", identifies no patient.
        """
        stated = identity.attributes
        person = [stated.get(name, "") for name in ("PatientID", "IssuerOfPatientID", "PatientBirthDate")]
        patient = None if names_nobody(person[0]) else self._hmac("patient", *person)
        study = self._hmac("study", identity.study_uid, *person[:2])
        day = stated.get("StudyDate")
        moment = None if day is None or patient is None else self._moment(patient, day, stated.get("StudyTime", ""))
        return Group(study, patient, moment)

    def folders(self, names: Sequence[str]) -> list[str | None]:
        """Group pictures, which have no header, by folder and file name.

        The pictures of a folder are one study if the name of exactly one states a frontal view and those of all others
        a lateral one.

        Args:
            names: paths of the files in a folder or zip file, with ``/``.

        Returns:
            For each file its group, in the form that :meth:`named` reads; None for a file by itself.
        """
        source, members = secrets.token_hex(16), dict[str, list[int]]()
        for at, name in enumerate(names):
            members.setdefault(str(PurePosixPath(name).parent), []).append(at)
        found: list[str | None] = [None] * len(names)
        for folder, numbers in members.items():
            views = [view_of(PurePosixPath(names[at]).stem) for at in numbers]
            frontal = [view in FRONTAL for view in views]
            if len(numbers) > 1 and sum(frontal) == 1 and views.count("lateral") == len(views) - 1:
                key = self._hmac("folder", source, folder)
                for at, view in zip(numbers, views, strict=True):
                    found[at] = f"{key} {view}"
        return found

    @staticmethod
    def named(folder: str | None) -> Group:
        """Return the group of a picture by what :meth:`folders` returned for it."""
        key, _, view = (folder or "").partition(" ")
        return Group(study=key or None, lateral=view == "lateral")

    def _moment(self, patient: str, day: str, time: str) -> int:
        shift = int(self._hmac("shift", patient), 16) % _SHIFT_DAYS
        clock = re.fullmatch(r"(\d\d)(\d\d)?(\d\d)?.*", time)
        hours, minutes, seconds = (int(part or 0) for part in clock.groups()) if clock else (0, 0, 0)
        days = datetime.strptime(day, "%Y%m%d").toordinal() + shift
        return days * 86_400 + hours * 3_600 + minutes * 60 + seconds

    def _hmac(self, *parts: str) -> str:
        return hmac.new(self._key, "\0".join(parts).encode(errors="surrogateescape"), hashlib.sha256).hexdigest()
