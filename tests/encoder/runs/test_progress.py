"""Progress without a terminal: a line every half minute, by a clock that the tests set."""

from __future__ import annotations

import pytest

from encoder.runs import progress
from encoder.runs.progress import ProgressLines, progress_bar
from llava_rad.commands.console import bar


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_line_every_half_minute(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = ProgressLines(1000, "rad-dino", initial=100, clock=clock)
    for _ in range(300):  # one step each second
        clock.now += 1
        lines.update()
    written = capsys.readouterr()
    assert written.out == "" and len(written.err.splitlines()) == 10
    first, *_, last = written.err.splitlines()
    assert first == "llava-rad: rad-dino: 130 of 1,000, 1.0 per second, 0:14:30 left"  # 870 steps
    assert last == "llava-rad: rad-dino: 400 of 1,000, 1.0 per second, 0:10:00 left"


def test_slow_steps_have_a_line_each_with_the_latest_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = ProgressLines(4, "epochs", clock=clock)
    for loss in ("3.1", "2.9", "2.7", "2.6"):
        clock.now += 5000
        lines.set_postfix(loss=loss)
        lines.update(1)
    written = capsys.readouterr().err.splitlines()
    assert written[0] == "llava-rad: epochs: 1 of 4, 5000.0 seconds each, 4:10:00 left, loss 3.1"
    assert len(written) == 3, "the end has the summary of its command"


def test_a_resumed_run_that_has_done_nothing_yet_has_no_speed(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = ProgressLines(10, "images", initial=4, clock=clock)
    clock.now += 31
    lines.update(0)
    assert capsys.readouterr().err == "llava-rad: images: 4 of 10\n"


def test_every_long_command_uses_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    with progress_bar(3, "pretrain", True) as shown:  # pretrain, train, generate and their caches
        shown.update(1)
    bar("vectors", 3)(2)  # probe, benchmark, embed, reports
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        "llava-rad: pretrain: 1 of 3",
        "llava-rad: vectors: 2 of 3",
    ]
    with progress_bar(3, "quiet", False) as shown:
        shown.update(1)
        shown.set_postfix(loss="1")
    assert capsys.readouterr().err == ""
