"""Studies and their reviews in one SQLite file.

Every method is one transaction, and durable when it returns.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from app import batches, database, jobs, notices, review, steps, study_images, worklist
from app.database import Database
from app.grouping import Group, Grouping
from app.settings import UserSettings
from encoder.errors import ReadError

if TYPE_CHECKING:
    from app.imported import ImportedDraft

ContextImage = Literal["lateral", "prior"]
"""Kind of an image that a study has besides its frontal one."""
CONTEXT_IMAGES: Final[tuple[ContextImage, ...]] = ("lateral", "prior")
"""In the order in which prompts take them."""


class Store:
    """Studies, events and signed reports of all users.

    Args:
        path: of the SQLite file.

    Attributes:
        jobs: queue of drafts.
        batches: of uploaded files.
        settings: of the users.

    Raises:
        LlavaRadError: if the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        schema = files("app").joinpath("schema.sql").read_text(encoding="utf-8")
        self._database = Database(
            path, schema, newer=(("studies", "lateral"), ("studies", "further"), ("studies", "assigned"),
                                 ("studies", "findings"), ("studies", "study_key"), ("studies", "patient_key"),
                                 ("studies", "moment"), ("batch_files", "folder"), ("batch_files", "waits_for"),
                                 ("jobs", "inputs"), ("batches", "source"), ("events", "step")),
        )  # fmt: skip
        self._find_findings()
        self.jobs = jobs.Jobs(self._database)
        self.batches = batches.Batches(self._database)
        self.settings = UserSettings(self._database)

    def has_other_key(self, grouping: Grouping) -> bool:
        """Tell whether studies were grouped with another key: priors and further images of theirs are not found then.

        Only the first time; the key's mark is kept as SQLite's ``application_id``.
        """
        with self._database.write() as connection:
            (known,) = connection.execute("PRAGMA application_id").fetchone()
            if known != grouping.mark:
                connection.execute(f"PRAGMA application_id = {grouping.mark}")
            grouped = connection.execute("SELECT 1 FROM studies WHERE study_key IS NOT NULL LIMIT 1").fetchone()
        return grouped is not None and (known != grouping.mark if known else grouping.created)

    def create(
        self, owner: str, *, name: str | None, sha256: str, facts: Mapping[str, Any], warnings: Sequence[str],
        image: Mapping[str, Any], file: tuple[str, int] | None = None, group: Group | None = None,
        takes: Collection[str] = (), draft: ImportedDraft | None = None,
    ) -> str:  # fmt: skip
        """Create a study; without a name it is called "Radiograph N", N counting the owner's studies.

        With a ``file`` (batch and number), the file of that batch is counted as read and a draft is requested.
        With a ``group``, the latest earlier study of the patient becomes its prior, and it that of later ones; drafts
        of theirs are written anew if the model ``takes`` priors. A ``draft`` of others is put into the study.

        Returns:
            Its random id.

        Raises:
            ReviewError: if the file has been read before.
        """
        study, now = secrets.token_hex(16), database.timestamp()
        with self._database.write() as connection:
            (count,) = connection.execute("SELECT count(*) FROM studies WHERE owner = ?", (owner,)).fetchone()
            called = name or f"Radiograph {count + 1}"
            document = review.empty()
            connection.execute(
                "INSERT INTO studies (id, owner, name, sha256, status, version, revision, created, changed, facts, "
                "warnings, image, document, words, findings, study_key, patient_key, moment) "
                "VALUES (?, ?, ?, ?, 'pending', 1, 1, ?, ?, ?, ?, ?, ?, ?, '[]', ?, ?, ?)",
                (study, owner, called, sha256, now, now, database.dump(facts), database.dump(list(warnings)),
                 database.dump(image), database.dump(document), database.search_text(called, document),
                 group and group.study, group and group.patient, group and group.moment),
            )  # fmt: skip
            database.add_event(connection, study, 1, owner, "open")
            if file is not None:
                batches.add_study(connection, *file, study, owner)
            if group is not None:
                batches.end_waits(connection, owner, group.study)
                for later in study_images.update_priors(connection, study):
                    self._use_prior_report(connection, later, owner)
                    study_images.write_again(connection, later, "prior", takes)
            if draft is not None:
                jobs.give(connection, study, draft, batch=None if file is None else file[0])
        return study

    def give(self, owner: str, study: str, draft: ImportedDraft) -> bool:
        """Put a draft of others into a study; see :func:`app.jobs.give`.

        Raises:
            NotFound: if the study does not exist.
        """
        with self._database.write() as connection:
            database.study_row(connection, owner, study)
            return jobs.give(connection, study, draft)

    def open_study(self, owner: str, key: str | None) -> str | None:
        """Return the id of the owner's newest open study that images of a group belong to, or None."""
        found = study_images.open_study(self._database.read(), owner, key)
        return None if found is None else str(found["id"])

    def newest(self, user: str, key: str | None) -> str | None:
        """Return the id of the newest study of a group that a user sees and that is not discarded, or None."""
        found = study_images.newest(self._database.read(), user, key)
        return None if found is None else str(found["id"])

    def study_with(self, owner: str, sha256: str) -> str | None:
        """Return the id of the owner's newest study of which an image file is a part, or None."""
        return study_images.study_with(self._database.read(), owner, sha256)

    def holds(self, owner: str, study: str, sha256: str) -> bool:
        """Return True if an image is already in a study.

        Raises:
            NotFound: if the study does not exist.
        """
        return study_images.holds(database.study_row(self._database.read(), owner, study), sha256)

    def require_group(self, owner: str, study: str, group: Group, *, same_study: bool) -> None:
        """Check that an image is of a study's patient, as far as both are known.

        Args:
            owner: of the study.
            study: its id.
            group: of the image.
            same_study: it must be of the same study, too.

        Raises:
            ReadError: if it is not; forcible.
            NotFound: if the study does not exist.
        """
        row = database.study_row(self._database.read(), owner, study)
        if study_images.other_patient(row, group):
            raise ReadError("other_patient", study_images.OTHER_PATIENT, forcible=True)
        if same_study and None not in (row["study_key"], group.study) and row["study_key"] != group.study:
            raise ReadError("other_study", study_images.OTHER_STUDY, forcible=True)

    def join(
        self, owner: str, study: str, part: Mapping[str, Any], *, lateral: bool, takes: Collection[str] = (),
        file: tuple[str, int] | None = None,
    ) -> bool:  # fmt: skip
        """Add an image to the open study that it belongs to; see :meth:`add_image`.

        Returns:
            False if the study is no longer open, or full.
        """
        with self._database.write() as connection:
            row = database.study_row(connection, owner, study)
            if row["status"] not in database.OPEN or study_images.full(row):
                return False
            study_images.add(connection, row, part, owner, lateral=lateral, takes=takes)
            if file is not None:
                batches.count_file(connection, *file)
            return True

    def add_image(
        self, owner: str, study: str, part: Mapping[str, Any], *, lateral: bool, takes: Collection[str] = ()
    ) -> None:
        """Add an image to a study: as its lateral one if it is one and the study has none, or else as a further one.

        A draft that lacks an image that the model ``takes`` is written anew, unless a sentence has been decided.

        Raises:
            NotFound: if the study does not exist.
            ReviewError: if it is signed or discarded, or full.
        """
        with self._database.write() as connection:
            row = database.study_row(connection, owner, study)
            study_images.add(connection, row, part, owner, lateral=lateral, takes=takes)

    def remove_further(self, owner: str, study: str, image: str, *, revision: int) -> None:
        """Remove a further image from a study.

        Raises:
            NotFound: if the study does not exist.
            StaleError: if the study has changed since the revision.
            ReviewError: if it is signed or discarded, or has no such image.
        """
        with self._database.write() as connection:
            row = database.study_row(connection, owner, study)
            database.require_revision(row, revision)
            study_images.remove_further(connection, row, image, owner)

    def _use_prior_report(self, connection: sqlite3.Connection, study: str, user: str) -> None:
        """Fill in the report that was signed about a study's prior, unless there is a text already."""
        row = connection.execute("SELECT * FROM studies WHERE id = ?", (study,)).fetchone()
        text = (study_images.shown_prior(connection, row) or {}).get("report") or ""
        empty = not json.loads(row["document"])["fields"]["prior_report"]
        if empty and 0 < len(text) <= review.MAX_TEXT:
            steps.edit(connection, row, {"action": "field", "field": "prior_report", "text": text}, user)

    def set_context(
        self,
        owner: str,
        study: str,
        kind: ContextImage,
        image: Mapping[str, Any] | None,
        *,
        revision: int | None = None,
    ) -> None:
        """Add a lateral or prior image to a study, or remove it.

        If the owner has signed a report about the prior image, it becomes the prior report if that field is empty.

        Raises:
            NotFound: if the study does not exist.
            StaleError: if the study has changed since the revision.
            ReviewError: if it is signed or discarded.
        """
        with self._database.write() as connection:
            row = database.study_row(connection, owner, study)
            database.require_revision(row, revision)
            database.require_open(row)
            kept = None if image is None else database.dump(image)
            connection.execute(f"UPDATE studies SET {kind} = ? WHERE id = ?", (kept, study))
            database.add_event(connection, study, row["version"], owner, kind if image else f"no {kind}")
            if kind == "prior" and image:
                self._use_prior_report(connection, study, owner)
            database.next_revision(connection, study)

    def state(self, owner: str, study: str) -> dict[str, Any]:
        """Return everything that the page shows of a study.

        Raises:
            NotFound: if the study does not exist.
        """
        with self._database.snapshot() as connection:
            return _state(connection, database.study_row(connection, owner, study))

    def act(self, owner: str, study: str, revision: int, action: Mapping[str, Any], *, user: str) -> dict[str, Any]:
        """Perform one step of a review.

        Args:
            owner: of the study.
            study: its id.
            revision: of the study that the step was made on.
            action: ``action`` with its arguments, ``seconds`` of work since the last step, and ``step``, an id that
                the page made: a step that is sent again, because its answer was lost, is applied once.
            user: name of the reviewer.

        Returns:
            The study's new state.

        Raises:
            NotFound: if the study does not exist.
            StaleError: if the study has changed since that revision.
            ReviewError: if the step is not allowed.
        """
        with self._database.write() as connection:
            row = database.study_row(connection, owner, study)
            if not steps.repeated(connection, study, action):
                database.require_revision(row, revision)
                steps.perform(connection, row, action, user)
            return _state(connection, database.study_row(connection, owner, study))

    def assign(self, user: str, study: str, name: str | None) -> None:
        """Assign a study to a user, who then sees and can review it as its owner does, or to nobody.

        Args:
            user: owner of the study, or the user whom it is assigned to.
            study: its id.
            name: of the user; None takes the assignment back.

        Raises:
            NotFound: if the study does not exist.
        """
        with self._database.write() as connection:
            row = database.study_row(connection, user, study)
            if row["assigned"] != name:
                connection.execute("UPDATE studies SET assigned = ? WHERE id = ?", (name, study))
                database.add_event(connection, study, row["version"], user, "assign", after=name)

    def worklist(self, user: str, *, limit: int = 200, offset: int = 0, **query: Any) -> dict[str, Any]:
        """List the studies that a user sees, last changed first; see :func:`app.worklist.worklist`.

        Args:
            user: whose list is returned.
            limit: largest number of studies.
            offset: number of studies to skip.
            query: filters and order, see :class:`app.worklist.Query`.
        """
        with self._database.snapshot() as connection:
            return worklist.worklist(connection, user, worklist.Query(**query), limit, offset)

    def neighbours(self, user: str, study: str, **query: Any) -> dict[str, str | None]:
        """Return the open studies around one in the worklist's order; see :func:`app.worklist.neighbours`.

        Raises:
            NotFound: if the study does not exist.
        """
        with self._database.snapshot() as connection:
            return worklist.neighbours(connection, user, study, worklist.Query(**query))

    def studies(self, owner: str) -> list[str]:
        """Return the ids of the owner's studies, oldest first."""
        query = "SELECT id FROM studies WHERE owner = ? ORDER BY rowid"
        return [row["id"] for row in self._database.read().execute(query, (owner,))]

    def events(self, owner: str, study: str) -> list[dict[str, Any]]:
        """Return a study's event log, oldest first.

        Raises:
            NotFound: if the study does not exist.
        """
        connection = self._database.read()
        database.study_row(connection, owner, study)
        return [dict(row) for row in connection.execute("SELECT * FROM events WHERE study = ? ORDER BY id", (study,))]

    def signed(self, user: str) -> list[dict[str, Any]]:
        """Return the signed reports, all versions with documents, in the order in which they were signed.

        They are those of the user's studies, and those of others' studies that the user signed.
        """
        rows = self._database.read().execute(
            "SELECT signed.* FROM signed JOIN studies ON studies.id = study WHERE owner = ? OR who = ? "
            "ORDER BY signed.rowid",
            (user, user),
        )
        return [_version(row) for row in rows]

    def _find_findings(self) -> None:
        """Name the findings of studies of earlier versions, for the worklist."""
        with self._database.write() as connection:
            rows = connection.execute("SELECT id, document FROM studies WHERE findings IS NULL").fetchall()
            connection.executemany(
                "UPDATE studies SET findings = ? WHERE id = ?",
                [(database.dump(database.findings_of(json.loads(row["document"]))), row["id"]) for row in rows],
            )

    def check(self) -> list[str]:
        """Run SQLite's integrity check and return the problems it finds."""
        return self._database.check()


# Inside the caller's transaction


def _state(connection: sqlite3.Connection, row: sqlite3.Row) -> dict[str, Any]:
    document, study = json.loads(row["document"]), row["id"]
    past, draft = steps.history(connection, row), jobs.last_draft(connection, study, document)
    editable = row["status"] in database.OPEN
    signed = connection.execute(
        'SELECT version, at, who AS "by", text, document, model, seconds FROM signed WHERE study = ? ORDER BY version',
        (study,),
    )
    plain = ("id", "name", "sha256", "status", "version", "revision", "created", "changed")
    return {
        **{key: row[key] for key in plain},
        **{key: json.loads(row[key]) for key in ("facts", "warnings", "image")},
        "prior": study_images.shown_prior(connection, row),
        "lateral": json.loads(row["lateral"] or "null"),
        "further": json.loads(row["further"] or "[]"),
        "assigned": row["assigned"],
        **review.whole(document),
        "draft": draft,
        "notices": notices.of_row(row, draft),
        "undecided": review.undecided(document),
        "can_undo": editable and bool(past.undo),
        "can_redo": editable and bool(past.redo),
        "signed": [_version(one) for one in signed],
    }


def _version(row: sqlite3.Row) -> dict[str, Any]:
    """Return a signed version; its ``images`` are None if it was signed before these were kept."""
    document = json.loads(row["document"])
    images = document.pop("images", None)
    return dict(row) | {"document": document, "images": images}
