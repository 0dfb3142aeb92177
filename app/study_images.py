"""Images of a study besides its frontal one: lateral, prior and further ones, and priors found by patient.

All functions work inside the caller's transaction. An image is ``{"image": DESCRIPTION, "facts": {...}, "warnings":
[...], "sha256": ...}``; a prior also has ``study`` and ``date`` of the study that it is of, and ``found``: by patient,
not added by the user.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from app import database, review
from app.grouping import Group
from app.review import ReviewError
from encoder.reader.admission import OVERRIDDEN
from encoder.reader.views import FRONTAL

MAX_FURTHER: Final = 20
OTHER_PATIENT: Final = "the image is of another patient"
OTHER_STUDY: Final = "the image is of another study of the patient: add it as the prior image"


def images_of(row: sqlite3.Row) -> dict[str, Any]:
    """Return the images of a study: ``image``, ``lateral``, ``prior`` and ``further``."""
    found = {key: json.loads(row[key] or "null") for key in ("image", "lateral", "prior")}
    return found | {"further": json.loads(row["further"] or "[]")}


def kept(row: sqlite3.Row) -> dict[str, Any]:
    """Return what a signed version keeps of its study's images, which may change when the study is reopened."""
    return images_of(row) | {"sha256": row["sha256"], "facts": json.loads(row["facts"])}


def shown_prior(connection: sqlite3.Connection, row: sqlite3.Row) -> dict[str, Any] | None:
    """Return a study's prior image with its ``report``: the last text that was signed about it, or None."""
    prior: dict[str, Any] | None = json.loads(row["prior"] or "null")
    if prior is None:
        return None
    prior = {"study": None, "date": None, "found": False} | prior
    if prior["study"] is None:
        return prior | {"report": signed_text(connection, row["owner"], prior.get("sha256", "")) or None}
    query = "SELECT text FROM signed WHERE study = ? ORDER BY version DESC LIMIT 1"
    signed = connection.execute(query, (prior["study"],)).fetchone()
    return prior | {"report": signed and signed["text"]}


def signed_text(connection: sqlite3.Connection, owner: str, sha256: str) -> str:
    """Return the last report that the owner signed about an image, or an empty text."""
    found = connection.execute(
        "SELECT text FROM signed JOIN studies ON studies.id = study WHERE owner = ? AND sha256 = ? "
        "ORDER BY signed.rowid DESC LIMIT 1",
        (owner, sha256),
    ).fetchone()
    return "" if found is None else str(found["text"])


def open_study(connection: sqlite3.Connection, owner: str, key: str | None) -> sqlite3.Row | None:
    """Return the owner's newest open study that images of a group belong to."""
    found: sqlite3.Row | None = connection.execute(
        "SELECT * FROM studies WHERE owner = ? AND study_key = ? AND status IN ('pending', 'draft') "
        "ORDER BY rowid DESC LIMIT 1",
        (owner, key),
    ).fetchone()
    return found


def newest(connection: sqlite3.Connection, user: str, key: str | None) -> sqlite3.Row | None:
    """Return the newest study of a group that a user sees and that is not discarded."""
    found: sqlite3.Row | None = connection.execute(
        "SELECT * FROM studies WHERE study_key = ? AND (owner = ? OR assigned = ?) AND status != 'discarded' "
        "ORDER BY rowid DESC LIMIT 1",
        (key, user, user),
    ).fetchone()
    return found


def study_with(connection: sqlite3.Connection, owner: str, sha256: str) -> str | None:
    """Return the id of the owner's newest study of which an image file is a part, whatever its status, or None."""
    row = connection.execute(
        "SELECT id FROM studies WHERE owner = ? AND (sha256 = ? OR json_extract(lateral, '$.sha256') = ? OR EXISTS "
        "(SELECT 1 FROM json_each(coalesce(further, '[]')) WHERE json_extract(value, '$.sha256') = ?)) "
        "ORDER BY rowid DESC LIMIT 1",
        (owner, sha256, sha256, sha256),
    ).fetchone()
    return None if row is None else str(row["id"])


def holds(row: sqlite3.Row, sha256: str) -> bool:
    """Return True if an image is already in a study."""
    parts = images_of(row)
    others = [parts["lateral"], *parts["further"]]
    return row["sha256"] == sha256 or any(one is not None and one["sha256"] == sha256 for one in others)


def other_patient(row: sqlite3.Row, group: Group) -> bool:
    """Return True if an image is known to be of another patient than a study."""
    return None not in (row["patient_key"], group.patient) and row["patient_key"] != group.patient


def full(row: sqlite3.Row) -> bool:
    """Return True if a study has as many further images as it can have."""
    return len(json.loads(row["further"] or "[]")) >= MAX_FURTHER


def add(
    connection: sqlite3.Connection, row: sqlite3.Row, part: Mapping[str, Any], user: str, *, lateral: bool,
    takes: Collection[str],
) -> None:  # fmt: skip
    """Add an image to an open study; see :meth:`app.store.Store.add_image`.

    Raises:
        ReviewError: if the study is signed or discarded, or full.
    """
    database.require_open(row)
    if full(row):
        raise ReviewError(f"a study has at most {MAX_FURTHER} further images")
    if _is_better(row, part):
        part, lateral = _exchange_frontal(connection, row, part), json.loads(row["facts"]).get("view") == "lateral"
        takes = {*takes, "lateral", "further"}
    further = json.loads(row["further"] or "[]")
    kind = "lateral" if lateral and row["lateral"] is None else "further"
    value = dict(part) if kind == "lateral" else [*further, dict(part)]
    connection.execute(f"UPDATE studies SET {kind} = ? WHERE id = ?", (database.dump(value), row["id"]))
    database.add_event(connection, row["id"], row["version"], user, kind)
    database.next_revision(connection, row["id"])
    write_again(connection, row["id"], kind, takes)


def _is_better(row: sqlite3.Row, part: Mapping[str, Any]) -> bool:
    """Return True if an image is frontal and that in its place is not: it was read although it was refused."""
    now = json.loads(row["facts"]).get("view")
    wrong = now in ("lateral", "oblique", "other") and part["facts"].get("view") in FRONTAL
    return wrong and not review.decided(json.loads(row["document"]))


def _exchange_frontal(connection: sqlite3.Connection, row: sqlite3.Row, part: Mapping[str, Any]) -> dict[str, Any]:
    """Put an image in the place of the frontal one; returns the image that was there."""
    connection.execute(
        "UPDATE studies SET image = ?, facts = ?, warnings = ?, sha256 = ? WHERE id = ?",
        (*(database.dump(part[key]) for key in ("image", "facts", "warnings")), part["sha256"], row["id"]),
    )
    kept = {key: json.loads(row[key]) for key in ("image", "facts", "warnings")}
    kept["warnings"] = [text for text in kept["warnings"] if not text.startswith(OVERRIDDEN)]
    return kept | {"sha256": row["sha256"]}


def remove_further(connection: sqlite3.Connection, row: sqlite3.Row, image: str, user: str) -> None:
    """Remove a further image from an open study.

    Raises:
        ReviewError: if the study is signed or discarded, or has no such image.
    """
    database.require_open(row)
    further = json.loads(row["further"] or "[]")
    left = [one for one in further if one["image"]["id"] != image]
    if len(left) == len(further):
        raise ReviewError("the study has no such further image")
    connection.execute("UPDATE studies SET further = ? WHERE id = ?", (database.dump(left), row["id"]))
    database.add_event(connection, row["id"], row["version"], user, "no further")
    database.next_revision(connection, row["id"])


def write_again(connection: sqlite3.Connection, study: str, kind: str, takes: Collection[str]) -> None:
    """Request a new draft of a study that has one, for an image that the model takes; not if a sentence is decided."""
    if kind not in takes:
        return
    row = connection.execute("SELECT * FROM studies WHERE id = ?", (study,)).fetchone()
    last = connection.execute("SELECT state FROM jobs WHERE study = ? ORDER BY id DESC LIMIT 1", (study,)).fetchone()
    if last is None or last["state"] == "queued" or review.decided(json.loads(row["document"])):
        return
    connection.execute("INSERT INTO jobs (study, owner, state) VALUES (?, ?, 'queued')", (study, row["owner"]))


def update_priors(connection: sqlite3.Connection, study: str) -> Iterator[str]:
    """Find the prior of a new study, and make the study the prior of later ones that are open and have none decided.

    Yields:
        Ids of the studies that got a prior.
    """
    row = connection.execute("SELECT * FROM studies WHERE id = ?", (study,)).fetchone()
    if row["patient_key"] is None:
        return
    others = connection.execute(
        "SELECT * FROM studies WHERE owner = ? AND patient_key = ? AND study_key <> ? AND id <> ? "
        "AND status IN ('pending', 'draft')",
        (row["owner"], row["patient_key"], row["study_key"], study),
    ).fetchall()
    for one in (row, *others):
        if not _hands_off(connection, one) and _set_prior(connection, one):
            yield one["id"]


def _hands_off(connection: sqlite3.Connection, row: sqlite3.Row) -> bool:
    """Return True if the user has chosen the prior, or has begun to decide."""
    query = "SELECT 1 FROM events WHERE study = ? AND action IN ('prior', 'no prior')"
    chosen = connection.execute(query, (row["id"],)).fetchone() is not None
    return chosen or review.decided(json.loads(row["document"]))


def _set_prior(connection: sqlite3.Connection, row: sqlite3.Row) -> bool:
    """Set a study's prior to the latest of the patient's earlier studies; returns False if it stays the same."""
    earlier = _earlier(connection, row)
    before = json.loads(row["prior"] or "null")
    if earlier is None or (before is not None and before.get("study") == earlier["id"]):
        return False
    image = json.loads(earlier["image"])
    prior = {
        "image": image, "facts": json.loads(earlier["facts"]), "warnings": json.loads(earlier["warnings"]),
        "sha256": earlier["sha256"], "study": earlier["id"], "date": _date(image.get("identity")), "found": True,
    }  # fmt: skip
    connection.execute("UPDATE studies SET prior = ? WHERE id = ?", (database.dump(prior), row["id"]))
    database.add_event(connection, row["id"], row["version"], row["owner"], "prior found")
    database.next_revision(connection, row["id"])
    return True


def _earlier(connection: sqlite3.Connection, row: sqlite3.Row) -> sqlite3.Row | None:
    """Return the latest frontal study of the same patient before this one, or None.

    Without dates the order of two studies is not known: only a study that was signed before this one came counts.
    """
    rows = connection.execute(
        "SELECT *, (SELECT max(at) FROM signed WHERE study = studies.id) AS signed_at FROM studies "
        "WHERE owner = ? AND patient_key = ? AND study_key <> ? AND id <> ? AND status <> 'discarded'",
        (row["owner"], row["patient_key"], row["study_key"], row["id"]),
    ).fetchall()
    rows = [one for one in rows if json.loads(one["facts"]).get("view") != "lateral"]
    if row["moment"] is not None and (dated := [one for one in rows if one["moment"] is not None]):
        before = [one for one in dated if int(one["moment"]) < int(row["moment"])]
        return max(before, key=lambda one: int(one["moment"]), default=None)
    signed = [one for one in rows if one["signed_at"] is not None and one["signed_at"] < row["created"]]
    return max(signed, key=lambda one: str(one["signed_at"]), default=None)


def _date(identity: Mapping[str, Any] | None) -> str | None:
    """Return the study date among identifiers, as YYYY-MM-DD."""
    day = (identity or {}).get("attributes", {}).get("StudyDate")
    return None if day is None else f"{day[:4]}-{day[4:6]}-{day[6:8]}"
