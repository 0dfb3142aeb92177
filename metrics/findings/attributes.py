"""Mentions of findings and what a sentence says about them: side, place, severity, size, change, position of a tip."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from metrics.findings import words
from metrics.findings.lexicon import Item, Token, entities
from metrics.labels import POSITIVE

Span = tuple[int, int]
_NUMBER = r"(?:(?:\d+ )?\d+[/\u2044]\d+|\d+(?:[.,]\d+)?|[.,]\d+)"
_UNITS: Final = {"m": 1.0, "c": 10.0, "i": 25.4}
_UNIT = r"(?:mm|cm|millimet(?:er|re)s?|centimet(?:er|re)s?|inch(?:es)?)\b"
_FURTHER = rf"(?:[\s-]*{_UNIT})?\s*(?:x|by|\u00d7|-|to)\s*{_NUMBER}"
_SIZE = re.compile(rf"(?<![\d.,/\u2044]){_NUMBER}(?:{_FURTHER}){{0,2}}[\s-]*{_UNIT}")
_LENGTH = re.compile(rf"({_NUMBER})[\s-]*({_UNIT})?")
_GROWN = re.compile(r"(?<!ranging )(?<!range )(?<!varying )(?<!vary )(?<!measuring )\bfrom $")
_DISTANCE = re.compile(r"[^.;,]{0,20}?\b(?:above|below|from|proximal|distal|superior|cephalad|beyond|past)\b")
_WITHDRAW = re.compile(r"(?:withdraw|retract|advanc|pull|push)\w*[^.;]{0,30}$")
TIP = re.compile(r"\b(?:tips?|terminat\w*|ends?|ending|project\w*|overl\w+|extend\w*|cours\w+|lies|lying|located|in)\b")
_COMPARED = re.compile(r"\b(?:than|since|compared|prior|previous\w*|interval|now|earlier|yesterday|ago|today)\b")
# "Marked improvement", "slightly larger": how much has changed, not how severe it is.
_OF_CHANGE = re.compile(
    r"(?:interval )?(?:improvement|increase|decrease|progression|resolution|clearing|reduction|enlargement|growth|"
    r"worsening (?:of|in)\b)"
)
_PAST = re.compile(
    r"\b(?:was|were|previously|formerly|from|initially)(?: (?:an?|only|measured|measuring|about|approximately))* $"
)
_BOTH_ZONES = re.compile(r"both (?:the )?(?:upper|mid\w*|lower)(?: lung| zones?| lobes?)? and ")
_APPROACH = re.compile(r"\b(?:via|through|from|by way of)(?: (?:the|a|an))?(?: (?:left|right))?(?: internal)? $")
BE: Final = frozenset((
    "is", "are", "was", "were", "be", "been", "appear", "appears", "remain", "remains", "has", "have", "seem",
    "being", "measure",
))  # fmt: skip
_JOINS: Final = frozenset((
    "and", "or", "/", "versus", "vs", ",", "with", "associated", "adjacent", "possible", "probable",
))  # fmt: skip
_PREDICATE: Final = BE | {"the", "grossly", "again", "well", "side"}
MODIFIERS: Final = ("side", "level", "severity", "change", "site", "tip", "position", "size", "number")


@dataclass
class Part:
    """A mention of a finding, with what the sentence says about it; positions are those in the sentence.

    Attributes:
        entities: names; a sign and the diseases that explain it are one finding.
        spans: of the mention itself.
        code: code of :mod:`metrics.labels`.
        sides: "left", "right".
        levels: of :data:`metrics.findings.words.LEVELS`.
        severity: of :data:`metrics.findings.words.SEVERITY`, or None.
        size: greatest diameter in mm, or None.
        distance: from the carina to the tip of a tube in mm, or None.
        change: of :data:`metrics.findings.words.CHANGES`, or None.
        sites: bones.
        tips: positions of the tip.
        position: "good", "bad" or None.
        number: "one", "many" or None.
        old: the finding is called old, chronic or healed.
        generic: the words can be of several devices: "the catheter".
        where: span of each attribute.
    """

    entities: list[str]
    spans: list[Span]
    code: int = POSITIVE
    sides: set[str] = field(default_factory=set)
    levels: set[int] = field(default_factory=set)
    severity: float | None = None
    size: float | None = None
    distance: float | None = None
    change: str | None = None
    sites: set[str] = field(default_factory=set)
    tips: set[str] = field(default_factory=set)
    position: str | None = None
    number: str | None = None
    old: bool = False
    generic: bool = False
    where: dict[str, Span] = field(default_factory=dict)

    def copy(self) -> Part:
        """Return a copy that shares nothing that changes."""
        return replace(
            self,
            entities=list(self.entities),
            spans=list(self.spans),
            sides=set(self.sides),
            levels=set(self.levels),
            sites=set(self.sites),
            tips=set(self.tips),
            where=dict(self.where),
        )

    def add(self, item: Item, kind: str) -> None:
        """Add an attribute."""
        values = item.means[kind]
        if kind == "side":
            self.sides |= {"left", "right"} if values[0] == "both" else {values[0]}
        elif kind in ("level", "site", "tip"):
            into: set[object] = getattr(self, {"level": "levels", "site": "sites", "tip": "tips"}[kind])
            into |= set(values)
        elif getattr(self, kind) is None:
            setattr(self, kind, values[0])
        else:
            return
        self.where.setdefault(kind, (item.start, item.end))


def sizes(line: str, found: Sequence[Token]) -> Iterator[Item]:
    """Yield the sizes, and the distances from the carina, in mm."""
    if not any(token.text[0].isdigit() for token in found):
        return
    for match in _SIZE.finditer(line):
        values = _lengths(match[0])
        kind = "distance" if _DISTANCE.match(line, match.end()) else "size"
        if values and not _WITHDRAW.search(line, 0, match.start()):
            grown = " to " in match[0] and _GROWN.search(line, 0, match.start())
            yield Item(-1, -1, match.start(), match.end(), {kind: [values[-1] if grown else max(values)]})


def _lengths(words: str) -> list[float]:
    """Return the lengths in mm in "2.3 x 1.8 cm", also with a decimal comma or a fraction; a unit holds for all."""
    found, factor = list[float](), 1.0
    for number, unit in reversed(_LENGTH.findall(words)):
        factor = _UNITS[unit[0]] if unit else factor
        whole, _, fraction = number.replace("\u2044", "/").rpartition(" ")
        upper, slash, lower = fraction.replace(",", ".").partition("/")
        value = float(upper) / float(lower) if slash and float(lower) else float(upper)
        if slash and value >= 1:
            continue  # a whole number and a fraction in one character, run together
        found.append(round(factor * (value + float(whole or 0)), 2))
    return found[::-1]


def between(found: Sequence[Token], start: int, end: int) -> list[Token]:
    """Return the tokens between two positions."""
    return [token for token in found if token.start >= start and token.end <= end]


def only(found: Sequence[Token], known: Sequence[Item], start: int, end: int, allowed: frozenset[str]) -> bool:
    """Return if only allowed words and modifiers stand between two positions."""
    covered = [(item.start, item.end) for item in known if any(kind in item for kind in (*MODIFIERS, "quality"))]
    return all(
        token.text in allowed or any(low <= token.start and token.end <= high for low, high in covered)
        for token in between(found, start, end)
    )


def describe(
    line: str, known: Sequence[Item], found: Sequence[Token], spans: Sequence[Span], parts: Sequence[Part]
) -> list[Part]:
    """Give every modifier to the mention that it describes.

    Args:
        line: the sentence.
        known: its known words.
        found: its tokens.
        spans: of all mentions, also of denied ones.
        parts: mentions that are not denied.

    Returns:
        The mentions, with one for each side of "small right and large left effusions".
    """
    modifiers = dict[Span, list[Item]]()
    named = any(token.text in ("former", "latter") for token in found)
    for number, item in enumerate(known):
        if (
            any(kind in item for kind in (*MODIFIERS, "distance"))
            and not _of_normal(known, found, number)
            and not _degree(line, known, number)
        ):
            span = (_named(item, found, spans) if named else None) or _described(item, found, known, spans)
            if span is not None:
                modifiers.setdefault(span, []).append(item)
    result = list[Part]()
    for part in parts:
        given = _present(line, modifiers.get(part.spans[0], []))
        for group in _by_side(line, given, part.spans[0]):
            one = part.copy()
            for item in group:
                _give(line, one, item)
            result.append(one)
    return result


def _of_normal(known: Sequence[Item], found: Sequence[Token], number: int) -> bool:
    """Return if a place is that of a normal structure: "the right lung is clear but ..."."""
    item = known[number]
    if "side" not in item and "level" not in item:
        return False
    for other in known[number + 1 :]:
        if not only(found, known, item.end, other.start, _PREDICATE):
            return False
        if "normal" in other:
            return not any(token.text in words.EXCEPTIONS for token in found[other.last : other.last + 2])
        if "entity" in other or not any(kind in other for kind in ("structure", "side", "level")):
            return False
        item = other
    return False


def _degree(line: str, known: Sequence[Item], number: int) -> bool:
    """Return if a word says how much a finding has changed."""
    item = known[number]
    following = next(iter(known[number + 1 :]), None)
    if "severity" not in item or following is None or line[item.end : following.start].strip() not in ("", "interval"):
        return False
    if not {"better", "worse"} & set(following.means.get("change", ())) or "quality" in following:
        return False
    adverb = line[item.start : item.end].endswith("ly")
    return adverb or _OF_CHANGE.match(line, following.start) is not None


def _present(line: str, given: list[Item]) -> list[Item]:
    """Leave out a severity or size of the past where there is one of now: "was large, is now small"."""
    for kind in ("severity", "size"):
        some = [item for item in given if kind in item]
        past = [item for item in some if _PAST.search(line, 0, item.start)] if len(some) > 1 else []
        if len(past) < len(some):
            given = [item for item in given if item not in past]
    return given


def _by_side(line: str, given: list[Item], span: Span) -> list[list[Item]]:
    """Split modifiers at an "and" or a comma between two sides, if each has a severity of its own.

    They stand together before the mention ("small right and large left effusions") or after it ("effusions, small on
    the right and large on the left").
    """
    ahead = [item for item in given if item.end <= span[0]]
    behind = [item for item in given if item.end > span[0]]
    for some, rest in ((ahead, behind), (behind, ahead)):
        sides = [item for item in some if "side" in item and item.means["side"][0] != "both"]
        if len(sides) == 2 and sides[0].means["side"] != sides[1].means["side"]:
            cut = max(line.rfind(word, sides[0].start, sides[1].start) for word in (" and ", ", "))
            groups = [item for item in some if item.start < cut], [item for item in some if item.start > cut]
            if cut > 0 and all(any("severity" in item for item in group) for group in groups):
                rest = [item for item in rest if "side" not in item]
                return [[*group, *rest] for group in groups]
    return [given]


def _give(line: str, part: Part, item: Item) -> None:
    """Add what a modifier says of a mention."""
    span = part.spans[0]
    device = entities()[part.entities[0]].kind == "device"
    add_size(part, item)
    for kind in (kind for kind in MODIFIERS if kind in item and kind != "size"):
        if kind == "change" and line[item.start : item.end] in words.COMPARATIVES and not _COMPARED.search(line):
            continue
        if kind == "side" and _BOTH_ZONES.match(line, item.start):
            continue
        if kind in ("tip", "position"):
            approach = kind == "tip" and TIP.search(line, span[1]) and _APPROACH.search(line[: item.start])
            if device and not approach:
                part.add(item, kind)
        elif kind == "severity" and "quality" in item and span[0] <= item.start and item.end <= span[1]:
            if line[item.start : item.end] in words.DEGREES:
                part.add(item, kind)
            # else it is the quality that makes the finding
        elif kind == "number" and part.entities[0] not in words.COUNTED:
            continue
        elif not (device and kind in ("severity", "level")):
            part.add(item, kind)


def add_size(part: Part, item: Item) -> None:
    """Add a size or a distance."""
    for kind in ("size", "distance"):
        if kind in item and getattr(part, kind) is None:
            setattr(part, kind, item.means[kind][0])
            part.where.setdefault(kind, (item.start, item.end))


def _described(item: Item, found: Sequence[Token], known: Sequence[Item], spans: Sequence[Span]) -> Span | None:
    """Return the span of the mention that a modifier describes."""
    for span in spans:
        if span[0] <= item.start and item.end <= span[1]:
            return span
    before = max((span for span in spans if span[1] <= item.start), default=None, key=lambda span: span[1])
    after = min((span for span in spans if span[0] >= item.end), default=None)
    exception = after and any(token.text in words.EXCEPTIONS for token in between(found, item.end, after[0]))
    if exception and ("change" in item or "severity" in item):
        return before  # "no change other than an effusion", "grossly clear aside from an effusion"
    if before is None or after is None:
        return before or after
    gap = between(found, before[1], item.start)
    leading = [token.text for token in gap]
    if not words.EXCEPTIONS.isdisjoint(leading):
        return after
    if leading and leading[-1] in BE and leading[-2:-1] != ["there"]:
        return before
    for number in range(len(gap) - 1, -1, -1):
        if gap[number].text in words.PREPOSITIONS:
            if only(found, known, gap[number].end, item.start, frozenset(("the", "both", "lung"))):
                return before
            break
    open_words = frozenset(("of", "the", "a", "an", "in", "sized", "size"))
    ahead = between(found, item.end, after[0])
    for number, token in enumerate(ahead):
        if token.text in (",", "and", "or", "/", "to"):
            neighbours = [ahead[number + 1]] if number + 1 < len(ahead) else []
            if not neighbours or not only(found, known, neighbours[0].start, neighbours[0].end, open_words):
                return before
        elif token.text in BE or token.text in words.STOPS or token.text in (";", "(", ")", ":", "with", "which"):
            return before
    return after


def _named(item: Item, found: Sequence[Token], spans: Sequence[Span]) -> Span | None:
    """Return the span of the mention that "the former" or "the latter" before a modifier stands for, or None."""
    for token in reversed([one for one in found if one.end <= item.start]):
        if token.text in ("former", "latter"):
            before = sorted(span for span in spans if span[1] <= token.start)[-2:]
            return None if len(before) < 2 else before[0 if token.text == "former" else 1]
        if token.text in (",", ";", "and") or any(span[0] <= token.start < span[1] for span in spans):
            return None
    return None


def inherit(found: Sequence[Token], parts: Sequence[Part]) -> None:
    """Give the place of a mention to those that are listed with it and have none: "left effusion and atelectasis"."""
    for one, other in itertools.pairwise(parts):
        regions = {entities()[part.entities[0]].region for part in (one, other)}
        if other.sides or other.levels or other.sites or not regions <= {"lung", "pleura", "airways"}:
            continue
        gap = [token.text for token in between(found, one.spans[0][1], other.spans[0][0])]
        if gap and all(word in _JOINS for word in gap):
            other.sides, other.levels = set(one.sides), set(one.levels)
            other.where |= {kind: span for kind, span in one.where.items() if kind in ("side", "level")}
