"""Prompts: the exact text around the images, and its token ids. Training and generation share this module.

The default is LLaVA-1.5's Vicuna conversation (FastChat's ``vicuna_v1.1``) with the paper's instruction; other texts
are in ``llava_rad.model.templates``. LLaVA-1.5 tokenises the text before the image, the text after it and the answer
separately, so that each begins with the sentencepiece word mark. transformers' processors, MAIRA-2's among them,
tokenise the text as a whole, in which ``<image>`` is a token.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from encoder.errors import ConfigError, ModelError
from llava_rad.model.templates import FRONTAL_ONLY, IMAGE, TEMPLATES, TEXTS, Study, TemplateName

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SETTING = threading.Lock()
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
INSTRUCTION = "Provide a description of the findings in the radiology image."
Chunks = Literal["separate", "whole"]


@dataclass(frozen=True)
class Prompt:
    """System text, instruction and study inputs of one conversation.

    Attributes:
        system: text before the user's turn.
        instruction: request to the model.
        template: name of the template that arranges them.
        turn: text around the user's turn in place of the template's own, see ``Template.turn``.
        chunks: ``"separate"`` tokenises each text between images on its own, ``"whole"`` all of them at once.
        study: inputs besides the frontal image.
    """

    system: str = SYSTEM
    instruction: str = INSTRUCTION
    template: TemplateName = "llava-1.5"
    turn: str | None = None
    chunks: Chunks = "separate"
    study: Study = FRONTAL_ONLY

    @property
    def before_image(self) -> str:
        """Text before the first image."""
        return self.text.partition(IMAGE)[0]

    @property
    def after_image(self) -> str:
        """Text after the last image; LLaVA's ends without a space, because the answer begins with a word mark."""
        return self.text.rpartition(IMAGE)[2]

    @property
    def text(self) -> str:
        """Whole prompt with ``<image>`` in place of the image tokens.

        Raises:
            ConfigError: if the template does not take one of the study's inputs.
        """
        return TEMPLATES[self.template].text(self.system, self.instruction, self.study, self.turn)

    def with_instruction(self, instruction: str | None) -> Prompt:
        """Return the same conversation with another instruction; None keeps the present one."""
        return self if instruction is None else replace(self, instruction=instruction)

    def with_study(self, study: Study) -> Prompt:
        """Return the same conversation with other study inputs."""
        return replace(self, study=study)

    def encode(self, tokenizer: Tokenizer, bos: int) -> tuple[list[int], list[int]]:
        """Tokenise a prompt with one image: ids before it, with one ``bos`` first, and after it."""
        before, after = self.pieces(tokenizer, bos)
        return before, after

    def pieces(self, tokenizer: Tokenizer, bos: int) -> list[list[int]]:
        """Tokenise the texts before, between and after the images: one list more than images, one ``bos`` first.

        Raises:
            ConfigError: if a text of the study holds a token of the model, or the template does not take it.
            ModelError: if the text is tokenised as a whole and the tokenizer has no ``<image>``.
        """
        texts = self._texts()
        if self.chunks == "separate":
            pieces = [encode_text(tokenizer, text) for text in texts]
        else:
            pieces = _encode_whole(tokenizer, texts, self.study)
        return [[bos, *pieces[0]], *pieces[1:]]

    def _texts(self) -> list[str]:
        """Texts between the images. A literal ``<image>`` in a text of the study or the instruction is plain text."""
        hidden = "\ufdd0"  # a Unicode noncharacter, which no text holds

        def hide(text: str | None) -> str | None:
            return text and text.replace(IMAGE, hidden)

        hidden_texts: dict[str, Any] = {name: hide(getattr(self.study, name)) for name in TEXTS}
        study = replace(self.study, **hidden_texts)
        instruction = self.instruction.replace(IMAGE, hidden)
        text = replace(self, study=study, instruction=instruction).text
        return [piece.replace(hidden, IMAGE) for piece in text.split(IMAGE)]


def _encode_whole(tokenizer: Tokenizer, texts: list[str], study: Study) -> list[list[int]]:
    image = tokenizer.token_to_id(IMAGE)
    if image is None:
        raise ModelError(f"the tokenizer has no token {IMAGE}, which the checkpoint's prompt needs")
    own = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    for name, text in study.texts.items():
        for token in own:
            if token in text:
                raise ConfigError(f"the {name} holds {token}, which is a token of the model")
    ids = _ids(tokenizer, IMAGE.join(texts), special=True)
    pieces: list[list[int]] = [[]]
    for number in ids:
        if number == image:
            pieces.append([])
        else:
            pieces[-1].append(number)
    if len(pieces) != len(texts):
        raise ConfigError(f"the instruction holds {IMAGE}, which stands for an image")
    return pieces


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokenise plain text: no BOS or EOS is added, and a literal ``</s>`` or ``<image>`` stays ordinary text."""
    return _ids(tokenizer, text, special=False)


def encode_with_tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokenise a whole text in which special tokens are read; no BOS or EOS is added."""
    return _ids(tokenizer, text, special=True)


def _ids(tokenizer: Tokenizer, text: str, *, special: bool) -> list[int]:
    """Tokenise a text in which special tokens are read, or are ordinary text.

    That is a setting of the tokenizer, which threads share: a draft and an attention map are made at the same time.

    Raises:
        ModelError: if the tokenizer fails, for example at the limit of a pattern's backtracking.
    """
    with _SETTING:
        tokenizer.encode_special_tokens = not special
        try:
            return list(tokenizer.encode(text, add_special_tokens=False).ids)
        except BaseException as error:  # a panic of the library is no Exception: it would end the thread
            if type(error).__name__ == "PanicException":
                raise ModelError("the language model's tokenizer fails on the text of the prompt") from None
            raise
        finally:
            tokenizer.encode_special_tokens = True


def encode_answer(tokenizer: Tokenizer, findings: str, eos: int) -> list[int]:
    """Tokenise a report as an answer, ``eos`` last: the supervised span of a training sample."""
    return [*encode_text(tokenizer, findings.strip()), eos]
