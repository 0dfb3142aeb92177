"""Assembly of a report from a generated text, the prepared image and the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llava_rad.outputs.grounding import Box, parse, placed
from llava_rad.outputs.report import (
    BoxFacts,
    Finding,
    GenerationFacts,
    GroundedBody,
    GroundedFinding,
    GroundedReport,
    InputFacts,
    ModelFacts,
    RecipeFacts,
    Report,
    ReportBody,
    SoftwareFacts,
    sentences,
)

UNFAMILIAR = "the image is unlike those that the model was trained on: do not rely on this draft"

if TYPE_CHECKING:
    from encoder.reader.radiograph import PreparedImage
    from llava_rad.generation.options import Decoding
    from llava_rad.generation.report_model import ReportModel


def compose(
    model: ReportModel,
    settings: Decoding,
    image: PreparedImage,
    text: str,
    *,
    complete: bool = True,
    unfamiliar: bool = False,
    path: str | None = None,
) -> Report:
    """Build the report of one image.

    Args:
        model: the model that generated the text.
        settings: of the decoding.
        image: prepared for the model.
        text: cleaned findings, with boxes if ``settings.study.grounded``.
        complete: False if the text reached the maximal length; adds a warning.
        unfamiliar: the image is unlike the training images of the model; adds a warning.
        path: of the input, if the user asked for it.
    """
    warnings = list(image.warnings)
    if unfamiliar:
        warnings.append(UNFAMILIAR)
    if not complete:
        warnings.append(f"the report was cut off after {settings.longest(model.config)} tokens")
    if not text:
        warnings.append("the model wrote nothing")
    if settings.study.used:
        warnings.append(f"written from more than this image, which is not kept here: {', '.join(settings.study.used)}")
    if settings.study.grounded:
        grounded, left_out = placed(parse(text), model.recipe, image.facts)
        phrases = [
            GroundedFinding(text=phrase.text, boxes=[_box(box) for box in phrase.boxes]) for phrase in grounded.phrases
        ]
        body: ReportBody = GroundedBody(text=grounded.text, findings=phrases)
        kind: type[Report] = GroundedReport
        warnings += left_out
    else:
        body = ReportBody(text=text, findings=[Finding(text=sentence) for sentence in sentences(text)])
        kind = Report
    return kind(
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
        generation=generation_facts(model, settings),
        warnings=warnings,
        software=SoftwareFacts(version=software_version()),
    )


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
    )


def software_version() -> str:
    """Return the version of the installed package."""
    from importlib.metadata import version

    return version("llava-rad")
