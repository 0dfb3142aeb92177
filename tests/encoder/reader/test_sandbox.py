"""The child process: what crosses, what cannot, limits, crashes, and the end of the parent."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from encoder.errors import ReadError
from encoder.preprocessing import RECIPES
from encoder.reader.sandbox import Reader
from encoder.reader.sandbox_worker import read_image
from tests.encoder.dicom_files import chest, dataset, lut_item, ramp, sample_file, sequence, to_bytes

pytestmark = pytest.mark.acceptance(row=4)

RG1 = sample_file("RG1_UNCI.dcm")


def refused(reader: Reader, source: Path | bytes, reason: str, **keywords: object) -> ReadError:
    with pytest.raises(ReadError) as caught:
        reader.read(source, **keywords)  # type: ignore[arg-type]
    assert caught.value.reason == reason, caught.value
    return caught.value


def test_everything_crosses(reader: Reader) -> None:
    curve = np.linspace(0, 4095, 4096).astype(np.uint16)
    window = {"WindowCenter": ["100", "200"], "WindowWidth": ["50", "60"]}
    data = chest(
        PhotometricInterpretation="MONOCHROME1",
        PixelPaddingValue=0,
        VOILUTSequence=sequence(lut_item(curve, 0, 12)),
        **window,
    )
    ours, direct = reader.read(data), read_image(data)
    np.testing.assert_array_equal(ours.pixels, direct.pixels)
    assert ours.valid is not None and direct.valid is not None
    np.testing.assert_array_equal(ours.valid, direct.valid)
    assert ours.facts == direct.facts and ours.warnings == direct.warnings
    assert ours.sha256 == hashlib.sha256(data).hexdigest()
    assert len(ours.windows) == 3
    for index in range(3):
        np.testing.assert_array_equal(ours.display(index), direct.display(index))


@pytest.mark.parametrize("name", ["rad-dino", "mimic-cxr-jpg", "chexzero"])
def test_prepare_is_the_recipe_applied(reader: Reader, name: str) -> None:
    direct = read_image(RG1.read_bytes())
    prepared = reader.prepare(RG1, RECIPES[name])
    np.testing.assert_array_equal(prepared.pixels, RECIPES[name].apply(direct.pixels, direct.valid, from_dicom=True))
    assert prepared.facts == direct.facts and prepared.sha256 == hashlib.sha256(RG1.read_bytes()).hexdigest()


def test_path_and_bytes_are_the_same(reader: Reader) -> None:
    np.testing.assert_array_equal(reader.read(RG1).pixels, reader.read(RG1.read_bytes()).pixels)


# regions of the anatomy of RG1, found by eye on the upright image
def test_real_radiograph_has_the_right_polarity_and_side(reader: Reader) -> None:
    image = reader.read(RG1)
    height, width = image.pixels.shape
    assert (height, width) == (1955, 1841)
    mediastinum = image.pixels[int(0.45 * height) : int(0.65 * height), int(0.47 * width) : int(0.55 * width)].mean()
    lungs = [
        image.pixels[int(0.3 * height) : int(0.5 * height), int(a * width) : int(b * width)].mean()
        for a, b in ((0.2, 0.35), (0.65, 0.8))
    ]
    assert mediastinum > max(lungs)
    assert image.facts.inverted and image.facts.orientation == "L\\F" and not image.facts.mirrored


def test_hand_is_refused_and_forced(reader: Reader) -> None:
    path = sample_file("RG3_UNCI.dcm")
    error = refused(reader, path, "body_part")
    assert error.forcible and error.exit_code == 4 and error.hint
    image = reader.read(path, force=True)
    assert image.facts.mirrored and image.facts.inverted and any("mirrored" in text for text in image.warnings)


def test_flipped_copies_of_a_real_radiograph(reader: Reader) -> None:
    """20 copies stored in other ways with the orientation that says so: all come out as the original."""
    import pydicom

    original = pydicom.dcmread(RG1)
    values = original.pixel_array[::4, ::4]
    ways = [
        (["L", "F"], values), (["R", "F"], values[:, ::-1]), (["L", "H"], values[::-1]),
        (["R", "H"], values[::-1, ::-1]), (["F", "L"], values.T), (["F", "R"], values.T[::-1]),
        (["H", "L"], values.T[:, ::-1]), (["H", "R"], values.T[::-1, ::-1]),
        (["A", "F"], values), (["L", "P"], values),
    ]  # fmt: skip
    right = 0
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        for orientation, stored in ways:
            turned = np.ascontiguousarray(stored if photometric == "MONOCHROME1" else 32767 - stored)
            data = to_bytes(
                dataset(turned, bits=15, PatientOrientation=orientation, PhotometricInterpretation=photometric)
            )
            if orientation[0] == "A" or orientation[1] == "P":
                right += refused(reader, data, "orientation").forcible
            else:
                image = reader.read(data)
                right += np.array_equal(image.pixels, 32767 - values)
    assert right == 20


def test_only_regular_files_are_read(reader: Reader, tmp_path: Path) -> None:
    good = tmp_path / "image.dcm"
    good.write_bytes(chest())
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "link").symlink_to(good)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "to-device").symlink_to("/dev/zero")
    (tmp_path / "empty.dcm").touch()
    np.testing.assert_array_equal(
        reader.read(tmp_path / "link").pixels, ramp()
    )  # a link to a regular file is its owner's choice
    for name, reason in {
        "nothing": "missing", "dangling": "missing", "loop": "unreadable", "fifo": "not_an_image",
        "folder": "not_an_image",
        "to-device": "not_an_image", "image.dcm/x": "missing", "a\0b": "unreadable", "empty.dcm": "empty",
        "x" * 300: "unreadable",
    }.items():  # fmt: skip
        refused(reader, tmp_path / name, reason)
    for path in ("/dev/zero", "/dev/null", "/proc/self/mem"):
        error = refused(reader, Path(path), "empty" if path.startswith("/proc") else "not_an_image")
        assert path not in str(error)
    refused(reader, Path("http://127.0.0.1/image.dcm"), "missing")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate((256 << 20) + 1)
    refused(reader, tmp_path / "sparse", "too_large")
    refused(reader, b"", "empty")


def test_parent_imports_no_decoder() -> None:
    code = (
        "import sys; from encoder.reader.sandbox import Reader; from pathlib import Path; r = Reader();"
        "r.read(Path(sys.argv[1])).display();"
        "print([m for m in ('pydicom', 'PIL', 'torch', 'imagecodecs', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(RG1)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and done.stderr == ""


def test_modules_of_the_working_directory_are_not_imported(tmp_path: Path) -> None:
    for name in ("numpy", "pydicom", "dl", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the working directory')\n")
    code = (
        "import sys; sys.path.remove(''); from encoder.reader.sandbox import Reader; from pathlib import Path;"
        "print(Reader().read(Path(sys.argv[1])).facts.view)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(RG1)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.stdout.strip() == "PA", done.stderr


def test_starting_does_not_block_and_a_closed_reader_starts_again() -> None:
    started = time.perf_counter()
    with Reader() as reader:
        begun = time.perf_counter() - started
        refused(reader, b"not an image", "not_an_image")
        assert begun < (time.perf_counter() - started) / 2, "only the first answer waits for the server"
        reader.close()
        reader.close()
        np.testing.assert_array_equal(reader.read(chest()).pixels, ramp())


def test_a_reader_left_to_the_end_of_the_process_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python sets the names of modules to None before it deletes the last objects."""
    reader = Reader()
    monkeypatch.setattr("encoder.reader.sandbox.contextlib", SimpleNamespace(suppress=None))
    reader.__del__()
    monkeypatch.undo()
    reader.close()


def test_threads_share_a_reader(reader: Reader) -> None:
    images = [ramp() // (k + 1) for k in range(6)]
    results: dict[int, bool] = {}

    def work(k: int) -> None:
        results[k] = all(np.array_equal(reader.read(chest(images[k])).pixels, images[k]) for _ in range(4))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(6), True)


def _children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def test_killed_worker_and_killed_server() -> None:
    with Reader() as reader:
        data = chest()
        reader.read(data)
        server = reader._server
        assert server is not None
        for worker in _children(server.pid):  # the one that waits for a job, and one that may be ending by itself
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        time.sleep(0.1)
        np.testing.assert_array_equal(reader.read(data).pixels, ramp())
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        np.testing.assert_array_equal(reader.read(data).pixels, ramp())


def test_children_have_none_of_the_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code in an image could send them back as pixels, to the user who sent the image."""
    for name in ("LLAVA_RAD_PACS_PASSWORD", "LLAVA_RAD_MODEL_KEY", "HF_TOKEN", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "hush")
    with Reader() as reader:
        assert reader._server is not None
        assert b"hush" not in Path(f"/proc/{reader._server.pid}/environ").read_bytes()
        np.testing.assert_array_equal(reader.read(chest()).pixels, ramp())


CRASH = """
import os, sys, time, json
import encoder.reader.sandbox_worker as server
def bad(source, **more):
    if bytes(source[:5]) != b"crash":
        return original(source, **more)
    kind = bytes(source).split()[1].decode()
    if kind == "segfault":
        import ctypes; ctypes.string_at(0)
    if kind == "memory":
        return bytearray(10 << 30)
    if kind == "sleep":
        time.sleep(60)
    if kind == "spin":
        import signal; signal.signal(signal.SIGALRM, signal.SIG_IGN)
        while True: pass
    if kind == "write":
        os.ftruncate(0, 10); open("x", "w")
    if kind in REPLIES:  # code of the image has taken the worker over
        class Dumps:
            dumps = staticmethod(lambda header: REPLIES[kind])
        server.json = Dumps
    class Panic(BaseException): pass
    raise Panic("DOE^JOHN")
REPLIES = {replies!r}
original, server.read_image = server.read_image, bad
server.main({fd}, {memory})
"""


REPLIES = {
    "bytes": '{"ok": true, "bytes": 1125899906842624}',
    "minus": '{"ok": true, "bytes": -1}',
    "text": '{"ok": true, "bytes": "many"}',
    "keys": '{"ok": true, "bytes": 0}',
    "shape": '{"ok": true, "bytes": 0, "shape": [100000, 100000], "valid": false, "windows": []}',
    "list": "[]",
    "half": "{",
    "deep": "[" * 100_000,
    "escape": '{"ok": false, "reason": "x", "message": "\\u001b[31m", "forcible": true, "hint": null}',
}


class FaultyReader(Reader):
    """A reader whose worker misbehaves on files that start with "crash"."""

    def _start(self) -> None:
        popen = subprocess.Popen

        def start(command: list[str], **keywords: object) -> object:
            fd, memory = (int(part) for part in command[-1].rsplit("main(", 1)[1].rstrip(")").split(","))
            return popen([*command[:-1], CRASH.format(fd=fd, memory=memory, replies=REPLIES)], **keywords)  # type: ignore[call-overload]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("encoder.reader.sandbox.subprocess.Popen", start)
            super()._start()


@pytest.fixture(scope="module")
def faulty() -> Iterator[Reader]:
    with FaultyReader(timeout_s=1.0) as reader:
        reader.read(chest())
        yield reader


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("segfault", "crashed"),
        ("memory", "memory"),
        ("sleep", "timeout"),
        ("spin", "timeout"),
        ("panic", "corrupt"),
        ("write", "corrupt"),
        *((kind, "crashed") for kind in REPLIES),
    ],
)
def test_a_misbehaving_decoder_gives_its_reason_and_the_next_image_is_read(
    kind: str, reason: str, faulty: Reader
) -> None:
    started = time.monotonic()
    error = refused(faulty, f"crash {kind} .".encode(), reason)
    assert time.monotonic() - started < 30 and "DOE" not in str(error)
    np.testing.assert_array_equal(faulty.read(chest()).pixels, ramp())


@pytest.mark.parametrize("kind", ["sleep", "spin"])
def test_an_image_that_nobody_waits_for_gives_its_place_to_the_next(kind: str) -> None:
    with FaultyReader(timeout_s=600.0) as reader:
        reader.read(chest())
        assert reader._server is not None
        server = reader._server.pid
        reader.wanted = lambda: False
        refused(reader, f"crash {kind} .".encode(), "abandoned")
        reader.wanted = lambda: True
        np.testing.assert_array_equal(reader.read(chest()).pixels, ramp())
        assert reader._server.pid == server
        children = Path(f"/proc/{server}/task/{server}/children")
        end = time.monotonic() + 60
        while len(children.read_text().split()) > 1:  # the one that waits for the next image
            assert time.monotonic() < end, "the worker goes on"
            time.sleep(0.02)


def test_child_ends_with_its_killed_parent() -> None:
    code = (
        "import json, os, signal, sys; from encoder.reader.sandbox import Reader; r = Reader(); "
        "r.read(open(sys.argv[1], 'rb').read()); print(r._server.pid, flush=True); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(RG1)], capture_output=True, text=True, check=False)
    pid = int(done.stdout)
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1][:3]:
            return
        time.sleep(0.05)
    pytest.fail("the decoding process outlived its parent")


def test_facts_are_json(reader: Reader) -> None:
    from encoder.reader.radiograph import ImageFacts

    facts = reader.read(chest()).facts
    assert ImageFacts.from_dict(json.loads(json.dumps(facts.to_dict()))) == facts
    with pytest.raises(ValueError, match="unknown"):
        ImageFacts.from_dict({**facts.to_dict(), "patient_name": "x"})
