"""Configurations of models that somebody else wrote: no key reaches the hub, none is waited for or built for hours."""

from __future__ import annotations

import json
import os
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from metrics.base import WeightsError
from metrics.chexbert import CheXbert, load_labeler
from metrics.model_files import bert_sizes, read_object

DEEP = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
CODE = {
    "attn_implementation": "evil/kernel", "_attn_implementation": "evil/kernel",
    "_attn_implementation_internal": "evil/kernel", "use_kernels": True, "auto_map": {"AutoModel": "evil.Model"},
    "quantization_config": {"quant_method": "bitsandbytes"}, "trust_remote_code": True,
}  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [DEEP, b"[1]", b"", b"{", b"\xff\xfe{", b" " * (17 << 20)],
    ids=["deep", "list", "none", "cut", "16", "big"],
)
def test_json_of_another_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError):  # json's own message
        read_object(tmp_path / "config.json")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ValueError, match="regular file"):
        read_object(tmp_path / "config.json")


def test_of_a_bert_its_sizes_are_read() -> None:
    assert bert_sizes(CODE | {"hidden_size": 8, "model_type": "evil", "pad_token_id": None}, "", "") == {
        "hidden_size": 8, "pad_token_id": None,
    }  # fmt: skip


@pytest.mark.parametrize("value", [10**12, -5, 2.5, "8", True, None, [8]], ids=str)
@pytest.mark.parametrize("name", ["num_hidden_layers", "vocab_size"])
def test_a_size_out_of_range_is_refused(name: str, value: Any) -> None:
    with pytest.raises(WeightsError, match=f"no usable {name}"):
        bert_sizes({name: value}, "config.json", "")


def test_chexbert_takes_no_code_from_a_configuration(
    bert: Path, chexbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    kernels = types.ModuleType("kernels")
    kernels.__getattr__ = asked.append  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "kernels", kernels)
    folder = shutil.copytree(bert, tmp_path / "bert")
    own = json.loads((folder / "config.json").read_text())
    texts = ["No effusion.", "Large left effusion."]
    expected = CheXbert(chexbert, vocabulary=bert).label(texts).tolist()
    (folder / "config.json").write_text(json.dumps(own | CODE))
    assert CheXbert(chexbert, vocabulary=folder).label(texts).tolist() == expected
    assert [name for name in asked if not name.startswith("__")] == []


@pytest.mark.parametrize(
    "more",
    [{"hidden_act": "evil"}, {"hidden_size": 33}, {"num_hidden_layers": 10**9}, {"layer_norm_eps": "x"}, None],
    ids=str,
)
def test_chexbert_refuses_a_configuration_that_cannot_be_built(
    more: dict[str, Any] | None, bert: Path, chexbert: Path, tmp_path: Path
) -> None:
    own = json.loads((bert / "config.json").read_text())
    (tmp_path / "config.json").write_bytes(DEEP if more is None else json.dumps(own | more).encode())
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_labeler(chexbert, tmp_path / "config.json")
