"""Generation against transformers' own ``generate`` on the same parts."""

from __future__ import annotations

from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from encoder.errors import LlavaRadError
from llava_rad.generation.decoding import Look, generate, stream
from llava_rad.generation.engine import Engine, choose_device, choose_dtype
from llava_rad.generation.options import Decoding
from llava_rad.model.llava_rad import LlavaRad
from llava_rad.model.templates import Study
from tests.llava_rad import tiny_model

pytestmark = pytest.mark.acceptance(row=6)


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Engine:
    return Engine.from_pretrained(tiny)


@pytest.fixture(scope="module")
def model(tiny: Path) -> LlavaRad:
    return LlavaRad.from_pretrained(tiny)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (20, 4, 4))
    return [np.kron(image, np.ones((14, 14))).astype(np.uint8) for image in coarse]


def by_transformers(model: LlavaRad, images: list[np.ndarray], prompts=None, **more) -> list[list[int]]:
    """The same parts, driven by transformers' ``generate`` over left-padded embeddings."""
    tokens = model.tokens
    conversation = model.config.conversation
    chunks = [
        conversation.with_instruction(p).encode(tokens.tokenizer, tokens.ids.bos)
        for p in prompts or [None] * len(images)
    ]
    with torch.inference_mode():
        embeds, mask = model.embed(model.config.preprocessing.normalise(np.stack(images)), chunks)
        settings = {"max_new_tokens": tiny_model.MAX_NEW_TOKENS, "do_sample": False} | more
        rows = model.language_model.generate(inputs_embeds=embeds, attention_mask=mask, **settings).tolist()
    eos = tokens.ids.eos
    return [row[: row.index(eos)] if eos in row else row for row in rows]


def test_a_batch_of_mixed_studies_is_each_one_alone(study_model: Path, images: list[np.ndarray]) -> None:
    engine = Engine.from_pretrained(study_model)
    studies = [
        Study(), Study(lateral=True), Study(prior=True, prior_report="Clear."), Study(lateral=True, prior=True),
        Study(indication="cough"), Study(indication="pain in the chest for days"),
    ]  # fmt: skip
    starts = [0, *np.cumsum([study.images for study in studies]).tolist()]
    parts = [images[at:end] for at, end in pairwise(starts)]
    together = generate(engine, images[: starts[-1]], Decoding(), studies=studies)
    alone = [generate(engine, part, Decoding(study=study))[0] for part, study in zip(parts, studies, strict=True)]
    assert [draft.ids for draft in together] == [draft.ids for draft in alone]
    assert len({draft.ids for draft in alone}) == len(studies)
    prompt = engine.config.conversation.with_study(studies[3])
    embeds, _ = engine.embed(engine.encode_images(np.stack(parts[3])), [prompt])
    assert engine.length(prompt) == embeds.shape[1]


def test_greedy_equals_transformers(engine: Engine, model: LlavaRad, images: list[np.ndarray]) -> None:
    found = [list(draft.ids) for draft in generate(engine, images)]
    assert found == [by_transformers(model, [image])[0] for image in images]
    assert len({tuple(row) for row in found}) > 10  # different images, different reports


def test_static_cache_of_transformers_agrees(engine: Engine, model: LlavaRad, images: list[np.ndarray]) -> None:
    found = [list(draft.ids) for draft in generate(engine, images[:4])]
    assert found == by_transformers(model, images[:4], cache_implementation="static")


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_batch_size_changes_nothing(batch: int, engine: Engine, images: list[np.ndarray]) -> None:
    whole = generate(engine, images)
    parts = [draft for at in range(0, len(images), batch) for draft in generate(engine, images[at : at + batch])]
    assert parts == whole


def test_left_padded_prompts_equal_single_runs(engine: Engine, model: LlavaRad, images: list[np.ndarray]) -> None:
    prompts = ["The heart?", "Is there a pleural effusion or a pneumothorax in this image?", "Lungs"]
    settings = [Decoding(max_new_tokens=tiny_model.MAX_NEW_TOKENS, prompt=prompt) for prompt in prompts]
    single = [list(generate(engine, [image], s)[0].ids) for image, s in zip(images[:3], settings, strict=True)]
    assert by_transformers(model, images[:3], prompts) == single
    from llava_rad.generation.decoding import _decode, draft

    conversation = [engine.config.conversation.with_instruction(prompt) for prompt in prompts]
    embeds, mask = engine.embed(engine.encode_images(np.stack(images[:3])), conversation)
    assert mask is not None and not bool(mask[0, 0]) and bool(mask[1].all())
    rows: list[list[int]] = [[] for _ in prompts]
    for row, token in chain.from_iterable(_decode(engine, embeds, mask, settings[0])):
        rows[row].append(token)
    assert [list(draft(engine, row, Look(False, ()), Decoding()).ids) for row in rows] == single


def test_engine_embeds_as_the_composition_does(engine: Engine, model: LlavaRad, images: list[np.ndarray]) -> None:
    prompt = engine.config.conversation
    ids = prompt.encode(model.tokens.tokenizer, 1)
    with torch.inference_mode():
        expected, expected_mask = model.embed(model.config.preprocessing.normalise(np.stack(images[:2])), [ids, ids])
    found, mask = engine.embed(engine.encode_images(np.stack(images[:2])), [prompt, prompt])
    assert mask is None and bool(expected_mask.all())
    assert found.shape[1] == len(ids[0]) + 16 + len(ids[1])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_cls_never_reaches_the_language_model(model: LlavaRad, images: list[np.ndarray], monkeypatch) -> None:
    from encoder.backbones.base import Features
    from encoder.backbones.dinov2 import RadDino

    pixels = model.config.preprocessing.normalise(np.stack(images[:1]))
    ids = model.config.conversation.encode(model.tokens.tokenizer, 1)
    before, _ = model.embed(pixels, [ids])
    forward = RadDino.forward
    monkeypatch.setattr(
        RadDino, "forward", lambda self, x: Features(forward(self, x).cls + 9, forward(self, x).patches)
    )
    after, _ = model.embed(pixels, [ids])
    assert torch.equal(before, after)


def test_stream_is_the_same_text(engine: Engine, images: list[np.ndarray]) -> None:
    for image, draft in zip(images[:5], generate(engine, images[:5]), strict=True):
        pieces = list(stream(engine, image))
        assert "".join(pieces) == draft.text
        assert len(pieces) > 3


def test_beam_search_equals_transformers(engine: Engine, model: LlavaRad, images: list[np.ndarray]) -> None:
    settings = Decoding(max_new_tokens=12, num_beams=3)
    found = [list(draft.ids) for draft in generate(engine, images[:4], settings)]
    assert found == by_transformers(model, images[:4], num_beams=3, max_new_tokens=12)
    with pytest.raises(LlavaRadError, match="streamed"):
        next(stream(engine, images[0], settings))


def test_sampling_is_seeded_and_does_not_depend_on_the_batch(engine: Engine, images: list[np.ndarray]) -> None:
    settings = Decoding(max_new_tokens=16, temperature=1.0, seed=3)
    whole = generate(engine, images[:5], settings)
    assert whole == generate(engine, images[:5], settings)
    assert whole == [generate(engine, [image], settings)[0] for image in images[:5]]
    other = generate(engine, images[:5], Decoding(max_new_tokens=16, temperature=1.0, seed=4))
    assert whole != other
    assert whole != generate(engine, images[:5], Decoding(max_new_tokens=16))


def test_an_image_token_of_the_vocabulary_is_never_generated(tiny: Path, images: list[np.ndarray]) -> None:
    """The likeliest first token is renamed ``<image>``: it may then appear nowhere."""
    engine = Engine.from_pretrained(tiny)
    likeliest = generate(engine, images[:1])[0].ids[0]
    piece = engine.tokens.tokenizer.id_to_token(likeliest)
    assert piece != "<image>"
    from tokenizers import Tokenizer

    text = engine.tokens.tokenizer.to_str()
    import json

    data = json.loads(text)
    vocabulary = data["model"]["vocab"]
    vocabulary["<image>"] = vocabulary.pop(piece)
    data["model"]["merges"] = [m for m in data["model"]["merges"] if piece not in (m[0], m[1], m[0] + m[1])]
    object.__setattr__(engine.tokens, "tokenizer", Tokenizer.from_str(json.dumps(data)))
    assert engine.tokens.suppressed == (likeliest,)
    for settings in (
        Decoding(max_new_tokens=24),
        Decoding(max_new_tokens=24, temperature=2.0),
        Decoding(max_new_tokens=12, num_beams=2),
    ):
        drafts = generate(engine, images[:6], settings)
        assert all(likeliest not in draft.ids and "<image>" not in draft.text for draft in drafts)


def test_complete_says_whether_the_report_was_cut(engine: Engine, images: list[np.ndarray]) -> None:
    drafts = generate(engine, images, Decoding(max_new_tokens=2))
    assert all(len(draft.ids) <= 2 for draft in drafts)
    assert any(not draft.complete for draft in drafts)


def test_context_overflow_is_refused(engine: Engine, images: list[np.ndarray]) -> None:
    with pytest.raises(LlavaRadError, match="exceed the model's 512"):
        generate(engine, images[:1], Decoding(max_new_tokens=500))


def test_no_images_no_reports(engine: Engine) -> None:
    assert generate(engine, []) == []


def test_bfloat16_runs(tiny: Path, images: list[np.ndarray]) -> None:
    engine = Engine.from_pretrained(tiny, dtype="bfloat16")
    assert engine.llama.embedding.dtype == torch.bfloat16
    assert len(generate(engine, images[:2])) == 2


def test_devices_and_types() -> None:
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert choose_dtype("auto", torch.device("cuda")) == torch.bfloat16
    with pytest.raises(LlavaRadError, match="no type"):
        choose_dtype("int8", torch.device("cpu"))
    with pytest.raises(LlavaRadError, match="no device"):
        choose_device("tpu-of-my-dreams")


@pytest.mark.gpu
def test_on_a_gpu_tokens_equal_the_cpus(tiny: Path, images: list[np.ndarray]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    on_gpu = Engine.from_pretrained(tiny, device="cuda", dtype="float32")
    assert generate(on_gpu, images) == generate(Engine.from_pretrained(tiny, device="cpu"), images)
