"""The kernels of one token: the bound at Vicuna-7B's size, and the count itself against a hand calculation."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from scripts.bench import decode_causes
from scripts.bench.decode_causes import kernels, token
from scripts.bench.random_parts import REAL, TINY, Size, configuration, shapes

LAYER = {
    "rms_norm": 2, "mm.default": 2, "addmm_.default": 2, "mul_.Tensor": 2, "flip.default": 1, "addcmul_.default": 1,
    "copy_.default": 1, "scaled_dot_product_attention": 1, "silu.default": 1,
}  # fmt: skip
"""Of each layer; outside of them: embedding, a copy of it, last norm, head, its float32 form, argmax."""


def test_a_token_of_vicunas_size_takes_at_most_450_kernels() -> None:
    found = token(REAL)
    assert found.total() == 32 * sum(LAYER.values()) + 6 <= 450
    assert {name: found[name] // 32 for name in LAYER} == LAYER
    assert found["copy_.default"] == 32  # one write into the cache for keys and values of a layer


def test_rows_of_a_batch_share_their_kernels() -> None:
    assert token(Size(layers=2), rows=16) == token(Size(layers=2))


def test_what_is_counted() -> None:
    x, weight = torch.empty(2, 4, device="meta"), torch.empty(3, 4, device="meta")

    def call() -> None:
        y = functional.linear(x, weight)  # mm
        y.add_(1)  # add_
        functional.rms_norm(y, (3,)).view(-1)[:2].to(torch.bfloat16)  # one kernel, views, a copy
        torch.empty(3, device="meta")

    assert kernels(call) == {"mm.default": 1, "add_.Tensor": 1, "rms_norm": 1, "_to_copy.default": 1}


def test_shapes_are_those_of_transformers() -> None:
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(TINY.llama_config())
    published = model.config.to_dict()
    assert configuration(TINY).items() <= published.items()
    assert shapes(TINY) == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert decode_causes.main(["--quick"]) == 0
    assert capsys.readouterr().out.split()[-2:] == ["all", "32"]
