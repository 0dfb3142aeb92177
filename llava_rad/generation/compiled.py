"""Greedy decoding on CUDA in slots of one shape: a step is compiled once for a model and replayed as a CUDA graph.

At a small batch a step consists of hundreds of short kernels, and launching them from Python takes longer than running
them. Every slot holds one report; one that has ended leaves its slot to the next prompt, so that no step waits for the
longest report of a batch. On a CPU compilation is no gain, see docs/benchmarks.md.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from llava_rad.generation.llama import Llama

EVERY = 8
"""Tokens between looks at the results: a look waits for the GPU, which would then wait for the next step."""
_GRAIN = 64
"""Lengths are multiples of it, so that prompts of a few words more or less share a compilation."""
_LOG = logging.getLogger("llava_rad")

Step = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
Tokens = list[tuple[int, int]]
"""Number of a prompt, and its next token."""


def as_graph(step: Step) -> Any:
    """Compile a step with CUDA graphs, for one shape, when it is first called; the log says so.

    Products of matrices with one vector become reductions, whose tiles are tuned. Compiled kernels are kept in
    ``$TORCHINDUCTOR_CACHE_DIR``; default: ``llava-rad/compiled`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    # torch reads pickles from this folder: it must be the user's own, which its default below /tmp need not be
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home / "llava-rad" / "compiled"))
    options: Any = {
        "triton.cudagraphs": True,
        "coordinate_descent_tuning": True,
        "guard_filter_fn": guards_of_arguments,
    }
    made = torch.compile(step, fullgraph=True, dynamic=False, options=options)
    begun = False

    def run(*inputs: Any) -> Any:
        nonlocal begun
        if begun:
            return made(*inputs)
        begun, start = True, time.perf_counter()
        # printed by the handler of last resort, where nobody has configured logging
        _LOG.warning("llava-rad: compiling the decoder; later runs find its kernels (--no-compile does without)")
        found = made(*inputs)
        _LOG.warning("llava-rad: the decoder was compiled in %.0f s", time.perf_counter() - start)
        return found

    return run


def guards_of_arguments(guards: Sequence[Any]) -> list[bool]:
    """Choose the guards of a compiled step that are checked at every call: all but those of the decoder itself.

    Its weights and its cache never change, and checking each of them takes time at every token.
    """
    return ["self" not in guard.name for guard in guards]


class CompiledDecoder:
    """Greedy decoder of a fixed number of slots and length.

    Args:
        llama: language model.
        suppressed: ids that are never generated.
        slots: reports at a time.
        length: longest prompt and answer together; rounded up to 64.
        record: function that compiles a step.

    Attributes:
        compiled: False once a step could not be compiled; steps then run kernel by kernel.
    """

    _keys = count()

    def __init__(
        self, llama: Llama, suppressed: Sequence[int], slots: int, length: int, record: Callable[[Step], Any] = as_graph
    ) -> None:
        self.slots, self.length = slots, -(-length // _GRAIN) * _GRAIN
        self._llama = llama
        self._suppressed = torch.tensor(list(suppressed), dtype=torch.long, device=llama.device)
        self._cache = llama.cache(slots, self.length)
        self._cache.states.zero_()  # entries that are not seen are multiplied by zero, and 0 * NaN is NaN
        for tensor in (*self._cache, *llama.weights(), self._suppressed):
            torch._dynamo.mark_static_address(tensor)  # a graph writes to the addresses at which it was recorded
        self._step: Step = record(self._next)
        self._key = next(self._keys)
        self.compiled = True

    def fits(self, slots: int, length: int) -> bool:
        """Compare numbers of slots and tokens with those of this decoder."""
        return slots <= self.slots and length <= self.length

    def release(self) -> None:
        """Free the cache, gigabytes that compiled code and garbage collection would keep for longer."""
        self._cache = self._llama.cache(0, 0)

    def __call__(self, prompts: Iterable[torch.Tensor], steps: int, eos: int) -> Iterator[Tokens]:
        """Yield the next tokens of all prompts, in the order of each prompt, up to the end token.

        Args:
            prompts: [L, D], embeddings of each prompt, as many as there are; taken as slots become free.
            steps: largest number of tokens of each.
            eos: end token.

        Raises:
            ValueError: if a prompt and its answer are longer than a slot.
        """
        waiting = enumerate(prompts)
        tokens, index = (torch.zeros(self.slots, dtype=torch.long, device=self._llama.device) for _ in range(2))
        rows: dict[int, int] = {}  # slot -> prompt
        left = [0] * self.slots

        def took(slot: int, token: int) -> tuple[int, int]:
            row = rows[slot]
            left[slot] = 0 if token == eos else left[slot] - 1
            if not left[slot]:
                del rows[slot]
            return row, token

        while True:
            while len(rows) < self.slots and (given := next(waiting, None)) is not None:
                slot = next(slot for slot in range(self.slots) if slot not in rows)
                rows[slot], left[slot] = given[0], steps
                tokens[slot] = self._fill(slot, given[1], steps)
                index[slot] = len(given[1])
                yield [took(slot, int(tokens[slot]))]
            if not rows:
                return
            done = []
            for _ in range(min(EVERY, max(left[slot] for slot in rows))):
                tokens = self._try(tokens, index)
                done.append(tokens)
                # a slot whose report has ended runs on until it is looked at
                index.add_(1).clamp_(max=self.length - 1)
            yield [
                took(slot, token)
                for step in torch.stack(done).tolist()
                for slot, token in enumerate(step)
                if slot in rows
            ]

    def _fill(self, slot: int, prompt: torch.Tensor, steps: int) -> torch.Tensor:
        """Put a prompt into a slot; return its first token."""
        if len(prompt) + steps > self.length:
            raise ValueError(f"{len(prompt)} and {steps} tokens do not fit in {self.length}")
        cache = self._cache.rows(slice(slot, slot + 1))
        cache.states[..., len(prompt) :, :] = 0
        return self._choose(self._llama(prompt[None], cache, 0))[0]

    def _try(self, tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Run the compiled step; if it fails, warn and use the plain one from then on."""
        if self.compiled:
            try:
                return self._step(tokens, index, self._key).clone()  # the next step overwrites the graph's memory
            except Exception as error:  # the parts of the compiler raise errors of many types
                warnings.warn(f"decoding is not compiled: {_reason(error)}", stacklevel=2)
                self.compiled = False
        return self._next(tokens, index, self._key)

    def _next(self, tokens: torch.Tensor, index: torch.Tensor, key: int) -> torch.Tensor:
        """The next token of each slot, [slots]."""
        assert key >= 0  # its guard keeps apart what is compiled for different decoders
        embeds = functional.embedding(tokens, self._llama.embedding)[:, None]
        return self._choose(self._llama.step(embeds, self._cache, index))

    def _choose(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(1, self._suppressed, -torch.inf).argmax(-1)


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
