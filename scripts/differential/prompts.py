"""Prompts and tokenisation against sentencepiece and transformers.

A case is texts, as instruction, study inputs or reports, and a template. The tokenizer is a small one that
sentencepiece trains in the form of Llama 2's, read by us from ``tokenizer.model``, and again from the files that we
write of it. Compared are ids of texts, pieces of prompts around images (as LLaVA-1.5 and as transformers' processors
tokenise them), decoded texts, and sections of answers.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from encoder.errors import ConfigError
from llava_rad.model.assemble import read_tokens
from llava_rad.model.prompt import Prompt, encode_answer, encode_text
from llava_rad.model.sections import divided, joined
from llava_rad.model.templates import IMAGE, TEMPLATES, TEXTS, Study, TemplateName
from llava_rad.model.tokenizer import Tokens
from scripts.differential import texts
from scripts.differential.harness import Case, Outcome, Subject, different

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

_BOS, _EOS, _UNKNOWN = 1, 2, 0
_CONFIG: Final = {"bos_token_id": _BOS, "eos_token_id": _EOS, "pad_token_id": _UNKNOWN, "model_type": "llama"}


class Tokenizers(NamedTuple):
    """One tokenizer, read by all.

    Attributes:
        ours: read from ``tokenizer.model``.
        again: read from the files that ``ours`` writes.
        with_image: the same with the token ``<image>``.
        sentencepiece: the trained one.
        transformers: read from the files that ``ours`` writes.
        transformers_image: read from those of ``with_image``.
    """

    ours: Tokens
    again: Tokens
    with_image: Tokens
    sentencepiece: SentencePieceProcessor
    transformers: Any
    transformers_image: Any


@cache
def tokenizers() -> Tokenizers:
    """Train the tokenizer and read it in every way."""
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
    from transformers import AutoTokenizer

    rng = random.Random(0)
    lines = [" ".join(texts.text(rng, odd=0.1).split()) for _ in range(400)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "tokenizer.model").open("wb") as file:
            SentencePieceTrainer.train(
                sentence_iterator=iter(line for line in lines if line), model_writer=file, model_type="bpe",
                vocab_size=700, byte_fallback=True, normalization_rule_name="identity",
                remove_extra_whitespaces=False, unk_id=_UNKNOWN, bos_id=_BOS, eos_id=_EOS, pad_id=-1,
                hard_vocab_limit=False, minloglevel=2,
            )  # fmt: skip
        settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"legacy": False}))
        (folder / "config.json").write_text(json.dumps(_CONFIG))
        processor = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        ours = read_tokens(folder, _CONFIG)
        saved, with_image = folder / "saved", folder / "with_image"
        saved.mkdir()
        with_image.mkdir()
        ours.save(saved)
        again, image = (Tokens.load(saved, ours.ids) for _ in range(2))
        image.tokenizer.add_special_tokens([IMAGE])
        image.save(with_image)
        plain, special = (AutoTokenizer.from_pretrained(one) for one in (saved, with_image))
    return Tokenizers(ours, again, image, processor, plain, special)


def draw(rng: random.Random) -> Case:
    """Draw texts, a template and which study inputs there are."""
    name = rng.choice(list(TEMPLATES))
    template = TEMPLATES[cast(TemplateName, name)]
    study: dict[str, Any] = {
        key: texts.text(rng) for key in TEXTS if key.replace("_", "-") in template.places and rng.random() < 0.4
    }
    for key in ("lateral", "prior", "grounded"):
        study[key] = key in template.places and rng.random() < 0.5
    study["prior"] = study["prior"] or bool(study.get("prior_report"))
    tokens = tokenizers()
    return {
        "text": texts.text(rng, odd=rng.choice((0.0, 0.3, 0.8))),
        "ids": [rng.randrange(3, tokens.sentencepiece.vocab_size()) for _ in range(rng.randrange(20))],
        "template": name, "study": study, "whole": name == "maira-2" or rng.random() < 0.3,
        "instruction": rng.choice(("Provide a description of the findings.", texts.text(rng))),
    }  # fmt: skip


def compare(case: Case) -> Outcome:
    """Tokenise with all."""
    for what, ours, theirs in _text(case):
        if ours != theirs:
            return different(f"{what}: {ours!r} and {theirs!r}")
    return _prompt(case)


def _text(case: Case) -> Iterator[tuple[str, Any, Any]]:
    """Yield what is compared of the text, our value and the other one."""
    known, text = tokenizers(), case["text"]
    expected = known.transformers.encode(text, add_special_tokens=False, split_special_tokens=True)
    yield "ids", encode_text(known.ours.tokenizer, text), expected
    yield "ids after saving", encode_text(known.again.tokenizer, text), expected
    if not text.startswith((" ", "\u2581")):  # transformers puts no mark before a space, sentencepiece does
        yield "ids of sentencepiece", expected, known.sentencepiece.encode(text)
    if not text.strip().startswith("\u2581"):
        answer = encode_answer(known.ours.tokenizer, text, _EOS)
        yield "ids of an answer", answer, [*known.sentencepiece.encode(text.strip()), _EOS]
    for ids in (expected, case["ids"]):
        yield "decoded ids", known.again.decode(ids), known.transformers.decode(ids, skip_special_tokens=True).strip()
        if _whole_characters(ids):
            yield "text of sentencepiece", known.ours.decode(ids), known.sentencepiece.decode(ids).strip()
    yield "decoded text", known.ours.decode(expected), text.replace("\u2581", " ").strip()
    findings, impression = (" ".join(part.split()) for part in (text, case["instruction"]))
    if not any(one.upper().startswith(("FINDINGS:", "IMPRESSION:")) for one in (findings, impression)):
        sections = divided(joined(findings, impression))
        yield "sections", (sections.findings, sections.impression or ""), (findings, impression)


def _whole_characters(ids: list[int]) -> bool:
    """Tell whether the pieces of single bytes are UTF-8.

    Of others, transformers replaces all bytes that stand together, and sentencepiece those alone that are no character.
    """
    processor = tokenizers().sentencepiece
    runs = "".join(chr(number - 3) if processor.is_byte(number) else " " for number in ids).encode("latin-1")
    try:
        runs.decode()
    except UnicodeDecodeError:
        return False
    return True


def _prompt(case: Case) -> Outcome:
    """Compare the pieces of a prompt with the text between its images, each tokenised by the others."""
    known, study = tokenizers(), Study(**case["study"])
    prompt = Prompt(
        instruction=case["instruction"], template=case["template"], study=study,
        chunks="whole" if case["whole"] else "separate",
    )  # fmt: skip
    literal = [IMAGE in text for text in (case["instruction"], *study.texts.values())]
    tokens = known.with_image if case["whole"] else known.ours
    try:
        pieces = prompt.pieces(tokens.tokenizer, _BOS)
    except ConfigError:
        special = [
            name for name in ("<s>", "</s>", "<unk>", IMAGE) if any(name in text for text in study.texts.values())
        ]
        needed = case["whole"] and (special or IMAGE in case["instruction"])
        return Outcome("refused: a token in a text", fault=not needed)
    if len(pieces) != study.images + 1:
        return different(f"{len(pieces)} pieces for {study.images} images")
    if any(literal):
        return Outcome("equal; the place of images is not compared, as a text holds <image>")
    if case["whole"]:
        ids = known.transformers_image.encode(prompt.text, add_special_tokens=False)
        image = known.transformers_image.convert_tokens_to_ids(IMAGE)
        expected: list[list[int]] = [[_BOS]]
        for number in ids:
            if number == image:
                expected.append([])
            else:
                expected[-1].append(number)
    else:
        # LLaVA's tokenizer_image_token
        first, *others = [known.sentencepiece.encode(chunk) for chunk in prompt.text.split(IMAGE)]
        expected = [[_BOS, *first], *others]
    return Outcome("equal") if pieces == expected else different(f"pieces: {pieces} and {expected}")


SUBJECT = Subject("prompts", "sentencepiece and transformers", 0.30, draw, compare)
