"""A report on the example radiograph."""

from __future__ import annotations

import pytest

from encoder.preprocessing import RECIPES
from encoder.reader.sandbox import Reader
from llava_rad.generation.sources import example
from llava_rad.outputs.report import Report
from tests.llava_rad.outputs.reports import report as make_report


@pytest.fixture(scope="module")
def report() -> Report:
    """Sentences made by hand on the example radiograph, with the facts that the reader takes from its header."""
    with Reader() as reader:
        image = reader.prepare(example(), RECIPES["rad-dino"])
    texts = ("There is a nodule in the left lung.", "There is no pleural effusion.", "The heart is normal.")
    return make_report(image.sha256, *texts, facts=image.facts)
