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
_SIZE = re.compile(
    r"(?<![\d.])(\d+(?:\.\d+)?)(?:\s*(?:x|by|\u00d7|-|to)\s*(\d+(?:\.\d+)?))?(?:\s*(?:x|by|\u00d7)\s*\d+(?:\.\d+)?)?[\s-]*"
    r"(mm|cm|millimeters?|centimeters?)\b"
)
_DISTANCE = re.compile(r"[^.;,]{0,20}?\b(?:above|below|from|proximal|distal|superior|cephalad|beyond|past)\b")
_WITHDRAW = re.compile(r"(?:withdraw|retract|advanc|pull|push)\w*[^.;]{0,30}$")
TIP = re.compile(r"\b(?:tips?|terminat\w*|ends?|ending|project\w*|overl\w+|extend\w*|cours\w+|lies|lying|located|in)\b")
_COMPARED = re.compile(r"\b(?:than|since|compared|prior|previous\w*|interval|now|earlier|yesterday|ago|today)\b")
_BOTH_ZONES = re.compile(r"both (?:the )?(?:upper|mid\w*|lower)(?: lung| zones?| lobes?)? and ")
_APPROACH = re.compile(r"\b(?:via|through|from|by way of)(?: (?:the|a|an))?(?: (?:left|right))?(?: internal)? $")
BE: Final = frozenset((
    "is", "are", "was", "were", "be", "been", "appear", "appears", "remain", "remains", "has", "have", "seem",
    "being", "measure",
))  # fmt: skip
_JOINS: Final = frozenset((
    "and", "or", "/", "versus", "vs", ",", "with", "associated", "adjacent", "possible", "probable",
))  # fmt: skip
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
    if "m" not in line or not any(token.text[0].isdigit() for token in found):
        return
    for match in _SIZE.finditer(line):
        unit = 10.0 if match[3].startswith("c") else 1.0
        value = max(float(number) for number in (match[1], match[2]) if number) * unit
        kind = "distance" if _DISTANCE.match(line, match.end()) else "size"
        if not _WITHDRAW.search(line, 0, match.start()):
            yield Item(-1, -1, match.start(), match.end(), {kind: [value]})


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
    for item in known:
        if (
            any(kind in item for kind in (*MODIFIERS, "distance"))
            and (span := _described(item, found, known, spans)) is not None
        ):
            modifiers.setdefault(span, []).append(item)
    result = list[Part]()
    for part in parts:
        given = modifiers.get(part.spans[0], [])
        for group in _by_side(line, given, part.spans[0]):
            one = part.copy()
            for item in group:
                _give(line, one, item)
            result.append(one)
    return result


def _by_side(line: str, given: list[Item], span: Span) -> list[list[Item]]:
    """Split the modifiers before a mention at an "and" between its two sides, if each has a severity of its own."""
    ahead = [item for item in given if item.end <= span[0]]
    rest = [item for item in given if item.end > span[0]]
    sides = [item for item in ahead if "side" in item and item.means["side"][0] != "both"]
    if len(sides) == 2 and sides[0].means["side"] != sides[1].means["side"]:
        cut = line.rfind(" and ", sides[0].start, sides[1].start)
        groups = [item for item in ahead if item.start < cut], [item for item in ahead if item.start > cut]
        if cut > 0 and all(any("severity" in item for item in group) for group in groups):
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
            continue  # the quality that makes the finding
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
    if before is None or after is None:
        return before or after
    gap = between(found, before[1], item.start)
    leading = [token.text for token in gap]
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
