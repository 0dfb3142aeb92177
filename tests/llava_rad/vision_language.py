"""Small random models of transformers' image-text-to-text families, saved with the files of real processors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_rad.generation.options import GenerationOptions

SENTENCES = (
    "The heart is enlarged. There is a large left pleural effusion. No pneumothorax is seen. The lungs are clear.",
    "Write the findings and the impression of the radiology report on this chest X-ray. Indication: cough.",
    "Frontal image: Lateral image: Earlier frontal image: Multiple rounded opacities. Bones are intact.",
)
TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 2048, "initializer_range": 0.4,
}  # fmt: skip
"""Sizes of the language models; large weights, so that the words depend on what stands before them."""
CHATML = (
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{% for part in turn.content %}"
    "{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN_TOKENS = {
    "image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}  # fmt: skip
GEMMA = (
    "{{ bos_token }}{% for turn in messages %}<start_of_turn>{{ turn.role }}\n{% for part in turn.content %}"
    "{% if part.type == 'image' %}<start_of_image>{% else %}{{ part.text }}{% endif %}{% endfor %}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
TOWER = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56,
    "patch_size": 14,
}  # fmt: skip


def tokenizer(named: dict[str, str], turns: tuple[str, ...] = ()) -> Any:
    """Train a tokenizer on the spot.

    Args:
        named: special tokens of a processor, by the name of the tokenizer's attribute.
        turns: further special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<bos>", *named.values(), *turns]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=trained, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", extra_special_tokens=named
    )


def _gemma3() -> tuple[Any, Any]:
    import transformers as t

    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    words = tokenizer(named, ("<start_of_turn>", "<end_of_turn>"))
    images = t.Gemma3ImageProcessor(size={"height": 56, "width": 56})
    processor = t.Gemma3Processor(images, words, chat_template=GEMMA, image_seq_length=4)
    config = t.Gemma3Config(
        text_config=t.Gemma3TextConfig(
            **TEXT, vocab_size=len(words), head_dim=16, sliding_window=16,
            layer_types=["sliding_attention", "full_attention"],
        ),
        vision_config=t.SiglipVisionConfig(**TOWER),
        mm_tokens_per_image=4, image_token_index=words.image_token_id, boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
    )  # fmt: skip
    return t.Gemma3ForConditionalGeneration(config), processor


def _qwen(kind: str, patch: int = 14) -> tuple[Any, Any]:
    import transformers as t

    words = tokenizer(QWEN_TOKENS, ("<|im_start|>", "<|im_end|>"))
    limits = {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}
    images = t.Qwen2VLImageProcessor(patch_size=patch, size=limits)
    videos = (t.Qwen3VLVideoProcessor if kind == "Qwen3VL" else t.Qwen2VLVideoProcessor)(patch_size=patch)
    template = CHATML.replace("IMAGE", QWEN_IMAGE)
    processor = getattr(t, f"{kind}Processor")(images, words, videos, chat_template=template)
    tower = {
        "Qwen2VL": {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
        "Qwen2_5_VL": {
            "depth": 2, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 32,
            "fullatt_block_indexes": [1], "window_size": 56,
        },
        "Qwen3VL": {
            "depth": 2, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 32,
            "deepstack_visual_indexes": [0], "num_position_embeddings": 64,
        },
    }[kind]  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    head = {"head_dim": 16} if kind == "Qwen3VL" else {}
    config = getattr(t, f"{kind}Config")(
        text_config={**TEXT, **head, "vocab_size": len(words), "rope_parameters": rope},
        vision_config={**tower, "patch_size": patch},
        image_token_id=words.image_token_id, video_token_id=words.video_token_id,
        vision_start_token_id=words.vision_start_token_id, vision_end_token_id=words.vision_end_token_id,
    )  # fmt: skip
    return getattr(t, f"{kind}ForConditionalGeneration")(config), processor


def _llava(kind: str) -> tuple[Any, Any]:
    import transformers as t

    words = tokenizer({"image_token": "<image>"}, ("<|im_start|>", "<|im_end|>"))
    size = {"shortest_edge": 56}, {"height": 56, "width": 56}
    pinpoints = [[56, 112], [112, 56], [112, 112]]
    more = {"image_grid_pinpoints": pinpoints} if kind == "LlavaNext" else {}
    images = (t.LlavaNextImageProcessor if more else t.CLIPImageProcessor)(size=size[0], crop_size=size[1], **more)
    processor = getattr(t, f"{kind}Processor")(
        images, words, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=CHATML.replace("IMAGE", "<image>\n"),
    )  # fmt: skip
    config = getattr(t, f"{kind}Config")(
        text_config=t.MistralConfig(**TEXT, vocab_size=len(words), head_dim=16),
        vision_config=t.CLIPVisionConfig(**TOWER), image_token_index=words.image_token_id, image_seq_length=16, **more,
    )  # fmt: skip
    return getattr(t, f"{kind}ForConditionalGeneration")(config), processor


def _llava_onevision() -> tuple[Any, Any]:
    import transformers as t

    words = tokenizer({"image_token": "<image>", "video_token": "<video>"}, ("<|im_start|>", "<|im_end|>"))
    pinpoints = [[56, 112], [112, 56], [112, 112]]
    images = t.LlavaOnevisionImageProcessor(size={"height": 56, "width": 56}, image_grid_pinpoints=pinpoints)
    processor = t.LlavaOnevisionProcessor(
        images, words, t.LlavaOnevisionVideoProcessor(size={"height": 56, "width": 56}), num_image_tokens=16,
        vision_feature_select_strategy="full", vision_aspect_ratio="anyres_max_9",
        chat_template=CHATML.replace("IMAGE", "<image>\n"),
    )  # fmt: skip
    config = t.LlavaOnevisionConfig(
        text_config=t.Qwen2Config(**TEXT, vocab_size=len(words)), vision_config=t.SiglipVisionConfig(**TOWER),
        image_token_index=words.image_token_id, video_token_index=words.video_token_id, vision_feature_layer=-1,
        vision_feature_select_strategy="full", image_grid_pinpoints=pinpoints,
    )  # fmt: skip
    return t.LlavaOnevisionForConditionalGeneration(config), processor


def _internvl() -> tuple[Any, Any]:
    import transformers as t

    named = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }  # fmt: skip
    words = tokenizer(named, ("<|im_start|>", "<|im_end|>"))
    images = t.GotOcr2ImageProcessor(size={"height": 56, "width": 56}, crop_to_patches=True, max_patches=2)
    processor = t.InternVLProcessor(
        images, words, t.InternVLVideoProcessor(size={"height": 56, "width": 56}), image_seq_length=4,
        chat_template=CHATML.replace("IMAGE", "<IMG_CONTEXT>\n"),
    )  # fmt: skip
    config = t.InternVLConfig(
        text_config=t.Qwen2Config(**TEXT, vocab_size=len(words)), vision_config=t.InternVLVisionConfig(**TOWER),
        image_token_id=words.context_image_token_id, image_seq_length=4,
    )  # fmt: skip
    return t.InternVLForConditionalGeneration(config), processor


def _paligemma() -> tuple[Any, Any]:
    import transformers as t

    words = tokenizer({"image_token": "<image>"})
    images = t.SiglipImageProcessor(size={"height": 56, "width": 56})
    images.image_seq_length = 16
    processor = t.PaliGemmaProcessor(images, words)
    size = len(processor.tokenizer)
    config = t.PaliGemmaConfig(
        text_config=t.GemmaConfig(**TEXT, vocab_size=size, head_dim=16),
        vision_config=t.SiglipVisionConfig(**TOWER, vision_use_head=False, projection_dim=32),
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"), projection_dim=32, hidden_size=32,
    )  # fmt: skip
    return t.PaliGemmaForConditionalGeneration(config), processor


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "gemma3": _gemma3,
    "qwen2_vl": lambda: _qwen("Qwen2VL"),
    "qwen2_5_vl": lambda: _qwen("Qwen2_5_VL"),
    "qwen3_vl": lambda: _qwen("Qwen3VL", patch=16),
    "llava": lambda: _llava("Llava"),
    "llava_next": lambda: _llava("LlavaNext"),
    "llava_onevision": _llava_onevision,
    "internvl": _internvl,
    "paligemma": _paligemma,
}
"""Families by ``model_type``, and what makes a model and its processor."""
FAST = "gemma3"
"""Family of the tests of which one family is enough."""
SAMPLES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Families whose publisher's defaults sample."""


def make(folder: Path, family: str, *, shard: str = "5GB") -> Path:
    """Write the folder of a replica.

    Args:
        folder: must not exist yet.
        family: of :data:`FAMILIES`.
        shard: largest size of a file of weights.
    """
    import torch

    torch.manual_seed(5)
    model, processor = FAMILIES[family]()
    with torch.no_grad():  # images must weigh as much as words, and layers more than the word before
        for name, parameter in model.named_parameters():
            if parameter.dim() != 2:
                continue
            if any(part in name for part in ("projector", "merger", "mm_input_projection")):
                parameter.normal_(0, 0.5)  # Gemma 3 begins with zeros
            elif "embed_tokens" in name:
                parameter.mul_(0.2)
            elif "language_model" in name:
                parameter.mul_(3)
    decoding = model.generation_config
    decoding.eos_token_id, decoding.pad_token_id, decoding.bos_token_id = 1, 0, 2
    shown = [
        processor.tokenizer.decode([number], skip_special_tokens=True) for number in range(len(processor.tokenizer))
    ]
    decoding.suppress_tokens = [
        n for n, text in enumerate(shown) if n > 1 and not (text.isascii() and text.isprintable() and text)
    ]
    if family in SAMPLES:
        decoding.do_sample, decoding.temperature, decoding.top_k, decoding.repetition_penalty = True, 0.7, 20, 1.05
    model.save_pretrained(folder, max_shard_size=shard)
    processor.save_pretrained(folder)
    return folder


def profile(folder: Path, **changes: Any) -> Path:
    """Write a profile for replicas: small images, short answers, nothing else of ``generic`` changed."""
    file = folder / "profile.yaml"
    file.write_text(json.dumps({"extends": "generic", "name": "tests", "side": 56, "max_new_tokens": 12, **changes}))
    return file


def options(folder: Path, **more: Any) -> GenerationOptions:
    """Options of a replica with its ``profile.yaml``."""
    from llava_rad.generation.options import GenerationOptions

    return GenerationOptions(model=folder, profile=str(folder / "profile.yaml"), device="cpu", **more)


def loaded(folder: Path, **more: Any) -> tuple[Any, GenerationOptions]:
    """A replica, loaded, and its options."""
    from llava_rad.generation.found import find

    settings = options(folder, **more)
    return find(settings).load(settings), settings


def published_snippet(
    folder: Path, conversations: list[list[dict[str, Any]]], max_new_tokens: int
) -> tuple[list[list[int]], list[str]]:
    """Answer conversations one at a time as transformers' documents show it: token ids and texts."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    rows, texts = [], []
    for conversation in conversations:
        inputs = processor.apply_chat_template(
            conversation, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        with torch.inference_mode():
            generated = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        ids = generated[0][inputs["input_ids"].shape[1] :]
        rows.append(ids.tolist())
        texts.append(processor.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return rows, texts
