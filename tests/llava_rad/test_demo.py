"""The embedded checkpoint: there, small, honest about itself, and it looks at the image."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from encoder.reader.sandbox import Reader
from llava_rad.generation.decoding import generate
from llava_rad.generation.engine import Engine
from llava_rad.generation.sources import example
from llava_rad.model.checkpoint import DEMO, list_files, load_checked
from llava_rad.model.llava_rad import LlavaRad
from scripts.phantom import Finding, phantom_radiograph

pytestmark = pytest.mark.acceptance(row=6)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.from_pretrained()


@pytest.fixture(scope="module")
def images(engine: Engine) -> list[np.ndarray]:
    """RG1, and phantoms with and without a large effusion, prepared by the model's recipe."""
    with Reader() as reader:
        prepared = [reader.prepare(example(), engine.recipe).pixels]
    for seed in range(5):
        for findings in ((), (Finding("pleural effusion", "left", size=0.9),)):
            pixels = phantom_radiograph(seed, findings, 256, view="PA").grey()
            prepared.append(engine.recipe.apply(pixels, from_dicom=False))
    return prepared


def test_it_is_whole_marked_and_at_most_85_megabytes() -> None:
    config = load_checked(DEMO)
    assert config.demonstration
    assert sum((DEMO / name).stat().st_size for name in list_files(DEMO)) <= 85_000_000
    card = (DEMO / "README.md").read_text("utf-8")
    for words in (
        "demonstration",
        "not for clinical use",
        "NIH Clinical Center",
        "Apache-2.0",
        "macro-F1",
        "prior-sampled",
    ):
        assert words in card


@pytest.mark.slow
def test_both_forms_write_the_same_tokens(engine: Engine, images: list[np.ndarray]) -> None:
    model = LlavaRad.from_pretrained()
    ids = model.config.conversation.encode(model.tokens.tokenizer, model.tokens.ids.bos)
    expected = []
    for image in images:
        with torch.inference_mode():
            embeds, mask = model.embed(model.config.preprocessing.normalise(image[None]), [ids])
            row = model.language_model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=150)[
                0
            ].tolist()
        expected.append(row[: row.index(2)] if 2 in row else row)
    assert [list(draft.ids) for draft in generate(engine, images)] == expected
    assert [list(generate(engine, [image])[0].ids) for image in images] == expected


@pytest.mark.slow
def test_it_looks_at_the_image(engine: Engine, images: list[np.ndarray]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, images[0].shape, dtype=np.uint8)
    texts = {draft.text for draft in generate(engine, [*images, noise])}
    assert len(texts) >= 3
    assert generate(engine, images[:1])[0].text != generate(engine, [noise])[0].text


def test_the_example_from_the_command_line() -> None:
    command = [sys.executable, "-c", "from llava_rad.cli import main; main()", "generate", "--example", "--offline"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "AI-generated draft. Research use only. Not for clinical use." in done.stdout
    assert "demonstration model" in done.stdout
    paragraph = done.stdout.split("FINDINGS:\n")[1].split("\n\n")[0]
    assert paragraph.count(".") >= 4
    # RG1 shows several large rounded opacities in both lungs
    assert any(
        word in paragraph for word in ("nodule and at least one mass", "at least one nodule", "at least one mass")
    )
