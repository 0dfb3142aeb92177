"""The reference agrees with the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava_rad.commands.options import attributes
from scripts.write_reference import DOCUMENT, main, reference
from tests.test_documents import cli_options


def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text("utf-8") == reference(), "python scripts/write_reference.py"
    assert main(["--check"]) == 0


def test_an_old_document_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "reference.md"
    monkeypatch.setattr("scripts.write_reference.DOCUMENT", old)
    assert main(["--check"]) == 1
    old.write_text("# Reference\n")
    assert main(["--check"]) == 1
    assert main([]) == 0 and main(["--check"]) == 0


def test_every_command_option_and_key_is_in_it() -> None:
    text = reference()
    for command, options in cli_options().items():
        if command and any(f"### `llava-rad {command}`" in line for line in text.splitlines()):
            assert all(f"`{option}`" in text for option in options - {"--help", "-h", "-"} if option[0] == "-"), command
    for name in ("generate", "user add", "pacs watch", "probe segment", "maps match"):
        assert f"### `llava-rad {name}`" in text
    for key in ("crops.local_scale", "optimization.teacher_momentum", "lora.alpha", "model.scratch.vocabulary"):
        assert f"`{key}` (" in text


def test_attributes_of_a_docstring() -> None:
    told = attributes(
        "Words.\n\nAttributes:\n    a, b: first\n        and more.\n    c: ``last``.\n\nMore: not this.\n"
    )
    assert told == {"a": "first and more.", "b": "first and more.", "c": "`last`."}
    assert attributes("Nothing.") == {}
