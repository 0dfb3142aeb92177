"""Arguments expanded to the files that they name."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import llava_rad
from encoder.errors import ConfigError, LlavaRadError, ReadError
from llava_rad.generation.sources import MAX_BYTES, expand
from tests.llava_rad import small_files


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with images, other files, a subfolder, and links inside and out."""
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    small_files.dicom(root / "b")
    small_files.picture(root / "a.png")
    small_files.picture(root / "10.jpg")
    (root / "c.DCM").write_bytes(b"damaged, but called an image")
    (root / "notes.txt").write_text("no image")
    (root / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (root / ".hidden.png").write_bytes(b"x")
    small_files.picture(root / "sub" / "z.tif")
    small_files.picture(tmp_path / "outside" / "secret.png")
    (root / "inside.png").symlink_to(root / "sub" / "z.tif")
    (root / "leak.png").symlink_to(tmp_path / "outside" / "secret.png")
    (root / "leaks").symlink_to(tmp_path / "outside")
    (root / "dangling.png").symlink_to(root / "nothing")
    return root


def names(root: Path, *arguments: str | Path, recursive: bool = False) -> list[str]:
    sources = expand(arguments, recursive=recursive).sources
    assert [source.number for source in sources] == list(range(1, len(sources) + 1))
    return [str(source.path.relative_to(root)) for source in sources if source.path]


def test_folder(tree: Path) -> None:
    assert names(tree, tree) == ["10.jpg", "a.png", "b", "c.DCM", "inside.png"]
    # notes, DICOMDIR, the link out, the dangling link; the linked folder is no file
    assert expand([tree]).skipped == 4


def test_recursive_folder_follows_no_link_out(tree: Path) -> None:
    assert names(tree, tree, recursive=True) == ["10.jpg", "a.png", "b", "c.DCM", "inside.png", "sub/z.tif"]


def test_files_are_taken_as_named_in_the_order_named(tree: Path) -> None:
    assert names(tree, tree / "notes.txt", tree / "b", tree / "missing") == ["notes.txt", "b", "missing"]
    assert names(tree, tree / "leak.png") == ["leak.png"], "a link that the user names is followed"


def test_patterns(tree: Path) -> None:
    assert names(tree, tree / "*.png") == ["a.png", "dangling.png", "inside.png", "leak.png"]
    assert names(tree, f"{tree}/**/*.tif") == ["sub/z.tif"]
    assert names(tree, tree / "[x]*") == ["[x]*"], "what matches nothing stays as it is, to be reported"


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    small_files.picture(tmp_path / "a[1].png")
    small_files.picture(tmp_path / "a1.png")
    assert names(tmp_path, tmp_path / "a[1].png") == ["a[1].png"]


def test_bytes_and_standard_input() -> None:
    sources = expand(["-", b"abc"], stdin=io.BytesIO(b"hello")).sources
    assert [source.data for source in sources] == [b"hello", b"abc"]
    # sha256sum of "abc", FIPS 180-2 appendix B.1
    assert sources[1].sha256() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_standard_input_once_and_not_endless() -> None:
    with pytest.raises(LlavaRadError, match="once"):
        expand(["-", "-"], stdin=io.BytesIO(b"hello"))

    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            assert 0 <= size <= MAX_BYTES + 1, "never all of it"
            return bytes(size)

    with pytest.raises(ReadError, match="256 MiB"):
        expand(["-"], stdin=Endless())  # type: ignore[list-item, arg-type]


def test_sha256_of_what_cannot_be_read(tmp_path: Path) -> None:
    for name in ("missing", ".", "/dev/zero", "a\0b"):
        (source,) = expand([tmp_path / name]).sources if name != "." else expand([b""]).sources
        assert source.sha256() is None or name == "."


def test_arrays_and_other_things_are_no_images() -> None:
    """In a call of one image, in a list, as a study input, and for features; nothing is loaded before."""
    array = np.zeros((64, 64), np.uint8)
    calls: list[Callable[[], object]] = [
        lambda: llava_rad.generate(array),
        lambda: llava_rad.generate([array]),  # type: ignore[list-item]
        lambda: llava_rad.generate(None),  # type: ignore[arg-type]
        lambda: llava_rad.generate(b"x", lateral=array),
        lambda: llava_rad.embed(array),
        lambda: llava_rad.embed([b"bytes"]),  # type: ignore[list-item]
    ]
    said = []
    for call in calls:
        with pytest.raises(ConfigError) as raised:
            call()
        said.append(str(raised.value))
    assert set(said) == {
        "an image is a path or the bytes of a file, not ndarray",
        "an image is a path or the bytes of a file, not NoneType",
        "features are computed of files: name a path instead of bytes",
    }
