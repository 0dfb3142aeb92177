"""Assembly of a report from a generated text, the prepared image and the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from llava_rad.model.sections import Answer, divided
from llava_rad.outputs.grounding import Box, parse, placed
from llava_rad.outputs.report import (
    BoxFacts,
    Finding,
    GenerationFacts,
    Impression,
    InputFacts,
    ModelFacts,
    RecipeFacts,
    Report,
    ReportBody,
    Sentence,
    SoftwareFacts,
    StudyImageFacts,
    clean,
    sentences,
)

UNFAMILIAR = "the image is unlike those that the model was trained on: do not rely on this draft"

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from encoder.reader.radiograph import PreparedImage
    from llava_rad.generation.options import Decoding
    from llava_rad.generation.pieces import Draft
    from llava_rad.generation.report_model import ReportModel


def compose(
    model: ReportModel,
    settings: Decoding,
    image: PreparedImage,
    draft: Draft,
    *,
    path: str | None = None,
    context: Sequence[tuple[str, PreparedImage]] = (),
) -> Report:
    """Build the report of one study.

    Args:
        model: the model that generated the text.
        settings: of the decoding.
        image: frontal image, prepared for the model.
        draft: answer of the model, with boxes if ``settings.study.grounded``, or the text that
            ``llava_rad.model.sections`` shows of it; what it lacks becomes a warning.
        path: of the input, if the user asked for it.
        context: role and image of the lateral and the prior that the text was written from.
    """
    text = clean(draft.text).strip()
    answer = divided(text) if model.config.with_impression else Answer(text)
    warnings = [*image.warnings, *draft.notes]
    if draft.unfamiliar:
        warnings.append(UNFAMILIAR)
    if not draft.complete:
        warnings.append(f"the report was cut off after {settings.longest(model.config)} tokens")
    if not answer.findings:
        warnings.append("the model wrote no findings" if answer.impression else "the model wrote nothing")
    if settings.study.used:
        warnings.append(f"written from more than this image, which is not kept here: {', '.join(settings.study.used)}")
    if settings.study.grounded:
        grounded, left_out = placed(parse(answer.findings), model.recipe, image.facts)
        findings = [Finding(text=phrase.text, boxes=[_box(box) for box in phrase.boxes]) for phrase in grounded.phrases]
        body = ReportBody(
            text=grounded.text, findings=findings, impression=_impression(parse(answer.impression or "").text)
        )
        warnings += left_out
    else:
        findings = [Finding(text=sentence) for sentence in sentences(answer.findings)]
        body = ReportBody(text=answer.findings, findings=findings, impression=_impression(answer.impression))
    return Report(
        report=body,
        model=ModelFacts(
            id=model.model_id,
            revision=model.revision,
            sha256=model.sha256,
            demonstration=model.config.demonstration,
        ),
        input=InputFacts(
            sha256=image.sha256,
            path=path,
            format=image.facts.format,
            view=image.facts.view,
            recipe=recipe_facts(model),
            facts=image.facts,
        ),
        images=[_reference("frontal", image), *(_reference(role, other) for role, other in context)],
        generation=generation_facts(model, settings),
        warnings=warnings,
        software=SoftwareFacts(version=software_version()),
    )


def _impression(text: str | None) -> Impression | None:
    if not text:
        return None
    return Impression(text=text, sentences=[Sentence(text=sentence) for sentence in sentences(text)])


def _reference(role: str, image: PreparedImage) -> StudyImageFacts:
    named = cast("Literal['frontal', 'lateral', 'prior']", role)
    return StudyImageFacts(role=named, sha256=image.sha256, view=image.facts.view)


def _box(box: Box) -> BoxFacts:
    return BoxFacts(**{side: round(share, 6) for side, share in vars(box).items()})


def recipe_facts(model: ReportModel) -> RecipeFacts:
    """Return the facts of the model's preprocessing recipe."""
    return RecipeFacts(name=model.recipe.name, version=model.recipe.version)


def generation_facts(model: ReportModel, settings: Decoding) -> GenerationFacts:
    """Return the settings of a report, with the model's own prompt if none is given."""
    return GenerationFacts(
        max_new_tokens=settings.longest(model.config),
        num_beams=settings.beams(model.config),
        temperature=settings.temperature,
        seed=settings.seed,
        prompt=model.config.request(settings.prompt),
        dtype=model.precision,
        unsure=settings.unsure,
    )


def software_version() -> str:
    """Return the version of the installed package."""
    from importlib.metadata import version

    return version("llava-rad")
