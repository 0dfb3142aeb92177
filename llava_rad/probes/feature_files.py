"""Files of features, NPZ and Parquet, written block by block from the work in progress: they may exceed the memory."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from encoder.errors import LlavaRadError
from encoder.files import reported, sync, writing

FORMATS = (".npz", ".parquet")


@dataclass(frozen=True)
class Kept:
    """Features on the disk, in the order of their computation, and their order in the output.

    Attributes:
        file: the features.
        shape: of the features of one image.
        places: position in the file for each of N images; None for one that cannot be read.
        ids: as in :class:`llava_rad.probes.embedding.Embedded`, like the following.
    """

    file: Path
    shape: tuple[int, ...]
    places: list[int | None]
    ids: list[str]
    paths: list[Path]
    unreadable: dict[int, str]
    about: dict[str, Any]
    doubtful: dict[int, str]

    def blocks(self, images: int = 64) -> Iterator[npt.NDArray[np.float32]]:
        """Iterate over the features of ``images`` images at a time, in the order of the output."""
        stored = np.memmap(self.file, np.float32, "r").reshape(-1, *self.shape)
        for start in range(0, len(self.places), images):
            places = self.places[start : start + images]
            block = np.full((len(places), *self.shape), np.nan, np.float32)
            for number, place in enumerate(places):
                if place is not None:
                    block[number] = stored[place]
            yield block


def work_folder(output: Path) -> Path:
    """Return the folder of the work in progress on an output file."""
    return output.with_name(f".{output.name}.part")


def write_features(found: Kept, output: Path, *, paths: bool = False, overwrite: bool = False) -> None:
    """Write a file of features atomically, then remove the work in progress.

    Args:
        found: the features.
        output: NPZ or Parquet, by its suffix.
        paths: add the paths of the files, which may identify patients.
        overwrite: replace an existing file.

    Raises:
        LlavaRadError: if it cannot be written.
    """
    with reported("the file of features"), writing(output, "wb", overwrite=overwrite) as file:
        (_write_parquet if output.suffix.lower() == ".parquet" else _write_npz)(found, file, paths)
    sync(output.parent)
    shutil.rmtree(work_folder(output), ignore_errors=True)


def _columns(found: Kept, paths: bool) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {"id": found.ids, "readable": [place is not None for place in found.places]}
    columns["warning"] = [found.doubtful.get(number, "") for number in range(1, 1 + len(found.places))]
    return columns | ({"path": [str(path) for path in found.paths]} if paths else {})


def _write_npz(found: Kept, file: IO[bytes], paths: bool) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open(zipfile.ZipInfo("features.npy"), "w", force_zip64=True) as member:
            shape = (len(found.places), *found.shape)
            np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": shape})
            for block in found.blocks():
                member.write(block.astype("<f4", copy=False).tobytes())
        for name, values in (_columns(found, paths) | {"about": json.dumps(found.about)}).items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                np.lib.format.write_array(member, np.array(values), allow_pickle=False)


def check_parquet() -> None:
    """Check that Parquet can be written.

    Raises:
        LlavaRadError: if the package is missing.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise LlavaRadError(
            "a .parquet file needs the package pyarrow", hint="pip install pyarrow, or -o FILE.npz"
        ) from None


def check_paths(paths: Iterable[Path]) -> None:
    """Check, before anything is computed, that a .parquet file can hold all paths.

    Raises:
        LlavaRadError: if the name of one is not text in UTF-8.
    """
    for number, path in enumerate(paths, 1):
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise LlavaRadError(
                f"the path of image {number} is not text in UTF-8, which a .parquet file needs",
                hint="leave out --show-paths, or use -o FILE.npz",
            ) from None


def _write_parquet(found: Kept, file: IO[bytes], paths: bool) -> None:
    import pyarrow
    import pyarrow.parquet

    kind = pyarrow.float32()
    for length in reversed(found.shape):
        kind = pyarrow.list_(kind, length)
    columns = _columns(found, paths)
    types = {"id": pyarrow.string(), "readable": pyarrow.bool_(), "warning": pyarrow.string(), "path": pyarrow.string()}
    fields = [(name, types[name]) for name in columns] + [("features", kind)]
    schema = pyarrow.schema(fields, metadata={"llava-rad": json.dumps(found.about)})
    start = 0
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for block in found.blocks():
            values = pyarrow.array(block.ravel())
            for length in reversed(found.shape):
                values = pyarrow.FixedSizeListArray.from_arrays(values, length)
            arrays = [
                pyarrow.array(column[start : start + len(block)], types[name]) for name, column in columns.items()
            ]
            writer.write_table(pyarrow.Table.from_arrays([*arrays, values], schema=schema))
            start += len(block)
