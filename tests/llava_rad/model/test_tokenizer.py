"""Tokenizers that somebody else wrote: patterns of published ones are taken, patterns without end are not."""

from __future__ import annotations

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from encoder.errors import ModelError
from llava_rad.model.config import TokenIds
from llava_rad.model.prompt import _encode_whole, encode_text
from llava_rad.model.templates import IMAGE, Study
from llava_rad.model.tokenizer import Tokens

PUBLISHED = {
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama-3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re)?|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "bloom": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "deepseek": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*",
    "words": r"(?:foo|bar)?baz(qux){2}",
}
ENDLESS = [
    r"(a+)+$",
    r"(?:a|aa)+$",
    r"(.*)*b",
    r"((a{1,})b?){2,}",
    r"(?:x(?:a*))*",
    r"(a+){10}",
    r"(\(a+\))+",
    r"((a|b)c)*d",
]


def with_pattern(tiny: Path, folder: Path, pattern: str, key: str = "Regex") -> Path:
    shutil.copytree(tiny / "language_model", folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split]}
    (folder / "tokenizer.json").write_text(json.dumps(content).replace('"Regex"', f'"{key}"'), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_patterns_of_published_tokenizers_are_taken(name: str, tiny: Path, tmp_path: Path) -> None:
    folder = with_pattern(tiny, tmp_path / "model", PUBLISHED[name])
    assert Tokens.load(folder, TokenIds(bos=1, eos=2, pad=0)).tokenizer.encode("No effusion. 12").ids


@pytest.mark.parametrize("key", ["Regex", r"\u0052egex", r"R\u0065gex"])
@pytest.mark.parametrize("pattern", ENDLESS)
def test_patterns_that_can_take_for_ever_are_refused(pattern: str, key: str, tiny: Path, tmp_path: Path) -> None:
    folder = with_pattern(tiny, tmp_path / "model", pattern, key)
    with pytest.raises(ModelError, match="take for ever"):
        Tokens.load(folder, TokenIds(bos=1, eos=2, pad=0))


def test_threads_share_a_tokenizer(tiny: Path) -> None:
    """A draft reads special tokens while an attention map takes them for text."""
    tokenizer = Tokens.load(tiny / "language_model", TokenIds(bos=1, eos=2, pad=0)).tokenizer
    if tokenizer.token_to_id(IMAGE) is None:
        tokenizer.add_special_tokens([IMAGE])
    text = "No pleural effusion. " * 20
    expected = _encode_whole(tokenizer, [text, text], Study()), encode_text(tokenizer, text + "</s>" + IMAGE)

    def work(number: int) -> bool:
        if number % 2:
            return _encode_whole(tokenizer, [text, text], Study()) == expected[0]
        return encode_text(tokenizer, text + "</s>" + IMAGE) == expected[1]

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(work, range(800)))
    finally:
        sys.setswitchinterval(before)


def test_a_tokenizer_that_fails_is_an_error_of_the_model(tiny: Path, tmp_path: Path) -> None:
    """Several repetitions, one after the other, are taken, but have a limit."""
    folder = with_pattern(tiny, tmp_path / "model", "a*" * 12 + r"\d{2}")
    tokens = Tokens.load(folder, TokenIds(bos=1, eos=2, pad=0))
    with pytest.raises(ModelError, match="fails on the text"):
        encode_text(tokens.tokenizer, "a" * 200 + "1")
