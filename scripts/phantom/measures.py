"""Scores of statements that depend on lateral, prior and indication, by inputs, and the aims."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from .course import CHANGES
from .statements import KINDS, best_guess, changes, counts, guessed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llava_rad.reports.pairs import Pair

    from .statements import Statements

INPUTS = ("lateral", "prior", "indication")
LEAST_CHANGES, LEAST_LATERAL, MOST_CLAIMS = 0.85, 0.85, 0.01
"""Least F1 of changes with the prior and of findings of the lateral, largest share of reports that invent a prior."""


@dataclass(frozen=True)
class Given:
    """Inputs of one run of the model over the held-out studies.

    Attributes:
        names: of INPUTS, each where a study has it.
        others: those of them that are another patient's.
    """

    names: tuple[str, ...] = INPUTS
    others: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Name in tables and of files."""
        return " + ".join(
            ["frontal", *(f"other {name}" if name in self.others else name for name in self.names)]
        ).replace("_", " ")


COMBINATIONS = tuple(
    Given(tuple(name for name, given in zip(INPUTS, which, strict=True) if given))
    for which in product((False, True), repeat=len(INPUTS))
)
ALL, NO_PRIOR, NO_LATERAL, IMAGES = (
    Given(),
    Given(("lateral", "indication")),
    Given(("prior", "indication")),
    Given(("lateral", "prior")),
)
OTHER_LATERAL, OTHER_PRIOR, OTHER_INDICATION = (Given(others=(name,)) for name in INPUTS)
RUNS = (*COMBINATIONS, OTHER_LATERAL, OTHER_PRIOR, OTHER_INDICATION)
NEEDS = {"changes": "prior", "extents": "", "behind": "lateral", "answers": "indication"}
"""Kind of statement -> the input of the studies on which it is measured."""


def f1(found: Sequence[Statements], true: Sequence[Statements], patients: Sequence[str]) -> dict[str, float | None]:
    """Return the micro-F1 of statements with its 95 % interval by patient, and the number of true ones."""
    import numpy as np

    from metrics.bootstrap import Bootstrap
    from metrics.scores import Scores

    def of_sums(sums: NDArray[np.float64], numbers: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        right, false, missed = (sums[..., column] for column in range(3))
        return {"f1": 2 * right / np.maximum(2 * right + false + missed, 1e-12)}

    bootstrap, counted = Bootstrap(), counts(found, true)
    interval = bootstrap.by_patient(Scores(counted, of_sums, {}, "statements"), bootstrap.patients(patients))["f1"]
    return {
        "f1": interval.point, "low": interval.low, "high": interval.high, "statements": int(counted[:, [0, 2]].sum()),
    }  # fmt: skip


def share(values: Sequence[bool], patients: Sequence[str]) -> dict[str, float | None]:
    """Return the share of reports for which something is true, with its interval by patient."""
    import numpy as np

    from metrics.bootstrap import Bootstrap
    from metrics.scores import mean_scores

    if not values:
        return {"share": None, "low": None, "high": None, "reports": 0}
    bootstrap, scores = Bootstrap(), mean_scores({"share": np.array(values, np.float64)}, "share")
    found = bootstrap.by_patient(scores, bootstrap.patients(patients))["share"]
    return {"share": found.point, "low": found.low, "high": found.high, "reports": len(values)}


def measure(pairs: Sequence[Pair], texts: Mapping[Given, Sequence[str]], trained_on: Sequence[Pair]) -> dict[str, Any]:
    """Measure all runs and the reference points against the true reports.

    Args:
        pairs: held-out studies.
        texts: reports of each run.
        trained_on: training studies, of which the best guess is made.
    """
    from llava_rad.reports.comparisons import comparing

    rows = {kind: [n for n, pair in enumerate(pairs) if not need or getattr(pair.context, need)]
            for kind, need in NEEDS.items()}  # fmt: skip
    true = {kind: [KINDS[kind](pairs[n].findings) for n in rows[kind]] for kind in rows}
    patients = {kind: [pairs[n].row.subject for n in rows[kind]] for kind in rows}
    measured = []
    for given, written in texts.items():
        one: dict[str, Any] = {
            kind: f1([KINDS[kind](written[n]) for n in rows[kind]], true[kind], patients[kind]) for kind in rows
        }
        alone = [n for n, pair in enumerate(pairs) if "prior" not in given.names or not pair.context.prior]
        claims = share([bool(comparing(written[n])) for n in alone], [pairs[n].row.subject for n in alone])
        measured.append({"inputs": given.label, **one, "claims": claims})
    later = rows["changes"]
    guesses = best_guess([pair.findings for pair in trained_on if pair.context.prior])
    points = {
        "copy of the prior report": [changes(pairs[n].context.prior_report) for n in later],
        "best guess without a prior": [guessed(pairs[n].findings, guesses) for n in later],
    }
    said = [changes(texts[ALL][n]) for n in later]
    words = {word: f1(_with(word, said), _with(word, true["changes"]), patients["changes"]) for word in CHANGES}
    there = sum(map(len, true["behind"])) / max(1, len(true["behind"]))
    return {
        "patients": len({pair.row.subject for pair in pairs}),
        "studies": {"all": len(pairs), **{need: len(rows[kind]) for kind, need in NEEDS.items() if need}},
        "runs": measured,
        "reference points": {name: f1(found, true["changes"], patients["changes"]) for name, found in points.items()},
        "changes by word": words,
        "chance of lateral": 2 * there / (1 + there),  # F1 of a report that always has the finding
    }


def _with(word: str, statements: Sequence[Statements]) -> list[Statements]:
    return [frozenset(one for one in some if one[1] == word) for some in statements]


def check(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compare what was measured with the aims."""
    of = {one["inputs"]: one for one in found["runs"]}

    def value(given: Given, kind: str) -> float:
        return float(of[given.label][kind]["f1"] or 0.0)

    with_prior, without = value(ALL, "changes"), value(NO_PRIOR, "changes")
    cost, gain = with_prior - value(OTHER_PRIOR, "changes"), with_prior - without
    copied = float(found["reference points"]["copy of the prior report"]["f1"] or 0.0)
    claims = max(one["claims"]["share"] for one in found["runs"] if one["claims"]["reports"])
    rows: list[tuple[str, float, str, float]] = [
        ("F1 of changes with the prior", with_prior, ">=", LEAST_CHANGES),
        ("its gain over the same model without the prior", gain, ">", 0.0),
        ("its gain over a copy of the prior report", with_prior - copied, ">", 0.0),
        ("share of the gain that another patient's prior costs", cost / gain if gain > 0 else 0.0, ">=", 0.5),
        ("F1 of the finding of the lateral, with it", value(ALL, "behind"), ">=", LEAST_LATERAL),
        ("the same without a lateral, against chance", value(NO_LATERAL, "behind"), "<=", found["chance of lateral"]),
        ("reports that claim a comparison without a prior", claims, "<=", MOST_CLAIMS),
    ]  # fmt: skip
    holds: dict[str, Callable[[float, float], bool]] = {
        ">=": lambda one, limit: one >= limit,
        ">": lambda one, limit: one > limit,
        "<=": lambda one, limit: one <= limit,
    }
    return [
        {"aim": aim, "value": round(number, 4), "limit": f"{sign} {limit:.4g}", "met": holds[sign](number, limit)}
        for aim, number, sign, limit in rows
    ]


def table(found: Mapping[str, Any]) -> str:
    """Write all runs, reference points and aims as Markdown; scores times 100."""

    def cell(value: Mapping[str, Any], name: str = "f1") -> str:
        if value[name] is None:
            return "-"
        bounds = "" if value["low"] is None else f" ({100 * value['low']:.1f} to {100 * value['high']:.1f})"
        return f"{100 * value[name]:.1f}{bounds}"

    lines = ["| inputs | changes | finding of the lateral | answers | extents | invented comparisons |"]
    lines.append("|---|---|---|---|---|---|")
    for one in found["runs"]:
        cells = [cell(one[kind]) for kind in ("changes", "behind", "answers", "extents")]
        lines.append(f"| {' | '.join([one['inputs'], *cells, cell(one['claims'], 'share')])} |")
    for name, value in found["reference points"].items():
        lines.append(f"| {name} | {cell(value)} | | | | |")
    lines += ["", "| change, with all inputs | F1 | true statements |", "|---|---|---|"]
    lines += [f"| {word} | {cell(value)} | {value['statements']} |" for word, value in found["changes by word"].items()]
    lines += ["", "| aim | measured | limit | |", "|---|---|---|---|"]
    lines += [
        f"| {one['aim']} | {one['value']:.3f} | {one['limit']} | {'met' if one['met'] else 'missed'} |"
        for one in found["aims"]
    ]
    return "\n".join(lines) + "\n"
