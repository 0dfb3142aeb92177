"""Reports made by hand."""

from __future__ import annotations

from encoder.reader.radiograph import ImageFacts
from llava_rad.outputs.report import (
    Finding,
    GenerationFacts,
    InputFacts,
    ModelFacts,
    RecipeFacts,
    Report,
    ReportBody,
    SoftwareFacts,
)


def report(
    sha256: str = "a" * 64,
    *sentences: str,
    model: str = "b" * 64,
    seed: int = 0,
    facts: ImageFacts | None = None,
) -> Report:
    """A report of these sentences on the image with this SHA-256."""
    sentences = sentences or ("Clear.",)
    facts = facts or ImageFacts(format="png", rows=64, columns=64)
    return Report(
        report=ReportBody(text=" ".join(sentences), findings=[Finding(text=one) for one in sentences]),
        model=ModelFacts(id="m", revision=None, sha256=model, demonstration=False),
        input=InputFacts(
            sha256=sha256, format=facts.format, view=facts.view, recipe=RecipeFacts(name="r", version=1), facts=facts
        ),
        generation=GenerationFacts(
            max_new_tokens=1, num_beams=1, temperature=0.0, seed=seed, prompt="p", dtype="float32"
        ),
        warnings=[],
        software=SoftwareFacts(version="0"),
    )
