"""The exact text around the image: LLaVA-1.5's Vicuna conversation with the paper's instruction.

The system text is FastChat's ``vicuna_v1.1``. The text before the image, the text after it and the answer are
tokenised as chunks of their own, as LLaVA-1.5 does; each chunk therefore begins with the sentencepiece word mark.
Training and generation both come through here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
INSTRUCTION = "Provide a description of the findings in the radiology image."


@dataclass(frozen=True)
class Prompt:
    """System text and instruction; the image stands between ``before_image`` and ``after_image``."""

    system: str = SYSTEM
    instruction: str = INSTRUCTION

    @property
    def before_image(self) -> str:
        """Text before the image."""
        return f"{self.system} USER: "

    @property
    def after_image(self) -> str:
        """Text after the image; no trailing space, since the answer brings its own word mark."""
        return f"\n{self.instruction} ASSISTANT:"

    @property
    def text(self) -> str:
        """The whole prompt with ``<image>`` where the image tokens go."""
        return f"{self.before_image}<image>{self.after_image}"

    def with_instruction(self, instruction: str | None) -> Prompt:
        """The same conversation with another instruction, or this one for None."""
        return self if instruction is None else replace(self, instruction=instruction)

    def encode(self, tokenizer: Tokenizer, bos: int) -> tuple[list[int], list[int]]:
        """Token ids before the image (one ``bos`` first) and after it."""
        return [bos, *encode_text(tokenizer, self.before_image)], encode_text(tokenizer, self.after_image)


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of plain text: no BOS or EOS is added, and a literal ``</s>`` or ``<image>`` stays ordinary text."""
    tokenizer.encode_special_tokens = True
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def encode_answer(tokenizer: Tokenizer, findings: str, eos: int) -> list[int]:
    """Token ids of a report as the language model is to say it, ``eos`` last: the supervised span of a sample."""
    return [*encode_text(tokenizer, findings.strip()), eos]
