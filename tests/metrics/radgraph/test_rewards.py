"""RadGraph rewards against golden graphs and the package's own reward functions."""

from __future__ import annotations

import random
from typing import Any

import pytest

from metrics.base import InputError
from metrics.radgraph.rewards import radgraph_combined, radgraph_f1


def graph(rng: random.Random) -> dict[str, Any]:
    keys = [str(number + 1) for number in range(rng.randint(0, 6))]
    return {
        "entities": {
            key: {
                "tokens": rng.choice(["Heart", "heart", "effusion", "clear", "left", "Left lung"]),
                "label": rng.choice(["ANAT-DP", "OBS-DP", "OBS-DA"]),
                "relations": [
                    [rng.choice(["modify", "located_at"]), rng.choice(keys)] for _ in range(rng.choice([0, 0, 1, 2]))
                ],
            }
            for key in keys
        }
    }


def test_golden_values(golden: dict[str, Any]) -> None:
    assert len(golden["radgraph"]) == 12
    for name, case in golden["radgraph"].items():
        found = radgraph_f1([case["hyp"]], [case["ref"]]).point()
        assert list(found.values()) == pytest.approx(case["v0118"], abs=1e-9), name
        lower = radgraph_f1([case["hyp"]], [case["ref"]], lower_case=True).point()
        assert list(lower.values()) == pytest.approx(case["head"], abs=1e-9), name
        assert list(found) == ["rg_e", "rg_er", "rg_er_bar"]
        assert list(lower) == ["rg_e_lower", "rg_er_lower", "rg_er_bar_lower"]


def test_random_graphs_equal_the_package() -> None:
    from radgraph.rewards import compute_reward

    rng = random.Random(0)
    pairs = [(graph(rng), graph(rng)) for _ in range(300)]
    ours = radgraph_f1([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    expected = [compute_reward(*pair, "all") for pair in pairs]
    for column, name in enumerate(("rg_e", "rg_er", "rg_er_bar")):
        assert ours.per_sample[name].tolist() == pytest.approx([row[column] for row in expected], abs=1e-12)
    swapped = radgraph_f1([pair[1] for pair in pairs], [pair[0] for pair in pairs]).point()
    assert swapped == pytest.approx(ours.point())


@pytest.mark.parametrize(
    "broken",
    [
        {},
        None,
        {"entities": {"1": {"tokens": "a"}}},
        {"entities": {"1": {"tokens": "a", "label": "b", "relations": [["modify", "9"]]}}},
        {"entities": {"1": {"tokens": "a", "label": ["OBS-DP"], "relations": []}}},
        {"entities": {"1": {"tokens": ["a"], "label": "b", "relations": []}}},
        {"entities": {"1": {"tokens": "a", "label": "b", "relations": [[["a"], "1"]]}}},
        {"entities": {"1": {"tokens": "a", "label": "b", "relations": [["modify", ["1"]]]}}},
        {"entities": {"1": {"tokens": "a", "label": "b", "relations": None}}},
        {"entities": [{"tokens": "a", "label": "b", "relations": []}]},
    ],
)
def test_what_is_no_annotation_is_refused(broken: Any) -> None:
    for metric in (radgraph_f1, radgraph_combined):
        with pytest.raises(InputError, match="annotation number 1"):
            metric([broken], [{"entities": {}}])
    with pytest.raises(InputError, match="1 candidate and 2 reference"):
        radgraph_f1([{}], [{}, {}])
