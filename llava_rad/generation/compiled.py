"""Greedy decoding on CUDA in steps of one shape, compiled once and replayed as a CUDA graph.

At a small batch a step consists of hundreds of short kernels, and launching them from Python takes longer than running
them. On a CPU compilation is no gain, see docs/benchmarks.md.
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
    """Compile a step with CUDA graphs, for one shape."""
    return torch.compile(step, mode="reduce-overhead", fullgraph=True, dynamic=False)


class CompiledDecoder:
    """Decoder for batches of the shape of the first one; any other shape would have to be compiled again.

    Args:
        llama: language model.
        suppressed: ids that are never generated.
        record: function that compiles a step.
    """

    def __init__(self, llama: Llama, suppressed: Sequence[int], record: Callable[[Step], Any] = as_graph) -> None:
        self._llama = llama
        self._suppressed = torch.tensor(list(suppressed), dtype=torch.long, device=llama.device)
        self._cache: Cache | None = None
        self._step: Step = record(self._next)
        self.compiled = True

    def fits(self, batch: int, length: int) -> bool:
        """Compare a number of rows and their length (prompt and answer) with the compiled shape."""
        return self._cache is None or (self._cache.keys.shape[1], self._cache.keys.shape[3]) == (batch, length)

    def __call__(self, embeds: torch.Tensor, mask: torch.Tensor | None, steps: int) -> Iterator[torch.Tensor]:
        """Yield the likeliest next token of every row, [B], ``steps`` times.

        Args:
            embeds: [B, L, D], embeddings of the prompts.
            mask: [B, L] bool, False on (left) padding; None without padding.
            steps: number of tokens; L + steps is the compiled length.
        """
        batch, length, _ = embeds.shape
        cache = self._fixed(batch, length + steps)
        tokens = self._choose(self._llama(embeds, cache, 0, mask))
        yield tokens
        index = torch.tensor([length], device=tokens.device)
        positions = index.expand(batch, 1) if mask is None else mask.sum(1, keepdim=True)
        for _ in range(steps - 1):
            tokens = self._try(tokens, index, positions)
            yield tokens
            index, positions = index + 1, positions + 1

    def _fixed(self, batch: int, length: int) -> Cache:
        """The cache, allocated once: a graph writes to the addresses at which it was recorded."""
        if self._cache is None:
            self._cache = self._llama.cache(batch, length)
            for tensor in (*self._cache, *self._llama.weights(), self._suppressed):
                torch._dynamo.mark_static_address(tensor)
        for part in self._cache:
            part.zero_()  # masked entries are multiplied by zero, and 0 * NaN is NaN
        return self._cache

    def _try(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Run the compiled step; if it fails, warn and use the plain one from then on."""
        if self.compiled:
            try:
                return self._step(*inputs).clone()  # the next step overwrites the graph's memory
            except Exception as error:  # the parts of the compiler raise errors of many types
                warnings.warn(f"decoding is not compiled: {_reason(error)}", stacklevel=2)
                self.compiled = False
        return self._next(*inputs)

    def _next(self, tokens: torch.Tensor, index: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        assert self._cache is not None
        embeds = functional.embedding(tokens, self._llama.embedding)[:, None]
        return self._choose(self._llama.step(embeds, self._cache, index, positions))

    def _choose(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(1, self._suppressed, -torch.inf).argmax(-1)


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
