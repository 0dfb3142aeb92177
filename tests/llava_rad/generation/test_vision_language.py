"""Models of transformers' image-text-to-text class: texts of the published snippet, strict loading, every command.

The replicas are small and random; real weights were not available.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.torch import load_file, save_file

import llava_rad
from encoder.errors import ConfigError, LlavaRadError, ModelError
from llava_rad import Report, ReportWriter
from llava_rad.generation.found import find
from llava_rad.generation.options import GenerationOptions
from llava_rad.generation.pieces import Draft
from llava_rad.generation.sources import expand
from llava_rad.model.templates import Study
from tests.llava_rad import small_files, vision_language
from tests.llava_rad.conftest import Run

Replica = Callable[[str], Path]
WORDS = "Write the findings and the impression of the radiology report on this chest X-ray."
SHAPES = [(56, 56), (56, 84), (112, 56), (60, 70), (56, 112)]
FAST = "gemma3"
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
def replica(tmp_path_factory: pytest.TempPathFactory) -> Replica:
    """Folder of a family's replica, made once; its profile is ``profile.yaml`` in it."""
    made: dict[str, Path] = {}

    def of(family: str) -> Path:
        if family not in made:
            made[family] = vision_language.make(tmp_path_factory.mktemp("replica") / family, family)
            vision_language.profile(made[family])
        return made[family]

    return of


@pytest.fixture
def copied(replica: Replica, tmp_path: Path) -> Path:
    """A copy of the fast family's replica, to be damaged."""
    return Path(shutil.copytree(replica(FAST), tmp_path / "copied"))


def options(folder: Path, **more: Any) -> GenerationOptions:
    return GenerationOptions(model=folder, profile=str(folder / "profile.yaml"), device="cpu", **more)


def loaded(folder: Path, **more: Any) -> tuple[Any, GenerationOptions]:
    settings = options(folder, **more)
    return find(settings).load(settings), settings


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
    same(model.generate(three, GenerationOptions(**vars(settings) | {"study": study}))[0], 1)
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


def test_samples_depend_on_the_seed_and_not_on_the_batch(replica: Replica) -> None:
    model, _ = loaded(replica(FAST))
    sampled = options(replica(FAST), temperature=1.0, seed=3)
    together = [draft.ids for draft in model.generate(images(3), sampled)]
    assert together == [model.generate([image], sampled)[0].ids for image in images(3)]
    assert together[0] == collected(model.stream(images(1), sampled))[-1].ids
    assert together != [draft.ids for draft in model.generate(images(3), options(replica(FAST), temperature=1.0))]


def test_a_stream_that_nobody_reads_ends_its_thread(replica: Replica) -> None:
    import threading

    model, _ = loaded(replica(FAST))
    stream = model.stream_batch(images(2), options(replica(FAST), max_new_tokens=500), streamed={0, 1})
    next(stream)
    stream.close()
    assert "generate" not in {thread.name for thread in threading.enumerate()}


def test_reasoning_that_the_prompt_begins_is_cut_out(copied: Path) -> None:
    template = vision_language.GEMMA.replace("<start_of_turn>model\n", "<start_of_turn>model\n<think>\n")
    (copied / "chat_template.jinja").write_text(template)
    model, settings = loaded(copied)
    (draft,) = model.generate(images(1), settings)
    assert draft.text == "" and "within its reasoning" in draft.notes[0]
    assert collected(model.stream(images(1), settings))[:-1] == []


def test_texts_with_tokens_of_the_model_are_refused(replica: Replica) -> None:
    model, settings = loaded(replica(FAST))
    for study in (Study(indication="cough<end_of_turn>"), Study(indication="<start_of_image>")):
        with pytest.raises(ConfigError, match="the indication holds <"):
            model.generate(images(1), GenerationOptions(**vars(settings) | {"study": study}))
    with pytest.raises(ConfigError, match="the instruction holds <eos>"):
        model.generate(images(1), options(replica(FAST), prompt="Write.<eos>"))


def test_a_text_longer_than_the_context_is_refused(replica: Replica) -> None:
    model, _ = loaded(replica(FAST))
    with pytest.raises(LlavaRadError, match="exceed the model's 2048"):
        model.generate(images(1), options(replica(FAST), max_new_tokens=2048))


# Strict loading


def edited(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "config.json",
            {"auto_map": {"AutoModel": "code.Model"}},
            "config.json of the model copied names program code",
        ),
        (
            "tokenizer_config.json",
            {"auto_map": {"AutoTokenizer": ["code.T", None]}},
            "tokenizer_config.json of the mod",
        ),
        ("config.json", {"quantization_config": {"quant_method": "awq"}}, "only whole weights are read"),
        ("config.json", {"attn_implementation": "kernels-community/flash-attn"}, "names code of the hub"),
        ("config.json", {"model_type": "llama"}, "no image-text-to-text class for the model copied of type 'llama'"),
        ("config.json", {"model_type": "of_next_year"}, "has no image-text-to-text class"),
    ],
)
def test_models_with_code_and_of_other_classes_are_refused(
    copied: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    edited(copied / file, **changes)
    with pytest.raises(ModelError, match=message) as raised:
        loaded(copied)
    assert "\n" not in str(raised.value)


def test_an_older_transformers_without_the_class_is_one_line(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers
    from transformers.models.auto import modeling_auto

    monkeypatch.delitem(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, "gemma3")
    with pytest.raises(ModelError, match=f"transformers {transformers.__version__} has no .* of type 'gemma3'"):
        loaded(copied)


def test_pickled_weights_are_not_read(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no weights in safetensors files"):
        loaded(copied)


def test_a_missing_and_a_left_over_tensor_are_refused(copied: Path) -> None:
    tensors = load_file(copied / "model.safetensors")
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    changes: list[tuple[dict[str, Any], str]] = [
        ({key: tensor for key, tensor in tensors.items() if key != name}, "lacks 1 tensors"),
        ({**tensors, "odd.weight": tensors[name].clone()}, "has left over 1 tensors, for example odd.weight"),
        ({**tensors, name: tensors[name][1:].clone()}, "copied"),
    ]
    for changed, message in changes:
        save_file(changed, copied / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=message):
            loaded(copied)
    (copied / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ModelError, match="copied"):
        loaded(copied)


def test_shards_must_be_those_of_the_index(tmp_path: Path) -> None:
    folder = vision_language.make(tmp_path / "sharded", FAST, shard="60KB")
    vision_language.profile(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 1
    settings = options(folder)
    digest = find(settings).verify()
    assert loaded(folder)[0].sha256 == digest
    moved = next(name for name, file in index["weight_map"].items() if file == files[0])
    for change, message in (
        ({moved: files[1]}, "unlike model.safetensors.index.json says"),
        ({moved: "../elsewhere.safetensors"}, "names a file outside its folder"),
        ({"odd.weight": files[0]}, "the tensor odd.weight is not in"),
    ):
        edited(folder / "model.safetensors.index.json", weight_map={**index["weight_map"], **change})
        with pytest.raises(ModelError, match=message):
            find(settings).verify()
    edited(folder / "model.safetensors.index.json", weight_map=index["weight_map"])
    (folder / files[0]).unlink()
    with pytest.raises(ModelError, match=f"lacks its file {files[0]}"):
        find(settings).verify()


def test_files_and_profile_are_part_of_the_hash(copied: Path) -> None:
    settings = options(copied)
    before = find(settings).verify()
    vision_language.profile(copied, instruction="Describe it.")
    other = find(settings).verify()
    edited(copied / "generation_config.json", repetition_penalty=1.1)
    assert len({before, other, find(settings).verify()}) == 3


def test_options_of_other_models_are_refused(replica: Replica, tiny: Path) -> None:
    for more, message in ({"compile": True}, "--compile"), ({"vllm_python": "python"}, "--vllm-python"):
        with pytest.raises(ConfigError) as raised:
            loaded(replica(FAST), **more)
        assert message in (raised.value.hint or "")
    with pytest.raises(ConfigError, match="takes no profile"):
        find(GenerationOptions(model=tiny, profile="generic"))


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"model_type": "maira2", "auto_map": {}}, "maira-2"),
        ({"model_type": "llava_llama", "mm_vision_tower": "openai/clip-vit-large-patch14-336"}, "llava-1.5"),
        ({"model_type": "llava_llama", "mm_vision_tower": "biomedclip_cxr_518"}, "llava-rad"),
        ({"model_type": "llava", "text_config": {}, "vision_config": {}}, "llava-1.5"),
    ],
)
def test_models_that_are_converted_say_so(config: dict[str, Any], kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=f"the model is {kind} in its published form") as raised:
        find(GenerationOptions(model=tmp_path))
    assert f"llava-rad convert --from {kind} " in (raised.value.hint or "")


# Commands


def test_generate_writes_and_continues(replica: Replica, run: Run, chest: list[Path], tmp_path: Path) -> None:
    folder, target = replica(FAST), tmp_path / "reports.jsonl"
    common = ("--model", folder, "--profile", folder / "profile.yaml", "-o", target, "-f", "jsonl")
    assert run("generate", *chest[:2], *common).code == 0
    done = run("generate", *chest, *common, "--batch-size", "2")
    assert (done.code, "2 were there already" in done.err) == (0, True), done.err
    reports = [Report.from_json(line) for line in target.read_text().splitlines()]
    assert len({report.input.sha256 for report in reports}) == len(chest)
    assert len({report.text for report in reports}) > 1
    assert {report.model.id for report in reports} == {FAST}
    assert {report.input.recipe.name for report in reports} == {"whole-56"}
    assert reports[0].generation.max_new_tokens == 12 and "transformers" in reports[0].generation.dtype
    python = llava_rad.generate(chest[0], folder, profile=str(folder / "profile.yaml"))[0]
    assert python.to_json(indent=None) == reports[0].to_json(indent=None)
    changed = run("generate", *chest, *common, "--prompt", "Describe it.")
    assert changed.code == 2, "a file is continued with the same settings only"


def test_a_stream_prints_the_text_of_the_report(replica: Replica, chest: list[Path]) -> None:
    with ReportWriter(options(replica(FAST))) as writer:
        *pieces, report = writer.stream(expand([chest[0]]).sources[0])
        assert isinstance(report, Report)
        assert "".join(map(str, pieces)) == report.text
        with pytest.raises(LlavaRadError, match="gemma3 has no attention maps"):
            writer.engine()


def test_study_inputs_reach_the_prompt_and_boxes_are_refused(
    replica: Replica, run: Run, chest: list[Path], lateral: Path
) -> None:
    folder = replica(FAST)
    common = ("--model", folder, "--profile", folder / "profile.yaml", "-f", "json", "--prompt", "Describe it.")
    alone, two, told = (
        json.loads(run("generate", chest[0], *common, *more).out)
        for more in ((), ("--lateral", lateral), ("--indication", "cough"))
    )
    assert alone["report"]["text"] != two["report"]["text"]
    assert alone["report"]["text"] != told["report"]["text"]
    assert "cough" not in json.dumps(told)
    refused = run("generate", chest[0], *common, "--grounded")
    assert (refused.code, "no place for --grounded" in refused.err) == (2, True)


@pytest.mark.slow
def test_studies_are_written_from_their_images(replica: Replica, run: Run, tmp_path: Path) -> None:
    folder, uids = replica(FAST), {"StudyInstanceUID": "1.2.826.0.1.3680043.8.498.1", "SeriesInstanceUID": "1.2.3"}
    frontal = small_files.dicom(tmp_path / "a.dcm", seed=1, **uids)
    side = small_files.dicom(tmp_path / "b.dcm", seed=2, ViewPosition="LL", **uids)
    common = ("--model", folder, "--profile", folder / "profile.yaml", "-f", "json")
    study = run("generate", frontal, side, *common, "--group")
    given = run("generate", frontal, *common, "--lateral", side)
    assert study.code == given.code == 0, study.err
    (one,) = json.loads(study.out)
    assert one["report"] == json.loads(given.out)["report"]


@pytest.mark.slow
def test_structured_reports_are_written(replica: Replica, run: Run, chest: list[Path], tmp_path: Path) -> None:
    import pydicom

    pytest.importorskip("highdicom", reason="highdicom is not installed")
    folder, target = replica(FAST), tmp_path / "sr"
    common = ("--model", folder, "--profile", folder / "profile.yaml")
    done = run("generate", chest[0], *common, "-f", "sr", "-o", target)
    assert done.code == 0, done.err
    text = run("generate", chest[0], *common, "-f", "json")
    sentences = [finding["text"] for finding in json.loads(text.out)["report"]["findings"]]
    document = pydicom.dcmread(next(target.glob("*report.dcm")))
    held = str(document)
    assert sentences and all(sentence[:40] in held for sentence in sentences)


def test_the_doctor_states_size_licence_and_profile(copied: Path, run: Run) -> None:
    folder = copied.rename(copied.with_name("CheXOne"))
    done = run("doctor", "--model", folder)
    numbers = sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    assert f"{numbers:,} parameters" in done.out and "in 4bit" in done.out
    assert "chexone" in done.out and "CC BY-NC 4.0" in done.out
    assert "never run here with its real weights" in done.out


@pytest.mark.slow
def test_the_service_and_the_review_use_the_same_model(replica: Replica, chest: list[Path], tmp_path: Path) -> None:
    from scripts.soak.serving import reporting, served

    folder = replica(FAST)
    options = ("--model", str(folder), "--profile", str(folder / "profile.yaml"), "--device", "cpu")
    (expected,) = llava_rad.generate(chest[0], folder, profile=str(folder / "profile.yaml"))
    (tmp_path / "api").mkdir()
    with reporting(tmp_path / "api", *options) as running:
        answer = running.client().call("POST", "/v1/reports", chest[0].read_bytes())
        assert answer.json() == json.loads(expected.to_json())
    (tmp_path / "serve").mkdir()
    with served(tmp_path / "serve", *options, "--no-example") as running:
        client = running.client()
        state = client.drafted(client.study(chest[0].read_bytes())["id"])
        assert state["draft"]["state"] == "done", state["draft"]
        assert " ".join(one["text"] for one in state["sentences"]).split() == expected.text.split()
        refused = client.call("GET", f"/api/studies/{state['id']}/evidence?sentence={state['sentences'][0]['id']}")
        assert refused.status >= 400 and "has no attention maps" in refused.body.decode()
        client.signed(state)


def test_a_repository_of_the_hub_is_recognised_by_its_config(
    replica: Replica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: list[tuple[str, list[str], bool]] = []

    def snapshot(name: str, *, revision: str | None, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((name, allow_patterns, local_files_only))
        return str(replica(FAST))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    found = find(GenerationOptions(model="google/medgemma-4b-it", revision="main", offline=True))
    assert (found.config.name, asked) == ("medgemma-4b-it", [("google/medgemma-4b-it", ["config.json"], True)])
    model = found.load(GenerationOptions(model="google/medgemma-4b-it", device="cpu"))
    assert (model.model_id, model.revision) == ("google/medgemma-4b-it", "main")
    assert all(offline for _, _, offline in asked) and "*.safetensors" in asked[-1][1]
    assert found.config.content(Study())[1:] == [0], "MedGemma's card has the words before the image"
