"""Random numbers that are a pure function of (seed, purpose, position): nothing to save, nothing to restore.

A resumed run continues with the numbers that it would have drawn, on any number of processes and workers.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """Purpose of random numbers; each purpose has its own numbers."""

    ORDER = 1
    CROPS = 2
    MASKED = 3
    BLOCKS = 4
    PATHS = 5


def generator(seed: int, purpose: Purpose, position: int) -> np.random.Generator:
    """The generator of one position.

    The seed is the key of a Philox counter generator; purpose and position fill the upper half of its counter, so that
    no two generators of one seed ever share a number (each has 2**128 blocks of its own).

    Args:
        seed: below 2**128.
        purpose: of the numbers.
        position: below 2**64.
    """
    return np.random.Generator(np.random.Philox(key=seed, counter=(0, 0, position, int(purpose))))
