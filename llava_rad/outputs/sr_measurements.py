"""Measurements as groups of a TID 1500 report (TID 1501): a length, or a cardiothoracic ratio with its two widths."""

from __future__ import annotations

from typing import Any, Final

from llava_rad.outputs.document import SCHEME, Document, Measurement

_LENGTH_TOOL: Final = "Cornerstone3DTools@^0.1.0:Length"
"""Tracking identifier by which Cornerstone3D and OHIF show a group with their length tool."""


def measurement_groups(document: Document) -> list[Any]:
    """Build a group for each measurement, with the coordinates of its ends in the image."""
    return [_group(document, number, one) for number, one in enumerate(document.measurements, 1)]


def _group(document: Document, number: int, one: Measurement) -> Any:
    from highdicom.sr import (
        CodedConcept,
        FindingSite,
        MeasurementsAndQualitativeEvaluations,
        SourceImageForMeasurementGroup,
        TrackingIdentifier,
    )
    from highdicom.sr import Measurement as Item
    from pydicom.sr.codedict import codes

    unit = codes.UCUM.Millimeter if one.unit == "mm" else CodedConcept("{pixels}", "UCUM", "pixels")
    lines = [_line(one, at) for at in range(len(one.lengths))]
    if one.ratio is None:
        items = [Item(codes.SCT.Length, round(one.lengths[0], 1), unit, referenced_coordinates=lines)]
    else:
        ratio, title = CodedConcept("{ratio}", "UCUM", "ratio"), CodedConcept("CTR", SCHEME, "Cardiothoracic ratio")
        items = [Item(title, one.ratio, ratio, referenced_coordinates=lines)]
        for site, length, line in zip((codes.SCT.Heart, codes.SCT.Thorax), one.lengths, lines, strict=True):
            more = {"finding_sites": [FindingSite(site)], "referenced_coordinates": [line]}
            items.append(Item(codes.SCT.Width, round(length, 1), unit, **more))
    name = _LENGTH_TOOL if one.ratio is None else f"Measurement {number}"
    return MeasurementsAndQualitativeEvaluations(
        TrackingIdentifier(uid=document.uid(f"measurement {number}"), identifier=name),
        measurements=items,
        source_images=[SourceImageForMeasurementGroup(one.image.class_uid, one.image.instance_uid)],
    )


def _line(one: Measurement, at: int) -> Any:
    """Build the line between the points of pair ``at``."""
    import numpy as np
    from highdicom.sr import CoordinatesForMeasurement, GraphicTypeValues, SourceImageForRegion

    return CoordinatesForMeasurement(
        GraphicTypeValues.POLYLINE, np.asarray(one.points[2 * at : 2 * at + 2], np.float32),
        SourceImageForRegion(one.image.class_uid, one.image.instance_uid),
    )  # fmt: skip
