"""The paper's other encoders from published files to reports: assembled and generated with by the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from encoder.backbones.loading import load_encoder
from encoder.errors import ModelError
from encoder.preprocessing import clip, mrm
from llava_rad.generation.decoding import generate
from llava_rad.generation.engine import Engine
from llava_rad.generation.options import Decoding
from llava_rad.model.assemble import assemble
from llava_rad.model.checkpoint import load_checked
from llava_rad.model.llava_rad import LlavaRad
from tests.encoder.backbones import published
from tests.llava_rad.conftest import Run
from tests.llava_rad.model.test_checkpoint import edit_config, rehash
from tests.llava_rad.published import vicuna_folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("parts")
    return {
        "vicuna": vicuna_folder(top / "vicuna"),
        "clip": published.clip_folder(top / "clip", size=56),
        "mrm": published.mrm_file(top / "MRM.pth"),
        "biovil-t": published.biovil_t_file(top / "biovil.pt"),
    }


# encoder, what is asked for, what comes of it
CASES = {
    "clip": ([], clip(56).to_dict(), 16, "patches of the last layer, before any final LayerNorm, without CLS"),
    "mrm": (["--recipe", "mrm-96"], mrm(96).to_dict(), 36, "patches after the final LayerNorm, without CLS"),
    "biovil-t": (
        ["--encoder-kind", "biovil-t-resnet", "--recipe", "rad-dino-128"],
        None,
        16,
        "grid of the image encoder, before the joint projection",
    ),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_from_published_files_to_a_report(
    name: str, parts: dict[str, Path], run: Run, chest: list[Path], tmp_path: Path
) -> None:
    more, recipe, tokens, features = CASES[name]
    out = tmp_path / "model"
    done = run("assemble", out, "--encoder", parts[name], "--language-model", parts["vicuna"], *more)
    assert done.code == 0, done.err
    config = load_checked(out)
    assert (config.image_tokens, config.features) == (tokens, features)
    assert recipe is None or config.recipe == recipe
    assert sorted(path.name for path in (out / "encoder").iterdir()) == ["config.json", "model.safetensors"]
    assert not [path for path in out.rglob("*") if path.suffix in (".pt", ".pth", ".bin")]

    done = run("generate", *chest[:3], "--model", out, "--format", "jsonl", "--max-new-tokens", "12")
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 3

    # the report is written of these features: encoder, projector and language model one by one
    kind = "biovil-t-resnet" if name == "biovil-t" else None
    whole, engine = LlavaRad.from_pretrained(out), Engine.from_pretrained(out)
    images = np.random.default_rng(0).integers(0, 256, (2, engine.recipe.size, engine.recipe.size), dtype=np.uint8)
    patches = load_encoder(parts[name], kind=kind)(engine.recipe.normalise(images)).patches
    assert patches.shape[1] == tokens
    with torch.inference_mode():
        prompt = config.conversation
        embeds, mask = engine.embed(engine.encode_images(images), [prompt] * 2)
        before, after = prompt.encode(engine.tokens.tokenizer, 1)
        expected = whole.projector(patches)
        torch.testing.assert_close(embeds[:, len(before) : -len(after)], expected, rtol=1e-5, atol=1e-5)
        also, _ = whole.embed(engine.recipe.normalise(images), [(before, after)] * 2)
        torch.testing.assert_close(also, embeds, rtol=1e-5, atol=1e-5)
        assert mask is None
        rows = whole.language_model.generate(inputs_embeds=also, max_new_tokens=6, do_sample=False)
    found = [list(draft.ids) for draft in generate(engine, list(images), Decoding(max_new_tokens=6))]
    assert found == [row[: row.index(2)] if 2 in row else row for row in rows.tolist()]


def test_the_encoders_own_recipe_must_fit_its_patches(parts: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="518 pixels cannot be cut into patches of 16"):
        assemble(parts["mrm"], parts["vicuna"], tmp_path / "out", recipe="rad-dino")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("load", [Engine.from_pretrained, LlavaRad.from_pretrained], ids=["Engine", "LlavaRad"])
def test_a_checkpoint_of_another_encoders_features_is_refused(
    load: object, parts: dict[str, Path], tmp_path: Path
) -> None:
    assemble(parts["clip"], parts["vicuna"], tmp_path / "model")
    load(tmp_path / "model")  # type: ignore[operator]
    edit_config(tmp_path / "model", lambda config: config.pop("features"))
    with pytest.raises(ModelError, match="its encoder gives"):
        load(tmp_path / "model")  # type: ignore[operator]
    with pytest.raises(ModelError, match="features"):
        edit_config(tmp_path / "model", lambda config: config.update(features="something else"))
        load(tmp_path / "model")  # type: ignore[operator]


def test_a_pickle_in_a_checkpoint_is_refused_even_where_it_is_listed(parts: dict[str, Path], tmp_path: Path) -> None:
    assemble(parts["mrm"], parts["vicuna"], tmp_path / "model", recipe="mrm-48")
    encoder = tmp_path / "model" / "encoder"
    (encoder / "model.safetensors").unlink()
    (encoder / "MRM.pth").write_bytes(parts["mrm"].read_bytes())
    rehash(tmp_path / "model")
    for load in (Engine.from_pretrained, LlavaRad.from_pretrained):
        with pytest.raises(ModelError, match=r"no file model\.safetensors"):
            load(tmp_path / "model")


def test_unknown_kinds_are_usage_errors(parts: dict[str, Path], run: Run, tmp_path: Path) -> None:
    words = ("assemble", tmp_path / "out", "--language-model", parts["vicuna"])
    done = run(*words, "--encoder", parts["mrm"], "--encoder-kind", "vgg")
    assert done.code == 1 and "there is no encoder 'vgg'" in done.err and "biomedclip" in done.err
    done = run(*words, "--encoder", "chexzero")
    assert done.code == 5 and "Google Drive" in done.err and "--encoder-kind chexzero" in done.err
