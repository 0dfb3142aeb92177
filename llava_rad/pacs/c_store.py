"""C-STORE (DICOM PS3.4, annex B) to archives without DICOMweb."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from llava_rad.pacs.transport import PacsError, PacsUsageError, SlowError, UnreachableError

CALLING: Final = "LLAVARAD"
"""Application entity title of this client."""
TIMEOUT_S: Final = 30.0
_ADDRESS = re.compile(r"([^@\s\\]{1,16})@([^@:\s]+|\[[0-9a-fA-F:]+\]):(\d{1,5})", re.ASCII)


class StorageUser:
    """Sends DICOM files by C-STORE.

    Args:
        to: ``AET@HOST:PORT`` of the archive.

    Raises:
        PacsUsageError: if the address has another form.
        PacsError: if pynetdicom is not installed.
    """

    def __init__(self, to: str) -> None:
        found = _ADDRESS.fullmatch(to)
        if found is None or not 0 < int(found[3]) < 1 << 16:
            raise PacsUsageError("the address is not of the form AET@HOST:PORT", hint="--to ARCHIVE@127.0.0.1:4242")
        try:
            from pynetdicom import AE
        except ImportError:
            raise PacsError("C-STORE needs pynetdicom", hint="pip install 'llava-rad[pacs]'") from None
        self._name, self._host, self._port = found[1], found[2].strip("[]"), int(found[3])
        self._entity = AE(ae_title=CALLING)
        self._entity.acse_timeout = self._entity.dimse_timeout = self._entity.network_timeout = TIMEOUT_S
        self._entity.connection_timeout = TIMEOUT_S
        self._kinds: set[tuple[str, str]] = set()
        self._association: Any = None

    def close(self) -> None:
        """End the association."""
        if self._association is not None and self._association.is_established:
            self._association.release()

    def store(self, path: Path) -> None:
        """Store a file.

        Raises:
            PacsError: if the archive refuses it, or it is no DICOM file.
            UnreachableError: if there is no association.
        """
        import pydicom

        try:
            meta = pydicom.filereader.read_file_meta_info(path)
            kind = str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)
        except Exception:  # pydicom raises any type on a damaged file, and messages that quote it
            raise PacsError("not DICOM with file meta information") from None
        self._associate(kind)
        try:
            status = self._association.send_c_store(path).get("Status")
        except Exception as error:  # pynetdicom reads and encodes the file; only the type is named
            raise PacsError(f"it cannot be sent ({type(error).__name__})") from None
        if status is None:
            self._association.abort()  # the next file gets a new one
            raise SlowError("the archive gives no answer to it")
        if status & 0xF000 not in (0x0000, 0xB000):  # PS3.4, table B.2-1: success and warnings
            raise PacsError(f"the archive refuses it (status {status:04X}H)")

    def _associate(self, kind: tuple[str, str]) -> None:
        """Open an association that has the file's kind among its contexts, if there is none."""
        if kind in self._kinds and self._association.is_established:
            return
        self.close()
        if len(self._kinds) == 128:  # the most of one association
            self._kinds.clear()
        self._kinds.add(kind)
        self._entity.requested_contexts = []
        for one, syntax in sorted(self._kinds):
            self._entity.add_requested_context(one, syntax)
        self._association = self._entity.associate(self._host, self._port, ae_title=self._name)
        if not self._association.is_established and self._association.rejected_contexts:
            self._kinds.discard(kind)
            raise PacsError("the archive does not accept its kind of object")
        if not self._association.is_established:
            raise UnreachableError(
                "the archive cannot be reached, or does not accept this client",
                hint=f"its application entity title is {CALLING}",
            )
