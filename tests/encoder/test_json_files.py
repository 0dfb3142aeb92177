"""JSON that others wrote: read, or refused at once, whatever stands under the name."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from encoder import json_files
from encoder.backbones.dinov2 import RadDino
from encoder.backbones.weight_files import read_json as read_of_model
from encoder.backbones.weight_files import shards
from encoder.errors import ModelError
from encoder.json_files import parse_json, read_json
from llava_rad.model.checkpoint import DEMO
from llava_rad.model.config import LlavaRadConfig


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


ODD: dict[str, Callable[[Path], object]] = {
    "deep lists": lambda path: path.write_text("[" * 10_000 + "]" * 10_000),
    "deep objects": lambda path: path.write_text('{"a":' * 10_000 + "1" + "}" * 10_000),
    "open brackets": lambda path: path.write_text("[" * 1_000_000),
    "a long number": lambda path: path.write_text('{"a": ' + "1" * 10_000 + "}"),
    "no UTF-8": lambda path: path.write_bytes(b'{"a": "\xff\xfe"}'),
    "nothing": lambda path: path.write_bytes(b""),
    "pipe": os.mkfifo,
    "socket": listen,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_json_is_refused_at_once(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    path = Path("config.json")
    ODD[kind](path)
    with pytest.raises((OSError, ValueError)):
        read_json(path)
    for load in (lambda: read_of_model(path, "the encoder"), lambda: LlavaRadConfig.load(tmp_path)):
        with pytest.raises(ModelError) as caught:
            load()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    path.rename("model.safetensors.index.json")
    if not Path("model.safetensors.index.json").is_file():
        return  # then it counts as absent
    with pytest.raises(ModelError):
        shards(tmp_path, "model.safetensors", "the model")


def test_a_file_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(json_files.MAX_BYTES + 1)  # sparse
    with pytest.raises(ModelError, match="larger than 64 MiB"):
        read_of_model(path, "the encoder")


def test_json_of_any_type_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, null, "ü"]}', encoding="utf-8")
    assert read_json(path) == {"a": [1, None, "ü"]}
    assert parse_json(b"3") == 3


@pytest.mark.parametrize(
    "change", [{"name": "a\nb"}, {"name": "\x1b[2J"}, {"name": "x" * 2000}, {"files": {"a\x07": ""}}]
)
def test_names_with_control_characters_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    config = json.loads((DEMO / "config.json").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError) as caught:
        LlavaRadConfig.load(tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("layers", [10**9, 10**30])
def test_an_encoder_of_absurd_size_is_refused_before_it_is_built(layers: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2", "num_hidden_layers": layers}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="no usable num_hidden_layers"):
        RadDino.load(tmp_path, "the encoder")


@pytest.mark.parametrize("content", ["[]", "3", '"text"', "null", "true"])
def test_a_models_config_is_an_object(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    for load in (
        lambda: read_of_model(tmp_path / "config.json", "the encoder"),
        lambda: LlavaRadConfig.load(tmp_path),
    ):
        with pytest.raises(ModelError):
            load()
