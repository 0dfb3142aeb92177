"""Share of one process: fixed batches, repeated whole after a kill, unreadable images as empty reports."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY

import pytest

from encoder.errors import LlavaRadError
from encoder.preprocessing import Recipe
from encoder.reader.radiograph import PreparedImage
from llava_rad.benchmark.images import Images
from llava_rad.benchmark.predictions import Prediction, Shards
from llava_rad.benchmark.run import BenchmarkRun
from llava_rad.benchmark.task import Case
from llava_rad.benchmark.writing import FAST, PAPER, Processes, Protocol, batches_of, write_share
from tests.llava_rad.tiny_model import RECIPE

DONE: set[str] = set()


@pytest.mark.parametrize(("size", "processes"), [(1, 1), (2, 3), (3, 7), (16, 2)])
def test_shares_are_all_images_once_and_batches_do_not_depend_on_the_number_of_processes(
    size: int, processes: int
) -> None:
    cases = [Case(str(number), "") for number in range(10)]
    shares = [batches_of(cases, size, Processes(rank, processes)) for rank in range(processes)]
    ids = [case.id for share in shares for batch in share for case in batch]
    assert sorted(ids, key=int) == [case.id for case in cases]
    alone = batches_of(cases, size, Processes())
    assert sorted((list(batch) for share in shares for batch in share), key=lambda batch: int(batch[0].id)) == [
        list(batch) for batch in alone
    ]


@pytest.mark.parametrize(
    ("protocol", "device", "vllm", "images"),
    [
        (FAST, "cpu", None, 32),
        (FAST, "cuda:1", None, 4 * 32),
        (FAST, "cpu", Path("python"), 4 * 32),
        (PAPER, "cuda", None, 1),
        (PAPER, "cuda", Path("python"), 1),
    ],
    ids=["cpu", "cuda", "vllm", "paper", "paper-vllm"],
)
def test_several_batches_are_one_call_where_ended_reports_leave_their_place(
    protocol: Protocol, device: str, vllm: Path | None, images: int
) -> None:
    plan: Any = SimpleNamespace(options=SimpleNamespace(device=device, vllm=vllm, paper=PAPER), progress=None)
    assert BenchmarkRun(plan, Processes())._together(protocol, ours=True) == images
    assert BenchmarkRun(plan, Processes())._together(protocol, ours=False) == protocol.batch_size


class Counting:
    """Writer whose text states the mean of the image and the size of its batch."""

    recipe: Recipe = RECIPE

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, images: Sequence[Any], studies: Sequence[Any]) -> list[Any]:
        assert len(images) == len(studies)
        self.batches.append(len(images))
        return [SimpleNamespace(text=f" mean {image.mean():.3f} of {len(images)}", complete=True) for image in images]


@pytest.fixture(scope="module")
def images() -> Iterator[Images]:
    with Images(2, defaultdict(lambda: ANY)) as found:
        yield found


def share(
    images: Images,
    cases: list[Case],
    folder: Path,
    size: int = 2,
    done: set[str] = DONE,
    processes: Processes | None = None,
) -> tuple[Counting, dict[str, Prediction]]:
    writer, processes = Counting(), processes or Processes()
    shards = Shards(folder, processes.rank, processes.size)
    write_share(lambda: writer, cases, shards, size, processes, images, done=done)
    shards.merge([case.id for case in cases], folder.parent / "merged.jsonl")
    from llava_rad.benchmark.predictions import read_predictions

    return writer, {
        one.id: one for one in read_predictions(folder.parent / "merged.jsonl", [case.id for case in cases])
    }


def test_every_image_gets_its_own_text(images: Images, chest: list[Path], tmp_path: Path) -> None:
    from encoder.reader.sandbox import Reader

    cases = [Case(path.stem, "", path) for path in chest]
    writer, found = share(images, cases, tmp_path / "s", size=4)
    assert writer.batches == [4, 2]
    with Reader() as reader:
        for case, path in zip(cases, chest, strict=True):
            mean = reader.prepare(path, RECIPE).pixels.mean()
            assert found[case.id].text.startswith(f"mean {mean:.3f}"), "spaces around a text are cut off"


def test_an_image_with_other_bytes_than_at_the_start_ends_the_run(chest: list[Path], tmp_path: Path) -> None:
    with Images(1, dict.fromkeys(chest, hashlib.sha256(chest[0].read_bytes()).hexdigest())) as found:
        share(found, [Case("0", "", chest[0])], tmp_path / "s")
        with pytest.raises(LlavaRadError, match="changed during the run"):
            share(found, [Case("0", "", chest[1])], tmp_path / "t")


def test_an_unreadable_image_is_an_empty_report_with_its_reason(
    images: Images, chest: list[Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(b"no image")
    cases = [Case("0", "", chest[0]), Case("bad", "", bad), Case("gone", "", tmp_path / "gone.dcm")]
    writer, found = share(images, cases, tmp_path / "s", size=3)
    assert writer.batches == [1]
    assert (found["bad"].text, found["bad"].error) == ("", "not_an_image")
    assert found["gone"].error == "missing"
    assert found["0"].error is None and found["0"].text


def test_a_lateral_view_is_read_since_the_data_set_says_what_is_frontal(
    images: Images, lateral: Path, tmp_path: Path
) -> None:
    _, found = share(images, [Case("l", "", lateral)], tmp_path / "s")
    assert found["l"].error is None


def test_a_batch_of_which_a_part_is_there_is_written_anew_as_a_whole(
    images: Images, chest: list[Path], tmp_path: Path
) -> None:
    cases = [Case(path.stem, "", path) for path in chest]
    _, whole = share(images, cases, tmp_path / "a" / "s", size=4)
    shards = Shards(tmp_path / "b" / "s", 0, 1)
    shards.append([whole["0"], whole["1"]])
    shards.close()
    writer, again = share(images, cases, tmp_path / "b" / "s", size=4, done={"0", "1"})
    assert writer.batches == [4, 2], "not a batch of the two that are missing"
    assert again == whole


def test_a_model_is_not_loaded_where_nothing_is_missing(images: Images, chest: list[Path], tmp_path: Path) -> None:
    def never() -> Any:
        raise AssertionError("loaded")

    seen: list[int] = []
    cases = [Case("0", "", chest[0])]
    shards = Shards(tmp_path, 0, 1)
    assert write_share(never, cases, shards, 1, Processes(), images, done={"0"}, advance=seen.append) == 0
    assert sum(seen) == 1


def test_memory_that_is_short_is_said_in_one_line(images: Images, chest: list[Path], tmp_path: Path) -> None:
    import torch

    from encoder.errors import LlavaRadError

    class Short(Counting):
        def __call__(self, images: Sequence[Any], studies: Sequence[Any]) -> list[Any]:
            raise torch.OutOfMemoryError

    with pytest.raises(LlavaRadError, match="does not hold a batch of 1"):
        write_share(
            lambda: Short(), [Case("0", "", chest[0])], Shards(tmp_path, 0, 1), 8, Processes(), images, done=set()
        )


def test_prepared_images_come_in_order(images: Images, chest: list[Path]) -> None:
    cases = [Case(path.stem, "", path) for path in chest]
    batches = [cases[at : at + 1] for at in range(len(cases))]
    order = [
        one.case.id
        for batch in images.batches(batches, RECIPE)
        for one in batch
        if isinstance(one.image, PreparedImage)
    ]
    assert order == [case.id for case in cases]
