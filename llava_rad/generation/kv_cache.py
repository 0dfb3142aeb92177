"""The keys and values that a language model keeps of the tokens before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch


class Cache(NamedTuple):
    """Keys and values of every layer, [layers, B, kv heads, length, head size] each, allocated once."""

    keys: torch.Tensor
    values: torch.Tensor

    def rows(self, chosen: slice) -> Cache:
        """The rows of a slice, as views."""
        return Cache(self.keys[:, chosen], self.values[:, chosen])

    def move(self, order: Sequence[int]) -> None:
        """Put row ``order[n]`` in place of row n."""
        for at, row in enumerate(order):
            if at != row:
                self.keys[:, at] = self.keys[:, row]
                self.values[:, at] = self.values[:, row]
