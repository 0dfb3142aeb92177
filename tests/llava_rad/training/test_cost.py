"""Cost of training runs: parameters, tokens, operations and memory against counts by hand, and what autograd keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llava_rad.model.llava_rad import LlavaRad
from llava_rad.model.prompt import encode_answer
from llava_rad.model.templates import Study
from llava_rad.training.config import StudyConfig, load_config
from llava_rad.training.cost import (
    Sizes,
    cost_of,
    decide_recomputation,
    encoder_parameters,
    language_model_parameters,
)
from llava_rad.training.data import Prompted
from llava_rad.training.initial import load_trainable
from llava_rad.training.module import ReportLoss
from llava_rad.training.studies import Layout

VICUNA = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "vocab_size": 32000, "tie_word_embeddings": False,
}  # fmt: skip
RAD_DINO = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 14, "image_size": 518}
PAPER = Sizes(RAD_DINO, VICUNA, 1369, 1519, 90)
GB = 1e9


def test_parameters_of_the_published_parts() -> None:
    assert language_model_parameters(VICUNA, None) == (6_738_415_616, 0)
    assert encoder_parameters(RAD_DINO) == 86_580_480


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 2, "tie_word_embeddings": True}])
def test_parameters_and_operations_are_those_counted_by_hand(changes: dict[str, Any]) -> None:
    llama = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 100,
        **changes,
    }  # fmt: skip
    ends = [(32, 32), (32, 32), (32, 48), (32, 48), (48, 32)]  # queries, output, gate, up, down
    ends += [(32, 8 * llama.get("num_key_value_heads", 4))] * 2
    weights = sum(one * other for one, other in ends)
    tables = 100 * 32 * (1 if changes.get("tie_word_embeddings") else 2)
    adapters = 3 * 4 * sum(one + other for one, other in ends)
    config = load_config("paper-lora", ["lora.r=4", "lora.dropout=0"])
    assert config.lora is not None
    assert language_model_parameters(llama, config.lora) == (3 * (weights + 2 * 32) + 32 + tables, adapters)

    sizes = Sizes({"hidden_size": 16, "num_hidden_layers": 2, "parameters": 1000}, llama, 9, 20, 7)
    projector = (16 + 1) * 32 + (32 + 1) * 32
    attention = 3 * 4 * 20**2 * 32 / 2  # causal
    for chosen, trained, times in ((config, adapters, 2), (load_config("paper"), 0, 3)):
        forward = 2 * 20 * (3 * weights + trained) + attention
        head = times * 2 * 7 * 100 * 32  # frozen with adapters: no gradients of its weights
        for images, further, projected in ((1, None, 9), (3, None, 27), (3, 4, 17)):
            seen = images * (2 * 1000 * 9 + 4 * 16 * 9**2 * 2)
            by_hand = (times + 1) * forward + head + 3 * 2 * projector * projected + seen  # blocks are recomputed
            found = cost_of(chosen, replace(sizes, images=images, further_tokens=further)).tera_flops
            assert found == pytest.approx(by_hand / 1e12, rel=1e-9)


def test_floating_point_operations_of_a_sample() -> None:
    # 62 TFLOP a sample and 20 more with recomputation, of which the encoder is half a percent
    full = cost_of(load_config("paper"), PAPER, 4)
    kept = cost_of(load_config("paper", ["engine.activation_checkpointing=false"]), PAPER, 4)
    assert kept.tera_flops == pytest.approx(62, rel=0.05)
    assert full.tera_flops - kept.tera_flops == pytest.approx(20, rel=0.05)
    without = cost_of(load_config("paper", ["data.keep_features=true"]), PAPER, 4)
    assert full.tera_flops - without.tera_flops == pytest.approx(0.30, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "gigabytes", "recomputed"),
    [
        # adapters: 20 GB of weights and states, 13.6 GB of activations a sample; 80 % of the memory may be planned for
        (["lora={}", "engine.deepspeed=none", "optimization.micro_batch_size=1"], 80, False),
        (["lora={}", "engine.deepspeed=none", "optimization.micro_batch_size=1"], 40, True),
        (["lora={}", "engine.deepspeed=none", "optimization.micro_batch_size=4"], 80, True),
        (["lora={}", "engine.deepspeed=none", "optimization.micro_batch_size=4"], 141, False),
        (["engine.activation_checkpointing=true"], 10_000, True),
        (["engine.activation_checkpointing=false"], 1, False),
    ],
    ids=["lora-80", "lora-40", "lora4-80", "lora4-141", "always", "never"],
)
def test_blocks_are_recomputed_only_where_memory_is_short(
    changes: list[str], gigabytes: float, recomputed: bool
) -> None:
    assert load_config("paper").engine.activation_checkpointing == "auto"
    decided = decide_recomputation(load_config("paper", changes), PAPER, 1, int(gigabytes * GB))
    assert decided.engine.activation_checkpointing is recomputed


def test_states_of_the_full_fine_tune() -> None:
    # 16 bytes a parameter are 108 GB; a quarter with ZeRO-3 on four GPUs, 37 GB with ZeRO-2
    def states(*changes: str, processes: int = 4) -> float:
        cost = cost_of(load_config("paper", list(changes)), PAPER, processes)
        return (cost.weights - 2 * cost.encoder) / GB

    assert states(processes=1) == pytest.approx(108, rel=0.01)
    assert states() == pytest.approx(27, rel=0.01)
    # with ZeRO-2 the whole weights stay (13.5), the rest is spread: 13.5 + 94 / 4
    assert states("engine.deepspeed=zero2") == pytest.approx(37, rel=0.01)
    offloaded = cost_of(load_config("paper", ["engine.deepspeed=zero2-offload"]), PAPER, 4)
    assert offloaded.host / GB == pytest.approx(12 * 6.76 / 4, rel=0.01)


def test_logits_are_those_of_the_answers_alone() -> None:
    # 32 samples of 1519 tokens have 6.2 GB of logits in float32; 90 of the tokens have a loss
    cost = cost_of(load_config("paper", ["optimization.micro_batch_size=32"]), PAPER, 4)
    whole = 32 * 1519 * 32000 * 4
    assert whole / GB == pytest.approx(6.2, rel=0.01)
    assert cost.logits == pytest.approx(whole * 90 / 1519 * 10 / 4)


def test_adapters_take_a_fraction_of_it() -> None:
    cost = cost_of(load_config("paper-lora"), PAPER, 1)
    assert cost.trained == 128 * 32 * (4 * (4096 + 4096) + 3 * (4096 + 11008)) + cost.projector
    assert 2 * 6.74 < cost.weights / GB < 25


@pytest.mark.parametrize(
    ("further", "tokens"), [(None, (1369, 2738, 4107)), (361, (1369, 1730, 2091))], ids=["all", "pooled"]
)
def test_tokens_of_further_images(further: int | None, tokens: tuple[int, ...]) -> None:
    """(518 / 14) ** 2 = 1369; squares of 2 x 2 of 37 x 37 patches are 19 x 19 = 361."""
    sizes = replace(PAPER, further_tokens=further)
    found = [sizes.with_images(number) for number in (1, 2, 3)]
    assert tuple(int(one.projected) for one in found) == tokens
    assert tuple(int(one.length) for one in found) == tuple(150 + number for number in tokens)
    assert found[2].with_images(1) == replace(found[0], images=1)


SMALL = {
    "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 100,
}  # fmt: skip


@pytest.mark.parametrize(("images", "further"), [(1, None), (3, None), (3, 4)], ids=["one", "three", "pooled"])
def test_activations_are_those_counted_by_hand(images: int, further: int | None) -> None:
    """Bytes that a Llama block keeps for each token in bfloat16, h wide, m inside, H heads.

    Two RMSNorms: input in float32 (4 h), its normalised form (2 h), output (2 h), the inverse root (4). Attention:
    queries, keys, values and result (8 h), the sums of exponentials in float32 (4 H). SwiGLU: gate, its SiLU, the
    other half, their product (8 m). Outside of blocks: the last norm (6 h; its output is counted by its user) and the
    projector's input, and GELU's input and output.
    """
    width, inner, heads, layers = (
        SMALL[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")
    )
    sizes = Sizes({"hidden_size": 48, "num_hidden_layers": 2, "parameters": 1000}, SMALL, 25, 40, 7, 1, further)
    sizes = sizes.with_images(images)
    assert sizes.length == 40 + (images - 1) * (further or 25)
    block = 24 * width + 8 * inner + 4 * heads + 8
    outside = sizes.length * (6 * width + 4) + 2 * sizes.projected * (48 + 2 * width)
    changes = ["engine.deepspeed=zero3", "optimization.micro_batch_size=4"]
    kept = cost_of(load_config("paper", [*changes, "engine.activation_checkpointing=false"]), sizes)
    assert kept.activations == pytest.approx(4 * (layers * sizes.length * block + outside), rel=0.03)
    recomputed = cost_of(load_config("paper", [*changes, "engine.activation_checkpointing=true"]), sizes)
    inputs = layers * sizes.length * 2 * width
    assert recomputed.activations == pytest.approx(4 * (inputs + sizes.length * block + outside), rel=0.03)


@pytest.mark.parametrize(("images", "side"), [(1, 1), (3, 1), (3, 2)], ids=["one", "three", "pooled"])
def test_activations_are_what_autograd_keeps(tiny: Path, images: int, side: int) -> None:
    """The module that is trained, on two samples in float32."""
    study = StudyConfig(inputs=("lateral", "prior"), pool=side)
    settings, projector, words, tokens = load_trainable(tiny, torch.float32, study)
    whole = LlavaRad.from_pretrained(tiny)
    module = ReportLoss(
        projector, words, tokens, Prompted.of(settings, tokens), whole.encoder, settings.preprocessing, side
    ).train()
    shown, layout = Study(lateral=images > 1, prior=images > 2), Layout.of(settings, tokens)
    answer = encode_answer(tokens.tokenizer, "There is a large left pleural effusion.", tokens.ids.eos)
    ids, labels = (torch.from_numpy(np.stack([row, row])).long() for row in layout.row(shown, answer))
    pixels = torch.zeros(2 * images, 56, 56, dtype=torch.uint8)
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, tuple[int, torch.Tensor]] = {}  # the tensors too, or memory would be counted under a second address

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(labels=labels, ids=ids, pixels=pixels, kinds=shown.kinds * 2, num_items_in_batch=1.0)
    found = sum(size for size, _ in kept.values())

    described = words.config.to_dict()
    encoder = {"hidden_size": projector.in_features, "num_hidden_layers": 2, "parameters": 1}
    sizes = Sizes(encoder, described, layout.image_tokens, ids.shape[1], len(answer), images, layout.further_tokens)
    changes = ["engine.deepspeed=none", "engine.precision=fp32", "optimization.micro_batch_size=2"]
    cost = cost_of(load_config("paper", [*changes, "engine.activation_checkpointing=false"]), sizes)
    scores = 2 * len(answer) * 4 * (described["vocab_size"] + described["hidden_size"])  # log-softmax; the head's input
    assert found == pytest.approx(cost.activations + scores, rel=0.1)


@pytest.mark.slow
def test_a_third_image_costs_what_its_tokens_cost() -> None:
    """At 7B, whatever the way of spreading: states stay, activations grow with tokens, pooled ones less."""
    three = [replace(PAPER, further_tokens=further).with_images(3) for further in (361, None)]
    for changes in (["engine.deepspeed=zero2"], ["engine.deepspeed=zero3"], ["lora={}", "engine.deepspeed=none"]):
        config = load_config("paper", ["engine.activation_checkpointing=true", *changes])
        one, pooled, full = (cost_of(config, sizes, 4) for sizes in (PAPER, *three))
        assert one.weights == pooled.weights == full.weights and one.logits == full.logits
        growth = [(cost.activations - one.activations) / one.activations for cost in (pooled, full)]
        assert growth == pytest.approx([722 / 1519, 2738 / 1519], rel=0.02)
        assert one.tera_flops < pooled.tera_flops < full.tera_flops
