"""Damaged and hostile files in the sandbox, mutations and bombs, raise ReadError and nothing else."""

from __future__ import annotations

import gzip
import io
import random
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from encoder.errors import ReadError
from encoder.reader.sandbox import Reader
from scripts.phantom.transfer_syntaxes import rewrite
from tests.encoder.dicom_files import chest, dataset, lut_item, sequence, to_bytes

FUZZED = ("explicit-le", "deflated", "rle", "jpeg-baseline", "jpeg-lossless-sv1", "jpeg-ls", "jpeg2000-lossless")


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Flip, overwrite, cut, repeat or move some bytes; half of the time in the header."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if len(changed) < 200:
            break
        end = len(changed) if rng.random() < 0.5 else min(len(changed), 1200)
        at = rng.randrange(128 if rng.random() < 0.9 else 0, end)
        kind = rng.randrange(6)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", rng.randbytes(4)))
        elif kind == 2:
            del changed[at : at + rng.randrange(1, 64)]
        elif kind == 3:
            changed[at:at] = changed[at : at + rng.randrange(1, 64)]
        elif kind == 4:
            changed[at : at + 8] = rng.randbytes(8)
        elif rng.random() < 0.3:
            del changed[at:]
    return bytes(changed)


def fuzz(reader: Reader, count: int, seed: int) -> tuple[int, int, int, float]:
    """Return the numbers of files read, refused and crashed, and the longest time in seconds."""
    rng = random.Random(seed)
    window = {"WindowCenter": "2000", "WindowWidth": "1000"}
    curve = lut_item(np.arange(4096).astype(np.uint16), 0, 12)
    originals = [rewrite(dataset(VOILUTSequence=sequence(curve), **window), name) for name in FUZZED]
    good, refused, crashed, longest = 0, 0, 0, 0.0
    for number in range(count):
        data = mutate(originals[number % len(originals)], rng)
        started = time.monotonic()
        try:
            reader.read(data, force=number % 3 == 0).display()
            good += 1
        except ReadError as error:
            refused += 1
            crashed += error.reason in ("crashed", "timeout", "memory")
            assert "\n" not in str(error)
        longest = max(longest, time.monotonic() - started)
    return good, refused, crashed, longest


@pytest.mark.acceptance(row=1)
@pytest.mark.parametrize(("count", "seed"), [(140, 1), pytest.param(10_000, 2, marks=pytest.mark.nightly)])
def test_mutated_files_are_read_or_refused(count: int, seed: int, reader: Reader) -> None:
    good, refused, crashed, longest = fuzz(reader, count, seed)
    print(f"{count} mutated files: {good} read, {refused} refused, {crashed} crashed a worker, longest {longest:.2f} s")
    assert good + refused == count and good > count // 20 and refused > count // 20
    assert crashed == 0 and longest < 10


@pytest.mark.acceptance(row=1)
@pytest.mark.slow
def test_parent_stays_small(tmp_path: Path) -> None:
    """Memory of a process that reads 300 mutated files, made by this process."""
    code = (
        "import sys; from pathlib import Path\n"
        "from encoder.reader.sandbox import Reader; from encoder.errors import ReadError\n"
        "r = Reader()\nblob = Path(sys.argv[1]).read_bytes(); at = 0\n"
        "while at < len(blob):\n"
        "    n = int.from_bytes(blob[at:at+4], 'little'); data = blob[at+4:at+4+n]; at += 4 + n\n"
        "    try: r.read(data)\n"
        "    except ReadError: pass\n"
        # ru_maxrss would hold the size of the test process too: it outlives fork and exec
        "print(next(int(x.split()[1]) // 1024 for x in open('/proc/self/status') if x.startswith('VmHWM')))"
    )
    rng, originals = random.Random(5), [rewrite(dataset(), name) for name in FUZZED]
    path = tmp_path / "mutated.bin"
    with path.open("wb") as file:
        for number in range(300):
            data = mutate(originals[number % len(originals)], rng)
            file.write(len(data).to_bytes(4, "little") + data)
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 300 and done.stderr == ""


def with_codestream(codestream: bytes, syntax: str, **attributes: object) -> bytes:
    from pydicom.encaps import encapsulate

    source = dataset(bits=8, **attributes)
    source.file_meta.TransferSyntaxUID = syntax
    source.PixelData = encapsulate([codestream])
    source["PixelData"].VR = "OB"
    source["PixelData"].is_undefined_length = True
    return to_bytes(source)


def codestream_of(name: str) -> bytes:
    import pydicom

    return pydicom.encaps.get_frame(
        pydicom.dcmread(io.BytesIO(rewrite(dataset(bits=8), name))).PixelData, 0, number_of_frames=1
    )


def j2k_with_size(side: int, *, tile: int | None = None) -> bytes:
    data = bytearray(codestream_of("jpeg2000-lossless"))
    data[8:16] = struct.pack(">II", side, side)
    data[24:32] = struct.pack(">II", tile or side, tile or side)
    return bytes(data)


def jpeg_with_size(name: str, side: int) -> bytes:
    data = bytearray(codestream_of(name))
    marker = b"\xff\xf7" if name == "jpeg-ls" else b"\xff\xc3" if "lossless" in name else b"\xff\xc0"
    at = data.index(marker)
    data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def deflated(payload: bytes) -> bytes:
    whole = rewrite(dataset(), "deflated")
    end = whole.index(b"1.2.840.10008.1.2.1.99") + 22
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    # the data set starts behind the group length's count of bytes
    length = struct.unpack("<I", whole[140:144])[0]
    assert 144 + length >= end
    return whole[: 144 + length] + packer.compress(payload) + packer.flush()


def nested(depth: int) -> bytes:
    body = b"".join(b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" for _ in range(depth))
    whole = chest()
    at = whole.index(b"\x08\x00\x16\x00")
    return whole[:at] + body + whole[at:]


def ul_rows(value: int) -> bytes:
    source = dataset()
    del source.Rows
    source.add_new(0x00280010, "UL", value)
    return to_bytes(source)


def png_bomb() -> bytes:
    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packed = zlib.compress(bytes(8001 * 1000), 1)
    text = part(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 << 20), 1))
    return (
        b"\x89PNG\r\n\x1a\n"
        + part(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
        + text
        + part(b"IDAT", packed)
        + part(b"IEND", b"")
    )


def archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("image.dcm", chest())
    return stream.getvalue()


def spacing_bomb() -> bytes:
    return chest(np.zeros((64, 64), np.int64), PixelAspectRatio=["1", "1000000"])


def rle_stating(side: int) -> bytes:
    """RLE of a small image under a header with another size."""
    small = bytes.fromhex("2800100055530200 4800 2800110055530200 5000")  # Rows 72, Columns 80
    stated = struct.pack("<H", side)
    changed = b"\x28\x00\x10\x00US\x02\x00" + stated + b"\x28\x00\x11\x00US\x02\x00" + stated
    data = rewrite(dataset(), "rle")
    assert small in data
    return data.replace(small, changed)


def four_gigabyte_element() -> bytes:
    head = b"\x28\x00\x02\x00US\x02\x00"
    assert head in chest()
    return chest().replace(head, b"\x28\x00\x02\x00UN\x00\x00\xf0\xff\xff\xff")


J2K, JPEG, JPEG_LS, SV1 = (f"1.2.840.10008.1.2.4.{n}" for n in (90, 50, 80, 70))


def sized(codestream: bytes, syntax: str, side: int) -> bytes:
    return with_codestream(codestream, syntax, Rows=side, Columns=side)


Bomb = tuple[Callable[[], bytes], set[str]]
BOMBS: dict[str, Bomb] = {
    "J2K 60000 x 60000, header small": (lambda: with_codestream(j2k_with_size(60000), J2K), {"corrupt"}),
    "J2K 60000 x 60000, header too": (lambda: sized(j2k_with_size(60000), J2K, 60000), {"too_large"}),
    "J2K 8000 x 8000 of nothing": (lambda: sized(j2k_with_size(8000), J2K, 8000), {"corrupt", "truncated"}),
    "J2K with 1 x 1 tiles": (lambda: sized(j2k_with_size(4000, tile=1), J2K, 4000), {"corrupt"}),
    "JPEG 65500 x 65500": (lambda: with_codestream(jpeg_with_size("jpeg-baseline", 65500), JPEG), {"corrupt"}),
    "JPEG lossless 65500": (lambda: with_codestream(jpeg_with_size("jpeg-lossless-sv1", 65500), SV1), {"corrupt"}),
    "JPEG-LS 65500 x 65500": (lambda: with_codestream(jpeg_with_size("jpeg-ls", 65500), JPEG_LS), {"corrupt"}),
    "RLE, 65535 x 65535 stated": (lambda: rle_stating(65535), {"too_large"}),
    "RLE, 8000 x 8000 stated": (lambda: rle_stating(8000), {"truncated", "corrupt"}),
    "native, 65535 x 65535 stated": (lambda: chest(Rows=65535, Columns=65535), {"too_large"}),
    "deflate, 310 MB of zeros": (lambda: deflated(bytes(310 << 20)), {"too_large"}),
    "deflate, 290 MB of zeros": (lambda: deflated(bytes(290 << 20)), {"corrupt"}),
    "nested sequences, depth 240": (lambda: nested(240), {"corrupt"}),
    "nested sequences, depth 20000": (lambda: nested(20000), {"corrupt"}),
    "2e9 frames": (lambda: chest(NumberOfFrames="2000000000"), {"multi_frame"}),
    "4 GB element": (four_gigabyte_element, {"truncated", "corrupt", "no_pixels"}),
    "Rows as UL": (lambda: ul_rows(0xFFFFFFFF), {"too_large"}),
    "PNG 60000 x 60000 with a text bomb": (png_bomb, {"too_large", "corrupt"}),
    "gzip": (lambda: gzip.compress(chest()), {"not_an_image"}),
    "zip": (archive, {"not_an_image"}),
}


@pytest.mark.acceptance(row=2)
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_quickly(name: str, reader: Reader) -> None:
    make, reasons = BOMBS[name]
    data, limit, seconds = make(), 2 if name.startswith("deflate") else 5, []
    while len(seconds) < 3 and min(seconds, default=limit) >= limit:  # other processes may share the machine
        started = time.monotonic()
        with pytest.raises(ReadError) as caught:
            reader.read(data)
        seconds.append(time.monotonic() - started)
        assert caught.value.reason in reasons, caught.value
    assert min(seconds) < limit


@pytest.mark.acceptance(row=2)
def test_absurd_aspect_ratio_and_polyglot_are_read_small(reader: Reader) -> None:
    assert reader.read(spacing_bomb(), force=True).pixels.shape == (64, 64)
    polyglot = b"\x89PNG\r\n\x1a\n" + chest()[8:]  # the preamble may hold anything: DICOM wins
    assert reader.read(polyglot).facts.format == "dicom"


@pytest.mark.acceptance(row=2)
def test_worker_memory_is_limited(reader: Reader) -> None:
    """The child that reads the largest allowed image stays below the limit of 3 GiB (64 Mi pixels of 16 bits)."""
    side = 8192
    source = dataset(np.zeros((64, 64), np.int64), Rows=side, Columns=side, PixelAspectRatio=["1", "1"])
    source.PixelData = bytes(side * side * 2)
    image = reader.read(to_bytes(source), force=True)
    assert image.pixels.shape == (side, side)
