"""Files of labels and graphs, so that the machine that annotates and the one that scores can be two."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from metrics.errors import InputError
from metrics.labels import BLANK, CLASSES, NEGATIVE, POSITIVE, UNCERTAIN

Row = Mapping[str, Any]
KINDS = ("chexbert", "radgraph")
_LISTED = 10
# As CheXbert and CheXpert write their tables.
_CODES = {"": BLANK, "nan": BLANK, "1": POSITIVE, "1.0": POSITIVE, "0": NEGATIVE, "0.0": NEGATIVE}
_CODES |= {"-1": UNCERTAIN, "-1.0": UNCERTAIN}


def read(rows: Iterable[Row], ids: Iterable[str], *, name: str, id_field: str = "id") -> dict[str, dict[str, Any]]:
    """Annotations by kind and id.

    Args:
        rows: of a table, each ``{"id", "chexbert": [14 codes], "radgraph": {"entities": ...}}``, or the id and a
            column for each observation (1, 0, -1 or empty).
        ids: those that are wanted.
        name: of the table, for messages.
        id_field: where the ids are.

    Raises:
        InputError: one of ``ids`` is not there, or an annotation of another form.
    """
    found: dict[str, dict[str, Any]] = {}
    wanted = dict.fromkeys(ids)
    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        key = str(row.get(id_field, row.get("id", "")))
        if key not in wanted:
            continue
        seen.add(key)
        for kind in KINDS:
            value = _labels(row, name, number) if kind == "chexbert" else row.get("radgraph")
            if value is not None:
                found.setdefault(kind, {})[key] = value
    missing = [key for key in wanted if key not in seen]
    if missing:
        shown = ", ".join(key[:80] for key in missing[:_LISTED])
        shown += f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise InputError(f"{name}: {len(missing)} ids have no annotation: {shown}")
    return found


def _labels(row: Row, name: str, number: int) -> list[int] | None:
    value = row.get("chexbert")
    if value is None and all(one in row for one in CLASSES):
        try:
            return [_CODES[str(row[one] if row[one] is not None else "").strip().lower()] for one in CLASSES]
        except KeyError:
            raise InputError(f"{name}, row {number}: labels must be 1, 0, -1 or empty") from None
    if value is not None and (
        not isinstance(value, list)
        or len(value) != len(CLASSES)
        or not all(isinstance(code, int) and BLANK <= code <= UNCERTAIN for code in value)
    ):
        raise InputError(f"{name}, row {number}: chexbert must be {len(CLASSES)} codes from 0 to 3")
    return value


def lines(ids: Sequence[str], annotations: Mapping[str, Sequence[Any]]) -> Iterable[str]:
    """JSON lines of N reports' annotations by kind. They hold words of the reports, and are as confidential."""
    for number, key in enumerate(ids):
        found = {kind: annotations[kind][number] for kind in KINDS if kind in annotations}
        yield json.dumps({"id": key, **found}, ensure_ascii=False, separators=(",", ":")) + "\n"
