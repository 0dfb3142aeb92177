"""Entities of chest radiographs with their words, and the search for all known words in a sentence.

The table ``entities.csv`` has a row for each entity; its words were written for this project after the terms of RadLex
(https://radlex.org) and of the Fleischner Society's glossary (Hansell et al. 2008, https://doi.org/10.1148/radiol.2462070712).
``structure+quality`` is a finding that a quality makes of a structure, in any order: "the heart is enlarged".
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

from metrics.findings import words

_TOKEN = re.compile(r"[a-z]+|\d+(?:st|nd|rd|th)\b|\d+(?:\.\d+)?|[^\sa-z\d]")
_IRREGULAR: Final = {
    "apices": "apex", "atelectases": "atelectasis", "bases": "base", "bronchi": "bronchus", "bullae": "bulla",
    "granulomata": "granuloma", "hila": "hilum", "indices": "index", "metastases": "metastasis",
    "oedema": "edema", "oedematous": "edema", "pleurae": "pleura", "pneumothoraces": "pneumothorax",
    "prostheses": "prosthesis", "sulci": "sulcus", "tumour": "tumor", "vertebrae": "vertebra",
    "haemothorax": "hemothorax", "haemorrhage": "hemorrhage", "opacification": "opacity",
    "opacifications": "opacity", "pneumothoraxes": "pneumothorax", "bronchiectases": "bronchiectasis",
    "diagnoses": "diagnosis", "disk": "disc", "disks": "disc", "lucencies": "lucency", "osseus": "osseous",
    "pneumonias": "pneumonia", "septae": "septum", "fluids": "fluid", "atelectic": "atelectatic",
    "emphysemas": "emphysema",
}  # fmt: skip


@dataclass(frozen=True)
class Entity:
    """Something that a report can find.

    Attributes:
        name: its name.
        region: part of the body, or "device".
        kind: ``disease``, ``sign`` (an appearance with several causes), ``device``, ``surgery`` or ``variant``.
        significance: initial of its usual significance: urgent, actionable, not actionable, benign.
        source: publication or vocabulary that defines it.
    """

    name: str
    region: str
    kind: str
    significance: str
    source: str


class Token(NamedTuple):
    """A word, a number or a mark, with its span in the sentence."""

    text: str
    start: int
    end: int


@dataclass
class Item:
    """Known words.

    Attributes:
        first: number of the first token.
        last: number of the token after the last one.
        start: first character.
        end: character after the last one.
        means: values by kind: ``entity``, ``structure``, ``quality``, ``side``, ``level``, ``severity`` and so on.
    """

    first: int
    last: int
    start: int
    end: int
    means: dict[str, Any] = field(default_factory=dict)

    def __contains__(self, kind: str) -> bool:
        return kind in self.means


@lru_cache(maxsize=20_000)
def base_form(word: str) -> str:
    """Return a lower-case word without the ending of a plural or of a third person."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("sses", "xes", "ches", "shes")) else word[:-1]


def tokens(line: str) -> list[Token]:
    """Return the tokens of lower-case text in base form; hyphens are spaces."""
    return [
        Token(base_form(match[0]), match.start(), match.end()) for match in _TOKEN.finditer(line) if match[0] != "-"
    ]


@cache
def entities() -> dict[str, Entity]:
    """Return the entities by name."""
    return {name: entity for name, (entity, _) in _table().items()}


@cache
def combinations() -> dict[tuple[str, str], str]:
    """Return the entity of each structure with a quality."""
    found = {}
    for name, (_, phrases) in _table().items():
        for phrase in phrases:
            structure, plus, quality = phrase.partition("+")
            if plus:
                if structure not in words.STRUCTURES or quality not in words.QUALITIES:
                    raise ValueError(f"entities.csv: {phrase} is not a structure and a quality")
                found[structure, quality] = name
    return found


@cache
def _table() -> dict[str, tuple[Entity, list[str]]]:
    with (files("metrics.findings") / "entities.csv").open(encoding="utf-8") as file:
        return {
            row["name"]: (
                Entity(row["name"], row["region"], row["kind"], row["significance"], row["source"]),
                row["words"].split("|"),
            )
            for row in csv.DictReader(file)
        }


@cache
def _trie() -> dict[str, Any]:
    """Return all known words as a tree of tokens; the key "" holds the meanings of the words up to there."""
    root: dict[str, Any] = {}
    for kind, value, phrase in _phrases():
        node = root
        for token in tokens(phrase):
            node = node.setdefault(token.text, {})
        values = node.setdefault("", {}).setdefault(kind, [])
        if value not in values:
            values.append(value)
    return root


def _phrases() -> Iterator[tuple[str, Any, str]]:
    for name, (_, phrases) in _table().items():
        yield from (("entity", name, phrase) for phrase in phrases if "+" not in phrase)
    named: dict[str, dict[Any, str]] = {
        "structure": words.STRUCTURES, "quality": words.QUALITIES, "side": words.SIDES, "level": words.LEVELS,
        "severity": words.SEVERITY, "change": words.CHANGES, "tip": words.TIPS, "position": words.POSITIONS,
        "site": words.SITES, "number": words.NUMBERS,
    }  # fmt: skip
    for kind, table in named.items():
        for value, text in table.items():
            yield from ((kind, value, phrase) for phrase in text.split("|"))
    yield from (("severity", value, phrase) for phrase, value in words.BETWEEN.items())
    yield from (("side", value, phrase) for phrase, value in words.SIDE_OF_PLACE.items())
    others = {
        "normal": words.NORMAL, "abnormality": words.ABNORMALITY, "explains": words.EXPLAINS,
        "nothing": words.NO_FINDINGS,
    }  # fmt: skip
    for kind, text in others.items():
        yield from ((kind, True, phrase) for phrase in text.split("|"))


def items(found: list[Token]) -> list[Item]:
    """Return the known words of a sentence from left to right, the longest ones first, without overlap."""
    root, result, at = _trie(), list[Item](), 0
    while at < len(found):
        node, means, last = root, None, at
        for number in range(at, len(found)):
            node = node.get(found[number].text)  # type: ignore[assignment]
            if node is None:
                break
            if "" in node:
                means, last = node[""], number + 1
        if means is None:
            at += 1
            continue
        result.append(Item(at, last, found[at].start, found[last - 1].end, means))
        at = last
    return result
