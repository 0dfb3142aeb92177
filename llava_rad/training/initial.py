"""The checkpoint that a run starts from: a complete directory on disk, made once, loaded by every process.

Random weights are drawn here, by one process: drawn while DeepSpeed spreads a model over processes they would depend on
the way of spreading.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from encoder.backbones.base import FrozenEncoder, image_tokens
from encoder.backbones.loading import load_encoder as load_any
from encoder.backbones.loading import load_stored, sizes
from encoder.errors import ConfigError, ModelError
from encoder.hub import refused_packages
from encoder.preprocessing import Recipe, recipe_named
from llava_rad.conversion.published import open_checkpoint
from llava_rad.model.assemble import assemble, make_projector
from llava_rad.model.checkpoint import ENCODER, LANGUAGE_MODEL, PROJECTOR, load_checked
from llava_rad.model.config import LlavaRadConfig, TokenIds, rope_of
from llava_rad.model.llava_rad import LlavaRad, greedy, load_llama
from llava_rad.model.projector import Projector
from llava_rad.model.prompt import Prompt
from llava_rad.model.sections import FINDINGS_ALONE, HEADINGS, Section
from llava_rad.model.templates import IMAGE
from llava_rad.model.tokenizer import Tokens
from llava_rad.training.config import LoraConfig, ScratchConfig, StudyConfig, TrainingConfig
from llava_rad.training.data import section_settings
from llava_rad.training.studies import study_settings, whole_prompt

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import LlamaConfig, PreTrainedModel


def make_initial(config: TrainingConfig, folder: Path, texts: Sequence[str], *, offline: bool = False) -> Path:
    """Make the first checkpoint, unless an earlier start of the run has made it.

    Args:
        config: the run.
        folder: folder to make it in; a plain checkpoint named by ``model.checkpoint`` is used in its place.
        texts: the training reports, from which a tokenizer is learned where the language model starts from scratch.
        offline: never contact the hub.

    Returns:
        The checkpoint's folder, every file of which has been checked.

    Raises:
        ModelError: if a part is missing or damaged, or the parts do not fit together.
        LlavaRadError: if the folder cannot be written, or there is no such recipe.
    """
    if config.model.checkpoint is not None:
        source = open_checkpoint(config.model.checkpoint, offline=offline)
        if not (source / LANGUAGE_MODEL / "adapter_config.json").is_file():
            load_checked(source)
            return source
    if not (folder / "config.json").is_file():
        if config.model.checkpoint is not None:
            _merged(config.model.checkpoint, offline).save_pretrained(folder)
        elif config.model.language_model is not None:
            _assembled(config, config.model.language_model, folder, offline)
        else:
            _from_scratch(config, texts, offline).save_pretrained(folder)
    load_checked(folder)
    return folder


def recipe_of(config: TrainingConfig, *, offline: bool = False) -> Recipe:
    """Preprocessing of a run's images, from configuration files alone.

    Raises:
        ModelError: if a part is missing.
        LlavaRadError: if there is no such recipe.
    """
    model = config.model
    if model.checkpoint is not None:
        return LlavaRadConfig.load(open_checkpoint(model.checkpoint, offline=offline)).preprocessing
    return recipe_named(model.recipe or sizes(model.encoder, kind=model.encoder_kind, offline=offline).recipe)


def load_encoder(folder: Path, dtype: torch.dtype) -> FrozenEncoder:
    """The encoder of a checkpoint, whole on every process: call it before DeepSpeed spreads anything."""
    return load_stored(folder / ENCODER).to(dtype)


def load_trainable(
    folder: Path, dtype: torch.dtype, study: StudyConfig | None = None, sections: Sequence[Section] = FINDINGS_ALONE
) -> tuple[LlavaRadConfig, Projector, PreTrainedModel, Tokens]:
    """Load the trained parts, projector and language model, with config and tokenizer, made ready for studies.

    Args:
        folder: the checkpoint.
        dtype: of the weights.
        study: inputs of the run; None for the frontal image alone.
        sections: sections of the reports that are taught.

    Raises:
        ModelError: if a part is damaged, or positions would be scaled that are scaled already.
        ConfigError: if the template has no place for an input, or the checkpoint writes more sections.
    """
    study = study or StudyConfig()
    config = section_settings(study_settings(LlavaRadConfig.load(folder), study), sections)
    projector = Projector.load(folder / PROJECTOR)
    if config.further_images is not None and config.further_images.markers:
        projector.add_markers()
    projector.to(dtype)
    language_model = load_llama(folder / LANGUAGE_MODEL, "the language model", dtype=dtype)
    if study.rope_factor > 1:
        scale_positions(language_model, study.rope_factor)
    return config, projector, language_model, Tokens.load(folder / LANGUAGE_MODEL, config.tokens)


def scale_positions(language_model: PreTrainedModel, factor: float) -> None:
    """Scale the positions of a Llama linearly, so that it takes more of them.

    Raises:
        ModelError: if they are scaled by another factor already.
    """
    config: Any = language_model.config
    theta, own = rope_of(config.to_dict())
    if own not in (1.0, factor):
        raise ModelError(
            f"the positions of the language model are scaled by {own:g}, not study.rope_factor = {factor:g}"
        )
    config.rope_parameters = {"rope_type": "linear", "factor": float(factor), "rope_theta": theta}
    inner: Any = language_model.model
    inner.rotary_emb = type(inner.rotary_emb)(config).to(inner.embed_tokens.weight.device)


def _assembled(config: TrainingConfig, language_model: str, folder: Path, offline: bool) -> None:
    model = config.model
    assemble(
        model.encoder,
        language_model,
        folder,
        encoder_kind=model.encoder_kind,
        recipe=model.recipe,
        projector=model.projector,
        name=config.name,
        seed=config.seed,
        offline=offline,
    )


def _merged(checkpoint: str, offline: bool) -> LlavaRad:
    """A checkpoint whose language model is an adapter, with the adapter merged in: training goes on with all of it."""
    whole = LlavaRad.from_pretrained(checkpoint, offline=offline)
    whole.language_model = whole.language_model.merge_and_unload()
    whole.familiarity = whole.findings = None  # other images are to come
    return whole


def _from_scratch(config: TrainingConfig, texts: Sequence[str], offline: bool) -> LlavaRad:
    model = config.model
    encoder = load_any(model.encoder, kind=model.encoder_kind, offline=offline)
    recipe = recipe_named(model.recipe or encoder.recipe)
    settings = LlavaRadConfig(
        name=config.name,
        demonstration=True,
        features=encoder.features,
        image_tokens=image_tokens(encoder, recipe.size),
        recipe=recipe.to_dict(),
    )
    settings = section_settings(settings, config.data.sections)
    conversation = whole_prompt(settings.conversation, config.study)
    tokens = make_tokens(model.scratch, texts, conversation, config.data.sections)
    prompt = sum(map(len, settings.conversation.encode(tokens.tokenizer, tokens.ids.bos)))
    needed = settings.image_tokens + prompt + settings.generation.max_new_tokens
    language_model = _llama(model.scratch, tokens, max(config.data.max_length, needed), config.seed)
    projector = make_projector(model.projector, encoder.width, model.scratch.hidden_size, config.seed)
    return LlavaRad(encoder, projector, language_model, tokens, settings)


def make_tokens(
    scratch: ScratchConfig, texts: Sequence[str], prompt: Prompt, sections: Sequence[Section] = FINDINGS_ALONE
) -> Tokens:
    """A tokenizer that is learned from reports, the prompt, and the headings of several sections.

    Raises:
        ConfigError: if there are no reports.
    """
    if not texts:
        raise ConfigError("a language model from scratch learns its tokens from training reports, and there are none")
    # the line break is left to the byte pieces, as in Llama's own tokenizer
    around = prompt.text.replace(IMAGE, "").replace("\n", " ")
    headings = HEADINGS if len(sections) > 1 else ()
    trained = train_tokenizer([*texts, *[around, *headings] * 50], vocab_size=scratch.vocabulary)
    return Tokens(trained, TokenIds())


def llama_config(scratch: ScratchConfig, tokens: Tokens, longest: int) -> LlamaConfig:
    """The configuration of a small Llama for samples of at most ``longest`` tokens."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=tokens.tokenizer.get_vocab_size(),
        hidden_size=scratch.hidden_size,
        num_hidden_layers=scratch.num_hidden_layers,
        num_attention_heads=scratch.num_attention_heads,
        intermediate_size=scratch.intermediate_size,
        max_position_embeddings=longest,
        bos_token_id=tokens.ids.bos,
        eos_token_id=tokens.ids.eos,
        pad_token_id=None,
    )


def _llama(scratch: ScratchConfig, tokens: Tokens, longest: int, seed: int) -> PreTrainedModel:
    from transformers import LlamaForCausalLM

    config = llama_config(scratch, tokens, longest)
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    language_model = LlamaForCausalLM(config)
    torch.random.set_rng_state(state)
    language_model.generation_config = greedy(tokens.ids)
    return language_model


_LINEAR = r".*\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
"""Every linear layer of the decoder blocks, as LLaVA-1.5's ``find_all_linear_names`` takes them; not the head."""


def with_adapters(
    language_model: PreTrainedModel, config: LoraConfig, seed: int, *, float32: bool = True
) -> PreTrainedModel:
    """Freeze a language model and put adapters on its linear layers.

    Args:
        language_model: ``LlamaForCausalLM``.
        config: rank, scale, dropout.
        seed: of the adapters' random half.
        float32: keep adapters in float32 beside a language model in bfloat16, which then runs under autocast only.
            DeepSpeed takes one type only, and its optimiser has a copy in float32.
    """
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    language_model.requires_grad_(False)
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    settings = PeftLoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=_LINEAR,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with refused_packages():
        adapted = get_peft_model(language_model, settings, autocast_adapter_dtype=float32)
    torch.random.set_rng_state(state)
    for module in adapted.modules():
        if isinstance(module, BaseTunerLayer):
            # autocast casts the small weights; PEFT would cast the inputs of all seven products to float32 first
            module.cast_input_dtype_enabled = False
    return adapted


SPECIAL = ("<unk>", "<s>", "</s>")
_SPACE = "\u2581"
_ALPHABET = [chr(code) for code in range(33, 127)]


def train_tokenizer(texts: Iterable[str], vocab_size: int = 800) -> Tokenizer:
    """Learn a small tokenizer in Llama 2's format: BPE with byte fallback, `<unk>` 0, `<s>` 1, `</s>` 2, bytes 3-258.

    Words and punctuation are split before training, so that no piece crosses them, but not afterwards: the file holds
    Llama 2's normaliser (a leading "▁", spaces to "▁") and no splitting.

    Args:
        texts: texts that the language model will read and write.
        vocab_size: largest number of pieces, special ones and bytes included.

    Returns:
        A tokenizer that adds `<s>` in front, as Llama's does.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    learner = Tokenizer(models.BPE())
    # A full stop of its own: else "effusion." and "effusion and" would be rival words where only the finding is to
    # be decided.
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Punctuation("isolated")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL) - len(bytes_),
        initial_alphabet=[*_ALPHABET, _SPACE],
        special_tokens=[],
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)

    pieces = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    vocabulary = {piece: number for number, piece in enumerate([*SPECIAL, *bytes_, *(piece for piece, _ in pieces)])}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, _merges(learner), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in SPECIAL])
    return tokenizer


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    import json

    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]
