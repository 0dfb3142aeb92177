"""Shards: no prediction is lost or written twice, half-written lines are ignored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from encoder.errors import LlavaRadError
from llava_rad.benchmark.predictions import Prediction, Shards, read_predictions, write_predictions

IDS = ["a", "b", "c", "d", "e"]


def written(folder: Path, rank: int, size: int, ids: list[str]) -> Shards:
    shards = Shards(folder, rank, size)
    shards.append([Prediction(key, f"Text of {key}.") for key in ids])
    shards.close()
    return shards


def test_shards_of_several_processes_become_one_file_in_the_order_of_the_data(tmp_path: Path) -> None:
    written(tmp_path / "s", 1, 3, ["d", "b"])
    shards = written(tmp_path / "s", 0, 3, ["e", "a"])
    written(tmp_path / "s", 2, 3, ["c"])
    shards.merge(IDS, tmp_path / "merged.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "merged.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == IDS
    assert lines[2]["prediction"] == "Text of c."
    assert not (tmp_path / "s").exists()
    assert [one.id for one in read_predictions(tmp_path / "merged.jsonl", IDS)] == IDS


def test_a_process_without_a_share_leaves_no_file_and_is_not_missed(tmp_path: Path) -> None:
    Shards(tmp_path / "s", 2, 3).close()
    shards = written(tmp_path / "s", 0, 3, IDS)
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["shard-00000-of-00003.jsonl"]
    shards.merge(IDS, tmp_path / "merged.jsonl")


@pytest.mark.parametrize("size", [2, 5])
def test_what_earlier_runs_wrote_counts_however_many_processes_they_had(tmp_path: Path, size: int) -> None:
    written(tmp_path, 0, 2, ["a"])
    written(tmp_path, 1, 2, ["b"])
    assert Shards(tmp_path, 0, size).done() == {"a", "b"}


@pytest.mark.parametrize("cut", [1, 20, 80])
def test_half_a_line_is_passed_over_and_cut_off(tmp_path: Path, cut: int) -> None:
    written(tmp_path, 0, 1, ["a", "b"])
    file = tmp_path / "shard-00000-of-00001.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    assert Shards(tmp_path, 0, 1).done() == {"a"}
    shards = written(tmp_path, 0, 1, ["b", "c"])
    assert shards.done() == {"a", "b", "c"}
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == ["a", "b", "c"]


def test_half_a_line_of_another_process_is_nobodys_prediction(tmp_path: Path) -> None:
    written(tmp_path / "s", 1, 2, ["b"])
    other = tmp_path / "s" / "shard-00001-of-00002.jsonl"
    other.write_bytes(other.read_bytes() + b'{"schema": "llava-rad.pred')
    shards = written(tmp_path / "s", 0, 1, ["a"])
    shards.merge(["a", "b"], tmp_path / "merged.jsonl")
    assert len((tmp_path / "merged.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "b", "c"], "3 images: 1 have no prediction, 0 are too many"),
        (["a"], "1 images: 0 have no prediction, 1 are too many"),
        (["a", "b", "b"], "3 images"),
    ],
)
def test_merging_asserts_number_and_uniqueness(tmp_path: Path, ids: list[str], message: str) -> None:
    shards = written(tmp_path / "s", 0, 1, ["a", "b"])
    with pytest.raises(LlavaRadError, match=message):
        shards.merge(ids, tmp_path / "merged.jsonl")
    assert not (tmp_path / "merged.jsonl").exists()
    assert shards.done() == {"a", "b"}, "nothing is lost"


def test_the_same_image_in_two_shards_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "s", 0, 2, ["a"])
    shards = written(tmp_path / "s", 1, 2, ["a"])
    with pytest.raises(LlavaRadError, match="two shards"):
        shards.merge(["a"], tmp_path / "merged.jsonl")


def test_two_runs_do_not_write_to_one_shard(tmp_path: Path) -> None:
    first = Shards(tmp_path, 0, 1)
    first.append([Prediction("a", "")])
    with pytest.raises(LlavaRadError, match="another run"):
        Shards(tmp_path, 0, 1).append([Prediction("b", "")])
    first.close()


def test_a_line_that_is_no_prediction_is_refused_by_number(tmp_path: Path) -> None:
    written(tmp_path, 0, 1, ["a"])
    file = tmp_path / "shard-00000-of-00001.jsonl"
    file.write_text(file.read_text() + '{"id": "patient Smith"}\n')
    with pytest.raises(LlavaRadError, match="line 2") as error:
        Shards(tmp_path, 0, 1).done()
    assert "Smith" not in str(error.value)


def test_texts_come_back_as_they_were(tmp_path: Path) -> None:
    predictions = [
        Prediction("1", 'Größe "normal"\u2028 ___ \\n'),
        Prediction("2", "", False),
        Prediction("3", "", True, "truncated"),
    ]
    write_predictions(predictions, tmp_path / "p.jsonl")
    assert read_predictions(tmp_path / "p.jsonl", ["1", "2", "3"]) == predictions


def test_a_merged_file_of_other_images_is_refused(tmp_path: Path) -> None:
    write_predictions([Prediction("1", "")], tmp_path / "p.jsonl")
    with pytest.raises(LlavaRadError, match=r"p\.jsonl"):
        read_predictions(tmp_path / "p.jsonl", ["2"])


def test_every_line_says_what_it_is(tmp_path: Path) -> None:
    from llava_rad.outputs.report import NOTICE

    assert NOTICE in Prediction("a", "").line()
    assert json.loads(Prediction("a", "").line())["notice"] == NOTICE
