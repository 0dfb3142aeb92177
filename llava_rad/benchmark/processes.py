"""The processes of one run, started by torchrun or ``accelerate launch``: who am I, and waiting for one another."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

from encoder.errors import LlavaRadError

_PATIENCE = timedelta(hours=48)
"""How long processes wait for one another: shards take as long as the slowest machine needs."""


@dataclass
class Processes:
    """This process among those of its run; a context manager. No data goes between them but by the results folder.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
        local: rank on this machine: the number of its GPU.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @classmethod
    def from_environment(cls) -> Processes:
        """What the launcher says (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``); alone where there is none.

        Raises:
            LlavaRadError: the variables contradict each other.
        """
        try:
            found = cls(
                *(int(os.environ.get(*name)) for name in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")))
            )
        except ValueError:
            raise LlavaRadError("RANK, WORLD_SIZE and LOCAL_RANK of the launcher are not numbers") from None
        if not 0 <= found.rank < found.size or found.local < 0:
            raise LlavaRadError(f"the launcher says this is process {found.rank} of {found.size}")
        return found

    @property
    def first(self) -> bool:
        """Whether this is the process that merges, scores and prints."""
        return self.rank == 0

    def __enter__(self) -> Processes:
        if self.size > 1:
            from torch import distributed

            distributed.init_process_group("gloo", timeout=_PATIENCE)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.size > 1 and kind is None:  # after an error the others are not waited for: the launcher ends them
            from torch import distributed

            distributed.destroy_process_group()

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.size > 1:
            from torch import distributed

            distributed.barrier()

    def device(self, name: str) -> str:
        """``auto`` or ``cuda`` as this process's own GPU, where there are some; any other name as it is."""
        if self.size > 1 and name in ("auto", "cuda"):
            import torch

            if count := torch.cuda.device_count():
                return f"cuda:{self.local % count}"
        return name
