"""Images become studies: by Study Instance UID, with the prior by patient and date.

Identifiers are read in the sandboxed process, compared here, and kept in memory only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from encoder.errors import ReadError
from encoder.reader.identity import Identity, names_nobody
from llava_rad.generation.sources import Source
from llava_rad.reports.studies import Moment, moment


@dataclass(eq=False)
class Group:
    """Images of one study.

    Attributes:
        sources: its images, in their order.
        patient: equal for studies of one patient; None if unknown.
        when: date and time; None if unknown.
        prior: the newest earlier study of the patient, or None.
    """

    sources: list[Source] = field(repr=False)
    patient: tuple[str, ...] | None = field(default=None, repr=False)
    when: Moment | None = field(default=None, repr=False)
    prior: Group | None = field(default=None, repr=False)


def group(sources: Iterable[Source], identify: Callable[[Source], Identity], *, together: bool = False) -> list[Group]:
    """Group images by study, in the order of their first images.

    Args:
        sources: the images. One without identifiers is a study of its own.
        identify: reads identifiers; raises ReadError where there are none.
        together: all images whose identifiers do not say otherwise are one study, as in a folder of pictures.

    Returns:
        Studies, with their priors: the newest study of the same patient that is strictly earlier. A study of an unknown
        day, or of the same day without times, is no prior.
    """
    found: dict[object, Group] = {}
    for source in sources:
        try:
            identity = identify(source)
        except ReadError:
            found.setdefault("together" if together else source.number, Group([])).sources.append(source)
            continue
        stated = identity.attributes
        person = tuple(stated.get(name, "") for name in ("PatientID", "IssuerOfPatientID", "PatientBirthDate"))
        known = None if names_nobody(person[0]) else person
        one = found.setdefault((identity.study_uid, person[:2]), Group([], known))
        one.sources.append(source)
        when = moment(stated.get("StudyDate", ""), stated.get("StudyTime", ""))
        one.when = one.when or when
    groups = list(found.values())
    for one in groups:
        one.prior = _prior(one, groups)
    return groups


def _prior(study: Group, studies: Sequence[Group]) -> Group | None:
    if study.patient is None or study.when is None:
        return None
    earlier = [
        (other.when.last, number)
        for number, other in enumerate(studies)
        if other.patient == study.patient and other.when is not None and other.when.last < study.when.first
    ]
    return studies[max(earlier)[1]] if earlier else None
