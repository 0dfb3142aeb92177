"""Greedy decoding on CUDA in steps of one shape, compiled once and replayed as a CUDA graph.

A step of a language model at a small batch is hundreds of short kernels: launching them one by one from Python takes
longer than they do. On a CPU compiling does not pay, see docs/benchmarks.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional

from llava_rad.generation.llama import Cache, Llama

Step = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def as_graph(step: Step) -> Any:
    """torch.compile with CUDA graphs, for one shape."""
    return torch.compile(step, mode="reduce-overhead", fullgraph=True, dynamic=False)


class CompiledDecoder:
    """Decodes batches of the shape of its first one: every other shape would be compiled anew.

    Args:
        llama: the language model.
        suppressed: ids that are never generated.
        record: makes a compiled function of a function.
    """

    def __init__(self, llama: Llama, suppressed: Sequence[int], record: Callable[[Step], Any] = as_graph) -> None:
        self._llama = llama
        self._suppressed = torch.tensor(list(suppressed), dtype=torch.long, device=llama.device)
        self._cache: Cache | None = None
        self._step: Step = record(self._next)
        self.compiled = True

    def fits(self, batch: int, length: int) -> bool:
        """Whether this many rows of this length, prompt and answer, are of the shape that it decodes."""
        return self._cache is None or (self._cache.keys.shape[1], self._cache.keys.shape[3]) == (batch, length)

    def __call__(self, embeds: torch.Tensor, mask: torch.Tensor | None, steps: int) -> Iterator[torch.Tensor]:
        """Yield the likeliest next token of every row, [B], ``steps`` times.

        Args:
            embeds: [B, L, D], the prompts.
            mask: [B, L] bool, False on (left) padding; None where there is none.
            steps: L + steps is the length that fits.
        """
        batch, length, _ = embeds.shape
        cache = self._fixed(batch, length + steps)
        tokens = self._choose(self._llama(embeds, cache, 0, mask))
        yield tokens
        where = torch.tensor([length], device=tokens.device)
        positions = where.expand(batch, 1) if mask is None else mask.sum(1, keepdim=True)
        for _ in range(steps - 1):
            tokens = self._try(tokens, where, positions)
            yield tokens
            where, positions = where + 1, positions + 1

    def _fixed(self, batch: int, length: int) -> Cache:
        """The cache, made once: a graph writes to where it wrote when it was recorded."""
        if self._cache is None:
            self._cache = self._llama.cache(batch, length)
            for tensor in (*self._cache, *self._llama.weights(), self._suppressed):
                torch._dynamo.mark_static_address(tensor)
        for part in self._cache:
            part.zero_()  # masked entries are multiplied by zero, and zero times what is not a number is none
        return self._cache

    def _try(self, *words: torch.Tensor) -> torch.Tensor:
        if self.compiled:
            try:
                return self._step(*words).clone()  # the graph's own memory is written again by the next step
            except Exception as error:  # each part of the compiler has errors of its own
                warnings.warn(f"decoding is not compiled: {_reason(error)}", stacklevel=2)
                self.compiled = False
        return self._next(*words)

    def _next(self, tokens: torch.Tensor, where: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        assert self._cache is not None
        embeds = functional.embedding(tokens, self._llama.embedding)[:, None]
        return self._choose(self._llama.step(embeds, self._cache, where, positions))

    def _choose(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(1, self._suppressed, -torch.inf).argmax(-1)


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
