"""Studies of phantoms over time: measurements by hand, models of known skill against the aims, and the chain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from encoder.datasets.manifest import Row
from llava_rad.model.templates import Study
from llava_rad.reports.pairs import Context, Pair
from scripts import phantom_study
from scripts.phantom.course import QUESTIONS, CourseStudy, courses, findings_text
from scripts.phantom.measures import ALL, COMBINATIONS, INPUTS, RUNS, Given, check, f1, measure, share, table
from scripts.phantom.statements import answers, changes
from scripts.phantom_study import donors, study_of
from tests.forked import Command
from tests.llava_rad.conftest import finished
from tests.llava_rad.training import runs


def drawn(number: int) -> tuple[list[CourseStudy], list[Pair]]:
    """Studies of patients and the rows that the table has of them; no file is written."""
    studies = list(courses(number, 1))
    pairs: list[Pair] = []
    for at, study in enumerate(studies):
        before = studies[at - 1] if at and studies[at - 1].subject == study.subject else None
        context = Context(
            lateral=Path(f"{at}-l") if len(study.views) > 1 else None,
            prior=Path(f"{at - 1}") if before else None,
            prior_report=before.report.findings if before else "",
            indication=study.indication,
        )
        row = Row(Path(f"{at}"), "d", f"p{study.subject}", f"s{at}", f"i{at}", "PA", "test")
        pairs.append(Pair(row, study.report.findings, context=context))
    return studies, pairs


def perfect(studies: list[CourseStudy], pairs: list[Pair], number: int, given: Given) -> str:
    """Write what can be known from the given inputs, which may be another patient's."""

    def source(name: str) -> int | None:
        if name not in given.names or not getattr(pairs[number].context, name):
            return None
        return donors(pairs, name)[number] if name in given.others else number

    prior, lateral, indication = (source(name) for name in ("prior", "lateral", "indication"))
    return findings_text(
        studies[number].extents,
        None if prior is None else studies[prior - 1].extents,
        None if lateral is None else bool(studies[lateral].hidden),
        "" if indication is None else studies[indication].indication,
    )


def test_eight_combinations_and_three_strangers() -> None:
    assert len(COMBINATIONS) == 8 and len(set(RUNS)) == len(RUNS) == 11
    assert {given.label for given in COMBINATIONS} >= {"frontal", "frontal + lateral + prior + indication"}
    assert RUNS[-2].label == "frontal + lateral + other prior + indication"


def test_donors_are_other_patients_with_the_input() -> None:
    _, pairs = drawn(8)
    for name in ("lateral", "prior", "indication"):
        found = donors(pairs, name)
        assert set(found) == {n for n, pair in enumerate(pairs) if getattr(pair.context, name)}
        for number, other in found.items():
            assert pairs[number].row.subject != pairs[other].row.subject
            assert getattr(pairs[other].context, name)


def test_inputs_of_a_study() -> None:
    _, pairs = drawn(12)
    number = next(n for n, pair in enumerate(pairs) if all(getattr(pair.context, name) for name in INPUTS))
    own = pairs[number].context
    assert study_of(pairs, number, Given(())) == ([Path(f"{number}")], Study())
    images, study = study_of(pairs, number, ALL)
    assert images == [Path(f"{number}"), own.lateral, own.prior]
    assert study == Study(lateral=True, prior=True, indication=own.indication)
    images, study = study_of(pairs, number, Given(others=("prior",)))
    other = pairs[donors(pairs, "prior")[number]].context
    assert images == [Path(f"{number}"), own.lateral, other.prior] and other.prior != own.prior
    assert study == Study(lateral=True, prior=True, indication=own.indication)
    first = next(n for n, pair in enumerate(pairs) if not pair.context.prior)
    assert study_of(pairs, first, Given(("prior",), ("prior",))) == ([Path(f"{first}")], Study())


def test_f1_by_hand() -> None:
    """Two right, one false and one missed statement: 4 / (4 + 1 + 1)."""
    found = [frozenset({("a", "new"), ("b", "new")}), frozenset({("c", "new")})]
    true = [frozenset({("a", "new")}), frozenset({("c", "new"), ("d", "new")})]
    measured = f1(found, true, ["p", "q"])
    assert measured["f1"] == pytest.approx(4 / 6)
    assert measured["statements"] == 3
    assert measured["low"] is not None and measured["low"] <= 4 / 6 <= measured["high"]  # type: ignore[operator]
    assert f1([frozenset()], [frozenset()], ["p"])["f1"] == 0
    assert share([True, False, False, False], ["p", "p", "q", "r"])["share"] == 0.25
    assert share([], [])["share"] is None


def measured(number: int, writes: object) -> dict[str, object]:
    studies, pairs = drawn(number)
    texts = {given: [writes(studies, pairs, n, given) for n in range(len(pairs))] for given in RUNS}  # type: ignore[operator]
    found = measure(pairs, texts, pairs)
    return {**found, "aims": check(found)}


def test_a_model_that_uses_everything_meets_all_aims() -> None:
    found = measured(40, perfect)
    assert [one for one in found["aims"] if not one["met"]] == []  # type: ignore[attr-defined]
    of = {one["inputs"]: one for one in found["runs"]}  # type: ignore[attr-defined]
    assert of[ALL.label]["changes"]["f1"] == of[ALL.label]["answers"]["f1"] == 1
    assert of["frontal"]["changes"]["f1"] == of["frontal"]["behind"]["f1"] == of["frontal"]["answers"]["f1"] == 0
    assert of["frontal"]["extents"]["f1"] == 1
    points = found["reference points"]
    assert points["copy of the prior report"]["f1"] < 0.5  # type: ignore[index]
    assert points["copy of the prior report"]["f1"] < points["best guess without a prior"]["f1"] < 0.6  # type: ignore[index]
    assert 0.4 < found["chance of lateral"] < 0.75  # type: ignore[operator]
    text = table(found)
    assert all(f"| {given.label} |" in text for given in RUNS) and "missed" not in text


def test_models_that_do_not_look_miss_the_aims() -> None:
    def copies(studies: list[CourseStudy], pairs: list[Pair], number: int, given: Given) -> str:
        return pairs[number].context.prior_report or pairs[number].findings

    def invents(studies: list[CourseStudy], pairs: list[Pair], number: int, given: Given) -> str:
        return pairs[number].findings

    def always(studies: list[CourseStudy], pairs: list[Pair], number: int, given: Given) -> str:
        """Take another patient's prior for the own one, and see the lateral's finding without a lateral."""
        return perfect(studies, pairs, number, Given(given.names)) + " Retrocardiac consolidation."

    missed = {}
    for model in (copies, invents, always):
        found = measured(20, model)
        missed[model.__name__] = {one["aim"] for one in found["aims"] if not one["met"]}  # type: ignore[attr-defined]
    assert "F1 of changes with the prior" in missed["copies"]
    assert {
        "its gain over the same model without the prior",
        "reports that claim a comparison without a prior",
    } <= missed["invents"]
    assert "share of the gain that another patient's prior costs" in missed["always"]
    assert "F1 of the finding of the lateral, with it" in missed["always"]


def test_an_answer_belongs_to_its_question() -> None:
    said = [answers(findings_text((0, 0, 0, 0), None, None, question)) for question in QUESTIONS]
    assert len(set(said)) == len(QUESTIONS)
    assert not any(changes(findings_text((1, 2, 1, 2), None, None, question)) for question in QUESTIONS)


def forked(*arguments: str | Path) -> str:
    """Run ``llava-rad`` without loading torch for every command."""
    done = finished(Command(arguments, 1, runs.PRELOAD), timeout=runs.LIMIT)
    assert done.code == 0, done.err
    return done.out


@pytest.mark.nightly
def test_the_chain_runs_and_a_model_that_has_learnt_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(phantom_study, "command", forked)
    changes = ["model.recipe=rad-dino-56", "optimization.steps=4", "evaluation.max_pairs=4", "engine.log_every=1"]
    arguments = [str(tmp_path / "out"), "--n", "24", "--size", "64", *changes]
    assert phantom_study.main(arguments) == 1
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert result["passed"] is False and result["patients"] == 3
    assert [one["inputs"] for one in result["runs"]] == [given.label for given in RUNS]
    assert (tmp_path / "out" / "results.md").read_text() == capsys.readouterr().out
    group = result["generate --group"]
    assert group["studies"] == group["reports"] == result["studies"]["all"]
    assert group["same"] >= group["studies"] - 1  # a tie may be decided otherwise in another batch
    config = json.loads((tmp_path / "out" / "run" / "model" / "config.json").read_text())
    assert config["prompt"]["template"] == "study"
    assert phantom_study.main(arguments) == 1  # the data, the run and the reports are there
    again = json.loads((tmp_path / "out" / "results.json").read_text())
    assert "phantoms" not in again["seconds"] and again["runs"] == result["runs"]
