"""Demographics: the paper's bins, its six groups, folds that divide no subject, accuracy by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encoder.datasets.manifest import Row
from encoder.errors import LlavaRadError
from encoder.probing.demographics import class_of, cohort, demographics, without_findings

WANTED = (["sex", "age"], ["sex", "age", "weight", "bmi"], ["bmi", "ethnicity"], ["ethnicity"])


@pytest.mark.parametrize(
    ("variable", "values"),
    [
        ("sex", {"M": "M", " female ": "F", "O": None, "": None}),
        ("age", {"0": "<20", "19.9": "<20", "20": "20-40", "40": "40-60", "79": "60-80", "80": "60-80", "81": ">80"}),
        ("age", {"": None, "nan": None, "-3": None, "411Y": None, "054Y": "40-60", ">89": ">80"}),
        ("weight", {"49.9": "<50", "50": "50-65", "64": "50-65", "94.9": "80-95", "95": "80-95", "95.1": ">95"}),
        ("bmi", {"18": "<18.5", "18.5": "18.5-25", "34.9": "30-35", "36": ">35"}),
        (
            "ethnicity",
            {
                "WHITE - RUSSIAN": "white",
                "ASIAN - CHINESE": "asian",
                "BLACK/AFRICAN AMERICAN": "black/african american",
                "HISPANIC/LATINO - CUBAN": "hispanic/latino",
                "AMERICAN INDIAN/ALASKA NATIVE": "american indian/alaska native",
                "PORTUGUESE": "other",
                "UNABLE TO OBTAIN": None,
                "": None,
            },
        ),
    ],
)
def test_classes_are_those_of_the_paper(variable: str, values: dict[str, str | None]) -> None:
    assert {value: class_of(variable, value) for value in values} == values


def test_an_unknown_variable_is_refused() -> None:
    with pytest.raises(LlavaRadError, match="no variable 'height'"):
        class_of("height", "180")


def rows(number: int, sexes: list[str]) -> list[Row]:
    return [
        Row(
            Path(f"/{n}"), "d", f"p{n // 2}", attributes={"sex": sexes[n // 2]}, labels={"No Finding": float(n % 3 > 0)}
        )
        for n in range(number)
    ]


def test_the_cohort_has_all_wanted_variables_of_table_e1() -> None:
    known = {"sex": "F", "age": "50", "weight": "70", "bmi": "24"}
    people = [
        known,
        known | {"bmi": ""},
        known | {"weight": "-1"},
        known | {"sex": "?"},
        known | {"ethnicity": "white"},
    ]
    images = [Row(Path(f"/{n}"), "d", f"p{n}", attributes=one) for n, one in enumerate(people)]
    numbers = {tuple(wanted): [int(row.subject[1:]) for row in cohort(images, wanted)] for wanted in WANTED}
    assert numbers == {
        ("sex", "age"): [0, 1, 2, 4],
        ("sex", "age", "weight", "bmi"): [0, 4],
        ("bmi", "ethnicity"): [0, 2, 3, 4],
        ("ethnicity",): [0, 1, 2, 3, 4],
    }
    with pytest.raises(LlavaRadError, match="no image of the manifest has all of sex, bmi"):
        cohort(images[1:2], ["sex", "bmi"])


def test_what_is_in_the_vectors_is_found_and_what_is_not_is_not() -> None:
    pytest.importorskip("sklearn")
    generator = np.random.default_rng(0)
    sexes = ["FM"[n] for n in generator.integers(0, 2, 100)]
    images = rows(200, sexes)
    vectors = generator.normal(size=(200, 6)).astype(np.float32)
    found = demographics(images, vectors, "sex")
    assert abs(np.mean(found.accuracy) - 0.5) < 0.15
    vectors[:, 2] += [5.0 * (sexes[n // 2] == "F") for n in range(200)]
    found = demographics(images, vectors, "sex")
    assert np.mean(found.accuracy) > 0.95
    assert found.images == 200 and found.subjects == 100 and len(found.accuracy) == 5
    assert found.classes == {name: 2 * sexes.count(name) for name in "FM"}


def test_a_subject_is_never_on_both_sides() -> None:
    """Each subject's two images have a vector of their own that says everything of them and nothing of others."""
    pytest.importorskip("sklearn")
    generator = np.random.default_rng(0)
    sexes = ["FM"[n] for n in generator.integers(0, 2, 60)]
    vectors = np.repeat(np.eye(60, dtype=np.float32) * 50, 2, axis=0)
    found = demographics(rows(120, sexes), vectors, "sex")
    assert np.mean(found.accuracy) < 0.75, "subjects known from training would give 1"


def test_accuracy_of_the_most_frequent_class_by_hand() -> None:
    pytest.importorskip("sklearn")
    sexes = ["F"] * 15 + ["M"] * 5
    found = demographics(rows(40, sexes), np.zeros((40, 2), np.float32), "sex")
    assert np.mean(found.most_frequent) == pytest.approx(0.75)
    assert found.accuracy == found.most_frequent, "vectors without content say the most frequent class"


def test_too_little_is_refused() -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(LlavaRadError, match="too few"):
        demographics(rows(8, ["F", "M", "F", "M"]), np.zeros((8, 2), np.float32), "sex")
    with pytest.raises(LlavaRadError, match="too few"):
        demographics(rows(20, ["F"] * 10), np.zeros((20, 2), np.float32), "sex")


def test_only_images_without_findings() -> None:
    assert len(without_findings(rows(9, ["F"] * 5))) == 6
    with pytest.raises(LlavaRadError, match="No Finding"):
        without_findings([Row(Path("/a"))])


def test_a_training_fold_of_one_class_is_said() -> None:
    pytest.importorskip("sklearn")
    images = rows(20, ["F", *"M" * 9])  # the only woman is in one fold, whose model would know men only
    vectors = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    with pytest.raises(LlavaRadError, match="sex: the images of a training fold are all of one class"):
        demographics(images, vectors, "sex")
