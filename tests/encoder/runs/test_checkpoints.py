"""Checkpoints: bits, retention, every kind of damage; test_checkpoint_kills.py has SIGKILL and the full disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from encoder.errors import LlavaRadError, ModelError
from encoder.runs.checkpoints import Checkpoints, step_of


def some(step: int) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors that tell which step they are of."""
    return {"student": {"w": torch.full((5, 3), float(step))}, "optimizer": {"w/step": torch.tensor(float(step))}}


def value_of(checkpoints: Checkpoints, folder: Path | None) -> int:
    assert folder is not None
    tensors, state = checkpoints.load(folder)
    assert torch.equal(tensors["student"]["w"], torch.full((5, 3), float(state["step"])))
    assert tensors["optimizer"]["w/step"].shape == ()
    return int(state["step"])


def filled(folder: Path, *steps: int, keep: int = 10) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        checkpoints.save(step, some(step), {"step": step})
    return checkpoints


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_bits_shapes_and_types_survive(tmp_path: Path) -> None:
    base = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    odd = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45, 3.4e38])
    tensors = {
        "float32": odd,
        "bfloat16": torch.tensor([1.0, -0.0, float("inf"), 3e-39, 1 / 3]).bfloat16(),
        "float16": torch.tensor([6e-8, 65504.0]).half(),
        "float64": torch.tensor([1 / 3, 1e300], dtype=torch.float64),
        "int64": torch.tensor([2**62 + 1, -1]),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(7.25),
        "empty": torch.empty(0, 3),
        "another empty": torch.empty(0),
        "transposed": base.t(),
        "strided": base[::2, 1:],
        "expanded": base[0].expand(3, 4),
        "whole": base,
        "tied": base,  # one memory under two names
        "view": base[2:4],
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    checkpoints = Checkpoints(tmp_path / "deep" / "checkpoints", 1)
    state = {"step": 3, "best": (1, 0.1), "nothing": None, "text": "Ä"}
    folder = checkpoints.save(3, {"a-b_1": tensors, "none": {}}, state)
    loaded, back = Checkpoints(tmp_path / "deep" / "checkpoints", 1).load(folder)
    assert loaded.keys() == {"a-b_1", "none"} and loaded["none"] == {}
    assert loaded["a-b_1"].keys() == tensors.keys()
    for name, tensor in tensors.items():
        one = loaded["a-b_1"][name]
        assert one.dtype == tensor.dtype and one.shape == tensor.shape and not one.requires_grad, name
        assert (
            one.numpy(force=True).tobytes() == tensor.detach().numpy(force=True).tobytes()
            if (tensor.dtype != torch.bfloat16)
            else torch.equal(one.view(torch.int16), tensor.view(torch.int16))
        ), name
    assert back == {"step": 3, "best": [1, 0.1], "nothing": None, "text": "Ä"}
    assert step_of(folder) == 3


def test_the_newest_stay_and_the_protected(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 2)
    for step in range(1, 7):
        checkpoints.save(step, some(step), {"step": step}, protect=[2])
    assert checkpoints.steps() == [2, 5, 6]
    assert names(tmp_path) == ["step-00000002", "step-00000005", "step-00000006"]
    checkpoints.save(7, some(7), {"step": 7})  # no longer protected
    assert checkpoints.steps() == [6, 7]
    assert value_of(checkpoints, checkpoints.latest()) == 7
    with pytest.raises(ValueError, match="keep"):
        Checkpoints(tmp_path, 0)


def test_the_same_step_is_replaced_and_an_earlier_one_refused(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path, 4)
    checkpoints.save(4, some(9), {"step": 9})
    assert value_of(checkpoints, checkpoints.latest()) == 9
    assert names(tmp_path) == ["step-00000004"]
    with pytest.raises(LlavaRadError, match="a checkpoint of step 3 cannot follow step-00000004"):
        checkpoints.save(3, some(3), {"step": 3})
    assert names(tmp_path) == ["step-00000004"]


def test_steps_of_any_length_are_ordered_by_number(tmp_path: Path) -> None:
    assert filled(tmp_path, 99_999_999, 100_000_000).steps() == [99_999_999, 100_000_000]
    latest = Checkpoints(tmp_path, 1).latest()
    assert latest is not None and step_of(latest) == 100_000_000


def test_no_folder_and_strangers_in_it(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none", 1).latest() is None
    filled(tmp_path, 1)
    (tmp_path / "step-2").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "step-00000009").write_text("a file, not a folder")
    checkpoints = Checkpoints(tmp_path, 1)
    assert checkpoints.steps() == [1]
    checkpoints.save(2, some(2), {"step": 2})
    assert names(tmp_path) == ["notes.txt", "step-00000002", "step-00000009", "step-2"]


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def edit(folder: Path, **changes: object) -> None:
    index = json.loads((folder / "checkpoint.json").read_text())
    (folder / "checkpoint.json").write_text(json.dumps({**index, **changes}))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "tensors are missing": lambda folder: (folder / "student.safetensors").unlink(),
    "state is missing": lambda folder: (folder / "state.json").unlink(),
    "list is missing": lambda folder: (folder / "checkpoint.json").unlink(),
    "tensors cut short": lambda folder: os.truncate(folder / "student.safetensors", 40),
    "state cut short": lambda folder: os.truncate(folder / "state.json", 3),
    "list cut short": lambda folder: os.truncate(folder / "checkpoint.json", 40),
    "list empty": lambda folder: os.truncate(folder / "checkpoint.json", 0),
    "list of zeros": lambda folder: (folder / "checkpoint.json").write_bytes(bytes(200)),
    "list of another step": lambda folder: edit(folder, step=1),
    "list of something else": lambda folder: (folder / "checkpoint.json").write_text("[1, 2]"),
    "list without files": lambda folder: edit(folder, files={}),
    "files as text": lambda folder: edit(folder, files="ab"),
    "sizes without end": lambda folder: edit(folder, files={"state.json": {"bytes": float("inf"), "sha256": ""}}),
    "a file elsewhere": lambda folder: edit(
        folder,
        files={
            "state.json": {"bytes": (folder / "state.json").stat().st_size, "sha256": ""},
            "../step-00000001/state.json": {"bytes": (folder / "state.json").stat().st_size, "sha256": ""},
        },
    ),
    "half removed": lambda folder: [path.unlink() for path in sorted(folder.iterdir())[1:]],
    "a folder in place of a file": lambda folder: [
        (folder / "state.json").unlink(),
        (folder / "state.json").mkdir(),
    ],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_not_complete_is_passed_over(tmp_path: Path, kind: str) -> None:
    filled(tmp_path, 1, 2)
    DAMAGE[kind](tmp_path / "step-00000002")
    checkpoints = Checkpoints(tmp_path, 10)
    assert value_of(checkpoints, checkpoints.latest()) == 1
    assert checkpoints.steps() == [1] and list(checkpoints.ignored) == ["step-00000002"]
    assert "\n" not in checkpoints.ignored["step-00000002"]
    with pytest.raises(ModelError, match="checkpoint step-00000002 is damaged: ") as caught:
        checkpoints.load(tmp_path / "step-00000002")
    assert caught.value.hint == "remove it to continue from step-00000001"
    checkpoints.save(2, some(2), {"step": 2})  # the resumed run comes to the same step
    assert checkpoints.steps() == [1, 2] and not checkpoints.ignored
    assert value_of(checkpoints, checkpoints.latest()) == 2


def test_each_flipped_bit_is_noticed_or_harmless(tmp_path: Path) -> None:
    """A byte of any file: the contents come back as they were, or ModelError; and then the older one is offered."""
    filled(tmp_path, 1, 2)
    newest = tmp_path / "step-00000002"
    refused = 0
    for path in sorted(newest.iterdir()):
        whole = path.read_bytes()
        for place in range(len(whole)):
            flip(path, place)
            checkpoints = Checkpoints(tmp_path, 10)
            try:
                if path.name != "checkpoint.json":
                    assert checkpoints.latest() == newest  # sizes are right: only loading finds it
                assert value_of(checkpoints, newest) == 2
            except ModelError as error:
                refused += 1
                assert "step-00000002 is" in str(error) and "\n" not in str(error)
                if "format" not in str(error):
                    assert value_of(checkpoints, checkpoints.latest()) == 1
            else:
                assert path.name == "checkpoint.json" and whole[place : place + 1].isspace()  # tab or ! for a blank
            path.write_bytes(whole)
    assert refused > 500


def test_the_only_one_damaged_says_to_begin_again(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path, 1)
    flip(tmp_path / "step-00000001" / "student.safetensors", -1)
    with pytest.raises(ModelError, match=r"student\.safetensors has changed since it was written") as caught:
        checkpoints.load(tmp_path / "step-00000001")
    assert caught.value.hint == "start the run again, in another run folder"
    assert checkpoints.latest() is None


def test_a_later_programs_checkpoint_is_neither_passed_over_nor_removed(tmp_path: Path) -> None:
    filled(tmp_path, 1, 2)
    edit(tmp_path / "step-00000002", format=2)
    for use in (
        Checkpoints.latest,
        Checkpoints.steps,
        lambda one: one.load(tmp_path / "step-00000002"),
        lambda one: one.save(3, some(3), {"step": 3}),
    ):
        with pytest.raises(ModelError, match="step-00000002 is of a format that this version does not read"):
            use(Checkpoints(tmp_path, 1))  # type: ignore[operator]
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


def test_refused_values_leave_no_trace_that_matters(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path, 1)
    with pytest.raises(ValueError, match="cannot name a file"):
        checkpoints.save(2, {"../out": {}}, {})
    with pytest.raises(TypeError):
        checkpoints.save(2, some(2), {"step": object()})
    assert checkpoints.steps() == [1]
    checkpoints.save(3, some(3), {"step": 3})
    assert names(tmp_path) == ["step-00000001", "step-00000003"]


def test_a_disk_without_room_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path / "run", 1)
    first = checkpoints.save(1, {"student": {"x": torch.ones(1000)}}, {})
    monkeypatch.setattr("encoder.files.shutil.disk_usage", lambda _: SimpleNamespace(free=3999))
    with pytest.raises(LlavaRadError, match=r"the checkpoint of step 2 needs at least \d+ MB") as raised:
        checkpoints.save(2, {"student": {"x": torch.ones(1000)}}, {})
    assert "the checkpoints before it are intact" in str(raised.value.hint)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["step-00000001"]
    assert checkpoints.latest() == first and checkpoints.load(first)[0]["student"]["x"].sum() == 1000
    monkeypatch.setattr("encoder.files.shutil.disk_usage", lambda _: SimpleNamespace(free=4000))
    checkpoints.save(2, {"student": {"x": torch.ones(1000)}}, {})


def test_a_failing_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An OSError from each fsync in turn; the last comes after the folder has its name."""
    real, calls, allowed = os.fsync, [0], [1000]

    def failing(handle: int) -> None:
        calls[0] += 1
        if calls[0] > allowed[0]:
            raise OSError(5, "Input/output error")
        real(handle)

    monkeypatch.setattr(os, "fsync", failing)
    filled(tmp_path / "counted", 1)
    total, calls[0] = calls[0], 0
    for number in range(total + 1):
        folder = tmp_path / str(number)
        allowed[0] = 1000
        checkpoints = filled(folder, 1)
        calls[0], allowed[0] = 0, number
        try:
            checkpoints.save(2, some(2), {"step": 2})
        except LlavaRadError as error:
            assert number < total
            assert str(error) == "the checkpoint of step 2 could not be written: Input/output error"
            assert "intact" in str(error.hint)
        else:
            assert number == total
        allowed[0] = 1000
        fresh = Checkpoints(folder, 10)
        assert value_of(fresh, fresh.latest()) == (1 if number < total - 1 else 2)
        assert not list(folder.glob("*.tmp"))
        fresh.save(3, some(3), {"step": 3})
        assert value_of(fresh, fresh.latest()) == 3
