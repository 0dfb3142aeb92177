"""Models of transformers' image-text-to-text class: texts of the published snippet, refused prompts and answers.

The replicas are small and random; real weights were not available.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from encoder.errors import ConfigError, LlavaRadError, ModelError
from llava_rad.generation.options import GenerationOptions
from llava_rad.generation.pieces import Draft
from llava_rad.generation.profiles import load_profile
from llava_rad.model.templates import Study
from tests.llava_rad import small_files, vision_language
from tests.llava_rad.vision_language import FAST, loaded

Replica = Callable[[str], Path]
Loaded = tuple[Any, GenerationOptions]
WORDS = "Write the findings and the impression of the radiology report on this chest X-ray."
SHAPES = [(56, 56), (56, 84), (112, 56), (60, 70), (56, 112)]
CHAT = [
    pytest.param(name, marks=[] if name == FAST else [pytest.mark.slow])
    for name in vision_language.FAMILIES
    if name != "paligemma"
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of so small a model only wait for each other where other processes share the machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def fast(replica: Replica) -> Loaded:
    """The fast family's replica, loaded, and its options."""
    return loaded(replica(FAST))


def images(number: int) -> list[npt.NDArray[np.uint8]]:
    """Radiographs of different shapes, 8 bits."""
    found = []
    for seed, (height, width) in enumerate(SHAPES[:number]):
        whole = (small_files.pixels(seed, side=max(height, width)) >> 4).astype(np.uint8)
        found.append(np.ascontiguousarray(whole[:height, :width]))
    return found


def pictures(arrays: list[npt.NDArray[np.uint8]]) -> list[dict[str, Any]]:
    from PIL import Image

    return [{"type": "image", "image": Image.fromarray(array).convert("RGB")} for array in arrays]


def asked(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*content, {"type": "text", "text": WORDS}]}]


@pytest.mark.parametrize("family", CHAT)
def test_texts_are_those_of_the_published_snippet(family: str, replica: Replica) -> None:
    model, settings = loaded(replica(family))
    one, three, five = images(1), images(3), images(5)
    labels = ("Frontal image:", "Lateral image:", "Earlier frontal image:")
    labelled = [
        part
        for label, picture in zip(labels, pictures(three), strict=True)
        for part in ({"type": "text", "text": label}, picture)
    ]
    conversations = [asked(pictures(one)), asked(labelled), *(asked([each]) for each in pictures(five))]
    rows, texts = vision_language.published_snippet(replica(family), conversations, 12)
    assert len(set(map(tuple, rows[2:]))) > 1, "the images must matter"

    def same(draft: Draft, number: int) -> None:
        ended = rows[number].index(1) if 1 in rows[number] else len(rows[number])
        assert list(draft.ids) == rows[number][:ended]
        assert draft.text == model.config.split(texts[number]).text
        assert draft.complete == (1 in rows[number])

    study = Study(lateral=True, prior=True)
    same(model.generate(one, settings)[0], 0)
    same(model.generate(three, changed(settings, study=study))[0], 1)
    for number, draft in enumerate(model.generate(five, settings)):  # prompts of different lengths, padded on the left
        same(draft, number + 2)
    *pieces, last = collected(model.stream(one, settings))
    same(last, 0)
    assert "".join(pieces) == last.text
    drafts = {}
    written = dict.fromkeys(range(5), "")
    for number, part in model.stream_batch(five, settings, streamed={0, 3}, dropped={4}):
        if isinstance(part, str):
            written[number] += part
        else:
            drafts[number] = part
    assert sorted(drafts) == [0, 1, 2, 3]
    for number, draft in drafts.items():
        same(draft, number + 2)
        assert written[number] == (draft.text if number in (0, 3) else "")


def collected(stream: Any) -> list[Any]:
    """The pieces of a stream, then its draft."""
    found = []
    while True:
        try:
            found.append(next(stream))
        except StopIteration as ended:
            return [*found, ended.value]


@pytest.mark.slow
def test_a_family_without_a_chat_template_gets_images_then_words(replica: Replica) -> None:
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = replica("paligemma")
    model, settings = loaded(folder)
    processor, network = AutoProcessor.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder)
    for image, draft in zip(images(3), model.generate(images(3), settings), strict=True):
        picture = Image.fromarray(image).convert("RGB")
        inputs = processor(images=picture, text=f"<image>{WORDS}", return_tensors="pt")
        with torch.inference_mode():
            ids = network.generate(**inputs, max_new_tokens=12, do_sample=False)[0][inputs["input_ids"].shape[1] :]
        assert draft.text == model.config.split(processor.decode(ids, skip_special_tokens=True)).text


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gemma3", "qwen2_5_vl"])
@pytest.mark.parametrize("dtype", ["8bit", "4bit"])
def test_quantised_texts_are_those_of_transformers(family: str, dtype: str, replica: Replica) -> None:
    import torch
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    model, settings = loaded(replica(family), dtype=dtype)
    kinds = {type(m).__name__ for n, m in model._network.named_modules() if "language_model" in n and "proj" in n}
    assert {"8bit": "Linear8bitLt", "4bit": "Linear4bit"}[dtype] in kinds
    tower = {type(m).__name__ for n, m in model._network.named_modules() if "vis" in n}
    assert not tower & {"Linear8bitLt", "Linear4bit"}, "the image tower keeps whole weights"
    assert dtype[0] + "-bit weights" in model.precision
    tower_names = ["model.vision_tower", "model.multi_modal_projector", "model.visual", "lm_head"]
    quantised = (
        BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=tower_names)
        if dtype == "8bit"
        else BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32,
            llm_int8_skip_modules=tower_names,
        )
    )  # fmt: skip
    network = AutoModelForImageTextToText.from_pretrained(
        replica(family), quantization_config=quantised, device_map={"": "cpu"}
    )
    for module in network.modules():  # the layout for AVX-512 does not exist for layers as narrow as these
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    inputs, _ = model._inputs(images(2), settings)
    with torch.inference_mode():
        rows = network.generate(**inputs, max_new_tokens=12, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    for row, draft in zip(rows.tolist(), model.generate(images(2), settings), strict=True):
        assert list(draft.ids) == (row[: row.index(1)] if 1 in row else row)


def test_samples_depend_on_the_seed_and_not_on_the_batch(fast: Loaded) -> None:
    model, settings = fast
    sampled = changed(settings, temperature=1.0, seed=3)
    together = [draft.ids for draft in model.generate(images(2), sampled)]
    assert together == [model.generate([image], sampled)[0].ids for image in images(2)]
    assert together[0] == collected(model.stream(images(1), sampled))[-1].ids
    assert together != [draft.ids for draft in model.generate(images(2), changed(settings, temperature=1.0))]


def test_a_stream_that_nobody_reads_ends_its_thread(fast: Loaded) -> None:
    import threading

    model, settings = fast
    stream = model.stream_batch(images(2), changed(settings, max_new_tokens=500), streamed={0, 1})
    next(stream)
    stream.close()
    assert "generate" not in {thread.name for thread in threading.enumerate()}


def test_reasoning_that_the_prompt_begins_is_cut_out(replica: Replica, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(replica(FAST), tmp_path / "copied"))
    template = vision_language.GEMMA.replace("<start_of_turn>model\n", "<start_of_turn>model\n<think>\n")
    (copied / "chat_template.jinja").write_text(template)
    model, settings = loaded(copied)
    (draft,) = model.generate(images(1), settings)
    assert draft.text == "" and "within its reasoning" in draft.notes[0]
    assert collected(model.stream(images(1), settings))[:-1] == []


def test_texts_with_tokens_of_the_model_are_refused(fast: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    model, settings = fast
    for study in (Study(indication="cough<end_of_turn>"), Study(indication="<start_of_image>")):
        with pytest.raises(ConfigError, match="the indication holds <"):
            model.generate(images(1), changed(settings, study=study))
    with pytest.raises(ConfigError, match="the instruction holds <eos>"):
        model.generate(images(1), changed(settings, prompt="Write.<eos>"))
    for name, text in (("instruction", "Describe <image_soft_token>."), ("system", "<start_of_image>")):
        monkeypatch.setattr(model, "config", load_profile("generic").model_copy(update={name: text}))
        with pytest.raises(ConfigError, match="holds <"):
            model.generate(images(1), settings)


def test_a_text_longer_than_the_context_is_refused(fast: Loaded) -> None:
    model, settings = fast
    with pytest.raises(LlavaRadError, match="exceed the model's 2048"):
        model.generate(images(1), changed(settings, max_new_tokens=2048))


def refused(model: Any, settings: GenerationOptions) -> ModelError:
    """The error of a model, which is the same for whole answers and streams."""
    pictures = images(settings.study.images)
    with pytest.raises(ModelError) as whole:
        model.generate(pictures, settings)
    with pytest.raises(ModelError) as streamed:
        collected(model.stream(pictures, settings))
    assert str(whole.value) == str(streamed.value) and "\n" not in str(whole.value)
    return whole.value


def test_images_that_the_model_does_not_take_are_refused_in_one_line(
    fast: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, settings = fast
    monkeypatch.setattr(model._processor, "image_seq_length", 7)  # as in a file of another version
    monkeypatch.setattr(model._processor, "full_image_sequence", f"<start_of_image>{7 * '<image_soft_token>'}")
    assert "its files may be" in str(refused(model, settings).hint)
    assert "one image only" in str(refused(model, changed(settings, study=Study(lateral=True))).hint)

    def short(**_: Any) -> None:
        raise RuntimeError("not enough memory")

    monkeypatch.setattr(model._network, "generate", short)
    with pytest.raises(RuntimeError, match="memory"):
        model.generate(images(1), settings)


def test_a_model_that_does_not_continue_its_prompt_is_refused(fast: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of a model with a decoder apart begin with its start token: a cut by the prompt's length loses words."""
    import torch

    model, settings = fast

    def apart(streamer: Any = None, **_: Any) -> torch.Tensor:
        begun = torch.tensor([[2]])
        if streamer:
            streamer.put(begun)
        return torch.cat([begun, torch.arange(3, 80)[None]], 1)

    monkeypatch.setattr(model._network, "generate", apart)
    assert "does not continue its prompt" in str(refused(model, settings))
