"""Out-of-fold scores of the report model: cases of other sets, one fold, the scores of all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from encoder.datasets.manifest import Row, write_manifest
from encoder.errors import LlavaRadError, ModelError
from encoder.probing.logistic import folds
from scripts.demo import evaluate, grammar, nih
from scripts.demo.model import TrainingConfig
from scripts.demo.more_cases import more_cases
from scripts.demo.nih import Case
from scripts.report_folds import run_fold, summarise


def case(number: int, *labels: str) -> Case:
    return Case(Path(f"/{number}.png"), f"p{number // 2}", frozenset(labels), {})


def written(labels: frozenset[str]) -> str:
    return grammar.text_of(grammar.write(labels, {}, np.random.default_rng(0)))


def test_other_sets_give_as_many_normal_as_ill_patients_and_leave_the_rest_unknown(tmp_path: Path) -> None:
    rows = [
        Row(tmp_path / f"{number}.png", "kermany", f"s{number // 2}", image=str(number), view="AP", split="train",
            labels={"Normal": float(number < 4), "Pneumonia": float(number >= 4)}, number=number + 1)
        for number in range(20)
    ]  # fmt: skip
    write_manifest(rows, tmp_path / "kermany.csv")
    manifests = {"kermany": tmp_path / "kermany.csv", "rsna": tmp_path / "kermany.csv"}
    found = more_cases("kermany", manifests, 100)
    assert [one.patient for one in found[:2]] == ["kermany/s0", "kermany/s1"] and len(found) == 4
    assert found[0].labels == frozenset() == found[0].unknown
    assert found[2].labels == {"Pneumonia"} and found[2].unknown == frozenset(nih.LABELS) - {"Pneumonia"}
    with pytest.raises(ModelError, match="no set 'rsna'"):
        more_cases("rsna", manifests, 100)
    write_manifest(rows[:4], tmp_path / "kermany.csv")
    with pytest.raises(ModelError, match="one class alone"):
        more_cases("kermany", manifests, 100)


def test_scores_are_over_the_images_of_all_folds() -> None:
    cases = [case(number, *(["Mass"] if number % 2 else [])) for number in range(8)]
    found = [
        {
            "places": places, "reports": [written(cases[place].labels) for place in places],
            "probe": [written(frozenset()) for _ in places], "unsure": [["Nodule"]] * 4,
        }
        for places in ([1, 3, 5, 7], [0, 2, 4, 6])
    ]  # fmt: skip
    results = summarise(cases, found)
    assert (results["images"], results["patients"]) == (8, 4)
    assert results["report model"]["micro_f1"] == 1.0 and results["linear probe"]["micro_f1"] == 0.0
    assert results["report model"]["no_finding_f1_95"] == [1.0, 1.0]
    assert results["abstention"]["rate"] == pytest.approx(1 / 14, abs=1e-4) and results["abstention"]["removed"] == 1.0
    with pytest.raises(LlavaRadError, match="one report of each image"):
        summarise(cases, found[:1])


@pytest.mark.slow
def test_a_fold_is_judged_by_a_model_of_the_others() -> None:
    rng = np.random.default_rng(0)
    cases = [case(number, *(["Mass"] if rng.random() < 0.5 else [])) for number in range(60)]
    child = Case(Path("/child.png"), "kermany/c", frozenset({"Pneumonia"}), {}, frozenset({"Mass"}))
    given = torch.randn(61, 2, 16, 8, generator=torch.Generator().manual_seed(0)).half()
    found = run_fold(0, cases, [child], given, TrainingConfig().tiny())
    own = folds([one.patient for one in cases])
    assert found["places"] == np.flatnonzero(own == 0).tolist()
    assert len(found["reports"]) == len(found["probe"]) == len(found["unsure"]) == len(found["places"])
    assert {name for names in found["unsure"] for name in names} <= {"Mass"}


def test_intervals_resample_patients_with_all_their_images() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    drawn = rng.random((2, 12, 14)) < 0.3
    truth, said = ([frozenset(np.array(nih.LABELS)[row]) for row in of] for of in drawn)
    patients = [str(number // 3) for number in range(12)]
    found = evaluate.intervals([written(labels) for labels in said], truth, patients, draws=4)
    turn = np.random.default_rng(3)
    macro, micro = list[float](), list[float]()
    for _ in range(4):
        chosen = [3 * patient + place for patient in turn.integers(4, size=4) for place in range(3)]
        for average, values in (("macro", macro), ("micro", micro)):
            values.append(metrics.f1_score(drawn[0][chosen], drawn[1][chosen], average=average, zero_division=0))
    assert found["macro_f1"] == pytest.approx(np.percentile(macro, [2.5, 97.5]), abs=1e-4)
    assert found["micro_f1"] == pytest.approx(np.percentile(micro, [2.5, 97.5]), abs=1e-4)
