"""Frozen probes against scikit-learn, patients kept apart, and what probing does to a run: nothing but the choice."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from encoder.datasets.manifest import Row, write_manifest
from encoder.errors import ConfigError, LlavaRadError
from encoder.pretraining import probes
from encoder.pretraining import train as engine
from encoder.pretraining.probes import Probe, ProbeResult
from encoder.runs.checkpoints import Checkpoints
from tests.encoder.pretraining.run_processes import finish
from tests.encoder.pretraining.small_run import small_config, write_images
from tests.forked import context, ranks

LABELS = ("effusion", "nodule", "rare")


def manifest_rows(folder: Path, images: int = 60, width: int = 64) -> list[Row]:
    """Pictures whose grey tells ``effusion``, ``nodule`` unknown in some, ``rare`` in one only; two for a patient."""
    write_images(folder, images, width)
    rng = np.random.default_rng(1)
    rows = []
    for number in range(images):
        picture = np.asarray(rng.integers(0, 2))
        nodule = (1.0, 0.0, None, -1.0)[number % 4]
        rows.append(
            Row(
                folder / f"{number:02d}.png",
                dataset="made",
                subject=f"p{number // 2}",
                split="train" if number < images * 2 // 3 else "val",
                labels={"effusion": float(picture), "nodule": nodule, "rare": float(number == 0)},
                number=number + 1,
            )
        )
    return rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return manifest_rows(tmp_path_factory.mktemp("probe"))


@pytest.fixture(scope="module")
def probe(rows: list[Row]) -> Probe:
    return Probe(rows, size=28)


def table(rows: Sequence[Row], names: Sequence[str]) -> npt.NDArray[np.float64]:
    return np.array([[v if (v := row.labels[name]) in (0, 1) else np.nan for name in names] for row in rows], float)


def test_predictions_and_scores_equal_scikit_learns(
    probe: Probe, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert probe.labels == ("effusion", "nodule") and probe.left_out == ("rare",)
    monkeypatch.setattr("encoder.probing.logistic.GRID", (0.05,))
    monkeypatch.setattr(probes, "NEIGHBOURS", 5)
    truth = table(rows, probe.labels)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 6)) + np.nan_to_num(truth) @ rng.normal(size=(2, 6)) + 2
    said, result = probe.predict(torch.from_numpy(features)), probe.score(torch.from_numpy(features))
    train = np.array([row.split == "train" for row in rows])
    assert said.c == result.c == 0.05 and said.rows == tuple(row for row in rows if row.split == "val")
    np.testing.assert_array_equal(said.truth, truth[~train])
    centred = features - features[train].mean(0)
    for column, name in enumerate(probe.labels):
        known = ~np.isnan(truth[:, column])
        scaler = StandardScaler().fit(features[train])
        model = LogisticRegression(C=0.05, tol=1e-12, solver="newton-cholesky")
        model.fit(scaler.transform(features[train & known]), truth[train & known, column])
        odds = model.decision_function(scaler.transform(features[~train]))
        np.testing.assert_allclose(said.linear[:, column], odds, rtol=1e-6, atol=1e-8)
        near = NearestNeighbors(n_neighbors=5, metric="cosine").fit(centred[train & known])
        distances, places = near.kneighbors(centred[~train])
        votes = np.exp((1 - distances) / 0.07)
        share = (votes * truth[train & known, column][places]).sum(1) / votes.sum(1)
        np.testing.assert_allclose(said.knn[:, column], share, rtol=1e-6, atol=1e-9)
        judged = known[~train]
        right = truth[~train, column][judged]
        assert result.linear_auprc[name] == pytest.approx(average_precision_score(right, odds[judged]))
        assert result.linear_auroc[name] == pytest.approx(roc_auc_score(right, odds[judged]))
        assert result.knn_auroc[name] == pytest.approx(roc_auc_score(right, share[judged]))
        chances = 1 / (1 + np.exp(-odds[judged]))
        assert result.linear_loss[name] == pytest.approx(log_loss(right, chances), rel=1e-6)
    assert result.scores() == {
        name: pytest.approx(np.mean([getattr(result, name)[label] for label in probe.labels]))
        for name in ("linear_auprc", "linear_auroc", "knn_auroc", "linear_loss")
    }


def test_the_penalty_is_chosen_on_the_train_split_alone_by_patient(
    probe: Probe, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def spy(
        features: torch.Tensor, labels: torch.Tensor, known: torch.Tensor, groups: list[object], score: object
    ) -> float:
        asked.append((features, groups))
        return 1.0

    monkeypatch.setattr(probes, "choose_c", spy)
    numbered = torch.arange(60.0)[:, None].expand(60, 2) + torch.tensor([0.0, 0.5])
    probe.predict(numbered)
    assert torch.equal(asked[0][0][:, 0], torch.arange(40.0).double())
    assert asked[0][1] == [("made", f"p{number // 2}") for number in range(40)]
    strangers = Probe([Row(row.path, split=row.split, labels=row.labels) for row in rows], size=28)
    strangers.predict(numbered)
    assert len(set(asked[1][1])) == 40  # rows without a subject count as their own


def test_features_come_in_order_whatever_the_batches(probe: Probe) -> None:
    def encode(pixels: torch.Tensor) -> torch.Tensor:
        assert pixels.shape[1:] == (3, 28, 28) and not torch.is_grad_enabled()
        return pixels.flatten(1)[:, ::100]

    whole = probe.features(encode, batch_size=60)
    assert whole.shape == (60, 24) and whole.dtype == torch.float64
    assert torch.equal(whole, probe.features(encode, batch_size=7))
    assert not torch.equal(whole[0], whole[1])


def _share(queue: Any, rows: list[Row], environment: dict[str, str]) -> None:
    os.environ |= environment
    torch.distributed.init_process_group("gloo")
    probe, asked = Probe(rows, size=28), list[int]()

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        asked.append(len(pixels))
        return pixels.flatten(1)[:, ::100]

    features = probe.features(encode)
    queue.put((sum(asked), probe.rows, probe.unreadable.lines(), features.numpy(), probe.run(encode)))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_share_the_images_and_have_one_result(rows: list[Row], probe: Probe, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    listed = [*rows[:7], Row(broken, split="val", labels={}, number=61), *rows[7:]]
    forked = context("encoder.pretraining.probes", "torch.distributed")
    queue = forked.Queue()
    started = [forked.Process(target=_share, args=(queue, listed, one)) for one in ranks(2)]
    for process in started:
        process.start()
    found = [queue.get(timeout=120) for _ in started]
    finish(*started)
    expected = probe.features(lambda pixels: pixels.flatten(1)[:, ::100])
    assert sum(one[0] for one in found) == 60 and all(29 <= one[0] <= 31 for one in found)
    for _, kept, lines, features, result in found:
        assert kept == probe.rows and len(lines) == 1 and lines[0].startswith("row 61: ")
        assert np.array_equal(features, expected.numpy())
        assert result == probe.score(expected)


def test_a_subject_in_both_splits_is_refused(rows: list[Row]) -> None:
    moved = Row(rows[0].path, dataset="made", subject=rows[-1].subject, split="train", labels=rows[0].labels, number=77)
    with pytest.raises(LlavaRadError, match=r"more than one split: 1; the first of them in rows 59 and 77"):
        Probe([*rows, moved], size=28)


@pytest.mark.slow
def test_what_cannot_be_probed_is_refused_in_words(rows: list[Row], probe: Probe, tmp_path: Path) -> None:
    few = [Row(row.path, split=row.split, labels={"rare": row.labels["rare"]}) for row in rows]
    with pytest.raises(ConfigError, match="no label with two positives and two negatives in train"):
        Probe(few, size=28)
    secret = tmp_path / "Doe_John.png"
    secret.write_bytes(b"no picture")
    broken = Row(secret, split="val", labels={}, number=61)
    left = Probe([*rows, broken], size=28)
    assert left.rows == probe.rows and left.unreadable.lines()[0].startswith("row 61: ")
    with pytest.raises(LlavaRadError, match=r"^2 of 62 images cannot be read, 1 may be; row 61: ") as caught:
        Probe([*rows, broken, Row(tmp_path / "Doe_Jane.png", split="val", number=62)], size=28)
    assert "Doe" not in f"{caught.value} {caught.value.hint}"
    with pytest.raises(LlavaRadError, match="not finite"):
        probe.score(torch.full((60, 3), torch.nan))


def test_equal_features_are_worth_nothing(probe: Probe) -> None:
    result = probe.score(torch.full((60, 8), 0.1))
    assert set(result.linear_auroc.values()) == {0.5}


@pytest.fixture
def manifest(rows: list[Row], tmp_path: Path) -> Path:
    file = tmp_path / "labelled.csv"
    write_manifest(rows, file)
    return file


@pytest.mark.slow
def test_the_step_with_the_best_probe_is_exported(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores by step are given; what the teacher of each step says of one picture is kept to know it again."""
    pixels = torch.linspace(-1, 1, 3 * 28 * 28).view(1, 3, 28, 28)
    by_step = {0: 0.99, 1: 0.2, 2: 0.6, 3: 0.4, 4: 0.6, 5: 0.1, 6: 0.5}  # of no training, and of equals, the first
    said: list[torch.Tensor] = []

    def scripted(self: Probe, encode: probes.Encode, batch_size: int = 32) -> ProbeResult:
        said.append(encode(pixels))
        score = {"a": by_step[len(said) - 1]}
        return ProbeResult(score, score, score, score, (), 1.0)

    monkeypatch.setattr(Probe, "run", scripted)
    images = write_images(tmp_path / "images")
    config = small_config(
        images,
        f"probe.manifest={manifest}",
        "probe.every=1",
        "probe.select=probe",
        "engine.keep_checkpoints=1",
        "optimization.base_lr=0.01",
    )
    export = engine.run(config, tmp_path / "run", progress=False)
    assert len(said) == 7
    from transformers import AutoModel

    with torch.no_grad():
        exported = AutoModel.from_pretrained(export).eval()(pixels).last_hidden_state[:, 0]
    distances = [float((exported - one).abs().max()) for one in said]
    assert int(np.argmin(distances)) == 2 and distances[2] < 1e-5
    assert min(distances[:2] + distances[3:]) > 20 * distances[2]
    assert Checkpoints(tmp_path / "run" / "checkpoints", 1).steps() == [2, 6]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    probed = [row for row in lines if "probe_linear_auprc" in row]
    assert {row["step"]: row["probe_linear_auprc"] for row in probed} == by_step
    assert all(row["probe_seconds"] > 0 for row in probed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("losses", "last", "exported"),
    [
        ([0.1, 0.9, 0.5, 0.6, 0.7, 0.4, 0.3], 4, 2),  # two probes above 0.5; the untrained start does not count
        pytest.param([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], 6, 6, marks=pytest.mark.nightly),  # still falling at the end
        pytest.param(
            [0.9, 0.3, 0.4, 0.3, 0.3, 0.2, 0.1], 3, 1, marks=pytest.mark.nightly
        ),  # an equal loss is no lower one
    ],
)
def test_a_run_stops_early_by_the_loss_of_the_probe(
    losses: list[float], last: int, exported: int, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B.3: it ends two probes after the lowest loss and exports that teacher; the same command does not go on."""
    asked: list[int] = []

    def scripted(self: Probe, encode: probes.Encode, batch_size: int = 32) -> ProbeResult:
        asked.append(len(asked))
        loss, same = {"a": losses[len(asked) - 1]}, {"a": 0.5}
        return ProbeResult(same, same, same, loss, (), 1.0)

    monkeypatch.setattr(Probe, "run", scripted)
    settings = [f"probe.manifest={manifest}", "probe.every=1", "probe.select=loss", "probe.patience=2"]
    config = small_config(write_images(tmp_path / "images"), *settings, "engine.keep_checkpoints=1")
    for _ in range(2):
        export = engine.run(config, tmp_path / "run", progress=False)
        assert asked == list(range(last + 1))
        assert f"| log loss | {losses[exported]:.4f} |" in (export / "README.md").read_text().replace(
            "linear probe macro log loss (val)", "log loss"
        )
        steps = Checkpoints(tmp_path / "run" / "checkpoints", 1).steps()
        assert steps == sorted({exported, last})


@pytest.mark.slow
def test_probing_leaves_the_run_as_it_is(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real probes: the weights are bit-equal without them, and the teacher is in evaluation mode, without gradients."""
    images = write_images(tmp_path / "images")
    run_probe, modes = Probe.run, []

    def watched(self: Probe, encode: probes.Encode, batch_size: int = 32) -> ProbeResult:
        def watching(pixels: torch.Tensor) -> torch.Tensor:
            features = encode(pixels)
            modes.append((features.requires_grad, torch.equal(features, encode(pixels))))
            return features

        return run_probe(self, watching, batch_size)

    monkeypatch.setattr(Probe, "run", watched)
    torch.set_num_threads(1)
    for name, more in (("with", [f"probe.manifest={manifest}", "probe.every=1"]), ("without", [])):
        config = small_config(images, "optimization.drop_path=0.3", "optimization.steps=2", *more)
        engine.run(config, tmp_path / name, progress=False)
    assert len(modes) == 3 * 2 and set(modes) == {(False, True)}
    groups = []
    for name in ("with", "without"):
        checkpoints = Checkpoints(tmp_path / name / "checkpoints", 3)
        newest = checkpoints.latest()
        assert newest is not None
        groups.append(checkpoints.load(newest)[0])
    for group, tensors in groups[1].items():
        for name, tensor in tensors.items():
            assert torch.equal(groups[0][group][name], tensor), f"{group} {name}"
