"""Where weights come from: a path, else the local hub cache, else, only where allowed, a download."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from metrics.errors import WeightsError

SCORERS = "StanfordAIMI/RRG_scorers"


@dataclass(frozen=True)
class HubFile:
    """A file of a hub repository, with all that an error about it has to say.

    Attributes:
        repository: ``owner/name``.
        name: the file's name in it.
        what: what it holds, for messages.
        option: the command-line option that takes a local path in its place.
        instead: what else a user can do.
    """

    repository: str
    name: str
    what: str
    option: str
    instead: str = ""

    def find(self, path: str | Path | None = None, *, allow_download: bool = False) -> Path:
        """Return the local path.

        Args:
            path: a file of the user's, or a folder that holds ``name``; None looks in the hub cache.
            allow_download: fetch what the cache lacks.

        Raises:
            WeightsError: there is none.
        """
        if path is not None:
            given = Path(path).expanduser()
            found = given / self.name if given.is_dir() else given
            if found.is_file():
                return found
            raise WeightsError(f"{self.what} not found: {found} does not exist", hint=self._cure())

        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        offline = not allow_download or constants.HF_HUB_OFFLINE
        try:
            return Path(hf_hub_download(self.repository, self.name, local_files_only=offline))
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
            if allow_download and constants.HF_HUB_OFFLINE:
                why = "the hub is switched off (HF_HUB_OFFLINE)"
            elif allow_download:
                why = f"the hub did not give it ({type(error).__name__})"
            else:
                why = "downloading is off"
            raise WeightsError(
                f"{self.what} not found: hub file {self.repository}:{self.name} is not in the cache and {why}",
                hint=self._cure(),
            ) from error

    def _cure(self) -> str:
        cure = f"give {self.option}, or --allow-download to fetch {self.repository}:{self.name}"
        return f"{cure}; {self.instead}" if self.instead else cure


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
