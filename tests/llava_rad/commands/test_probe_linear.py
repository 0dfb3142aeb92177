"""``llava-rad probe linear``: labels of the paper's tables, allocations, intervals, comparisons, predictions, heads."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoder.datasets.manifest import read_manifest, write_manifest
from encoder.probing.published import AUPRC
from tests.llava_rad.commands.test_probe import damaged, encoders, linear, manifest
from tests.llava_rad.conftest import Run
from tests.shared_readers import _idle_readers, shared_readers

__all__ = ["_idle_readers", "encoders", "manifest", "shared_readers"]

sklearn_metrics = pytest.importorskip("sklearn.metrics")
VINDR = [name for name in AUPRC["vindr-cxr"]["RAD-DINO"] if name != "macro"]
LOGISTIC = ("--protocol", "logistic")


def relabelled(manifest: Path, dataset: str, labels: list[str], *, images: int = 1) -> Path:
    """A manifest of the same images with labels that are noise, and patients with so many images each."""
    rng = np.random.default_rng(0)
    rows = [
        replace(
            row, dataset=dataset, subject=f"{row.split}{number // images}",
            labels={label: float(rng.random() < 0.5) for label in labels},
        )
        for number, row in enumerate(read_manifest(manifest))
    ]  # fmt: skip
    file = manifest.parent / f"{dataset}-{len(labels)}-{images}.csv"
    write_manifest(rows, file)
    return file


def facts(folder: Path, name: str = "first") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "encoders" / f"{name}.json").read_text())
    return content


def rows_of(text: str) -> dict[str, str]:
    """Lines of the first table by the label that they start with."""
    lines = text.split("\n\n")[0].splitlines()
    return {line.split("  ")[0].strip(): line for line in lines}


@pytest.mark.slow
def test_vindrs_macro_average_is_over_the_seven_labels_of_table_1(
    manifest: Path, encoders: list[Path], run: Run, tmp_path: Path
) -> None:
    table = relabelled(manifest, "vindr-cxr", [*VINDR, "Atelectasis", "No finding"])
    ran = run(*linear(table, encoders[0]), *LOGISTIC)
    assert ran.code == 0, ran.err
    found = facts(tmp_path / "r")
    assert set(found["auprc"]) == set(VINDR) == set(found["averaged"])
    assert found["macro"]["auprc"][0] == pytest.approx(np.mean([found["auprc"][name][0] for name in VINDR]))
    lines = rows_of(ran.out)
    assert "52.8" in lines["macro of 7 labels"] and "14.9 (0.2)" in lines["Lung Opacity"]
    every = run(*linear(table, encoders[0])[:-1], "all", *LOGISTIC, "--labels", "all")
    assert every.code == 0, every.err
    lines = rows_of(every.out)
    assert "52.8" in lines["macro of 7 labels"] and "52.8" not in lines["macro of 9 labels"]
    found = facts(tmp_path / "all")
    assert found["macro"]["auprc"][0] == pytest.approx(np.mean([found["auprc"][name][0] for name in VINDR]))
    assert set(found["auprc"]) == {*VINDR, "Atelectasis", "No finding"}
    few = run(*linear(table, encoders[0])[:-1], "few", *LOGISTIC, "--labels", ",".join(VINDR[:6]))
    assert "52.8" not in few.out and "not shown: it is of other labels" in few.out


def test_rsna_is_judged_by_its_own_label_in_five_folds(
    manifest: Path, encoders: list[Path], run: Run, tmp_path: Path
) -> None:
    table = relabelled(manifest, "rsna-pneumonia", ["Pneumonia", "Lung Opacity", "Normal"])
    ran = run(*linear(table, encoders[0]), "--protocol", "cached", "--epochs", "2")
    assert ran.code == 0, ran.err
    found = facts(tmp_path / "r")
    assert set(found["auprc"]) == {"Pneumonia"} and "71.0 (1.8)" in ran.out and "88.4 (0.6)" in ran.out
    assert "macro" not in ran.out
    assert found["judged"] == 48 and len(found["auprc"]["Pneumonia"]) == 5
    assert found["trained"] == [48 - 20, 48 - 20, 48 - 19, 48 - 18, 48 - 19], "three folds of five"


def test_padchests_lateral_images_are_divided_anew_for_each_run(
    manifest: Path, encoders: list[Path], run: Run, tmp_path: Path
) -> None:
    labels = ["vertebral degenerative changes", "pleural effusion", "costophrenic angle blunting", "nodule"]
    table = relabelled(manifest, "padchest", labels)
    call = (*linear(table, encoders[0]), "--protocol", "cached", "--epochs", "2", "--seeds", "3")
    ran = run(*call, "--dataset", "padchest-lateral")
    assert ran.code == 0, ran.err
    found = facts(tmp_path / "r")
    assert found["trained"] == [38, 38, 38] and set(found["auprc"]) <= set(labels[:3]), "80/10/10 of 48 subjects"
    assert "every run draws" in ran.out


@pytest.mark.slow
def test_probabilities_intervals_and_heads_are_those_of_the_saved_predictions(
    manifest: Path, encoders: list[Path], run: Run, tmp_path: Path
) -> None:
    ran = run(*linear(manifest, encoders[0]), "--protocol", "cached", "--epochs", "30", "--labels", "A,B")
    assert ran.code == 0, ran.err
    lines = list(csv.DictReader((tmp_path / "r" / "predictions" / "first.csv").read_text().splitlines()))
    assert len(lines) == 5 * 16 * 2
    values = {
        label: [
            sklearn_metrics.roc_auc_score(
                *zip(*[(int(r["truth"]), float(r["probability"])) for r in chosen], strict=True)
            )
            for run_ in range(5)
            for chosen in [[r for r in lines if r["run"] == str(run_) and r["label"] == label]]
        ]
        for label in "AB"
    }
    assert facts(tmp_path / "r")["auroc"] == {label: pytest.approx(one) for label, one in values.items()}
    text = (tmp_path / "r" / "predictions" / "first.csv").read_text()
    assert not re.search(r"\bp\d+\b", text) and ".png" not in text, "no patients, no file names"
    compared = json.loads((tmp_path / "r" / "comparison.json").read_text())
    one = compared["encoders"]["first"]["auroc/A"]
    assert one["point"] == pytest.approx(np.mean(values["A"])) and one["low"] <= one["point"] <= one["high"]
    assert (compared["images"], compared["patients"]) == (16, 16)

    from encoder.backbones.loading import load_encoder
    from encoder.preprocessing import recipe_named
    from encoder.probing.linear import read_heads
    from encoder.probing.vectors import model_key, vectors

    model = load_encoder(encoders[0], offline=True)
    labels, heads = read_heads(tmp_path / "r" / "heads" / "first.safetensors", f"{model_key(model)}rad-dino-28")
    rows = [row for row in read_manifest(manifest) if row.split == "test"]
    found = vectors(model, rows, recipe_named("rad-dino-28"))
    odds = [[float(r["log_odds"]) for r in lines if r["run"] == "3" and r["label"] == label] for label in labels]
    np.testing.assert_allclose(heads[3].odds(found), np.array(odds).T, atol=1e-4)


def test_images_of_a_patient_count_together(manifest: Path, encoders: list[Path], run: Run, tmp_path: Path) -> None:
    table = relabelled(manifest, "d", ["A"], images=4)
    ran = run(*linear(table, encoders[0]), *LOGISTIC)
    assert "16 evaluated, of 4 patients" in ran.out
    table = relabelled(manifest, "d", ["A"], images=48)
    alone = run(*linear(table, encoders[0])[:-1], "alone", *LOGISTIC)
    assert alone.code == 0 and "of 1 patients" in alone.out and not re.search(r"\[\d+\.\d", alone.out), "no interval"


def test_uncertain_and_unknown_labels_are_counted(manifest: Path, encoders: list[Path], run: Run) -> None:
    head, columns, *rows = relabelled(manifest, "u", ["A"]).read_text().splitlines()
    at = columns.split(",").index("label:A")
    judged = [number for number, row in enumerate(rows) if ",test," in row]
    for number, value in zip(judged, ("-1", "", "-1"), strict=False):  # the first three rows
        cells = rows[number].split(",")
        rows[number] = ",".join([*cells[:at], value, *cells[at + 1 :]])
    table = manifest.with_name("unsure.csv")
    table.write_text("\n".join([head, columns, *rows]) + "\n")
    ran = run(*linear(table, encoders[0]), *LOGISTIC)
    known = len(judged) - 3
    assert f"whose label is 1 or 0, of {len(judged)} images: A {known};" in ran.out, ran.out + ran.err


@pytest.mark.slow
def test_encoders_are_compared_with_the_first_and_with_those_of_an_earlier_run(
    manifest: Path, encoders: list[Path], run: Run, tmp_path: Path
) -> None:
    call = ("--protocol", "logistic", "--labels", "A,B")
    both = run(*linear(manifest, *encoders), *call)
    assert both.code == 0 and "Paired differences by patient" in both.out and "second - first AUROC" in both.out
    found = json.loads((tmp_path / "r" / "comparison.json").read_text())
    (pair,) = found["differences"]
    assert (pair["first"], pair["second"]) == ("second", "first")
    one, other = (facts(tmp_path / "r", name)["auroc"]["A"][0] for name in ("second", "first"))
    assert pair["scores"]["auroc/A"]["point"] == pytest.approx(one - other)
    shutil.move(tmp_path / "r", tmp_path / "old")
    shutil.rmtree(tmp_path / "old" / "vectors", ignore_errors=True)
    later = run(*linear(manifest, encoders[1]), *call, "--against", tmp_path / "old")
    assert later.code == 0, later.err
    against = json.loads((tmp_path / "r" / "comparison.json").read_text())["differences"]
    assert [one["second"] for one in against] == ["old/first", "old/second"]
    for key, value in against[0]["scores"].items():
        same = pair["scores"][key]
        assert all(value[part] == pytest.approx(same[part]) for part in ("point", "low", "high", "p"))
    assert all(one["p"] == 1 for one in against[1]["scores"].values()), "the same encoder"
    assert run(*linear(manifest, encoders[1]), *call).code == 0, "comparisons are no setting of the results"


@pytest.mark.slow
def test_earlier_runs_of_other_images_labels_or_settings_are_refused(
    manifest: Path, encoders: list[Path], run: Run, tmp_path: Path
) -> None:
    call = (*LOGISTIC, "--labels", "A")
    assert run(*linear(manifest, encoders[0])[:-1], "old", *call).code == 0
    old = ("--against", tmp_path / "old")
    labels = run(*linear(manifest, encoders[0])[:-1], "b", *LOGISTIC, "--labels", "B", *old)
    assert labels.code == 1 and "labels differ" in labels.err
    protocol = run(*linear(manifest, encoders[0])[:-1], "c", *call, "--allocation", "train-folds", *old)
    assert protocol.code == 1 and "allocation" in protocol.err
    table = damaged(manifest, tmp_path / "bad")
    (table.parent / "40.png").write_bytes((table.parent / "41.png").read_bytes())
    images = run(*linear(table, encoders[0])[:-1], "d", *call, *old)
    assert images.code == 1 and "contents differ" in images.err
    none = run(*linear(manifest, encoders[0])[:-1], "e", *call, "--against", tmp_path)
    assert none.code == 1 and "holds no results" in none.err
    file = tmp_path / "old" / "predictions" / "first.csv"
    file.write_text(file.read_text().replace("0.", "1.", 1))
    changed = run(*linear(manifest, encoders[0])[:-1], "f", *call, *old)
    assert changed.code == 1 and "missing or damaged" in changed.err
    assert not (tmp_path / "f").exists()


@pytest.mark.slow
def test_lost_predictions_are_computed_again(manifest: Path, encoders: list[Path], run: Run, tmp_path: Path) -> None:
    call = (*linear(manifest, encoders[0]), *LOGISTIC, "--labels", "A")
    first = run(*call)
    file = tmp_path / "r" / "predictions" / "first.csv"
    before = file.read_bytes()
    for damage in (lambda: file.unlink(), lambda: file.write_bytes(before[:-9])):
        damage()
        again = run(*call)
        assert again.code == 0 and again.out == first.out and file.read_bytes() == before


@pytest.mark.slow
def test_folds_of_the_training_images_are_judged_together_by_logistic_regression(
    manifest: Path, encoders: list[Path], run: Run, tmp_path: Path
) -> None:
    ran = run(*linear(manifest, encoders[0]), *LOGISTIC, "--labels", "A", "--allocation", "train-folds")
    assert ran.code == 0, ran.err
    found = facts(tmp_path / "r")
    assert found["judged"] == 32 and len(found["auroc"]["A"]) == 1 and len(found["trained"]) == 5
    assert sum(found["trained"]) == 4 * 32 and "judged together" in ran.out
    odd = run(*linear(manifest, encoders[0]), "--allocation", "thirds")
    assert odd.code == 2 and "choose one of whole" in odd.err


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_and_judged_images_are_encoded_in_the_same_type(
    dtype: str, manifest: Path, encoders: list[Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from encoder.probing import augmented, vectors

    kinds: dict[str, set[Any]] = {"augmented": set(), "vectors": set()}

    def watched(module: Any, name: str) -> None:
        encode = module.encode

        def watch(vision: Any, *arguments: Any) -> Any:
            kinds[name] |= {one.dtype for one in vars(vision).values() if isinstance(one, torch.Tensor)}
            kinds[name] |= {one.dtype for one in getattr(vision, "parameters", list)()}
            return encode(vision, *arguments)

        monkeypatch.setattr(module, "encode", watch)

    watched(vectors, "vectors")
    watched(augmented, "augmented")
    cache = ("--cache", manifest.parent / f"other-{dtype}")
    quick = ("--epochs", "1", "--seeds", "1", "--labels", "A", "--dtype", dtype)
    ran = run(*linear(manifest, encoders[0])[:-2], "-o", "r", *quick, *cache)
    assert ran.code == 0, ran.err
    assert kinds["augmented"] == kinds["vectors"] and getattr(torch, dtype) in kinds["augmented"], kinds
