"""Findings of a report: every sentence is read, and repeated mentions of one finding are joined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from metrics.base import InputError, is_empty
from metrics.findings.attributes import Part, Span
from metrics.findings.lexicon import Entity, entities
from metrics.findings.sentence import Denied, device_of, join, read, related
from metrics.findings.words import VOLUME
from metrics.labels import POSITIVE
from metrics.rules.text import Aligned, clean, parts, sentences

_LONGEST = 800  # characters of a sentence: text without stops is cut, so that time is linear in its length


@dataclass(frozen=True)
class Finding:
    """Something that a report finds; spans are start and end in the report.

    Attributes:
        entities: names in :func:`metrics.findings.lexicon.entities`; a sign and the diseases that explain it are one
            finding.
        spans: of the words that name it.
        certain: False if it is only possible.
        sides: "left", "right"; empty if none is named.
        levels: heights in the lung, 0 the apex to 3 the base.
        severity: 0.5 minimal, 1 small, 2 moderate, 3 large, or None.
        size: greatest diameter in mm, or None.
        distance: from the tip of a tube to the carina in mm, or None.
        change: "new", "worse", "better", "same" or None.
        sites: bones.
        tips: positions of a tip.
        position: "good", "bad" or None.
        number: "one", "many" or None.
        old: it is called old, chronic or healed.
        where: span of each attribute.
    """

    entities: tuple[str, ...]
    spans: tuple[Span, ...] = ()
    certain: bool = True
    sides: frozenset[str] = frozenset()
    levels: frozenset[int] = frozenset()
    severity: float | None = None
    size: float | None = None
    distance: float | None = None
    change: str | None = None
    sites: frozenset[str] = frozenset()
    tips: frozenset[str] = frozenset()
    position: str | None = None
    number: str | None = None
    old: bool = False
    where: Mapping[str, Span] = field(default_factory=dict, compare=False)

    @property
    def known(self) -> list[Entity]:
        """Entities of the finding: the diseases if it has any, else the signs."""
        every = [entities()[name] for name in self.entities]
        return [one for one in every if one.kind != "sign"] or every


@dataclass(frozen=True)
class Report:
    """Content of a report.

    Attributes:
        text: the report.
        findings: what is there, or may be, in the order of the text.
        denied: what is absent, and structures that are normal.
    """

    text: str
    findings: tuple[Finding, ...]
    denied: tuple[Denied, ...]

    def denial_of(self, finding: Finding) -> Span | None:
        """Return the span of the first statement that denies a finding, or None."""
        for one in self.denied:
            if set(one.entities) & set(finding.entities):
                return one.span
        regions = {entity.region for entity in finding.known if entity.name not in VOLUME}
        return next((one.span for one in self.denied if regions & set(one.regions)), None)


def parse(text: str) -> Report:
    """Read a report. History, indication and comparison are left out.

    Raises:
        InputError: if ``text`` is not a string.
    """
    if not isinstance(text, str):
        raise InputError(f"a report must be a string, not {type(text).__name__}")
    if is_empty(text):
        return Report(text, (), ())
    aligned = clean(text)
    found, denied = list[Part](), list[Denied]()
    for begin, end, context in parts(aligned.text):
        if context:
            continue
        for low, high in sentences(aligned.text, begin, end):
            for start in range(low, high, _LONGEST):
                _add(aligned, start, min(start + _LONGEST, high), found, denied)
    return Report(text, tuple(_finding(part) for part in _merged(found)), tuple(denied))


def _add(aligned: Aligned, start: int, end: int, found: list[Part], denied: list[Denied]) -> None:
    """Read a sentence and add what it says, with spans in the report."""
    line = aligned.text[start:end]
    if not line.strip():
        return
    sentence = read(line)

    def moved(span: Span) -> Span:
        return aligned.origin(start + span[0]), aligned.origin(start + span[1] - 1) + 1

    new = [part.copy() for part in sentence.parts]
    for part in new:
        part.spans = [moved(span) for span in part.spans]
        part.where = {kind: moved(span) for kind, span in part.where.items()}
    denied += [one._replace(span=moved(one.span)) for one in sentence.denied]
    last = found[-1] if found else None
    if last is not None and sentence.loose is not None and entities()[last.entities[0]].kind == "device":
        last.tips = last.tips | sentence.loose.tips
        last.position = last.position or sentence.loose.position
        last.distance = last.distance or sentence.loose.distance
        last.where |= {kind: moved(span) for kind, span in sentence.loose.where.items()}
    if last is not None and new and sentence.continues and related(last, new[0]) and not _conflict(last, new[0]):
        join(last, new.pop(0))
    for part in new:
        if part.generic and (device := device_of(part, found)) is not None:
            part.entities = []
            join(device, part)
        else:
            found.append(part)


def _merged(found: list[Part]) -> list[Part]:
    """Join mentions of the same finding, also of a sign and a disease that has its place."""
    merged = list[Part]()
    for part in found:
        same = next(
            (one for one in merged if set(one.entities) & set(part.entities) and not _conflict(one, part)), None
        )
        if same is None:
            merged.append(part)
        else:
            join(same, part)
    return merged


def _conflict(one: Part, other: Part) -> bool:
    """Return if two mentions cannot be of one finding: other side, zone, bone, tip, or clearly other size."""
    if one.sides and other.sides and one.sides != other.sides:
        return True
    if one.levels and other.levels and min(abs(a - b) for a in one.levels for b in other.levels) > 1:
        return True
    if one.size and other.size and one.size != other.size:
        return True
    return any(
        first and second and not first & second for first, second in ((one.sites, other.sites), (one.tips, other.tips))
    )


def _finding(part: Part) -> Finding:
    return Finding(
        entities=tuple(part.entities),
        spans=tuple(part.spans),
        certain=part.code == POSITIVE,
        sides=frozenset(part.sides),
        levels=frozenset(part.levels),
        severity=part.severity,
        size=part.size,
        distance=part.distance,
        change=part.change,
        sites=frozenset(part.sites),
        tips=frozenset(part.tips),
        position=part.position,
        number=part.number,
        old=part.old,
        where=part.where,
    )
