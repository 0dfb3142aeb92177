"""Curves: the numbers that stand in the journals, drawn whole or not at all."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from encoder.errors import LlavaRadError
from encoder.pretraining.config import load_config
from encoder.runs.config import dump
from encoder.runs.curves import plot

pytest.importorskip("matplotlib")


def made_run(folder: Path, *, prototypes: int | None = 1024, last: int = 100) -> Path:
    folder.mkdir(parents=True)
    if prototypes is not None:
        config = load_config("tiny", ["data.folder=x", f"head.prototypes={prototypes}"])
        (folder / "config.yaml").write_text(dump(config))
    lines: list[dict[str, Any]] = [{"step": 0, "probe_linear_auprc": 0.2}]
    for step in range(10, last + 1, 10):
        lines.append(
            {"step": step, "loss": 9 - step / 50, "dino": 6.9, "ibot": 0.0, "teacher_entropy": 5.0, "lr": 1e-4 * step}
        )
    lines[3]["dino"] = None
    lines.append({"step": last, "probe_linear_auprc": 0.4})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 110, "lo')
    return folder


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every figure that is drawn."""
    from matplotlib.figure import Figure

    drawn: list[Any] = []
    save = Figure.savefig

    def watched(self: Figure, *arguments: Any, **options: Any) -> None:
        drawn.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", watched)
    return drawn


def panels(figure: Any) -> dict[str, Any]:
    return {axes.get_title(): axes for axes in figure.axes if axes.get_title()}


def test_one_run(tmp_path: Path, figures: list[Any]) -> None:
    run = made_run(tmp_path / "run")
    plot([run], run / "curves.png")
    with Image.open(run / "curves.png") as image:
        image.load()
        assert image.format == "PNG" and image.width > 800
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "curves.png", "metrics.jsonl"]
    drawn = panels(figures[0])
    assert list(drawn) == [
        "total loss",
        "DINO loss",
        "iBOT loss",  # switched off: a curve of zeros is a curve
        "teacher entropy (nats)",
        "learning rate",
        "linear probe, macro AUPRC",
    ]
    loss = drawn["total loss"].lines
    assert len(loss) == 1  # ln K is drawn beside the DINO loss and the entropy only
    assert list(loss[0].get_xdata()) == list(range(10, 101, 10))
    assert list(loss[0].get_ydata()) == pytest.approx([9 - step / 50 for step in range(10, 101, 10)])
    gap = drawn["DINO loss"].lines[0].get_ydata()
    assert [math.isnan(value) for value in gap] == [False] * 2 + [True] + [False] * 7
    for title in ("DINO loss", "teacher entropy (nats)"):
        line = drawn[title].lines[1]
        assert list(line.get_ydata()) == pytest.approx([6.93147, 6.93147], abs=1e-4)
        assert line.get_linestyle() == "--" and drawn[title].get_ylim()[1] > 6.94
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["run", "ln K"]
    assert list(drawn["linear probe, macro AUPRC"].lines[0].get_xdata()) == [0, 100]


def test_several_runs_are_told_apart_and_k_may_be_unknown(tmp_path: Path, figures: list[Any]) -> None:
    runs = [
        made_run(tmp_path / "first" / "run", prototypes=None),
        made_run(tmp_path / "second" / "run", prototypes=None, last=50),
    ]
    plot(runs, tmp_path / "both.png")
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["first/run", "second/run"]
    drawn = panels(figures[0])["teacher entropy (nats)"]
    assert [len(line.get_xdata()) for line in drawn.lines] == [10, 5]
    colours = [line.get_color() for line in figures[0].legends[0].get_lines()]
    assert colours == [line.get_color() for line in drawn.lines] and colours[0] != colours[1]


def test_a_missing_matplotlib_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_run(tmp_path / "run")
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(LlavaRadError, match="curves need matplotlib") as caught:
        plot([run], run / "curves.png")
    assert caught.value.hint == 'pip install "llava-rad[plot]"'


def test_refusals_leave_the_old_picture(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    picture = tmp_path / "curves.png"
    picture.write_bytes(b"old")
    (tmp_path / "none").mkdir()
    with pytest.raises(LlavaRadError, match="folder none has no metrics.jsonl".replace(".", r"\.")):
        plot([run, tmp_path / "none"], picture)
    (tmp_path / "none" / "metrics.jsonl").write_text("")
    with pytest.raises(LlavaRadError, match="not logged anything yet"):
        plot([tmp_path / "none"], picture)
    assert picture.read_bytes() == b"old"
    with pytest.raises(LlavaRadError, match="the curves could not be written: No such file"):
        plot([run], tmp_path / "nowhere" / "curves.png")
