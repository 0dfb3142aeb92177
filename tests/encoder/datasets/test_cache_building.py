"""Building of the pixel cache: workers, kills, processes at once, parts on many machines; no work lost or redone."""

from __future__ import annotations

import pickle  # hands our own rows to a child process
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from encoder.datasets import cache_building as module
from encoder.datasets.manifest import Row
from encoder.datasets.pixel_cache import Cache
from encoder.errors import LlavaRadError
from tests.encoder.datasets.small_caches import SIZE, builder, contents, make, pictures, pixels_of, stamps
from tests.forked import context


@pytest.mark.usefixtures("small_shards")
def test_files_that_come_back_are_read_by_the_next_run(tmp_path: Path) -> None:
    rows = pictures(tmp_path / "in", 6)
    away = tmp_path / "away.png"
    rows[1].path.rename(away)
    rows[5].path.write_bytes(b"broken")
    with pytest.raises(LlavaRadError, match="2 of 6"):
        make(rows, tmp_path / "cache", max_unreadable=0.2)
    away.rename(rows[1].path)
    assert len(make(rows, tmp_path / "cache", max_unreadable=0.2)) == 5


@pytest.mark.usefixtures("small_shards")
def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    rows = pictures(tmp_path / "in", 7)
    one = make(rows, tmp_path / "one", workers=1)
    three = make(rows, tmp_path / "three", workers=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    assert one.fingerprint == three.fingerprint
    assert len([name for name in contents(tmp_path / "one") if name.endswith(".bin")]) == 4
    assert make(rows, tmp_path / "other", size=70).fingerprint != one.fingerprint
    assert make(rows[::-1], tmp_path / "reversed").fingerprint != one.fingerprint


@pytest.mark.usefixtures("small_shards")
def test_a_second_run_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pictures(tmp_path / "in", 5)
    make(rows, tmp_path / "cache")
    before = stamps(tmp_path / "cache")
    monkeypatch.setattr(module, "Reader", None)
    assert len(make(rows, tmp_path / "cache")) == 5
    assert stamps(tmp_path / "cache") == before


@pytest.mark.slow
def test_a_killed_build_goes_on_where_it_was(tmp_path: Path) -> None:
    rows = pictures(tmp_path / "in", 12)
    (tmp_path / "rows.pickle").write_bytes(pickle.dumps(rows))
    code = (
        "import pickle, sys, time; from pathlib import Path\n"  # the rows of this test
        "from encoder.datasets import cache_building as cache\n"
        f"cache.SHARD_BYTES = 2 * {SIZE} * {SIZE} * 5 // 4 + 8\n"
        "rows = pickle.loads(Path(sys.argv[1]).read_bytes())\n"  # written by this test
        f"cache.Builder(rows, Path(sys.argv[2]), size={SIZE}, workers=2, progress=lambda *_: time.sleep(0.1)).cache()\n"
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    command = [sys.executable, "-c", code, str(tmp_path / "rows.pickle")]
    child = subprocess.Popen([*command, str(broken)])
    deadline = time.monotonic() + 60
    while True:  # until it is stopped while it writes the third shard
        assert time.monotonic() < deadline and child.poll() is None
        child.send_signal(signal.SIGSTOP)
        if (broken / "shard-00001.json").exists() and list(broken.glob(".*.tmp")):
            break
        child.send_signal(signal.SIGCONT)
        time.sleep(0.01)
    child.kill()
    child.wait()
    with pytest.raises(LlavaRadError, match="no complete pixel cache"):
        Cache.open(broken)
    before = stamps(broken)
    subprocess.run([*command, str(broken)], check=True)
    subprocess.run([*command, str(whole)], check=True)
    assert contents(broken) == contents(whole)
    after = stamps(broken)
    assert {name: after[name] for name in before if name.startswith("shard")} == {
        name: stamp for name, stamp in before.items() if name.startswith("shard")
    }, "finished shards were not written again"


def _opened(queue: Any, rows: list[Row], folder: Path) -> None:
    try:
        queue.put([image.hex() for image in pixels_of(make(rows, folder, workers=1))])
    except BaseException as error:  # the test compares what comes
        queue.put(repr(error))


@pytest.mark.parametrize(
    ("processes", "rounds"),
    [
        pytest.param(8, 1, marks=pytest.mark.slow),
        pytest.param(4, 20, marks=pytest.mark.nightly),
        pytest.param(8, 20, marks=pytest.mark.nightly),
        pytest.param(16, 20, marks=pytest.mark.nightly),
    ],
)
def test_many_processes_build_and_open_a_cache_at_once(tmp_path: Path, processes: int, rounds: int) -> None:
    rows = pictures(tmp_path / "in", 3)
    expected = [image.hex() for image in pixels_of(make(rows, tmp_path / "expected"))]
    forked = context("encoder.datasets.cache_building", "filelock")
    for turn in range(rounds):
        folder, queue = tmp_path / str(turn), forked.Queue()
        started = [forked.Process(target=_opened, args=(queue, rows, folder)) for _ in range(processes)]
        for process in started:
            process.start()
        found = [queue.get(timeout=120) for _ in started]
        for process in started:
            process.join()
        assert found == [expected] * processes
        assert pixels_of(Cache.open(folder)) == pixels_of(Cache.open(tmp_path / "expected"))


def test_a_build_waits_for_another_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encoder.locks._PATIENCE", 0.05)
    rows, lines = pictures(tmp_path / "in", 2), list[str]()
    with ThreadPoolExecutor(1) as pool:
        waiting: list[Future[Cache]] = []

        def progress(done: int, total: int) -> None:
            if not waiting:
                waiting.append(pool.submit(make, rows, tmp_path / "cache", notify=lines.append))
                while len(lines) < 2:
                    time.sleep(0.01)

        cache = make(rows, tmp_path / "cache", progress=progress)
        assert waiting[0].result(30).fingerprint == cache.fingerprint
    assert lines[0] == "another process builds the pixel cache; waiting (0 of 1 shards are ready)"


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("parts", [2, 3, 9])
def test_parts_in_any_order_make_the_same_cache(tmp_path: Path, parts: int) -> None:
    rows = pictures(tmp_path / "in", 9)
    rows[4].path.write_bytes(b"broken")
    make(rows, tmp_path / "whole", max_unreadable=0.2)
    order = np.random.default_rng(parts).permutation(parts) + 1
    counted: list[tuple[int, int]] = []
    for number in order:
        if number != order[0]:
            with pytest.raises(LlavaRadError, match="no complete pixel cache"):
                Cache.open(tmp_path / "parts")
        done = builder(
            rows, tmp_path / "parts", max_unreadable=0.2, progress=lambda *count: counted.append(count)
        ).part(int(number), parts)
        assert done == (number == order[-1])
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert len(counted) == 9 and sum(done == total for done, total in counted) == min(parts, 5)


def _build_part(rows: list[Row], folder: Path, part: tuple[int, int]) -> None:
    module.SHARD_BYTES = 2 * SIZE * SIZE * 5 // 4 + 8
    builder(rows, folder, workers=1, progress=lambda *_: time.sleep(0.05)).part(*part)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(4))
def test_parts_built_at_once_and_killed_at_random_make_the_same_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rows = pictures(tmp_path / "in", 24)
    monkeypatch.setattr(module, "SHARD_BYTES", 2 * SIZE * SIZE * 5 // 4 + 8)
    make(rows, tmp_path / "whole")
    rng, forked = np.random.default_rng(seed), context("encoder.datasets.cache_building", "filelock")
    parts = {number: rng.integers(1, 4) for number in (1, 2, 3)}  # times that it is killed
    running: dict[int, Any] = {}
    deadline = time.monotonic() + 240
    while parts or running:
        assert time.monotonic() < deadline
        for number in [number for number in parts if number not in running]:
            running[number] = forked.Process(target=_build_part, args=(rows, tmp_path / "parts", (number, 3)))
            running[number].start()
        time.sleep(rng.uniform(0, 2))
        for number, process in list(running.items()):
            if parts[number] and rng.random() < 0.5:
                process.kill()
                parts[number] -= 1
            process.join(0.1)
            if process.exitcode is not None:
                del running[number]
                if process.exitcode == 0:
                    del parts[number]
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


@pytest.mark.usefixtures("small_shards")
def test_a_part_is_continued_and_a_whole_build_takes_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pictures(tmp_path / "in", 8)

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        builder(rows, tmp_path / "cache", progress=stop).part(1, 2)
    assert sorted(name for name in contents(tmp_path / "cache") if name.endswith("json")) == [
        "cache.json", "shard-00000.json"
    ]  # fmt: skip
    counted: list[int] = []
    assert not builder(rows, tmp_path / "cache", progress=lambda done, total: counted.append(done)).part(1, 2)
    assert counted == [3, 4]
    make(rows, tmp_path / "cache", progress=lambda done, total: counted.append(done))
    assert counted == [3, 4, 5, 6, 7, 8]
    assert builder(rows, tmp_path / "cache").part(2, 2)


@pytest.mark.usefixtures("small_shards")
def test_a_part_is_built_once_at_a_time_and_a_whole_build_waits_for_it(tmp_path: Path) -> None:
    rows = pictures(tmp_path / "in", 6)
    with ThreadPoolExecutor(1) as pool:
        waiting: list[Future[Cache]] = []

        def progress(done: int, total: int) -> None:
            if not waiting:
                with pytest.raises(LlavaRadError, match="another process is building part 2/2"):
                    builder(rows, tmp_path / "cache").part(2, 2)
                waiting.append(pool.submit(make, rows, tmp_path / "cache"))
                time.sleep(0.2)
                assert not (tmp_path / "cache" / "index.npy").exists()

        assert builder(rows, tmp_path / "cache", progress=progress).part(2, 2)
        assert len(waiting[0].result(60)) == 6


@pytest.mark.usefixtures("small_shards")
def test_parts_together_may_not_have_more_unreadable_images_than_allowed(tmp_path: Path) -> None:
    rows = pictures(tmp_path / "in", 8)
    for broken in (1, 3):  # one in each part
        rows[broken].path.write_bytes(b"broken")
    assert not builder(rows, tmp_path / "cache", max_unreadable=0.125).part(1, 2)
    with pytest.raises(LlavaRadError, match="2 of 8 images cannot be read, 1 may be"):
        builder(rows, tmp_path / "cache", max_unreadable=0.125).part(2, 2)
    assert (tmp_path / "cache" / "unreadable.csv").read_text().count("not_an_image") == 2
    assert len(make(rows, tmp_path / "cache", max_unreadable=0.25)) == 6


def test_a_disk_without_room_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encoder.files.shutil.disk_usage", lambda _: SimpleNamespace(free=9))
    with pytest.raises(LlavaRadError, match="needs at least"):
        make(pictures(tmp_path / "in", 2), tmp_path / "cache")
