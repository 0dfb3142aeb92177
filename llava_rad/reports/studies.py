"""Join the images of a patient to studies: lateral images, and the newest earlier study with a frontal image."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from operator import attrgetter
from typing import Any, NamedTuple

from encoder.datasets.manifest import Row
from encoder.reader.views import FRONTAL
from llava_rad.reports.pairs import Pair

Key = tuple[str, str, str]
"""Data set, subject and study."""
_PREFERRED = {"PA": 0, "AP": 1}
_DAY_S = 86_400.0
_DOTTED = re.compile(r"([0-9]{1,2})\.([0-9]{1,2})\.([0-9]{4})")


class Moment(NamedTuple):
    """Date and time of an image.

    Attributes:
        first: earliest time that it can be, in seconds from an arbitrary day, or an ordinal number.
        last: latest time.
        day: number of the day; None if only an order is known.
    """

    first: float
    last: float
    day: int | None


class Sections(NamedTuple):
    """Texts of a report; "" where it has none."""

    findings: str = ""
    impression: str = ""
    indication: str = ""
    technique: str = ""
    comparison: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a data set, with the moment at which it was taken, if known."""

    row: Row
    when: Moment | None = None


def moment(day: str, time: str = "") -> Moment | None:
    """Read date and time of a study.

    Args:
        day: ``20260102``, ``2026-01-02``, ``2.1.2026`` (day first) or an ISO time stamp; or an ordinal number below
            10,000, as in CheXpert Plus. ``02/01/2026`` is not read: the month may be first or second.
        time: ``HHMMSS`` with or without leading zeros and fraction, as in DICOM and MIMIC-CXR; "" if unknown.

    Returns:
        None if the date cannot be read. Without a time the study may be at any time of its day.
    """
    day, _, rest = day.strip().partition("T" if "T" in day else " ")
    if day.isascii() and day.isdecimal() and len(day) < 5:
        return Moment(float(day), float(day), None)
    dotted = _DOTTED.fullmatch(day)
    try:
        if dotted:
            number = date(int(dotted[3]), int(dotted[2]), int(dotted[1])).toordinal()
        else:
            number = date.fromisoformat(day.removesuffix(".0").replace("/", "-")).toordinal()
    except ValueError:
        return None
    seconds = _seconds(time or rest)
    start = number * _DAY_S
    return Moment(start + (seconds or 0.0), start + (_DAY_S - 1 if seconds is None else seconds), number)


def _seconds(text: str) -> float | None:
    """Return the seconds of a time of day, ``HHMMSS.F`` or ``HH:MM:SS``; None if it cannot be read."""
    whole, _, fraction = text.strip().replace(":", "").partition(".")
    if not whole.isascii() or not whole.isdecimal() or not 3 <= len(whole) <= 6:
        return None
    whole = whole.zfill(6) if len(whole) > 4 else f"{whole.zfill(4)}00"
    hours, minutes, seconds = int(whole[:2]), int(whole[2:4]), int(whole[4:])
    if hours > 23 or minutes > 59 or seconds > 60:
        return None
    return hours * 3600 + minutes * 60 + seconds + (float(f"0.{fraction}") if fraction.isdecimal() else 0.0)


@dataclass(frozen=True, slots=True)
class _Study:
    """A study with a frontal image; ``when`` covers all of its images."""

    when: Moment
    image: Row


@dataclass(frozen=True)
class Joined:
    """Pairs with their contexts.

    Attributes:
        pairs: in their order.
        notes: choices that were made, with their numbers.
    """

    pairs: list[Pair]
    notes: list[str]


def key_of(row: Row) -> Key | None:
    """Return the study of an image; None if it is not known."""
    return (row.dataset, row.subject, row.study) if row.study else None


def join(pairs: Sequence[Pair], images: Iterable[Image], texts: Mapping[Key, Sections]) -> Joined:
    """Give pairs the laterals, priors and texts of their studies; what a pair has already stays.

    The lateral is the first of the study. The prior is the newest study of the subject that is strictly earlier, has a
    frontal image and is not of another split; of its frontal images a PA one is preferred, then AP, then the first.

    Args:
        pairs: frontal images with their Findings.
        images: all images whose files exist, in the order of the table, each with its moment where it is known.
        texts: of the studies.
    """
    laterals: dict[Key, list[Row]] = defaultdict(list)
    frontals: dict[Key, list[Row]] = defaultdict(list)
    moments: dict[Key, list[Moment | None]] = defaultdict(list)
    for image in images:
        key = key_of(image.row)
        if key is not None:
            moments[key].append(image.when)
            if image.row.view == "lateral":
                laterals[key].append(image.row)
            elif image.row.view in FRONTAL:
                frontals[key].append(image.row)
    when = {key: _span(found) for key, found in moments.items()}
    earlier = _by_subject(frontals, when)
    counted: Counter[str] = Counter()
    joined = [_joined(pair, laterals, when, earlier, texts, counted) for pair in pairs]
    several = sum(len(laterals[key]) > 1 for key in {key_of(pair.row) for pair in pairs} if key is not None)
    if several:
        counted["studies have several laterals: the first of the table is taken"] = several
    return Joined(joined, [f"{number:,} {what}" for what, number in counted.items()])


def _joined(
    pair: Pair,
    laterals: Mapping[Key, Sequence[Row]],
    when: Mapping[Key, Moment | None],
    earlier: Mapping[tuple[str, str], Sequence[_Study]],
    texts: Mapping[Key, Sections],
    counted: Counter[str],
) -> Pair:
    key = key_of(pair.row)
    if key is None:
        return pair
    own, before = pair.context, texts.get(key, Sections())
    found: dict[str, Any] = {
        name: getattr(before, name) for name in ("impression", "indication", "technique", "comparison")
    }
    if laterals.get(key):
        found["lateral"] = laterals[key][0].path
    moment = when.get(key)
    prior = None if moment is None else _newest(earlier.get(key[:2], ()), moment, pair.row.split, counted)
    if prior is not None and moment is not None:
        found["prior"] = prior.image.path
        found["days"] = None if moment.day is None or prior.when.day is None else moment.day - prior.when.day
        prior_key = key_of(prior.image)
        found["prior_report"] = texts.get(prior_key, Sections()).findings if prior_key else ""
    if own.prior is not None:  # named by the table: its report and days are the table's too
        found = {name: value for name, value in found.items() if name not in ("prior", "prior_report", "days")}
    missing = {name: value for name, value in found.items() if name not in own.given}
    return replace(pair, context=replace(own, **missing))


def _span(moments: Sequence[Moment | None]) -> Moment | None:
    """Return the moment of a study with images at these; None if one of them is not known."""
    known = [one for one in moments if one is not None]
    if len(known) < len(moments) or len({one.day is None for one in known}) > 1:
        return None
    first = min(known, key=attrgetter("first"))
    return Moment(first.first, max(one.last for one in known), first.day)


def _by_subject(
    frontals: Mapping[Key, Sequence[Row]], when: Mapping[Key, Moment | None]
) -> dict[tuple[str, str], list[_Study]]:
    """Return the dated studies of each subject that have a frontal image, by their end."""
    found: dict[tuple[str, str], list[_Study]] = defaultdict(list)
    for key, rows in frontals.items():
        moment = when[key]
        if key[1] and moment is not None:
            image = min(rows, key=lambda row: _PREFERRED.get(row.view, len(_PREFERRED)))
            found[key[:2]].append(_Study(moment, image))
    for studies in found.values():
        studies.sort(key=lambda study: study.when.last)
    return found


def _newest(studies: Sequence[_Study], now: Moment, split: str, counted: Counter[str]) -> _Study | None:
    """Return the newest of the studies that ended before a moment and are not of another split."""
    end = bisect_left(studies, now.first, key=lambda study: study.when.last)
    for study in reversed(studies[:end]):
        if (study.when.day is None) != (now.day is None):
            continue
        if not split or not study.image.split or study.image.split == split:
            return study
        counted["earlier studies are of another split and are no priors"] += 1
    return None
