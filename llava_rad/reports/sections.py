"""Sections of a report, by the rules of MIT-LCP/mimic-cxr.

The rules are those of ``txt/section_parser.py`` and ``txt/create_section_files.py``
(https://github.com/MIT-LCP/mimic-cxr, MIT licence), which make ``mimic_cxr_sectioned.csv``; the code is our own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

_HEADER = re.compile(r"\n ([A-Z ()/,-]+):\s")
_PARAGRAPH = "\n \n"
# Section names and the headings that map to them as a whole. Some are typing errors of single reports; "ndication"
# maps to impression in the original too.
_HEADINGS = {
    "impression": (
        "impression", "conclusion", "findings and impression", "findings/impression", "findings/ impression",
        "ndication", "impresson", "imprression", "imoression", "impressoin", "imprssion", "impresion", "imperssion",
        "mpression", "impession",
    ),
    "findings": (
        "findings", "chest, two views", "finding", "findins", "findindgs", "findgings", "findngs", "findnings",
        "finidngs", "reference findings",
    ),
    "comparison": (
        "comparison", "comparisons", "reference exam", "comparison exam", "comparison film", "comparision",
        "comparsion", "comparrison", "comparisions",
    ),
    "indication": ("indication", "reason for examination", "reason for exam", "clinical indication", "idication"),
    "history": ("history", "clinical history", "clinical information", "patient history", "pfi"),
    "examination": ("examination", "exam", "type of examination"),
    "recommendations": ("recommendations", "recommendation(s)", "recommendation"),
    "wet read": ("wet read", "wetread"),
    # looked up as a whole, so that no rule below changes them
    "preamble": ("preamble",), "technique": ("technique",), "notification": ("notification",),
    "addendum": ("addendum",), "date": ("date",), "comment": ("comment",),
}  # fmt: skip
_NAMES = {heading: name for name, headings in _HEADINGS.items() for heading in headings}
# Any other heading gets the first of these names that it contains.
_CONTAINED = ("impression", "findings", "history", "comparison", "addendum")
# Any other heading that describes the study as a whole begins its findings.
_STUDY = re.compile(
    "chest|portable|pa and lat|lateral and pa|ap and lateral|lateral and ap|frontal and|two views|frontal view|pa view"
    "|ap view|one view|lateral view|bone window|frontal upright|frontal semi-upright|ribs"
)
# Studies that section_parser.py treats by hand (wrong headings; text by position; nothing in the report).
# create_section_files.py skips them, so that mimic_cxr_sectioned.csv has none of them.
HAND_MADE = frozenset({
    "50913680", "59363654", "59279892", "59768032", "57936451", "50058765", "53356173", "53202765", "50808053",
    "51966317", "50743547", "56451190", "59067458", "59215320", "55124749", "54365831", "59087630", "58157373",
    "56482935", "58375018", "54654948", "55157853", "51491012", "50525523", "57564132", "59982525", "53488209",
    "54875119", "50196495", "56579911", "52648681", "59889364", "53514462", "59505494", "53182247", "51410602",
    "56412866", "54986978", "59003148", "57150433", "56760320", "59562049", "52674888", "55258338", "59330497",
    "52119491", "58235663", "50798377", "54168089", "53071062", "56724958", "54231141", "53607029", "52035334",
})  # fmt: skip


class Section(NamedTuple):
    """A section: its normalised name, and its unchanged text."""

    name: str
    text: str


def split_sections(report: str) -> list[Section]:
    """Split a report into its sections, in order.

    A heading is the beginning of a line: one space, capital letters, a colon and white space. Text before the first
    heading is the ``preamble``; a report without headings is one section ``full report``. Sections ``impression`` and
    ``findings`` without text are dropped: they are titles ("CHEST, PA LATERAL:"), or one of several. If neither
    remains, the last section's further paragraphs are a section ``last_paragraph``.

    Args:
        report: with lines ending in ``\\n``.
    """
    headings = list(_HEADER.finditer(report))
    ends = [*(heading.start() for heading in headings), len(report)][1:]
    found = [Section("preamble", report[: headings[0].start(1)]) if headings else Section("full report", report)]
    found += [Section(name_of(one[1]), report[one.end() : end]) for one, end in zip(headings, ends, strict=True)]
    found = [one for one in found if one.name not in ("impression", "findings") or one.text.strip()]
    if not {"impression", "findings"} & {one.name for one in found}:
        first, mark, rest = found[-1].text.partition(_PARAGRAPH)
        if mark:
            found[-1:] = [Section(found[-1].name, first), Section("last_paragraph", rest)]
    return found


def name_of(heading: str) -> str:
    """Normalise the name of a heading; an unknown heading is returned in lower case."""
    heading = heading.lower().strip()
    if heading in _NAMES:
        return _NAMES[heading]
    contained = next((name for name in _CONTAINED if name in heading), None)
    return contained or ("findings" if _STUDY.search(heading) else heading)


def last_section(sections: Sequence[Section], name: str) -> str:
    """Return the stripped text of the last section of a name; "" if there is none."""
    return next((one.text.strip() for one in reversed(sections) if one.name == name), "")


def findings_of(report: str) -> str:
    """Return the Findings section of a report, as in ``mimic_cxr_sectioned.csv``; "" if there is none."""
    return last_section(split_sections(report), "findings")


_NAMING = frozenset({
    "ap", "pa", "lat", "lateral", "laterals", "frontal", "anteroposterior", "posteroanterior", "antero", "postero",
    "anterior", "posterior", "oblique", "lordotic", "decubitus", "portable", "view", "views", "projection",
    "projections", "radiograph", "radiographs", "film", "films", "image", "images", "xray", "xrays", "ray", "rays",
})  # fmt: skip
_FILLING = frozenset({
    "a", "an", "the", "this", "these", "of", "and", "in", "on", "at", "for", "to", "is", "are", "was", "were", "as",
    "well", "chest", "thorax", "x", "xxxx", "study", "examination", "exam", "single", "one", "two", "three", "four",
    "dual", "both", "multiple", "additional", "upright", "erect", "supine", "semi", "semierect", "semiupright",
    "sitting", "standing", "position", "positions", "left", "right", "obtained", "provided", "performed", "submitted",
    "acquired", "presented", "available", "reviewed", "review", "interpretation", "evaluation", "dated",
})  # fmt: skip


def names_views_only(findings: str) -> bool:
    """Tell whether a text only names the views that were taken, e.g. "AP and lateral view of the chest.".

    It does if every word is one that such lines consist of, and at least one names a projection or a picture. Such a
    text says nothing about the patient, so that no report can be compared with it.
    """
    words = set(re.findall("[a-z]+", findings.lower()))
    return words <= _NAMING | _FILLING and not words.isdisjoint(_NAMING)


_KNOWN = "|".join(sorted((re.escape(name) for name in _NAMES), key=len, reverse=True))
# Headings of a report in running text, as models write it: at its begin, after the end of a sentence or a line, or
# in front of a capital letter that is no begin of a sentence ("effusion Impression: ..."). White space is bounded and
# not given back: the time is linear in a text of blank lines.
_INLINE = re.compile(
    rf"(?:^|(?<=[.!?:;)\]*\n]))[\s*#_-]{{0,100}}+(?P<any>{_KNOWN})(?:[*_ ]*:[*_]*|[*_ ]*(?=\n))"
    r"|\s[*#_]*(?P<capital>Findings|Impression|Conclusion)[*_ ]*:[*_]*",
    re.IGNORECASE,
)


def inline_parts(text: str) -> list[Section]:
    """Split "Findings: ... Impression: ..." into its sections, in order; empty if no heading begins the text.

    Args:
        text: report whose headings stand in running text, as in ReXrank's files. Headings are those of
            :func:`name_of`, as whole names.
    """
    text = text.lstrip()
    headings = [one for one in _INLINE.finditer(text) if one["any"] or one["capital"][0].isupper()]
    if not headings or text[: headings[0].start()].strip():
        return []
    ends = [*(one.start() for one in headings), len(text)][1:]
    return [
        Section(_NAMES[(one["any"] or one["capital"]).lower()], text[one.end() : end].strip())
        for one, end in zip(headings, ends, strict=True)
    ]


def findings_part(text: str) -> str | None:
    """Return the Findings of "Findings: ... Impression: ..."; None if no heading begins the text or none is Findings.

    Of several the last with a text counts, as in :func:`split_sections`; "" if all are empty.

    Args:
        text: see :func:`inline_parts`.
    """
    found = [one.text for one in inline_parts(text) if one.name == "findings"]
    return next((one for one in reversed(found) if one), "") if found else None
