"""Converted replicas: every tensor is there in its type, and the logits are those of transformers, timm and PEFT."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from encoder.backbones.registry import AFTER_NORM, PENULTIMATE
from encoder.errors import LlavaRadError, ModelError
from llava_rad.conversion.published import convert
from llava_rad.generation.decoding import generate
from llava_rad.generation.engine import Engine
from llava_rad.generation.options import Decoding
from llava_rad.model.checkpoint import load_checked
from llava_rad.model.llava_rad import LlavaRad
from llava_rad.model.templates import Study
from tests.llava_rad.conversion import replicas

IMAGES = list(np.random.default_rng(0).integers(0, 256, (3, 56, 56), dtype=np.uint8))


def logits(folder: Path, study: Study, images: list[np.ndarray]) -> torch.Tensor:
    """Logits of a converted checkpoint's first token, [vocabulary]."""
    engine = Engine.from_pretrained(folder, dtype="float32")
    prompt = engine.config.conversation.with_study(study)
    embeds, mask = engine.embed(engine.encode_images(np.stack(images)), [prompt])
    assert mask is None
    with torch.inference_mode():
        return engine.llama(embeds, engine.llama.cache(1, embeds.shape[1]), 0)[0]


def stored(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def test_maira_2_keeps_every_tensor(published: dict[str, Path], maira: Path) -> None:
    source, out = published["maira-2"], maira
    expected = stored(source)
    found = {f"language_model.{name}": t for name, t in stored(out / "language_model").items()}
    found |= {f"vision_tower.{name}": t for name, t in stored(out / "encoder").items()}
    for name, tensor in load_file(out / "projector.safetensors").items():
        number, kind = name.removeprefix("linear_").split(".")
        found[f"multi_modal_projector.layers.{2 * int(number) - 2}.{kind}"] = tensor
    assert found.keys() == expected.keys()
    assert all(found[n].dtype == t.dtype and torch.equal(found[n], t) for n, t in expected.items())
    config = load_checked(out)
    assert (config.features, config.image_tokens) == (AFTER_NORM, 16)
    assert (config.prompt.template, config.prompt.turn, config.prompt.chunks) == ("maira-2", None, "whole")
    assert config.recipe["name"] == "maira-2-56"
    assert config.generation.max_new_tokens == 300


@pytest.mark.parametrize(
    "study",
    [Study(), Study(lateral=True, indication="the heart"), Study(lateral=True, prior=True, prior_report="is clear")],
    ids=lambda study: f"{study.images} images",
)
def test_maira_2s_logits(published: dict[str, Path], maira: Path, study: Study, tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import Dinov2Backbone, Dinov2Config, LlamaConfig, LlamaForCausalLM

    source, out = published["maira-2"], maira
    tensors = {name: tensor.float() for name, tensor in stored(source).items()}

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    given = json.loads((source / "config.json").read_text())
    vision = Dinov2Config(**given["vision_config"])
    from safetensors.torch import save_file

    save_file(part("vision_tower."), tmp_path / "model.safetensors", metadata={"format": "pt"})
    vision.save_pretrained(tmp_path)
    tower, report = Dinov2Backbone.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    projector = replicas.mlp([24, 32, 32, 32, 32])
    projector.load_state_dict(part("multi_modal_projector.layers."))
    language = LlamaForCausalLM(LlamaConfig(**given["text_config"])).eval()
    language.load_state_dict(part("language_model."))
    assert language.config.rope_parameters["factor"] == 1.5
    pixels = torch.tensor(np.stack(IMAGES[: study.images])).float()[:, None].expand(-1, 3, -1, -1)
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    text = load_checked(out).conversation.with_study(study).text.replace("<image>", "<image>" * 16)
    ids = torch.tensor([[1, *tokenizer.encode(text, add_special_tokens=False).ids]])
    with torch.inference_mode():
        features = tower((pixels / 255 - 0.5307) / 0.2583).feature_maps[-1][:, 1:]
        embeds = language.get_input_embeddings()(ids)
        embeds[ids == 32204] = projector(features).flatten(0, 1)
        expected = language(inputs_embeds=embeds).logits[0, -1]
    torch.testing.assert_close(logits(out, study, IMAGES[: study.images]), expected, rtol=1e-4, atol=1e-4)


def test_maira_2_writes_reports_from_one_to_three_images(maira: Path) -> None:
    engine = Engine.from_pretrained(maira)
    texts = []
    for study in (Study(), Study(prior=True), Study(lateral=True, prior=True)):
        settings = Decoding(max_new_tokens=6, study=study)
        twice = [*IMAGES[: study.images], *IMAGES[: study.images]]
        drafts = generate(engine, twice, settings)
        assert len(drafts) == 2 and drafts[0] == drafts[1]
        assert engine.tokens.tokenizer.token_to_id("<image>") not in drafts[0].ids
        texts.append(drafts[0].ids)
    assert len(set(texts)) == 3


def test_transformers_reads_the_language_model_and_says_the_same(maira: Path) -> None:
    from transformers import LlamaForCausalLM

    engine, study = Engine.from_pretrained(maira, dtype="float32"), Study(lateral=True, prior=True)
    language = LlamaForCausalLM.from_pretrained(maira / "language_model", dtype=torch.float32)
    embeds, _ = engine.embed(engine.encode_images(np.stack(IMAGES)), [engine.config.conversation.with_study(study)])
    rows = language.generate(inputs_embeds=embeds, max_new_tokens=6, do_sample=False, suppress_tokens=[32204])
    (draft,) = generate(engine, IMAGES, Decoding(max_new_tokens=6, study=study))
    assert list(draft.ids) == rows[0].tolist()
    (beams,) = generate(engine, IMAGES, Decoding(max_new_tokens=6, num_beams=3, study=study))
    expected = language.generate(inputs_embeds=embeds, max_new_tokens=6, num_beams=3, suppress_tokens=[32204])
    assert list(beams.ids) == expected[0].tolist()


@pytest.mark.parametrize("new_names", [False, True], ids=["older names", "newer names"])
def test_llava_is_transformers_own(new_names: bool, tmp_path: Path) -> None:
    source, model = replicas.llava(tmp_path / "llava-1.5-7b-hf", new_names=new_names)
    convert("llava-1.5", source, tmp_path / "out")
    config = load_checked(tmp_path / "out")
    assert (config.features, config.image_tokens, config.tokens.pad) == (PENULTIMATE, 16, 32001)
    kept = stored(tmp_path / "out" / "language_model")
    assert {t.dtype for t in kept.values()} == {torch.float16}
    assert kept["model.embed_tokens.weight"].shape[0] == 32064  # the rows behind the tokenizer's are kept
    engine = Engine.from_pretrained(tmp_path / "out")
    before, after = config.conversation.encode(engine.tokens.tokenizer, 1)
    ids = torch.tensor([[*before, *[32000] * 16, *after]])
    pixels = config.preprocessing.normalise(np.stack(IMAGES[:1]))
    with torch.inference_mode():
        expected = model(input_ids=ids, pixel_values=pixels).logits[0, -1]
    torch.testing.assert_close(logits(tmp_path / "out", Study(), IMAGES[:1]), expected, rtol=1e-4, atol=1e-4)
    assert engine.tokens.suppressed == (32000,)


def test_llava_rads_logits(published: dict[str, Path], rad: Path) -> None:
    import timm
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    source, out = published["llava-rad"], rad
    config = load_checked(out)
    assert (config.features, config.image_tokens) == (PENULTIMATE, 16)
    assert (config.prompt.template, config.recipe["name"]) == ("llava-rad", "llava-rad-56")
    base = LlamaForCausalLM.from_pretrained(source / "base", dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, str(source)).merge_and_unload().state_dict()
    language = LlamaForCausalLM(base.config).eval()
    language.load_state_dict({name: tensor.half().float() for name, tensor in merged.items()})
    kept = stored(out / "language_model")
    assert {t.dtype for t in kept.values()} == {torch.float16}
    assert all(torch.equal(kept[name].float(), tensor) for name, tensor in language.state_dict().items())
    projector = replicas.mlp([64, 32, 32])
    weights = torch.load(source / "non_lora_trainables.bin", weights_only=True)
    projector.load_state_dict({n.split("mm_projector.")[1]: t.float() for n, t in weights.items()})
    sizes = {"img_size": 56, "patch_size": 14, "embed_dim": 64, "depth": 3, "num_heads": 1, "init_values": 0.5}
    tower = timm.create_model("vit_base_patch16_224", num_classes=0, **sizes).eval()
    trunk = load_file(source.parent / "trunk.safetensors")
    assert all(torch.equal(trunk[name], tensor) for name, tensor in stored(out / "encoder").items())
    tower.load_state_dict(trunk)
    pixels = config.preprocessing.normalise(np.stack(IMAGES[:1]))
    study = Study(indication="the heart")
    engine = Engine.from_pretrained(out)
    before, after = config.conversation.with_study(study).encode(engine.tokens.tokenizer, 1)
    with torch.inference_mode():
        features = tower.get_intermediate_layers(pixels, n=2, norm=False)[0]
        words = language.get_input_embeddings()
        embeds = torch.cat([words(torch.tensor([before])), projector(features), words(torch.tensor([after]))], dim=1)
        expected = language(inputs_embeds=embeds).logits[0, -1]
    torch.testing.assert_close(logits(out, study, IMAGES[:1]), expected, rtol=1e-4, atol=1e-4)


def test_an_adapter_in_safetensors_gives_the_same_and_the_base_can_be_named(
    published: dict[str, Path], rad: Path, tmp_path: Path
) -> None:
    source = replicas.llava_rad(tmp_path / "llava-rad", pickled=False)
    convert("llava-rad", source, tmp_path / "out", base=published["llava-rad"] / "base")
    found, expected = (stored(folder / "language_model") for folder in (tmp_path / "out", rad))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_converted_model_is_one_like_any_other(rad: Path, maira: Path, tmp_path: Path) -> None:
    for out in (rad, maira):
        model = LlavaRad.from_pretrained(out)
        model.save_pretrained(tmp_path / out.parent.name)
        again = load_checked(tmp_path / out.parent.name)
        assert again.model_copy(update={"files": {}}) == load_checked(out).model_copy(update={"files": {}})


@pytest.mark.parametrize("apart", [False, True], ids=["in the shards", "in mm_projector.bin"])
def test_llava_as_its_authors_publish_it_is_the_same_model(
    published: dict[str, Path], tmp_path: Path, apart: bool
) -> None:
    """Equal weights in the forms of llava-hf and of liuhaotian give equal checkpoints."""
    model, tower = replicas.llava_original(tmp_path / "original", published["llava-1.5"], apart=apart)
    convert("llava-1.5", published["llava-1.5"], tmp_path / "a")
    convert("llava-1.5", model, tmp_path / "b", base=tower, offline=True)
    for part in ("encoder", "language_model", "."):
        one, other = stored(tmp_path / "a" / part), stored(tmp_path / "b" / part)
        assert one.keys() == other.keys() and len(one)
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert load_checked(tmp_path / "a").recipe == load_checked(tmp_path / "b").recipe
    with pytest.raises(ModelError, match="has its image tower inside"):
        convert("llava-1.5", published["llava-1.5"], tmp_path / "c", base=tower)
    with pytest.raises(LlavaRadError, match="clip-vit-large-patch14-336"):
        convert("llava-1.5", model, tmp_path / "c", offline=True)


def test_pickled_code_in_a_projector_never_runs(published: dict[str, Path], tmp_path: Path) -> None:
    model, tower = replicas.llava_original(tmp_path / "original", published["llava-1.5"], apart=True)
    torch.save({"model.mm_projector.0.weight": Path("x")}, model / "mm_projector.bin")
    with pytest.raises(ModelError, match=r"mm_projector\.bin of the model model cannot be read"):
        convert("llava-1.5", model, tmp_path / "b", base=tower, offline=True)
