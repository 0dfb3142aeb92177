"""Linear probes: scores as scikit-learn's, splits, seeds, augmentation, and the same result from the same seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from encoder.datasets.manifest import Row
from encoder.errors import LlavaRadError
from encoder.files import Digests
from encoder.preprocessing import rad_dino
from encoder.probing import augmented
from encoder.probing.allocation import Allocation, Split
from encoder.probing.linear import Head, LinearConfig, heads_file, judge, logistic, read_heads, train
from encoder.probing.vectors import prepared

sklearn_metrics = pytest.importorskip("sklearn.metrics")
QUICK = LinearConfig(epochs=40, batch_size=16, learning_rate=0.05, seeds=(0, 1), augment=False)


def row(number: int, split: str, labels: dict[str, float | None], subject: str = "") -> Row:
    return Row(Path(f"/{number}.png"), "d", subject or f"p{number}", split=split, labels=labels, number=number)


def whole(split: Split) -> Allocation:
    return Allocation.of([*split.train, *split.judged], split.labels)


@pytest.fixture(scope="module")
def data() -> tuple[Split, np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """120 training and 60 judged images of 12 features: A is linear in them, B is linear with noise, some unknown."""
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(180, 12)).astype(np.float32)
    a = vectors @ generator.normal(size=12) > 0.3
    b = vectors @ generator.normal(size=12) + generator.normal(size=180) * 3 > 1
    rows = [
        row(n, "train" if n < 120 else "test", {"A": float(a[n]), "B": None if n % 7 == 0 else float(b[n]), "C": 0.0})
        for n in range(180)
    ]
    return Split.of(rows), vectors[:120], vectors[120:]


def test_scores_are_scikit_learns_with_ties_and_unknown_labels(data) -> None:  # type: ignore[no-untyped-def]
    split, _, _ = data
    odds = np.random.default_rng(1).integers(0, 9, size=(60, 2)).astype(float)
    found = judge(whole(split), [odds])
    truth = split.truth(split.judged)
    for column, label in enumerate(split.labels):
        known = ~np.isnan(truth[:, column])
        expected = (truth[known, column], odds[known, column])
        assert found.auprc[label] == [pytest.approx(sklearn_metrics.average_precision_score(*expected))]
        assert found.auroc[label] == [pytest.approx(sklearn_metrics.roc_auc_score(*expected))]
        assert found.positives[label] == expected[0].sum()
    assert found.macro("auprc")[0] == pytest.approx(np.mean([found.auprc["A"][0], found.auprc["B"][0]]))


def test_a_label_without_both_classes_is_left_out(data) -> None:  # type: ignore[no-untyped-def]
    split, _, _ = data
    assert split.labels == ("A", "B") and split.left_out == ("C",) and split.judged_on == "test"


def test_training_finds_what_is_linear_and_is_the_same_for_the_same_seeds(data) -> None:  # type: ignore[no-untyped-def]
    split, vectors, judged = data
    images = torch.from_numpy(vectors)

    def fitted(seed: int, config: LinearConfig = QUICK) -> np.ndarray:  # type: ignore[type-arg]
        return train(split, lambda seed, epoch, batch: images[batch], 12, config, seed).odds(judged)

    for seed in QUICK.seeds:
        found = judge(whole(split), [fitted(seed)])
        assert found.auroc["A"][0] > 0.97 > 0.9 > found.auroc["B"][0] > 0.5
    few = replace(QUICK, epochs=2)
    assert not np.array_equal(fitted(0, few), fitted(1, few)), "seeds differ"
    assert np.array_equal(fitted(0, few), fitted(0, few))


def test_logistic_regression_finds_it_too(data) -> None:  # type: ignore[no-untyped-def]
    split, vectors, judged = data
    found = logistic(split, vectors, judged)
    assert found.auroc["A"][0] > 0.97 and len(found.c) == 1 and found.trained == [120]


def test_every_training_image_is_asked_for_once_an_epoch(data) -> None:  # type: ignore[no-untyped-def]
    split, vectors, _ = data
    images, asked = torch.from_numpy(vectors), dict[int, list[int]]()

    def given(seed: int, epoch: int, batch: np.ndarray) -> torch.Tensor:  # type: ignore[type-arg]
        asked.setdefault(epoch, []).extend(batch.tolist())
        return images[batch]

    train(split, given, 12, LinearConfig(epochs=3, batch_size=50), 0)
    assert set(asked) == {0, 1, 2} and all(sorted(numbers) == list(range(120)) for numbers in asked.values())
    assert asked[0] != asked[1], "in another order"


def test_a_stopped_run_continues_behind_its_last_epoch(data, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """And gives the same layer to the last bit; a state of another run is passed over, a damaged one is an error."""
    split, vectors, _ = data
    images, config, asked = torch.from_numpy(vectors), LinearConfig(epochs=6, batch_size=50), list[int]()

    def given(stop: int) -> Callable[[int, int, np.ndarray], torch.Tensor]:
        def encode(seed: int, epoch: int, batch: np.ndarray) -> torch.Tensor:
            if epoch == stop:
                raise KeyboardInterrupt
            asked.append(epoch)
            return images[batch]

        return encode

    expected, state = train(split, given(9), 12, config, 0), tmp_path / "run.pt"
    asked.clear()
    for stop in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            train(split, given(stop), 12, config, 0, state=state)
    told: list[int] = []
    found = train(split, given(9), 12, config, 0, state=state, progress=told.append)
    assert np.array_equal(found.weight, expected.weight) and np.array_equal(found.bias, expected.bias)
    assert asked == [epoch for epoch in range(6) for _ in range(3)], "no epoch twice"
    assert sum(told) == 6
    other = train(split, given(9), 12, config, 1, state=state)
    assert np.array_equal(other.weight, train(split, given(9), 12, config, 1).weight)
    state.write_bytes(state.read_bytes()[:400])
    with pytest.raises(LlavaRadError, match="the state of the probe is damaged"):
        train(split, given(9), 12, config, 1, state=state)


def test_images_are_prepared_once_though_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row(tmp_path / f"{number}.png", number=number + 1) for number in range(7)]
    for one in rows:
        noise = np.random.default_rng(one.number).integers(0, 256, (70, 70)).astype(np.uint8)
        Image.fromarray(noise).save(one.path)
    read, stop, prepare = list[int](), [0], prepared

    def counted(chunk, *arguments, **keywords):  # type: ignore[no-untyped-def]
        if len(read) == stop[0]:
            raise KeyboardInterrupt
        read.extend(one.number for one in chunk)
        return prepare(chunk, *arguments, **keywords)

    monkeypatch.setattr(augmented, "CHUNK", 2)
    monkeypatch.setattr(augmented, "prepared", counted)
    arguments = (rows, rad_dino(28), tmp_path / "v", lambda number: None, Digests())
    for stop[0] in (2, 6):
        with pytest.raises(KeyboardInterrupt):
            augmented._kept(*arguments)
    stop[0] = 99
    found = augmented._kept(*arguments)
    assert read == list(range(1, 8))
    assert np.array_equal(found, augmented._kept(rows, rad_dino(28), tmp_path / "w", lambda number: None, Digests()))
    assert not [path for path in (tmp_path / "v").iterdir() if path.suffix in (".part", ".count")]


def test_the_papers_settings_are_the_default() -> None:
    assert LinearConfig() == LinearConfig(100, 96, 5e-5, 0.01, (0, 1, 2, 3, 4), True)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(1, "train", {"A": 1.0})], "needs images of the split train"),
        ([row(1, "train", {"A": 1.0}), row(2, "test", {"A": 1.0})], "no label"),
        ([row(1, "train", {"A": 1.0}, "p"), row(2, "test", {"A": 0.0}, "p")], "subject"),
    ],
)
def test_splits_that_cannot_be_judged_are_refused(rows: list[Row], message: str) -> None:
    with pytest.raises(LlavaRadError, match=message):
        Split.of(rows)


def test_an_unknown_label_is_refused(data) -> None:  # type: ignore[no-untyped-def]
    split, _, _ = data
    with pytest.raises(LlavaRadError, match="no label 'D'"):
        Split.of([*split.train, *split.judged], ["D"])


def test_val_is_judged_where_there_is_no_test() -> None:
    rows = [row(n, "train" if n < 4 else "val", {"A": float(n % 2)}) for n in range(8)]
    assert Split.of(rows).judged_on == "val"


def test_augmentation_depends_on_its_seed_only_and_leaves_torchs_generator() -> None:
    from encoder.probing.augmented import augment, transform

    image = (np.arange(56 * 56).reshape(56, 56) % 251).astype(np.uint8)
    apply = transform(56)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = augment(image, apply, 7)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(augment(image, apply, 7), first) and not torch.equal(augment(image, apply, 8), first)
    assert first.shape == (56, 56) and first.dtype == torch.uint8


def test_every_seed_epoch_and_image_has_an_augmentation_of_its_own() -> None:
    from encoder.probing.augmented import stream

    seeds = {stream(seed, epoch, number) for seed in range(5) for epoch in range(10) for number in range(20)}
    assert len(seeds) == 1000 and min(seeds) >= 0 and max(seeds) < 1 << 63, "as torch.manual_seed takes"
    assert stream(1, 2, 3) == stream(1, 2, 3)


def test_a_logistic_head_is_scikit_learns_fit_on_standardised_vectors(data) -> None:  # type: ignore[no-untyped-def]
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    from encoder.probing.linear import fit

    split, vectors, judged = data
    shifted, others = (part * 3 + 100 for part in (vectors, judged))  # far from zero, as real features may be
    head = fit(split, shifted)
    truth = split.truth(split.train)
    scaler = StandardScaler().fit(shifted.astype(float))
    for column in range(2):
        known = ~np.isnan(truth[:, column])
        assert head.c is not None
        model = LogisticRegression(C=head.c, tol=1e-10, max_iter=10_000)
        # as in the fit, unknown labels are left out of the loss, not of the standardisation
        model.fit(scaler.transform(shifted[known].astype(float)), truth[known, column])
        np.testing.assert_allclose(
            head.odds(others)[:, column], model.decision_function(scaler.transform(others.astype(float))), atol=1e-5
        )


def test_saved_heads_give_the_same_log_odds_to_the_same_encoder_only(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    heads = [Head(rng.normal(size=(2, 3)), rng.normal(size=2)) for _ in range(2)]
    file = tmp_path / "heads.safetensors"
    file.write_bytes(heads_file(heads, ("A", "B"), "key"))
    labels, found = read_heads(file, "key")
    vectors = rng.normal(size=(4, 3)).astype(np.float32)
    assert labels == ("A", "B")
    for head, other in zip(heads, found, strict=True):
        np.testing.assert_array_equal(other.odds(vectors), vectors.astype(float) @ head.weight.T + head.bias)
    with pytest.raises(LlavaRadError, match="another encoder"):
        read_heads(file, "other")
    file.write_bytes(b"pickle")
    with pytest.raises(LlavaRadError, match="cannot be read"):
        read_heads(file, "key")


def test_a_training_that_diverges_is_said(data) -> None:  # type: ignore[no-untyped-def]
    split, vectors, _ = data
    images = torch.from_numpy(vectors)
    with pytest.raises(LlavaRadError, match="diverged"):
        train(split, lambda seed, epoch, batch: images[batch], 12, replace(QUICK, learning_rate=1e30), 0)
