"""Frozen probes against scikit-learn, patients kept apart, and what probing does to a run: nothing but the choice."""

from __future__ import annotations

import json
import os
import time
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
from encoder.probing.logistic import (
    FOLDS,
    GRID,
    UNDECIDED,
    auroc,
    average_precision,
    choose_c,
    folds,
    logistic_regression,
)
from encoder.runs.checkpoints import Checkpoints
from tests.encoder.pretraining.run_processes import finish
from tests.encoder.pretraining.small_run import small_config, write_images
from tests.forked import context, ranks


def task(
    images: int, width: int, labels: int, seed: int = 0, rarest: float = 1.5
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Correlated features that tell something of the labels, of which the last are rare."""
    rng = np.random.default_rng(seed)
    causes = rng.normal(size=(images, 30))
    mix = rng.normal(size=(30, width)) / np.arange(1, 31)[:, None]
    features = causes @ mix + 0.1 * rng.normal(size=(images, width)) + 3
    scores = causes[:, :labels] + 0.7 * rng.normal(size=(images, labels)) - np.linspace(0, rarest, labels)
    return features, (scores > 0).astype(float)


@pytest.mark.parametrize("decimals", [8, 1, 0])  # fewer decimals: more ties
def test_scores_equal_scikit_learns_also_with_ties(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    for size, share in ((7, 0.5), (200, 0.1), (201, 0.9)):
        labels = rng.random(size) < share
        labels[:2] = True, False
        scores = (labels + rng.normal(size=size)).round(decimals)
        assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


def test_scores_by_hand() -> None:
    labels = np.array([True, False, True, False])
    assert auroc(labels, np.array([4.0, 3.0, 2.0, 1.0])) == 0.75
    assert average_precision(labels, np.array([4.0, 3.0, 2.0, 1.0])) == pytest.approx((1 + 2 / 3) / 2)
    assert auroc(labels, np.ones(4)) == 0.5 and average_precision(labels, np.ones(4)) == 0.5


@pytest.mark.parametrize("images", [300, 40])  # more images than features, and fewer
def test_coefficients_equal_scikit_learns_for_all_labels_and_penalties_at_once(images: int) -> None:
    features, labels = task(images, 60, 4)
    standard = StandardScaler().fit_transform(features)
    known = np.ones_like(labels)
    known[::3, 1] = 0  # unknown labels are as if their rows were not there
    weights, bias = logistic_regression(*map(torch.from_numpy, (standard, labels, known)), GRID)
    assert weights.shape == (60, 4, len(GRID)) and bias.shape == (4, len(GRID))
    for label in range(4):
        rows = known[:, label] == 1
        for place, c in enumerate(GRID):
            model = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-12, max_iter=1000)
            model.fit(standard[rows], labels[rows, label])
            ours = np.r_[weights[:, label, place].numpy(), bias[label, place].numpy()]
            np.testing.assert_allclose(ours, np.r_[model.coef_[0], model.intercept_], rtol=1e-5, atol=1e-7)


def test_a_label_that_nobody_knows_gives_zeros() -> None:
    features, labels = task(30, 5, 2)
    known = np.ones_like(labels)
    known[:, 1] = 0
    weights, bias = logistic_regression(*map(torch.from_numpy, (features - features.mean(0), labels, known)), [1.0])
    assert bool((weights[:, 1] == 0).all()) and float(bias[1]) == 0 and bool((weights[:, 0] != 0).all())


def test_folds_keep_groups_together_evenly_and_always_alike() -> None:
    groups = [number // 3 for number in range(3 * 103)]
    fold = folds(groups)
    assert all(len(set(fold[3 * group : 3 * group + 3])) == 1 for group in range(103))
    assert sorted(np.bincount(fold, minlength=FOLDS)) == [60, 60, 63, 63, 63]
    assert np.array_equal(fold, folds(groups))


def by_scikit_learn(
    features: npt.NDArray[np.float64],
    labels: npt.NDArray[np.float64],
    known: npt.NDArray[np.float64],
    fold: npt.NDArray[np.int64],
) -> list[float]:
    """Mean average precision for each C of the grid."""
    means = []
    for c in GRID:
        found = []
        for number in range(FOLDS):
            for label in range(labels.shape[1]):
                fit, held = ((known[:, label] == 1) & side for side in (fold != number, fold == number))
                if len(set(labels[fit, label])) < 2 or len(set(labels[held, label])) < 2:
                    continue
                scaler = StandardScaler().fit(features[fold != number])
                model = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-8, max_iter=1000)
                model.fit(scaler.transform(features[fit]), labels[fit, label])
                odds = model.decision_function(scaler.transform(features[held]))
                found.append(average_precision_score(labels[held, label], odds))
        means.append(float(np.mean(found)))
    return means


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_penalty_is_the_one_that_scikit_learn_would_choose(seed: int) -> None:
    features, labels = task(240, 40, 3, seed, rarest=2.2)
    known = (np.random.default_rng(seed).random(labels.shape) < 0.9).astype(float)
    groups = [number // 2 for number in range(240)]
    means = by_scikit_learn(features, labels, known, folds(groups))
    assert len({round(mean, 6) for mean in means}) > 4  # the grid does matter
    seen: list[float] = []

    def score(truth: npt.NDArray[np.bool_], odds: npt.NDArray[np.float64]) -> float:
        seen.append(average_precision(truth, odds))
        return seen[-1]

    chosen = choose_c(*map(torch.from_numpy, (features, labels, known)), groups, score)
    ours = np.array(seen).reshape(-1, len(GRID)).mean(0)
    np.testing.assert_allclose(ours, means, atol=2e-3)  # close fits, not exact ones
    assert means[GRID.index(chosen)] >= max(means) - 2e-3


def test_noise_wants_a_strong_penalty_and_a_clean_signal_a_weak_one() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 50))
    signal = (features @ rng.normal(size=50) > 0).astype(float)[:, None]
    weak = (features[:, 0] + 3 * rng.normal(size=300) > 0).astype(float)[:, None]
    chosen = [
        choose_c(*map(torch.from_numpy, (features, labels, np.ones_like(labels))), range(300), average_precision)
        for labels in (signal, weak)
    ]
    assert chosen[0] >= 0.1 > 1e-2 >= chosen[1]


def test_too_few_patients_leave_the_penalty_undecided() -> None:
    features, labels = task(12, 4, 1)
    tensors = [torch.from_numpy(array) for array in (features, labels, np.ones_like(labels))]
    assert choose_c(*tensors, ["one patient"] * 12, average_precision) == UNDECIDED
    assert choose_c(*tensors, list(labels[:, 0]), average_precision) == UNDECIDED  # each side has one class only


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


@pytest.mark.slow
def test_a_probe_of_vit_small_takes_seconds() -> None:
    """1,116 images to fit, 159 to judge, 384 features, 14 labels: a budget of 5 s on one core, CPU time."""
    features, labels = task(1116, 384, 14, rarest=2.5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        started = time.process_time()
        tensors = [torch.from_numpy(array) for array in (features, labels, np.ones_like(labels))]
        c = choose_c(*tensors, range(1116), average_precision)
        logistic_regression(tensors[0] - tensors[0].mean(0), *tensors[1:], [c])
        assert time.process_time() - started < 10  # twice the budget: machines differ
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def manifest(rows: list[Row], tmp_path: Path) -> Path:
    file = tmp_path / "labelled.csv"
    write_manifest(rows, file)
    return file


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
        ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], 6, 6),  # still falling at the end
        ([0.9, 0.3, 0.4, 0.3, 0.3, 0.2, 0.1], 3, 1),  # an equal loss is no lower one
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
