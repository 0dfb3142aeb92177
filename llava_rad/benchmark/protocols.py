"""How reports are written for scoring: the paper's way, and a fast one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypedDict

import torch

from llava_rad.generation.options import Decoding


@dataclass(frozen=True)
class Protocol:
    """One way of writing the reports of a test set. Both are greedy.

    Attributes:
        name: as on the command line.
        dtype: for ``Engine.from_pretrained``.
        batch_size: images written together.
        max_new_tokens: longest answer.
        num_beams: 1 is greedy.
        compile: on CUDA, decode by a compiled step; without effect elsewhere.
    """

    name: str
    dtype: str
    batch_size: int
    max_new_tokens: int
    num_beams: int
    compile: bool

    @property
    def settings(self) -> Decoding:
        """The decoding, for ``llava_rad.generation.decoding.generate``."""
        return Decoding(self.max_new_tokens, self.num_beams, compile=self.compile)


PAPER = Protocol("paper", "float32", batch_size=1, max_new_tokens=150, num_beams=1, compile=False)
"""Section E.3.3: float32, batch 1, at most 150 tokens. The strategy is not stated; greedy is assumed."""

FAST = Protocol("fast", "bfloat16", batch_size=32, max_new_tokens=150, num_beams=1, compile=True)
"""The same limits in bfloat16 and in batches: some reports differ from the paper protocol's."""

PROTOCOLS = {protocol.name: protocol for protocol in (PAPER, FAST)}


class Precision(TypedDict):
    """torch's switches that let float32 products run in a shorter type."""

    float32_matmul_precision: str
    cuda_matmul_allow_tf32: bool
    cudnn_allow_tf32: bool


@contextmanager
def exact() -> Iterator[Precision]:
    """Products of float32 numbers in float32: no TF32 and no bfloat16 in their place. Restores what was set.

    Yields:
        the switches in force, for the record of a result's environment.
    """
    before = _precision()
    try:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        yield _precision()
    finally:
        torch.set_float32_matmul_precision(before["float32_matmul_precision"])
        torch.backends.cudnn.allow_tf32 = before["cudnn_allow_tf32"]


def _precision() -> Precision:
    return Precision(
        float32_matmul_precision=torch.get_float32_matmul_precision(),
        cuda_matmul_allow_tf32=torch.backends.cuda.matmul.allow_tf32,
        cudnn_allow_tf32=torch.backends.cudnn.allow_tf32,
    )
