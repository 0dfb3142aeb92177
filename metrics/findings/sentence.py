"""Findings and normal statements of one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from metrics.findings import words
from metrics.findings.attributes import (
    BE,
    MODIFIERS,
    TIP,
    Part,
    Span,
    add_size,
    between,
    describe,
    inherit,
    only,
    sizes,
)
from metrics.findings.lexicon import Item, Token, combinations, entities, items, tokens
from metrics.findings.weights import GROUPED, OLD, RELATED
from metrics.labels import NEGATIVE, POSITIVE, UNCERTAIN
from metrics.rules.scope import ASKED, Mention, Words, code

_NEAR: Final = 40  # characters
_FILLERS: Final = frozenset((
    "of", "the", "a", "an", "in", "size", "sized", "and", "or", "to", "within", "involving", "are", "is",
    "seen", "noted", "both",
))  # fmt: skip
_NO_STATEMENT: Final = frozenset(("of", "to", "suggestive", "suggest", "concerning", "consistent", "compatible", "for"))
_LIST: Final = frozenset(["and", "or", "nor", "the", "a", "of", "as", "well", ",", "/", "both", "in"])
# Between structures and what they lack: "the bones show no acute abnormality".
_LACKS: Final = BE | {
    "without", "no", "show", "demonstrate", "reveal", "exhibit", "display", "acute", "any", "significant", "focal",
    "definite", "evidence", "of", "the", "suspicious", "gross", "grossly", "obvious", "visible", "free", "other",
}  # fmt: skip
_EXCEPTION: Final = re.compile(
    r"\b(?:other than|apart from|aside from|except(?:ing)?(?: for)?|beyond|besides|save for) (?P<rest>[^.;]+)"
)
_HEADING: Final = re.compile(
    r"\W*(?:(?:support|monitoring|and|or|hardware|devices?|lines?|tubes?|catheters?|drains?|leads?)[ ,/&]*)+:"
)
_REGIONS: Final[dict[str, tuple[str, ...]]] = {
    "heart": ("heart",), "atrium": ("heart",), "ventricle": ("heart",), "cardiomediastinum": ("heart", "mediastinum"),
    "mediastinum": ("mediastinum",), "hilum": ("hila",), "aorta": ("aorta",), "pulmonary artery": ("vessels",),
    "vessel": ("vessels",), "lung": ("lung", "airways"), "interstitial marking": ("lung",), "lung marking": ("lung",),
    "perihilar marking": ("airways",), "bronchovascular marking": ("airways",), "lung volume": ("lung",),
    "airway": ("airways",), "trachea": ("airways",), "pleura": ("pleura",), "costophrenic angle": ("pleura",),
    "fissure": ("pleura",), "diaphragm": ("diaphragm",), "bone": ("bones",), "spine": ("bones",),
    "shoulder": ("bones",), "soft tissue": ("soft tissue",), "abdomen": ("abdomen",), "bowel": ("abdomen",),
    "stomach": ("abdomen",), "lymph node": ("mediastinum",), "valve": ("heart",),
}  # fmt: skip
_CHEST: Final = tuple(dict.fromkeys(region for regions in _REGIONS.values() for region in regions))
_ABNORMAL: Final = {
    "cardiopulmonary": ("heart", "lung", "pleura", "vessels", "mediastinum", "airways"), "pulmonary": ("lung",),
    "lung": ("lung",), "airspace": ("lung",), "osseous": ("bones",), "bony": ("bones",), "pleural": ("pleura",),
}  # fmt: skip


class Denied(NamedTuple):
    """A statement that something is absent or normal.

    Attributes:
        entities: names of what is absent.
        regions: parts of the body that are normal.
        span: of the statement.
    """

    entities: tuple[str, ...]
    regions: tuple[str, ...]
    span: Span


@dataclass(frozen=True)
class Sentence:
    """Content of a sentence.

    Attributes:
        parts: findings that are there, or may be.
        denied: absent ones and normal structures.
        continues: the sentence goes on about the finding before it.
        loose: attributes of a device that an earlier sentence names: tips and position.
    """

    parts: tuple[Part, ...]
    denied: tuple[Denied, ...]
    continues: bool
    loose: Part | None


@lru_cache(maxsize=8192)
def read(line: str) -> Sentence:
    """Read a sentence in the form of :func:`metrics.rules.text.clean`. The result is shared: never change it."""
    found = tokens(line)
    known = items(found) + list(sizes(line, found))
    known.sort(key=lambda item: item.start)
    heading = match.end() if (match := _HEADING.match(line)) else 0
    mentions = [
        _Found([name], item.start, item.end, item)
        for item in known
        for name in item.means.get("entity", ())[:1]
        if item.end > heading
    ]
    for mention in mentions:
        mention.entities = list(mention.item.means["entity"])
    mentions += _combined(known, found)
    normal = list(_normal(known, found))
    whole = sorted([*mentions, *normal], key=lambda one: (one.start, one.end))
    at = [Mention(one.start, one.end) for one in whole]
    scope = Words.of(line) if whole else None
    codes = [code(scope, at, number) for number in range(len(whole))] if scope else []
    denied = list[Denied]()
    parts = list[Part]()
    for one, value in zip(whole, codes, strict=True):
        span = (one.start, one.end)
        if one.regions:
            if (value == NEGATIVE) == one.denial and value != ASKED:
                denied.append(Denied((), one.regions, span))
        elif value == NEGATIVE:
            denied.append(Denied(tuple(one.entities), (), span))
        else:
            old = OLD.search(line, max(0, one.start - _NEAR), one.end + _NEAR) is not None
            generic = line[one.start : one.end] in words.GENERIC
            parts += [Part([name], [span], value, old=old, generic=generic) for name in one.entities]
    starts = [token.text for token in found[:2] if token.text != "the"][:1]
    loose = None
    if parts:
        parts = describe(line, known, found, [(one.start, one.end) for one in whole if not one.regions], parts)
        inherit(found, parts)
    if scope and codes[-1] == NEGATIVE and (part := _excepted(scope, known, whole[-1])) is not None:
        parts.append(part)
    if not parts and TIP.search(line):
        loose = Part([], [])
        for item in known:
            for kind in ("tip", "position"):
                if kind in item:
                    loose.add(item, kind)
            add_size(loose, item)
    return Sentence(
        tuple(_grouped(line, known, parts)), tuple(denied), words.CONTINUES.issuperset(starts) and bool(starts), loose
    )


def _excepted(scope: Words, known: Sequence[Item], last: _Found) -> Part | None:
    """Return what an exception takes back of the last denial: "no pneumothorax other than a tiny left one".

    Exceptions with a name of their own are mentions like all others.
    """
    match = _EXCEPTION.search(scope.line, last.end)
    given = [item for item in known if match and match.start("rest") <= item.start and item.end <= match.end()]
    kinds = [(item, kind) for item in given for kind in ("side", "level", "severity", "size") if kind in item]
    if match is None or not last.entities or not kinds:
        return None
    part = Part(last.entities[:1], [(match.start("rest"), kinds[-1][0].end)])
    if any(match.start() <= low < match.end() for low, _ in scope.doubts):
        part.code = UNCERTAIN
    for item, kind in kinds:
        part.add(item, kind)
    return part


@dataclass
class _Found:
    """A mention before its scope is known; regions and denial are those of normal statements."""

    entities: list[str]
    start: int
    end: int
    item: Item
    regions: tuple[str, ...] = ()
    denial: bool = False


def _structures(
    known: Sequence[Item], found: Sequence[Token], number: int, *, attributive: bool = True, commas: bool = True
) -> tuple[list[Item], list[Item]]:
    """Return the structures that a predicate is about: those after it, and those before it, also over commas."""
    item, listed = known[number], _LIST if commas else _LIST - {","}
    after = list[Item]()
    if attributive:
        last = item.end
        for other in known[number + 1 :]:
            if "structure" in other and only(found, known, last, other.start, listed if after else _FILLERS):
                after.append(other)
                last = other.end
            elif "entity" in other or "normal" in other or other.start - last > 40:
                break
        if len(after) > 1:  # the last one may have a predicate of its own
            following = [token.text for token in found if token.start >= last][:1]
            if following and following[0] in BE:
                after.pop()
    before = list[Item]()
    first = item.start
    for other in reversed(known[:number]):
        if "entity" in other and "structure" not in other and before:
            break
        if "normal" in other or ("entity" in other and "structure" not in other):
            break
        gap = [token.text for token in between(found, other.end, first)]
        if any(word in words.STOPS or word in (";", "with", "without") for word in gap):
            break
        if "structure" in other:
            if before and not only(found, known, other.end, first, listed):
                break
            before.append(other)
            first = other.start
    return after, before


def _after_but(known: Sequence[Item], found: Sequence[Token], item: Item) -> Iterator[_Found]:
    """Yield the finding of "X is hard to assess but appears enlarged", whose structure begins the sentence."""
    subject = next((other for other in known if "structure" in other), None)
    if subject is None or subject.start > item.start or not _predicate(found, item):
        return
    before = [token.text for token in found[max(0, item.first - 3) : item.first - 1]]
    for structure in subject.means["structure"] if "but" in before else ():
        for quality in item.means["quality"]:
            if (name := combinations().get((structure, quality))) is not None:
                yield _Found([name], item.start, item.end, item)
                return


def _predicate(found: Sequence[Token], item: Item, reach: int = 1) -> bool:
    """Return if words come after a verb: "is enlarged"."""
    return any(token.text in BE for token in found[max(0, item.first - reach) : item.first])


def _combined(known: Sequence[Item], found: Sequence[Token]) -> Iterator[_Found]:
    """Yield the findings that a quality makes of a structure."""
    table = combinations()
    for number, item in enumerate(known):
        if "quality" not in item or "entity" in item or item.first < 0:
            continue
        after, before = _structures(known, found, number, attributive="big" not in item.means["quality"], commas=False)
        if "big" in item.means["quality"] and not _predicate(found, item, 3):
            continue
        for side in (before, after) if _predicate(found, item) else (after, before):
            hits = {
                name: other
                for other in side
                for structure in other.means["structure"]
                for quality in item.means["quality"]
                if (name := table.get((structure, quality)))
            }
            for name, other in hits.items():
                yield _Found([name], min(item.start, other.start), max(item.end, other.end), item)
            if hits:
                break
        else:
            yield from _after_but(known, found, item)


def _normal(known: Sequence[Item], found: Sequence[Token]) -> Iterator[_Found]:
    """Yield the statements that structures are normal, or that nothing abnormal is seen."""
    for number, item in enumerate(known):
        if "normal" in item and "not" in [token.text for token in found[max(0, item.first - 2) : item.first]]:
            continue
        if "normal" in item:
            after, before = _structures(known, found, number)
            about = before or after
            if found[item.last : item.last + 1] and found[item.last].text in ("of", "from"):
                continue  # "clear of consolidation" says no more than that
            regions = _regions(about)
            if regions:
                ends = [item.end, *(other.end for other in about)]
                yield _Found([], min(item.start, *(one.start for one in about)), max(ends), item, regions)
        elif "abnormality" in item and "entity" not in item:
            first, following = found[item.first].text, [token.text for token in found[item.last : item.last + 1]]
            after, before = _structures(known, found, number)
            near = [one for one in before if item.start - one.end < 3] or (after if following == ["of"] else [])
            if following and following[0] in _NO_STATEMENT and not near:
                continue
            near = near or _lacking(known, found, number)
            regions = _ABNORMAL.get(first) or _regions(near) or _CHEST
            yield _Found([], item.start, item.end, item, regions, denial=True)


def _regions(structures: Sequence[Item]) -> tuple[str, ...]:
    """Return the parts of the body that structures belong to."""
    return tuple(
        dict.fromkeys(
            region
            for item in structures
            for structure in item.means["structure"]
            for region in (_CHEST if structure == "chest" else _REGIONS[structure])
        )
    )


def _lacking(known: Sequence[Item], found: Sequence[Token], number: int) -> list[Item]:
    """Return the structures before a denial of something abnormal: "the bones are without acute abnormality"."""
    first, result = known[number].start, list[Item]()
    for other in reversed(known[:number]):
        if "structure" in other and only(found, known, other.end, first, _LIST if result else _LACKS):
            result.append(other)
            first = other.start
        elif not any(kind in other for kind in MODIFIERS):
            break
    return result


def _grouped(line: str, known: Sequence[Item], parts: Sequence[Part]) -> list[Part]:
    """Join signs with the diseases that explain them, and alternatives with each other."""
    links = [item for item in known if "explains" in item]
    grouped = list[Part]()
    for part in parts:
        if part.generic and (device := device_of(part, grouped)) is not None:
            part.entities = []
            join(device, part)
            continue
        last = grouped[-1] if grouped else None
        if last is None or not related(last, part, GROUPED):
            grouped.append(part)
            continue
        low, high = last.spans[-1][1], part.spans[0][0]
        linked = any(low <= item.start and item.end <= high for item in links) or line[low:high].strip() == "/"
        if not linked:
            grouped.append(part)
            continue
        join(last, part)
        while len(grouped) > 1 and _sign(grouped[-2]) and related(grouped[-2], grouped[-1], GROUPED):
            join(grouped[-2], grouped[-1])  # "opacities with thickening, suggestive of edema"
            grouped.pop()
    return grouped


def device_of(part: Part, before: Sequence[Part]) -> Part | None:
    """Return the last device before a generic name that can be the same one, or None."""
    for one in reversed(before):
        if related(one, part) and not (one.sides and part.sides and one.sides != part.sides):
            return one
    return None


def _sign(part: Part) -> bool:
    return all(entities()[name].kind == "sign" for name in part.entities)


def related(one: Part, other: Part, least: float = 0.0) -> bool:
    """Return if two mentions can be of one finding: they share a name, or have names of that credit for each other."""
    return any(
        first == second or max(RELATED.get((first, second), 0.0), RELATED.get((second, first), 0.0)) > least
        for first in one.entities
        for second in other.entities
    )


def join(one: Part, other: Part) -> None:
    """Add a mention of the same finding to one."""
    one.entities += [name for name in other.entities if name not in one.entities]
    one.spans += other.spans
    one.code = POSITIVE if POSITIVE in (one.code, other.code) else one.code
    for kind in ("severity", "size", "distance", "change", "position", "number"):
        if getattr(one, kind) is None:
            setattr(one, kind, getattr(other, kind))
    for kind in ("sides", "levels", "sites", "tips"):
        if not getattr(one, kind):
            setattr(one, kind, set(getattr(other, kind)))
    one.old = one.old and other.old
    one.where = {**other.where, **one.where}
