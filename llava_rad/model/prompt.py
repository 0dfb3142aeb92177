"""The exact text around the images: LLaVA-1.5's Vicuna conversation with the paper's instruction, or another template.

The system text is FastChat's ``vicuna_v1.1``. The text before the image, the text after it and the answer are
tokenised as chunks of their own, as LLaVA-1.5 does; each chunk therefore begins with the sentencepiece word mark.
Models of transformers' form, MAIRA-2 among them, tokenise the text as a whole instead, ``<image>`` being a token of it.
Training and generation both come through here. ``llava_rad.model.templates`` has the words.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from encoder.errors import ConfigError, ModelError
from llava_rad.model.templates import FRONTAL_ONLY, IMAGE, TEMPLATES, Study, TemplateName

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
INSTRUCTION = "Provide a description of the findings in the radiology image."
Chunks = Literal["separate", "whole"]


@dataclass(frozen=True)
class Prompt:
    """System text and instruction; the image stands between ``before_image`` and ``after_image``.

    Attributes:
        system: before the user's turn.
        instruction: what is asked.
        template: name of the words around both.
        turn: in place of the template's own, see ``Template.turn``.
        chunks: whether the texts between images are tokenised each on its own or as a whole.
        study: what is there besides the frontal image.
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
        """Text after the last image; LLaVA's has no trailing space, since the answer brings its own word mark."""
        return self.text.rpartition(IMAGE)[2]

    @property
    def text(self) -> str:
        """The whole prompt with ``<image>`` where the image tokens go.

        Raises:
            ConfigError: the template has no place for something that the study has.
        """
        return TEMPLATES[self.template].text(self.system, self.instruction, self.study, self.turn)

    def with_instruction(self, instruction: str | None) -> Prompt:
        """The same conversation with another instruction, or this one for None."""
        return self if instruction is None else replace(self, instruction=instruction)

    def with_study(self, study: Study) -> Prompt:
        """The same conversation about a study with more than a frontal image."""
        return replace(self, study=study)

    def encode(self, tokenizer: Tokenizer, bos: int) -> tuple[list[int], list[int]]:
        """Token ids before the image (one ``bos`` first) and after it, of a prompt with one image."""
        before, after = self.pieces(tokenizer, bos)
        return before, after

    def pieces(self, tokenizer: Tokenizer, bos: int) -> list[list[int]]:
        """Token ids before (one ``bos`` first), between and after the images: one list more than there are images.

        Raises:
            ConfigError: a text of the study holds a token of the model, or has no place in the template.
            ModelError: the tokenizer has no ``<image>`` where the text is tokenised as a whole.
        """
        texts = self._texts()
        if self.chunks == "separate":
            pieces = [encode_text(tokenizer, text) for text in texts]
        else:
            pieces = _encode_whole(tokenizer, texts, self.study)
        return [[bos, *pieces[0]], *pieces[1:]]

    def _texts(self) -> list[str]:
        """Texts between the images. A literal ``<image>`` in a text of the study stands for none."""
        hidden = "\ufdd0"  # a character that no text has: Unicode sets it apart for programs' own use

        def hide(text: str | None) -> str | None:
            return text and text.replace(IMAGE, hidden)

        said = self.study
        study = replace(
            said,
            prior_report=hide(said.prior_report),
            indication=hide(said.indication),
            technique=hide(said.technique),
            comparison=hide(said.comparison),
        )
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
    tokenizer.encode_special_tokens = False
    ids = tokenizer.encode(IMAGE.join(texts), add_special_tokens=False).ids
    tokenizer.encode_special_tokens = True
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
    """Token ids of plain text: no BOS or EOS is added, and a literal ``</s>`` or ``<image>`` stays ordinary text."""
    tokenizer.encode_special_tokens = True
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def encode_answer(tokenizer: Tokenizer, findings: str, eos: int) -> list[int]:
    """Token ids of a report as the language model is to say it, ``eos`` last: the supervised span of a sample."""
    return [*encode_text(tokenizer, findings.strip()), eos]
