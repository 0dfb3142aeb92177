"""Read from tables whether reports were written with an earlier image of the patient."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from encoder.datasets.columns import matching
from encoder.datasets.values import is_no_answer, is_nothing, label_of
from metrics.comparisons import GIVEN, NOT_GIVEN

_NO_PRIOR = re.compile(
    r"(?:no|none|not|without|nothing)(?: (?:an?|any|prior|previous|earlier|comparison|available|given|provided|present"
    r"|applicable|study|studies|image|exam|examination|film|radiograph|x-?ray)s?)*"
)


def prior_of(tables: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, list[str]]:
    """Return the column "prior": whether each report was written with an earlier image; {} if no table says so.

    Args:
        tables: rows of the predictions, then of the references. The first that knows counts: as ``llava-rad benchmark``
            and ``generate`` write it, or by a column of priors, as in a table of studies, whose empty cells mean that
            there is none.
    """
    answers = {True: GIVEN, False: NOT_GIVEN, None: ""}
    for rows in tables:
        written = [_written_with_prior(row) for row in rows]
        named = matching(dict.fromkeys(name for row in rows for name in row), "prior")[:1]
        stated = written if _any_known(written) else [_is_stated(row.get(named[0])) for row in rows] if named else []
        if _any_known(stated):
            return {"prior": [answers[one] for one in stated]}
    return {}


def _any_known(answers: Iterable[bool | None]) -> bool:
    return any(one is not None for one in answers)


def _written_with_prior(row: Mapping[str, Any]) -> bool | None:
    """Tell whether a report of this package was written with an earlier image; None of other rows."""
    inputs, images, warnings = row.get("inputs"), row.get("images"), row.get("warnings")
    if isinstance(inputs, list):
        return "prior" in inputs
    if not str(row.get("schema", "")).startswith("llava-rad.report/"):
        return None
    if isinstance(images, list):
        return any(isinstance(one, Mapping) and one.get("role") == "prior" for one in images)
    said = [str(one) for one in warnings if "written from more than this image" in str(one)] if warnings else []
    return any("prior" in re.findall(r"[a-z-]+", one.partition(":")[2]) for one in said)


def _is_stated(value: Any) -> bool | None:
    """Tell by a cell whether there was an earlier image: a path or a word for yes, or nothing or a word for no."""
    text = "" if value is None else str(value).strip()
    if is_nothing(text) or _NO_PRIOR.fullmatch(text.lower().strip(".")):
        return False
    try:
        label = label_of(text)
    except ValueError:  # a name of a file, a date
        return None if is_no_answer(text) else True
    return None if label is None or label < 0 else label == 1
