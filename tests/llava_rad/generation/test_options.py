"""Options of generation: one dataclass behind the command line and Python."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import llava_rad
from encoder.errors import ConfigError
from llava_rad.cli import app
from llava_rad.generation.options import Decoding, GenerationOptions
from llava_rad.generation.study import StudyInputs
from llava_rad.model.config import GenerationDefaults, LlavaRadConfig
from llava_rad.model.templates import Study
from tests.llava_rad.tiny_model import RECIPE

FIELDS = {field.name: field for kind in (GenerationOptions, StudyInputs) for field in dataclasses.fields(kind)}
SHOWN = {name: field for name, field in FIELDS.items() if "cli" in field.metadata}


def test_every_field_is_an_option_of_generate_with_its_default_and_range() -> None:
    command: Any = get_command(app)
    options = {option.name: option for option in command.commands["generate"].params}
    for name, field in SHOWN.items():
        assert options[name].opts == [f"--{name.replace('_', '-')}"]
        assert options[name].default == field.default
        assert options[name].help, name


def test_every_field_is_an_argument_in_python() -> None:
    signature = inspect.signature(llava_rad.generate)
    assert set(signature.parameters) == {"paths", "recursive", *SHOWN}
    assert all(signature.parameters[name].default == field.default for name, field in SHOWN.items())
    with pytest.raises(TypeError, match="beams"):
        llava_rad.generate([], beams=2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"temperature": -0.1}, "temperature must be at least 0"),
        ({"temperature": float("nan")}, "temperature must be at least 0"),
        ({"temperature": float("inf")}, "temperature must be at most 100"),
        ({"temperature": 1e-320}, "temperature must be 0 or at least 0.01"),
        ({"batch_size": 0}, "batch_size"),
        ({"dtype": "int8"}, "there is no dtype 'int8'"),
        ({"num_beams": 2, "temperature": 1.0}, "beam search does not sample"),
        ({"vllm_python": "python", "num_beams": 2}, "greedy reports only"),
        ({"vllm_python": "python", "temperature": 1.0}, "greedy reports only"),
        ({"vllm_python": "python", "dtype": "4bit"}, "whole weights, not 4bit"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GenerationOptions(**values)


def test_the_checkpoint_fills_in_what_is_not_given() -> None:
    config = LlavaRadConfig(
        name="m",
        image_tokens=16,
        recipe=RECIPE.to_dict(),
        generation=GenerationDefaults(max_new_tokens=300, num_beams=3),
    )
    assert (Decoding().longest(config), Decoding().beams(config)) == (300, 3)
    assert Decoding(study=Study(grounded=True)).longest(config) == 450  # MAIRA-2's model card
    given = Decoding(max_new_tokens=7, num_beams=1, study=Study(grounded=True))
    assert (given.longest(config), given.beams(config)) == (7, 1)
    with pytest.raises(ConfigError, match=r"default is a beam search .3 beams., which does not sample"):
        Decoding(temperature=1.0).beams(config)
    assert Decoding(temperature=1.0, num_beams=1).beams(config) == 1


def test_study_inputs_are_stripped_and_bounded() -> None:
    inputs = StudyInputs(lateral=b"bytes", prior="a.dcm", indication=" Cough.\n", technique="  ")
    assert inputs.study == Study(lateral=True, prior=True, indication="Cough.")
    assert [(name, source.path) for name, source in inputs.images] == [("lateral", None), ("prior", Path("a.dcm"))]
    with pytest.raises(ConfigError, match="prior report holds more than 64 KiB"):
        StudyInputs(prior_report="x" * 70_000)
