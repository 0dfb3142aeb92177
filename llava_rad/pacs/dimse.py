"""C-STORE to archives that do not speak DICOMweb; as a client alone (pynetdicom)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from llava_rad.pacs.client import PacsError

CALLING = "LLAVARAD"
_ADDRESS = re.compile(r"([^@\s\\]{1,16})@([^@:\s]+|\[[0-9a-fA-F:]+\]):(\d{1,5})")


def send(files: Sequence[Path], to: str) -> None:
    """Send DICOM files.

    Args:
        files: what is sent.
        to: ``AET@HOST:PORT``.

    Raises:
        PacsError: the address is of another form, the archive is not reached or refuses a file, or pynetdicom is not
            installed.
    """
    found = _ADDRESS.fullmatch(to)
    if found is None:
        raise PacsError("the address is not of the form AET@HOST:PORT", hint="--to ARCHIVE@127.0.0.1:4242")
    try:
        import pydicom
        from pynetdicom import AE
    except ImportError:
        raise PacsError("C-STORE needs pynetdicom", hint="pip install 'llava-rad[pacs]'") from None
    name, host, port = found.groups()
    entity = AE(ae_title=CALLING)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 30
    kinds = set()
    for path in files:
        try:
            meta = pydicom.filereader.read_file_meta_info(path)
            kinds.add((meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID))
        except Exception:
            raise PacsError("one of the files is not DICOM with file meta information") from None
    for kind, syntax in sorted(kinds)[:128]:
        entity.add_requested_context(kind, syntax)
    association = entity.associate(host.strip("[]"), int(port), ae_title=name)
    if not association.is_established:
        raise PacsError("the archive cannot be reached, or does not know us", hint=f"we call ourselves {CALLING}")
    try:
        for number, path in enumerate(files, 1):
            try:
                status = association.send_c_store(path).get("Status")
            except (ValueError, RuntimeError, AttributeError):
                status = None
            if status is None or status & 0xF000 not in (0x0000, 0xB000):
                raise PacsError(f"the archive refuses file {number} of {len(files)}")
    finally:
        association.release()
