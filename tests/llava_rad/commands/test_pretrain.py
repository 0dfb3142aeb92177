"""``llava-rad pretrain``: what reaches the engine, what --validate prints, and what each mistake ends with."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from encoder.datasets.manifest import Row, write_manifest
from encoder.pretraining.config import load_config
from llava_rad.cli import main
from tests.source_tree import ROOT


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["pretrain", *arguments])
    return int(caught.value.code or 0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Arguments of the training, recorded in place of training."""
    found: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def train(*args: Any, **kwargs: Any) -> Path:
        found.append((args, kwargs))
        if args[0].name == "stopped":
            raise KeyboardInterrupt
        return Path(args[1]) / "export"

    engine = types.ModuleType("encoder.pretraining.train")
    engine.run = train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "encoder.pretraining.train", engine)
    monkeypatch.setattr("encoder.pretraining.train", engine, raising=False)
    return found


@pytest.fixture
def images(tmp_path: Path) -> str:
    rows = []
    for i in range(20):
        noise = np.random.default_rng(i).integers(0, 256, (64, 64), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
        rows.append(Row(tmp_path / f"{i}.png", dataset="brax", subject=str(i), image=str(i), view="PA"))
    write_manifest(rows, tmp_path / "secret.csv")
    return f"data.manifests=[{tmp_path / 'secret.csv'}]"


def test_the_engine_gets_the_run(calls: list[Any], tmp_path: Path) -> None:
    assert run("--config", "tiny", "--output", str(tmp_path / "run"), "--offline", "--quiet", "loss.ibot=0") == 0
    assert calls == [
        (
            (load_config("tiny", ["loss.ibot=0"]), tmp_path / "run"),
            {"offline": True, "progress": False, "restart": False, "stage": None},
        )
    ]


def test_defaults(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--restart", "name=mine") == 0
    ((config, folder), options), = calls  # fmt: skip
    assert config == load_config("rad-dino", ["name=mine"])
    assert folder == Path("runs/mine")
    assert options == {"offline": False, "progress": True, "restart": True, "stage": None}
    shown = capsys.readouterr()
    assert shown.out == "" and "the encoder is in runs/mine/export" in shown.err


@pytest.mark.parametrize(
    ("option", "said"),
    [([], "the same command goes on"), (["--restart"], "the same command without --restart goes on")],
)
def test_an_interrupted_run_says_how_to_go_on(
    calls: list[Any], capsys: pytest.CaptureFixture[str], option: list[str], said: str
) -> None:
    assert run("name=stopped", *option) == 130
    assert said in capsys.readouterr().err


def test_only_the_first_process_says_so(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run("--config", "tiny") == 0
    assert capsys.readouterr().err == ""


def test_validate_prints_the_run_and_does_not_train(
    calls: list[Any], images: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--config", "tiny", "--validate", "--processes", "4", images) == 0
    shown = capsys.readouterr()
    assert calls == []
    assert "processes   4, with 4 images each" in shown.out
    assert "41,620 images, 19,351 subjects" in shown.out
    assert "warning: batches of 16 images" in shown.out
    assert shown.err == ""
    assert "secret" not in shown.out


def test_validate_knows_torchruns_processes(
    images: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run("--config", "tiny", "--validate", images) == 0
    assert "processes   2, with 8 images each" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--config", "tiny"], 2, "there are no images"),
        (["--config", "tiny", "IMAGES", "init.source=./no/such/weights"], 5, "no"),
        (["--config", "tiny", "IMAGES", "--processes", "3"], 2, "cannot be divided among 3 processes"),
        (["--config", "tinny"], 2, "did you mean 'tiny'?"),
        (["--config", "tiny", "optimization.step=3"], 2, "did you mean 'optimization.steps'?"),
        (["--config", "tiny", "loss.ibot=x"], 2, "loss.ibot = 'x' is not allowed"),
    ],
)
def test_validate_ends_with_the_problems_code(
    arguments: list[str], code: int, message: str, images: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--validate", *(images if argument == "IMAGES" else argument for argument in arguments)) == code
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("llava-rad: error:")]
    assert len(errors) == 1 and message in errors[0]


def test_show_prints_the_whole_configuration(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("--config", "rad-dino-no-mim", "--show", "seed=3") == 0
    text = capsys.readouterr().out
    assert yaml.safe_load(text)["optimization"]["batch_size"] == 640
    (tmp_path / "all.yaml").write_text(text)
    assert load_config(str(tmp_path / "all.yaml")) == load_config("rad-dino-no-mim", ["seed=3"])


def test_processes_are_for_validate_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--config", "tiny", "--processes", "2") == 2
    assert "torchrun" in capsys.readouterr().err


def test_a_mistake_does_not_wait_for_torch() -> None:
    code = (
        "import sys\nfrom llava_rad.cli import main\n"
        "try:\n    main(['pretrain', '--config', 'tiny', 'seed=x'])\n"
        "finally:\n    print(*sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.split()) == (2, [])
