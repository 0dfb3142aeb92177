"""A small tokenizer in Llama 2's format: BPE with byte fallback, `<unk>` 0, `<s>` 1, `</s>` 2, bytes 3-258, then the
pieces.

Trained on the grammar's own paragraphs and the prompt, so a paragraph takes about one token per word. Words and
punctuation are split before training, so no piece crosses them, but not afterwards: the file holds Llama 2's
normaliser (a leading "▁", spaces to "▁") and no splitting.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = ("<unk>", "<s>", "</s>")
_SPACE = "\u2581"
_ALPHABET = [chr(code) for code in range(33, 127)]


def train(texts: Iterable[str], vocab_size: int = 800) -> Tokenizer:
    """Learns the pieces.

    Args:
        texts: What the language model will read and write.
        vocab_size: Upper bound of the number of pieces, special ones and bytes included.

    Returns:
        A tokenizer that adds `<s>` in front, as Llama's does.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    learner = Tokenizer(models.BPE())
    # A full stop of its own: else "effusion." and "effusion and" would be rival words where only the finding is to
    # be decided.
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Punctuation("isolated")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL) - len(bytes_),
        initial_alphabet=[*_ALPHABET, _SPACE],
        special_tokens=[],
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)

    pieces = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    vocabulary = {piece: number for number, piece in enumerate([*SPECIAL, *bytes_, *(piece for piece, _ in pieces)])}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, _merges(learner), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in SPECIAL])
    return tokenizer


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    import json

    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]
