"""The loss against an independent one, what gets gradients, and what never does (P3-P4, P8, P15-P21, P27, P38)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from llava_rad.model.llava_rad import LlavaRad
from llava_rad.model.prompt import encode_answer
from llava_rad.training.config import LoraConfig
from llava_rad.training.data import IGNORED, Prompted
from llava_rad.training.initial import with_adapters
from llava_rad.training.kernels import compile_layers
from llava_rad.training.module import ReportLoss
from tests.llava_rad.training.small_pairs import REPORTS

Made = tuple[ReportLoss, LlavaRad]


@pytest.fixture
def make(tiny: Path) -> Callable[..., Made]:
    """The module that is trained, and the whole model that it is made of."""

    def call(lora: LoraConfig | None = None, dtype: torch.dtype = torch.float32) -> Made:
        whole = LlavaRad.from_pretrained(tiny, dtype=dtype)
        words: Any = whole.language_model
        if lora is not None:
            words = with_adapters(words, lora, 0)
        prompt = Prompted.of(whole.config, whole.tokens)
        recipe = whole.config.preprocessing
        return ReportLoss(whole.projector, words, whole.tokens, prompt, whole.encoder, recipe), whole

    return call


@pytest.fixture
def batch(tiny: Path) -> dict[str, torch.Tensor]:
    """Three images with answers of different length."""
    whole = LlavaRad.from_pretrained(tiny)
    ids = [encode_answer(whole.tokens.tokenizer, text, whole.tokens.ids.eos) for text in REPORTS[:3]]
    labels = torch.full((3, max(map(len, ids))), IGNORED)
    for row, found in zip(labels, ids, strict=True):
        row[: len(found)] = torch.tensor(found)
    pixels = torch.randint(0, 256, (3, 56, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return {"labels": labels, "pixels": pixels}


def by_hand(whole: LlavaRad, batch: dict[str, torch.Tensor], *, shifted: bool = False) -> torch.Tensor:
    """Sum of the cross-entropies, sample by sample, without padding, from the full-length logits."""
    recipe, tokens = whole.config.preprocessing, whole.tokens
    before, after = whole.config.conversation.encode(tokens.tokenizer, tokens.ids.bos)
    total = torch.zeros(())
    for pixels, labels in zip(batch["pixels"], batch["labels"], strict=True):
        answer = labels[labels != IGNORED]
        image = whole.projector(whole.encoder(recipe.normalise(pixels[None].numpy())).patches)[0]
        table = whole.language_model.get_input_embeddings().weight
        embeds = torch.cat([table[before], image, table[after], table[answer]])[None]
        logits = whole.language_model(inputs_embeds=embeds).logits[0]
        n = len(embeds[0]) - len(answer)
        spoken = logits[n : n + len(answer)] if shifted else logits[n - 1 : -1]
        total = total + functional.cross_entropy(spoken, answer, reduction="sum")
    return total


def test_p8_the_loss_is_that_of_the_full_logits_one_position_earlier(
    make: Callable[..., Made], batch: dict[str, torch.Tensor]
) -> None:
    module, whole = make()
    found = module(**batch)["loss"]
    count = (batch["labels"] != IGNORED).sum()
    torch.testing.assert_close(found, by_hand(whole, batch) / count, rtol=1e-5, atol=0)
    assert abs(found - by_hand(whole, batch, shifted=True) / count) > 1e-3


def test_the_loss_and_all_gradients_equal_those_of_transformers_own(
    make: Callable[..., Made], batch: dict[str, torch.Tensor]
) -> None:
    module, whole = make()
    module(**batch)["loss"].backward()
    ours = {name: value.grad.clone() for name, value in module.named_parameters() if value.grad is not None}
    module.zero_grad()
    (by_hand(whole, batch) / (batch["labels"] != IGNORED).sum()).backward()
    theirs = {name: value.grad for name, value in module.named_parameters()}
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-6)


def test_p2_every_image_takes_its_place_between_the_prompts_two_parts(
    make: Callable[..., Made], batch: dict[str, torch.Tensor]
) -> None:
    module, whole = make()
    features = module.features(batch["pixels"], None)
    answers = torch.full((3, 4), 7)
    embeds = module.embed(features, answers)
    before, after = whole.config.conversation.encode(whole.tokens.tokenizer, whole.tokens.ids.bos)
    assert embeds.shape == (3, len(before) + whole.config.image_tokens + len(after) + 4, 32)
    table = whole.language_model.get_input_embeddings().weight
    start, end = len(before), len(before) + whole.config.image_tokens
    torch.testing.assert_close(embeds[:, start:end], whole.projector(features))
    torch.testing.assert_close(embeds[1, :start], table[before])
    torch.testing.assert_close(embeds[2, end:], table[[*after, 7, 7, 7, 7]])


def test_p30_the_sum_over_micro_batches_is_the_token_mean_of_the_batch(
    make: Callable[..., Made], batch: dict[str, torch.Tensor]
) -> None:
    module, _ = make()
    count = (batch["labels"] != IGNORED).sum()
    parts = [{name: value[rows] for name, value in batch.items()} for rows in (slice(0, 1), slice(1, 3))]
    together = sum(module(**part, num_items_in_batch=count)["loss"] for part in parts)
    torch.testing.assert_close(together, module(**batch)["loss"], rtol=1e-6, atol=0)


def test_p9_padding_changes_nothing(make: Callable[..., Made], batch: dict[str, torch.Tensor]) -> None:
    module, _ = make()
    wide = functional.pad(batch["labels"], (0, 9), value=IGNORED)
    torch.testing.assert_close(
        module(labels=wide, pixels=batch["pixels"])["loss"], module(**batch)["loss"], rtol=1e-6, atol=0
    )


def test_kept_features_give_the_same_loss(make: Callable[..., Made], batch: dict[str, torch.Tensor]) -> None:
    module, whole = make()
    features = whole.encoder(whole.config.preprocessing.normalise(batch["pixels"])).patches
    again = module(labels=batch["labels"], features=features)["loss"]
    torch.testing.assert_close(again, module(**batch)["loss"], rtol=0, atol=0)


def test_p3_features_are_those_after_the_last_norm_and_p4_without_cls(
    make: Callable[..., Made], batch: dict[str, torch.Tensor]
) -> None:
    module, whole = make()
    model = whole.encoder.model
    inputs = whole.config.preprocessing.normalise(batch["pixels"])
    out = model(inputs, output_hidden_states=True)
    found = module.features(batch["pixels"], None)
    torch.testing.assert_close(found, out.last_hidden_state[:, 1:])
    torch.testing.assert_close(found, model.layernorm(out.hidden_states[-1])[:, 1:])
    assert (found - out.hidden_states[-1][:, 1:]).abs().max() > 0.1


def test_p18_the_encoder_is_no_part_of_the_module_and_stays_as_it_is(
    make: Callable[..., Made], batch: dict[str, torch.Tensor]
) -> None:
    module, whole = make()
    before = {name: value.clone() for name, value in whole.encoder.state_dict().items()}
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    module.train()
    module(**batch)["loss"].backward()
    optimizer.step()
    trained = {id(value) for value in module.parameters()}
    assert not any(id(value) in trained or value.requires_grad for value in whole.encoder.parameters())
    assert not whole.encoder.training and not whole.encoder.model.training
    assert all(value.grad is None for value in whole.encoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in whole.encoder.state_dict().items())
    assert not any("encoder" in name for name in module.state_dict())


@pytest.mark.parametrize("reentrant", [None, False, True])
@pytest.mark.parametrize("lora", [None, LoraConfig(r=4, alpha=8, dropout=0.0)])
def test_p19_everything_trained_gets_a_gradient_with_and_without_recomputing(
    make: Callable[..., Made], batch: dict[str, torch.Tensor], lora: LoraConfig | None, reentrant: bool | None
) -> None:
    module, _ = make(lora)
    if reentrant is not None:
        module.llama.activation_checkpointing_enable({"use_reentrant": reentrant})
    module.train()
    module(**batch)["loss"].backward()
    trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
    assert all(value.grad is not None for value in trained.values())
    assert all(trained[f"projector.{name}"].grad.abs().max() > 0 for name in ("linear_1.weight", "linear_2.bias"))


def test_recomputing_changes_no_gradient(make: Callable[..., Made], batch: dict[str, torch.Tensor]) -> None:
    gradients = []
    for recompute in (False, True):
        module, _ = make()
        if recompute:
            module.llama.activation_checkpointing_enable({"use_reentrant": False})
        module.train()
        module(**batch)["loss"].backward()
        gradients.append([value.grad for value in module.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_p20_a_bfloat16_language_model_takes_features_of_any_type(
    make: Callable[..., Made], batch: dict[str, torch.Tensor]
) -> None:
    module, whole = make(dtype=torch.bfloat16)
    whole.encoder.float()
    module.projector.float()
    loss = module(**batch)["loss"]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, make()[0](**batch)["loss"], rtol=0.05, atol=0)


def test_p21_adapters_sit_on_the_decoder_alone_and_the_projector_is_trained_whole(
    make: Callable[..., Made], batch: dict[str, torch.Tensor]
) -> None:
    module, whole = make(LoraConfig(r=4, alpha=8, dropout=0.0))
    trained = {name for name, value in module.named_parameters() if value.requires_grad}
    adapters = {name for name in trained if "lora_" in name}
    assert trained - adapters == {f"projector.linear_{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")}
    assert len(adapters) == 2 * 7 * 2  # layers, linear layers in each, two matrices
    assert all(".layers." in name for name in adapters)
    assert not any("lora" in name for name, _ in whole.encoder.named_parameters())
    plain = make()[0](**batch)["loss"]
    torch.testing.assert_close(module(**batch)["loss"], plain)  # adapters begin as nothing


def test_adapters_compute_in_bfloat16_where_their_base_does_and_give_the_same_gradients(
    make: Callable[..., Made], batch: dict[str, torch.Tensor]
) -> None:
    found, kinds = [], set[torch.dtype]()
    for casting in (False, True):  # as PEFT does it: to float32, and by autocast back to bfloat16
        module, whole = make(LoraConfig(r=4, alpha=8, dropout=0.0), dtype=torch.bfloat16)
        whole.encoder.float()
        module.projector.float()
        rng = torch.Generator().manual_seed(3)
        kinds.clear()
        for name, part in module.named_modules():
            if hasattr(part, "cast_input_dtype_enabled"):
                part.cast_input_dtype_enabled |= casting
            if name.endswith("lora_B.default"):
                torch.nn.init.normal_(part.weight, std=0.1, generator=rng)
            if name.endswith("lora_A.default"):
                part.register_forward_pre_hook(lambda _, inputs: kinds.add(inputs[0].dtype))
        module.llama.activation_checkpointing_enable({"use_reentrant": False})
        module.train()
        with torch.autocast("cpu", torch.bfloat16):
            loss = module(**batch)["loss"]
        loss.backward()
        assert kinds == {torch.float32 if casting else torch.bfloat16}
        adapters = {name: value for name, value in module.named_parameters() if "lora_" in name}
        assert all(value.dtype == value.grad.dtype == torch.float32 for value in adapters.values())
        found.append([loss, *(value.grad for value in adapters.values())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert all(bool(value.any()) for value in found[0])


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LoraConfig(r=4, alpha=8, dropout=0.0)], ids=["full", "lora"])
def test_compiled_norms_and_mlps_give_the_same_gradients_and_are_compiled_once_for_all_layers(
    make: Callable[..., Made], batch: dict[str, torch.Tensor], lora: LoraConfig | None
) -> None:
    graphs, found = [], []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    for compiled in (False, True):
        module, _ = make(lora)
        if compiled:
            compile_layers(module.llama, backend)
        module.llama.activation_checkpointing_enable({"use_reentrant": False})
        module.train()
        loss = module(**batch)["loss"]
        loss.backward()
        found.append([loss, *(value.grad for value in module.parameters() if value.requires_grad)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    assert len(graphs) == 2  # norm and MLP; the two layers and the last norm share them


def test_lora_dropout_and_random_halves_follow_the_seed(make: Callable[..., Made]) -> None:
    one, other = (make(LoraConfig(r=4, alpha=8))[0].state_dict() for _ in range(2))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_p4_cls_has_no_say(make: Callable[..., Made], batch: dict[str, torch.Tensor]) -> None:
    module, whole = make()
    plain = module(**batch)["loss"]
    norm = whole.encoder.model.layernorm
    handle = norm.register_forward_hook(lambda _, __, out: torch.cat([out[:, :1] + 100, out[:, 1:]], dim=1))
    try:
        torch.testing.assert_close(module(**batch)["loss"], plain, rtol=0, atol=0)
    finally:
        handle.remove()
