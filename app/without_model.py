"""Review without a model: reports begin empty, or with the drafts of others."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final

from app.imported import ImportedDrafts, summary
from app.review import ReviewError

if TYPE_CHECKING:
    from app.store import Store

STATES: Final = ("none", "imported")
"""States of an application without a model: reports begin empty, or with drafts of others."""
NO_MODEL: Final = "there is no model: the application was started without one"


class WithoutModel:
    """Takes the place of :class:`app.drafting.Drafting`: it writes nothing, and removes requests for drafts.

    Args:
        store: studies and the queue of drafts.
        drafts: of others, or None.
    """

    def __init__(self, store: Store, drafts: ImportedDrafts | None = None) -> None:
        self._store, self._drafts = store, drafts
        store.jobs.drop_waiting()

    def close(self) -> None:
        """Do nothing: nothing runs."""

    def status(self) -> dict[str, Any]:
        """Return ``state`` (none or imported), and the name of the drafts of others."""
        if self._drafts is None:
            return {"state": "none", "takes": []}
        return {"state": "imported", "id": self._drafts.name, "sha256": self._drafts.sha256, "takes": []}

    def takes(self) -> Collection[str]:
        """Return an empty collection: no model takes inputs."""
        return ()

    def outdated(self, state: dict[str, Any]) -> bool:
        """Return False: no draft can be written anew."""
        return False

    def queue(
        self, owner: str, study: str, *, replace: bool = False, grounded: bool = False, revision: int | None = None
    ) -> None:
        """Refuse to write a draft.

        Raises:
            ReviewError: always.
        """
        raise ReviewError(NO_MODEL)

    def wake(self) -> None:
        """Remove requests that came with images."""
        self._store.jobs.drop_waiting()

    def stop(self, owner: str, study: str) -> None:
        """Do nothing: no draft is being written."""

    def now(self, owner: str, study: str) -> dict[str, Any] | None:
        """Return the state of a study's imported draft, or None.

        Raises:
            NotFound: if the study does not exist.
        """
        return self._store.jobs.draft(owner, study)

    def evidence(
        self, owner: str, study: str, *, sentence: str | None, encoder: bool = False,
        wanted: Callable[[], bool] = lambda: True,
    ) -> dict[str, Any]:  # fmt: skip
        """Refuse to compute an attention map.

        Raises:
            ReviewError: always.
        """
        raise ReviewError(NO_MODEL)

    def imported(self) -> dict[str, Any] | None:
        """Return ``rows``, the number of drafts of others, and ``unused``: rows that no study has, with the reason."""
        if self._drafts is None:
            return None
        used = self._store.jobs.imported(self._drafts.sha256)
        return {"name": self._drafts.name, "rows": len(self._drafts.drafts), "unused": self._drafts.unused(used)}

    def summary(self) -> str:
        """Describe in one line which drafts of others belong to studies; "" without drafts."""
        found = self.imported()
        return "" if found is None else summary(found["unused"], found["rows"])
