"""Forms of published tables of reports: their columns of ids, images and texts, and rows made of nested values.

========================  ==============================================================================
ReXrank                   ``key_image_path``, ``section_findings``; predictions in ``model_prediction``
CheXpert Plus             ``df_chexpert_plus_240401.csv``: ``path_to_image``, ``section_findings``
LLaVA-Rad (PhysioNet)     ``conversations``: a question and the Findings as answer
RadGraph (PhysioNet)      ``MIMIC-CXR_graphs.json``: ``entities`` by report
R2Gen                     ``annotation.json``: rows by split, ``image_path`` is a list
ReXGradient               ``Findings``; ``ImagePath`` and ``ImageViewPosition`` are lists
========================  ==============================================================================

Rows of other tables are unchanged. The layouts of JSON (rows, rows by id, rows by split) are read by
:func:`encoder.datasets.tables.read_records`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from encoder.datasets.columns import matching
from encoder.errors import LlavaRadError
from encoder.reader.views import view_of

Row = dict[str, Any]
_MIMIC_REPORT = re.compile(r"(?:files/)?p\d\d/p(\d+)/s(\d+)(?:\.txt)?")
_MIMIC_ENTRY = re.compile(r"(\d{8})_(\d{8})")
_CONTEXT = re.compile(r"\b(Indication|Comparison|Technique|Age|Gender|History):", re.IGNORECASE)
_CHEXPERT_IMAGE = re.compile(r"(patient\d+)/(study\d+)/[^/]+")
_MIMIC_IMAGE = re.compile(r"\bp1\d/p(1\d{7})/")
_ROOTED = re.compile(r"/(?=p1\d/p1\d{7}/|CXR\d|(?:train/|valid/)?patient\d)")  # to be joined to the images' folder
_TAGS = re.compile(r"</?context>")


@dataclass(frozen=True)
class Form:
    """Form of a published table.

    Attributes:
        marks: columns by which it is recognised; all of one set are there.
        columns: field (``id``, ``image``, ``prediction``, ``reference``, ``subject``, ``study``, ``view``) -> columns,
            of which the first that exists is read.
        derived: function from a row and its description to further columns.
    """

    marks: tuple[frozenset[str], ...]
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    derived: Callable[[Mapping[str, Any], str], Mapping[str, Any]] = lambda row, of: {}

    def chosen(self, header: Iterable[str]) -> dict[str, str]:
        """Return the column of each field."""
        there = set(header)
        found = {name: next((one for one in columns if one in there), "") for name, columns in self.columns.items()}
        return {name: column for name, column in found.items() if column}


def _rexrank(row: Mapping[str, Any], of: str) -> Mapping[str, Any]:
    """Patient, view and lateral of the images, and the texts of "Indication: ... Comparison: ..."."""
    images, views, key = (row.get(name) for name in ("image_path", "frontal_lateral", "key_image_path"))
    found: dict[str, Any] = {"view": ""}  # 46 of IU X-ray's 590 rows list other numbers of views
    if isinstance(key, str) and _ROOTED.match(key):
        found["key_image_path"] = key[1:]
    if isinstance(images, list) and isinstance(views, list) and len(images) == len(views) and key in images:
        sides = [view_of(str(view)) for view in views]
        # the key image is the one to write about, even where it is said to be lateral (CXR850 of IU X-ray)
        found["view"] = "" if view_of(str(views[images.index(key)])) == "lateral" else views[images.index(key)]
        if "lateral" in sides and (lateral := str(images[sides.index("lateral")])) != key:
            found["lateral"] = _ROOTED.sub("", lateral, count=1) if _ROOTED.match(lateral) else lateral
    image = key if isinstance(key, str) else ""
    patient = _MIMIC_IMAGE.search(image) or _CHEXPERT_IMAGE.search(image)
    if patient is not None and row.get("subject_id") is None:
        found["subject_id"] = patient[1]
    context = row.get("context")
    context = _TAGS.sub("", context) if isinstance(context, str) else ""
    headings = list(_CONTEXT.finditer(context))
    ends = [*(heading.start() for heading in headings), len(context)][1:]
    for heading, end in zip(headings, ends, strict=True):
        name, text = heading[1].lower(), context[heading.end() : end].strip()
        found.setdefault(name, text.removesuffix(".") if name in ("age", "gender") else text)
    return found


def _chexpert_plus(row: Mapping[str, Any], of: str) -> Mapping[str, Any]:
    found = _CHEXPERT_IMAGE.search(str(row["path_to_image"]))
    side, position = (str(row.get(name) or "") for name in ("frontal_lateral", "ap_pa"))
    exact = view_of(side) == "frontal" and view_of(position) in ("AP", "PA")
    return {"view": position if exact else side, "study": f"{found[1]}/{found[2]}" if found else ""}


def _answer(row: Mapping[str, Any], of: str) -> Mapping[str, Any]:
    turns = row["conversations"]
    answers = [turn.get("value") for turn in turns if isinstance(turn, dict) and turn.get("from") == "gpt"]
    if not isinstance(turns, list) or len(turns) != 2 or len(answers) != 1:
        raise LlavaRadError(f"{of}: conversations is not one question and one answer")
    found = _MIMIC_ENTRY.fullmatch(str(row.get("id")))
    texts = {"findings": answers[0], "indication": row.get("reason")}  # its prompts take the reason
    return texts | ({"subject_id": found[1], "study_id": found[2]} if found else {})


def _graph(row: Mapping[str, Any], of: str) -> Mapping[str, Any]:
    if "entities" not in row:
        raise LlavaRadError(f"{of}: it has the graphs of several annotators", hint="keep one of them as 'entities'")
    found = _MIMIC_REPORT.fullmatch(str(row.get("id")))
    graph = {"radgraph": {"text": row.get("text"), "entities": row["entities"]}}
    return graph | ({"id": found[2], "subject_id": found[1], "study_id": found[2]} if found else {})


FORMS: Mapping[str, Form] = {
    "ReXrank": Form(
        (frozenset({"model_prediction"}), frozenset({"key_image_path", "section_findings"})),
        {
            "id": ("id", "study_id"),
            "image": ("key_image_path",),
            "prediction": ("model_prediction",),
            "reference": ("section_findings", "findings"),
            "view": ("view",),
        },
        _rexrank,
    ),
    "CheXpert Plus": Form(
        (frozenset({"path_to_image", "section_findings"}),),
        {
            "id": ("path_to_image",),
            "image": ("path_to_image",),
            "reference": ("section_findings",),
            "subject": ("deid_patient_id",),
            "study": ("study",),
            "view": ("view",),
        },
        _chexpert_plus,
    ),
    "LLaVA-Rad": Form((frozenset({"conversations"}),), {"reference": ("findings",)}, _answer),
    "ReXGradient": Form((frozenset({"Findings", "ImagePath"}),), {"reference": ("Findings",)}),
    "RadGraph": Form((frozenset({"text", "entities"}), frozenset({"text", "labeler_1"})), {}, _graph),
}


def form_of(header: Iterable[str]) -> Form | None:
    """Return the form that has all the marks in a header; None if there is none."""
    there = set(header)
    return next((form for form in FORMS.values() if any(marks <= there for marks in form.marks)), None)


def recognised(rows: Iterable[Mapping[str, Any]]) -> tuple[Form | None, dict[str, str]]:
    """Return the form of a table, and the column of each field that the form knows."""
    header = dict.fromkeys(name for row in rows for name in row)
    form = form_of(header)
    return form, {} if form is None else form.chosen(header)


def derived(rows: Iterable[Row], *, of: str) -> Iterator[Row]:
    """Yield rows with the further columns of their form.

    Raises:
        LlavaRadError: if a row is not as its form says; the message quotes none of its values.
    """
    for number, row in enumerate(rows, 1):
        form = form_of(row)
        yield row if form is None else {**row, **form.derived(row, f"{of}: row {number}")}


def per_image(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield a row for each image of a row whose columns of images and views are lists; its id is the image.

    Without views, which of several images is meant is for the user to say: they become columns ``image_path.0`` and
    so on.
    """
    for row in rows:
        names = [name for name in matching(row, "image") if isinstance(row[name], list)]
        if not names:
            yield row
            continue
        images, rest = row[names[0]], {name: value for name, value in row.items() if name not in names}
        views = next((name for name in matching(row, "view") if isinstance(row[name], list)), "")
        if views and len(row[views]) == len(images):
            for image, view in zip(images, row[views], strict=True):
                yield {**rest, views: view, names[0]: image} | ({"id": image} if len(images) > 1 else {})
        elif len(images) == 1:
            yield {**rest, names[0]: images[0]}
        else:
            yield rest | {f"{names[0]}.{number}": image for number, image in enumerate(images)}
