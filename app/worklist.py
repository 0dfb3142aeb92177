"""The worklist: studies that a user sees, filtered and in order, and the neighbours of one of them.

A user sees his own studies and those that others have assigned to him.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from app import database, jobs, notices, review

UNDECIDED: Final = (
    "(SELECT count(*) FROM json_each(document, '$.sentences') WHERE json_extract(value, '$.state') = 'undecided')"
)
_STATUSES: Final = "CASE status WHEN 'pending' THEN 0 WHEN 'draft' THEN 1 WHEN 'signed' THEN 2 ELSE 3 END"
SORTS: Final = {
    "changed": "changed",
    "created": "created",
    "name": "name COLLATE NOCASE",
    "status": _STATUSES,
    "assigned": "coalesce(assigned, '') COLLATE NOCASE",
    "undecided": UNDECIDED,
    "notices": "created",  # and then by their number, which is counted in Python
}
"""Expressions by which a worklist can be sorted."""
_NEWEST_FIRST: Final = ("changed", "created", "notices")


@dataclass(frozen=True)
class Query:
    """Filters and order of a worklist.

    Attributes:
        status: only studies of this status; empty for all.
        search: part of name, text or fields, or the beginning of id or SHA-256.
        finding: only studies whose current text has this CheXpert finding.
        mine: only studies that are assigned to the user, or to nobody and his own.
        sort: key of :data:`SORTS`; an unknown one sorts by the last change.
        descending: order; None for the usual one of the key.
    """

    status: str = ""
    search: str = ""
    finding: str = ""
    mine: bool = False
    sort: str = "changed"
    descending: bool | None = None


def worklist(connection: sqlite3.Connection, user: str, query: Query, limit: int, offset: int) -> dict[str, Any]:
    """Return ``studies`` (rows of the worklist), ``counts`` by status, and ``total``, the number that match."""
    found = _ordered(connection, user, query)
    counts = connection.execute(
        "SELECT status, count(*) FROM studies WHERE owner = ? OR assigned = ? GROUP BY status", (user, user)
    )
    rows = (_row(connection, one["id"]) for one in found[offset : offset + limit])
    return {
        "studies": [summary(connection, row) for row in rows],
        "counts": dict(map(tuple, counts.fetchall())),
        "total": len(found),
    }


def neighbours(connection: sqlite3.Connection, user: str, study: str, query: Query) -> dict[str, str | None]:
    """Return the open studies around one in the worklist's order.

    Returns:
        ``previous`` and ``next``, and ``next_undecided``: the first open study after this one, or else from the
        beginning, that has no draft yet or undecided sentences.

    Raises:
        NotFound: if the study does not exist.
    """
    database.study_row(connection, user, study)
    found = _ordered(connection, user, query, always=study, columns=f"id, status, {UNDECIDED} AS undecided")
    at = next(number for number, one in enumerate(found) if one["id"] == study)
    before = [one["id"] for one in found[:at] if one["status"] in database.OPEN]
    after = [one for one in found[at + 1 :] if one["status"] in database.OPEN]
    around = [*after, *(one for one in found[:at] if one["status"] in database.OPEN)]
    return {
        "previous": before[-1] if before else None,
        "next": after[0]["id"] if after else None,
        "next_undecided": next((one["id"] for one in around if one["status"] == "pending" or one["undecided"]), None),
    }


def summary(connection: sqlite3.Connection, row: sqlite3.Row) -> dict[str, Any]:
    """Return a study as a row of the worklist."""
    document = json.loads(row["document"])
    image = json.loads(row["image"])
    further = json.loads(row["further"] or "[]")
    plain = ("id", "name", "status", "version", "created", "changed", "draft", "owner", "assigned")
    return {
        **{key: row[key] for key in plain},
        "view": json.loads(row["facts"]).get("view", "unknown"),
        "undecided": review.undecided(document),
        "sentences": len(document["sentences"]),
        "warnings": len(json.loads(row["warnings"])),
        "notices": _loud(connection, row),
        "findings": json.loads(row["findings"] or "[]"),
        "images": 1 + (row["lateral"] is not None) + len(further),
        "thumbnail": f"/api/studies/{row['id']}/thumbnail?image={image['id']}",
    }


def _ordered(
    connection: sqlite3.Connection, user: str, query: Query, *, always: str = "", columns: str = "id"
) -> Sequence[sqlite3.Row]:
    """Return columns of all studies that match, and of ``always``, in order."""
    where, values = "(owner = ? OR assigned = ?)", [user, user]
    matching, wanted = ["1"], query.search.strip().lower()
    if query.status:
        matching, values = [*matching, "status = ?"], [*values, query.status]
    if query.mine:
        matching, values = [*matching, "(assigned = ? OR (assigned IS NULL AND owner = ?))"], [*values, user, user]
    if query.finding:
        matching.append("EXISTS (SELECT 1 FROM json_each(coalesce(findings, '[]')) WHERE value = ?)")
        values.append(query.finding)
    if wanted:
        matching.append("(instr(words, ?) > 0 OR substr(sha256, 1, length(?)) = ? OR substr(id, 1, length(?)) = ?)")
        values += [wanted] * 5
    sort = query.sort if query.sort in SORTS else "changed"
    descending = sort in _NEWEST_FIRST if query.descending is None else query.descending
    order = "DESC" if descending else "ASC"
    if sort == "notices":
        columns = f"studies.*, {UNDECIDED} AS undecided"
    found: list[sqlite3.Row] = connection.execute(
        f"SELECT {columns} FROM studies WHERE {where} AND (({' AND '.join(matching)}) OR id = ?) "
        f"ORDER BY {SORTS[sort]} {order}, rowid {order}",
        (*values, always),
    ).fetchall()
    if sort == "notices":
        found.sort(key=lambda row: _loud(connection, row), reverse=descending)
    return found


def _row(connection: sqlite3.Connection, study: str) -> sqlite3.Row:
    query = "SELECT *, (SELECT state FROM jobs WHERE study = studies.id ORDER BY id DESC LIMIT 1) AS draft FROM studies"
    row: sqlite3.Row = connection.execute(f"{query} WHERE id = ?", (study,)).fetchone()
    return row


def _loud(connection: sqlite3.Connection, row: sqlite3.Row) -> int:
    """Count a study's loud notices."""
    document = json.loads(row["document"])
    draft = jobs.last_draft(connection, row["id"], document) if document["sentences"] else None
    return sum(one["level"] == "loud" for one in notices.of_row(row, draft))
