"""Answers of a causal language model to texts alone, by the engine that writes reports: for metrics that ask one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from pathlib import Path

import torch
from torch.nn import functional

from encoder.backbones import weight_files
from encoder.errors import LlavaRadError
from encoder.files import sha256_of
from encoder.hub import refuse_pointer
from llava_rad.generation.compiled import CompiledDecoder
from llava_rad.generation.compiled import Tokens as Answered
from llava_rad.generation.decoding import decode
from llava_rad.generation.engine import choose_device, choose_dtype
from llava_rad.generation.llama import Llama
from llava_rad.generation.quantized import BITS
from llava_rad.model.config import check_language_model, positions, token_ids
from llava_rad.model.prompt import encode_with_tokens
from llava_rad.model.tokenizer import Tokens
from metrics.base import WeightsError

_AT_ONCE = 4
"""Batches of one call where the next prompt takes the place of an answer that has ended."""


class TextGenerator:
    """A language model that answers prompts greedily, as :class:`metrics.base.LanguageModel` says.

    Weights are read at the first prompt, so that answers that are all known need none.

    Args:
        folder: a ``LlamaForCausalLM`` folder: ``config.json``, safetensors, ``tokenizer.json`` or ``tokenizer.model``.
        device: torch device.
        dtype: ``"auto"`` (float16 on CUDA, else float32), a type of :mod:`llava_rad.generation.engine`, ``"8bit"`` or
            ``"4bit"``.

    Raises:
        WeightsError: if a file is missing, damaged or of another kind of model.
        LlavaRadError: if there is no such device or type.
    """

    def __init__(self, folder: Path, device: str, dtype: str) -> None:
        self._folder, self._device = folder, choose_device(device)
        half = "float16" if self._device.type == "cuda" else "float32"
        self._bits = BITS.get(dtype)
        self._dtype = choose_dtype(half if self._bits or dtype == "auto" else dtype, self._device)
        self._decoder: CompiledDecoder | None = None
        self._name = dtype if self._bits else str(self._dtype).removeprefix("torch.")
        with _told():
            self._config = weight_files.read_json(folder / weight_files.CONFIG, "the language model")
            check_language_model(self._config)
            self._tokens = _tokens(folder, self._config)
            self.longest = positions(self._config)

    @cached_property
    def weights_id(self) -> str:
        """First digits of a SHA-256 over those of configuration, tokenizer and weights; and the type."""
        files = sorted(path for path in self._folder.iterdir() if path.suffix in (".json", ".safetensors", ".model"))
        with _told():
            for path in files:
                refuse_pointer(path)
        lines = "\n".join(f"{path.name} {sha256_of(path)}" for path in files)
        return f"{hashlib.sha256(lines.encode()).hexdigest()[:16]}:{self._name}"

    @cached_property
    def _llama(self) -> Llama:
        with _told():
            return Llama.load(self._folder, device=self._device, dtype=self._dtype, bits=self._bits)

    def portions(
        self, prompts: Sequence[str], *, batch_size: int, max_prompt_tokens: int, max_new_tokens: int
    ) -> Iterator[list[str]]:
        """Yield the answers to N prompts in their order; see :class:`metrics.base.LanguageModel`.

        Raises:
            WeightsError: if the weights cannot be read, or a prompt leaves no room for an answer.
        """
        encoded = [self._encode(prompt, max_prompt_tokens) for prompt in prompts]
        room = self.longest - max(map(len, encoded), default=0)
        if room < 1:
            raise WeightsError(f"the language model takes {self.longest} tokens, and a prompt has as many")
        # with 8 bits the number of outliers is only known at run time
        compiled = self._device.type == "cuda" and self._bits != 8
        size, steps = batch_size * (_AT_ONCE if compiled else 1), min(max_new_tokens, room)
        for start in range(0, len(encoded), size):
            embeds = [self._embed(ids) for ids in encoded[start : start + size]]
            tokens = self._in_slots(embeds, steps, batch_size) if compiled else self._together(embeds, steps)
            rows: list[list[int]] = [[] for _ in embeds]
            for row, token in chain.from_iterable(tokens):
                rows[row].append(token)
            yield [self._tokens.decode([token for token in row if token != self._tokens.ids.eos]) for row in rows]

    def _together(self, embeds: Sequence[torch.Tensor], steps: int) -> Iterator[Answered]:
        padded, mask = _padded(embeds)
        return decode(self._llama, padded, mask, steps, self._tokens.ids.eos, suppressed=self._tokens.suppressed)

    @torch.inference_mode()
    def _in_slots(self, embeds: Sequence[torch.Tensor], steps: int, slots: int) -> Iterator[Answered]:
        longest = max(map(len, embeds)) + steps
        if self._decoder is None or not self._decoder.fits(slots, longest):
            if self._decoder is not None:
                self._decoder.release()
            self._decoder = CompiledDecoder(self._llama, self._tokens.suppressed, slots, longest)
        yield from self._decoder(embeds, steps, self._tokens.ids.eos)

    def _encode(self, prompt: str, longest: int) -> list[int]:
        """Return the ids of a text with the begin token in front, cut at the end but for its last token."""
        ids = [self._tokens.ids.bos, *encode_with_tokens(self._tokens.tokenizer, prompt)]
        return ids if len(ids) <= longest else [*ids[: longest - 1], ids[-1]]

    def _embed(self, ids: Sequence[int]) -> torch.Tensor:
        return functional.embedding(torch.tensor(ids, device=self._device), self._llama.embedding)


def _padded(embeds: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return texts [B, L, D] with padding on the left, and the mask [B, L], False on it; None if nothing is padded."""
    length = max(map(len, embeds))
    if all(len(one) == length for one in embeds):
        return torch.stack(list(embeds)), None
    padded = embeds[0].new_zeros(len(embeds), length, embeds[0].shape[1])
    mask = torch.zeros(len(embeds), length, dtype=torch.bool, device=padded.device)
    for row, one in enumerate(embeds):
        padded[row, length - len(one) :] = one
        mask[row, length - len(one) :] = True
    return padded, mask


def _tokens(folder: Path, config: dict[str, object]) -> Tokens:
    if (folder / "tokenizer.json").is_file():
        return Tokens.load(folder, token_ids(config))
    from llava_rad.model.assemble import read_tokens

    return read_tokens(folder, config)


@contextmanager
def _told() -> Iterator[None]:
    """Turn errors of models into those of metrics."""
    try:
        yield
    except LlavaRadError as error:
        raise WeightsError(str(error), hint=error.hint) from error
