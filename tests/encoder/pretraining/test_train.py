"""Whole runs: exact resume, also after SIGKILL; several processes; refusals; the export."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import torch

from encoder.datasets.pixel_cache import Cache
from encoder.errors import ConfigError, LlavaRadError
from encoder.pretraining import train as engine
from encoder.pretraining.monitor import FiniteSteps
from encoder.runs.checkpoints import Checkpoints
from encoder.runs.config import dump
from tests.encoder.pretraining.conftest import Finished
from tests.encoder.pretraining.run_processes import finish, newest, start
from tests.encoder.pretraining.small_run import small_config, write_images
from tests.encoder.runs.test_metrics_log import assert_events_are_the_lines, lines_of, next_second

pytestmark = pytest.mark.acceptance(row=8)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


def assert_same(run: Path, other: Path) -> None:
    ours, theirs = newest(run), newest(other)
    for group, tensors in theirs.items():
        assert ours[group].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(ours[group][name], tensor), f"{group} {name}"


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    unbroken: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails in its fourth step, after a checkpoint of the second; weights and metrics are equal to the bit."""
    config, whole = unbroken.config, unbroken.folder
    torch.set_num_threads(1)
    update, calls = engine.StudentTeacher.update_teacher, []

    def killed(self: engine.StudentTeacher, momentum: float) -> None:
        calls.append(momentum)
        if len(calls) == 4:
            raise RuntimeError("stop")
        update(self, momentum)

    monkeypatch.setattr(engine.StudentTeacher, "update_teacher", killed)
    with pytest.raises(RuntimeError, match="stop"):
        engine.run(config, tmp_path / "halves", progress=False)
    monkeypatch.undo()
    assert Checkpoints(tmp_path / "halves" / "checkpoints", 3).steps() == [2]
    assert [line["step"] for line in lines_of(tmp_path / "halves")] == [1, 2, 3]
    next_second()
    engine.run(config, tmp_path / "halves", progress=False)
    assert_same(tmp_path / "halves", whole)
    losses = [[(row["step"], row["loss"], row["lr"]) for row in lines_of(run)] for run in (whole, tmp_path / "halves")]
    assert losses[0] == losses[1] and [row[0] for row in losses[0]] == [1, 2, 3, 4, 5, 6]
    assert_events_are_the_lines(tmp_path / "halves")


@pytest.mark.slow
def test_one_teacher_update_for_each_step_with_accumulation(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[float] = []
    monkeypatch.setattr(engine.StudentTeacher, "update_teacher", lambda self, momentum: calls.append(momentum))
    config = small_config(images, "optimization.accumulation=2", "optimization.steps=3")
    engine.run(config, tmp_path / "run", progress=False)
    assert len(calls) == 3


def test_another_configuration_is_refused(unbroken: Finished) -> None:
    images = unbroken.config.data.folder
    assert images is not None
    with pytest.raises(ConfigError, match=r"another optimization\.base_lr"):
        engine.run(small_config(Path(images), "optimization.drop_path=0.3", "optimization.base_lr=1"), unbroken.folder)


def test_one_image_on_a_process_is_refused_while_koleo_is_on(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one image only"):
        engine.run(small_config(images, "optimization.batch_size=1"), tmp_path / "run", progress=False)


@pytest.mark.parametrize(("delayed", "every", "kept", "calls_made"), [(False, 1, [2, 3], 4), (True, 2, [2], 4)])
def test_the_first_step_that_is_not_finite_ends_a_run(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    delayed: bool,
    every: int,
    kept: list[int],
    calls_made: int,
) -> None:
    """The fourth step's gradient is NaN; the log would look at steps 100, 200, ... only.

    On CUDA the host learns of it a step later, but before it writes a checkpoint, here that of step 4.
    """
    monkeypatch.setattr(engine, "FiniteSteps", lambda **_: FiniteSteps(delayed=delayed))
    clip, calls = engine.clip_gradients, []

    def clipped(student: object, limit: float) -> dict[str, torch.Tensor]:
        calls.append(limit)
        norms = clip(student, limit)  # type: ignore[arg-type]
        return norms if len(calls) < 4 else {**norms, "backbone": torch.tensor(float("nan"))}

    monkeypatch.setattr(engine, "clip_gradients", clipped)
    config = small_config(
        images, "engine.log_every=100", f"engine.checkpoint_every={every}", "engine.keep_checkpoints=2"
    )
    with pytest.raises(LlavaRadError, match="no longer finite at step 4; the checkpoints before") as caught:
        engine.run(config, tmp_path / "run", progress=False)
    assert caught.value.exit_code == 1
    assert Checkpoints(tmp_path / "run" / "checkpoints", 2).steps() == kept
    assert len(calls) == calls_made


@pytest.mark.slow
def test_a_checkpoint_with_nan_is_passed_over_and_a_short_run_logs_its_last_step(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = small_config(images, "optimization.steps=3", "engine.checkpoint_every=1", "engine.log_every=100")
    run = tmp_path / "run"
    engine.run(config, run, progress=False)
    assert [line["step"] for line in lines_of(run)] == [3]
    checkpoints = Checkpoints(run / "checkpoints", 3)
    groups, state = checkpoints.load(run / "checkpoints" / "step-00000003")
    expected = {name: tensor.clone() for name, tensor in groups["student"].items()}
    first = next(iter(groups["student"]))
    groups["student"][first].fill_(float("nan"))
    checkpoints.save(3, groups, state)
    engine.run(config, run)
    printed = capfd.readouterr().err
    assert f"step-00000003 is passed over: its weights are not finite (first {first})" in printed
    assert "going on from step 2" in printed
    assert all(torch.equal(tensor, expected[name]) for name, tensor in newest(run)["student"].items())


def test_images_changed_between_stop_and_start_are_noticed(images: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("path,subject\n" + "".join(f"images/{n:02d}.png,s{n}\n" for n in range(12)))
    config = small_config(images, "data.folder=null", f"data.manifests=[{manifest}]", "optimization.steps=2")
    engine.run(config, tmp_path / "run", progress=False)
    manifest.write_text(manifest.read_text().replace("s3\n", "s4\n"))
    with pytest.raises(ConfigError, match=r"table of data\.manifests or probe\.manifest has changed"):
        engine.run(config, tmp_path / "run", progress=False)


@pytest.mark.slow
def test_another_selection_is_another_run_and_another_cache(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "m.csv"
    lines = (f"images/{n:02d}.png,ours,{'test' if n < 4 else 'train'}\n" for n in range(12))
    manifest.write_text("path,dataset,split\n" + "".join(lines))
    shared = ["data.folder=null", "optimization.steps=2", f"data.cache={tmp_path / 'cache'}"]
    everything = small_config(images, *shared, f"data.manifests=[{manifest}]")
    engine.run(everything, tmp_path / "run", progress=True)
    said = (tmp_path / "run" / "data.txt").read_text()
    assert said.startswith("ours: 12 kept\nwarning: test images are trained on (ours 4), since no splits")
    assert "warning: test images are trained on (ours 4)" in capfd.readouterr().err
    trained = f"data.manifests=[{{path: {manifest}, splits: [train]}}]"
    with pytest.raises(ConfigError, match=r"another data\.manifests"):
        engine.run(small_config(images, *shared, trained), tmp_path / "run", progress=False)
    with pytest.raises(ConfigError, match="cache"):
        engine.run(small_config(images, *shared, trained), tmp_path / "other", progress=False)
    own = small_config(images, *shared[:2], trained)
    engine.run(own, tmp_path / "own", progress=True)
    assert (tmp_path / "own" / "data.txt").read_text() == "ours: 8 kept, left out: split 4\n"
    assert "test images" not in capfd.readouterr().err
    assert len(Cache.open(tmp_path / "own" / "cache")) == 8


@pytest.mark.parametrize(
    ("trials", "steps"),
    [pytest.param(1, 20, marks=pytest.mark.slow), pytest.param(20, 60, marks=pytest.mark.nightly)],
)
def test_kills_leave_the_unbroken_runs_weights(images: Path, tmp_path: Path, trials: int, steps: int) -> None:
    """SIGKILL at random moments of a run: never unreadable, and bit-equal in the end."""
    file = tmp_path / "config.yaml"
    file.write_text(dump(small_config(images, f"optimization.steps={steps}", "optimization.drop_path=0.3")))
    finish(start(file, tmp_path / "whole"))
    kills, rng = 0, torch.Generator().manual_seed(0)
    for trial in range(trials):
        run = tmp_path / f"run-{trial}"
        at = int(torch.randint(1, steps - 1, (), generator=rng))
        process = start(file, run)
        journal = run / "metrics.jsonl"
        while process.is_alive() and (not journal.is_file() or journal.read_bytes().count(b"\n") < at):
            time.sleep(0.002)
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        finish(start(file, run))
        assert_same(run, tmp_path / "whole")
    assert kills >= trials - 2  # a run may end before the signal reaches it
