"""Assembly of a checkpoint from published parts: an image encoder and a Vicuna (Llama) folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from encoder.backbones.base import first_line, image_tokens
from encoder.backbones.loading import load_encoder
from encoder.backbones.weight_files import read_safetensors
from encoder.errors import ModelError
from encoder.hub import fetch
from encoder.preprocessing import recipe_named
from llava_rad.model.checkpoint import refuse_existing
from llava_rad.model.config import LlavaRadConfig, positions, token_ids
from llava_rad.model.llava_rad import LlavaRad, adapter_base, load_language_model, load_llama
from llava_rad.model.projector import Projector
from llava_rad.model.prompt import encode_text
from llava_rad.model.tokenizer import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PARTS = ("*.json", "*.safetensors", "tokenizer.model")
# Vicuna publishes its weights as .bin shards only; torch reads them with weights_only=True
_PARTS_BIN = ("*.json", "pytorch_model*.bin", "tokenizer.model")


def assemble(
    encoder: str | Path,
    language_model: str | Path,
    out: str | Path,
    *,
    encoder_kind: str | None = None,
    recipe: str | None = None,
    projector: str | Path | None = None,
    name: str | None = None,
    encoder_revision: str | None = None,
    language_model_revision: str | None = None,
    seed: int = 0,
    offline: bool = False,
    force: bool = False,
) -> LlavaRadConfig:
    """Write a checkpoint directory from an encoder, a language model and, if given, a trained projector.

    Args:
        encoder: name in ``encoder.backbones.registry.ENCODERS``, or a folder, repository or weights file.
        language_model: folder or repository like ``lmsys/vicuna-7b-v1.5`` (safetensors or .bin), or a PEFT adapter
            folder that names its base.
        out: directory to write.
        encoder_kind: name in ``ENCODERS``, if the encoder's files do not tell.
        recipe: name of a preprocessing recipe; None is the encoder's own.
        projector: safetensors file with ``linear_1`` and ``linear_2``; None makes a random one, to be trained.
        name: name of the model in reports.
        encoder_revision: branch, tag or commit of the encoder's repository.
        language_model_revision: branch, tag or commit of the language model's repository.
        seed: seed of a random projector.
        offline: never ask the hub.
        force: replace ``out``.

    Returns:
        The config that was written (without the file hashes).

    Raises:
        ModelError: if a part is missing or damaged, or the parts do not fit together.
        LlavaRadError: if ``out`` exists, or there is no such recipe or kind.
    """
    if recipe is not None:
        recipe_named(recipe)
    refuse_existing(Path(out), force=force)
    vision = load_encoder(encoder, kind=encoder_kind, revision=encoder_revision, offline=offline, dtype=None)
    preparation = recipe_named(recipe or vision.recipe)
    folder = fetch_language_model(language_model, language_model_revision, offline=offline)
    llama, tokens = _language_model(folder, str(language_model), offline=offline)
    width = llama.get_input_embeddings().embedding_dim
    bridge = make_projector(projector, vision.width, width, seed)
    if name is None:
        name = f"{Path(encoder).name} + {Path(language_model).name}" + ("" if projector else " (untrained projector)")
    config = LlavaRadConfig(
        name=name,
        features=vision.features,
        image_tokens=image_tokens(vision, preparation.size),
        recipe=preparation.to_dict(),
        tokens=tokens.ids,
    )
    prompt = sum(map(len, config.conversation.encode(tokens.tokenizer, tokens.ids.bos)))
    check_length(config.image_tokens, prompt, config.generation.max_new_tokens, llama.config.to_dict())
    LlavaRad(vision, bridge, llama, tokens, config).save_pretrained(out, force=force)
    return config


def check_length(image: int, prompt: int, new: int, language_model: Mapping[str, Any]) -> None:
    """Refuse a language model in whose context image, prompt and the longest report do not fit.

    Args:
        image: tokens of the image.
        prompt: tokens of the prompt.
        new: tokens of the longest report.
        language_model: contents of the language model's ``config.json``.

    Raises:
        ModelError: if they do not.
    """
    longest = positions(language_model)
    if image + prompt + new > longest:
        raise ModelError(
            f"the language model has {longest:,} positions, too few for {image:,} image tokens, {prompt} of the prompt "
            f"and {new} of the report",
            hint="a recipe of smaller images, such as rad-dino-224, takes fewer",
        )


def fetch_language_model(source: str | Path, revision: str | None, *, offline: bool) -> Path:
    """Find the local folder of a language model, with its .bin files if it has no safetensors.

    Raises:
        ModelError: if it cannot be found or downloaded.
    """
    folder = fetch(source, revision=revision, offline=offline, patterns=_PARTS)
    if any(folder.glob("*.safetensors")):
        return folder
    return fetch(source, revision=revision, offline=offline, patterns=_PARTS_BIN)


def _language_model(folder: Path, name: str, *, offline: bool) -> tuple[PreTrainedModel, Tokens]:
    if (folder / "adapter_config.json").is_file():
        model = load_language_model(folder, dtype="auto", offline=offline)
        if not (folder / "tokenizer.json").is_file() and not (folder / "tokenizer.model").is_file():
            name, folder = adapter_base(folder, offline=offline)
    else:
        model = load_llama(folder, f"the language model {name}", dtype="auto", use_safetensors=False)
    return model, _tokens(folder, name, model)


def _tokens(folder: Path, name: str, model: PreTrainedModel) -> Tokens:
    """Read a folder's tokenizer, and refuse one with more tokens than the model has embeddings."""
    tokens = read_tokens(folder, model.config.to_dict(), name)
    if tokens.tokenizer.get_vocab_size() > model.get_input_embeddings().num_embeddings:
        raise ModelError(f"the tokenizer of {name} has more tokens than the model has embeddings")
    return tokens


def read_tokens(folder: Path, config: Mapping[str, Any], name: str | None = None) -> Tokens:
    """Read the fast tokenizer of a language model's folder: ``tokenizer.json``, or made of ``tokenizer.model``.

    Args:
        folder: folder of the language model.
        config: contents of its ``config.json``.
        name: name of the model in error messages; None is the folder's name.

    Raises:
        ModelError: if there is neither file, or it cannot be read.
    """
    from transformers import AutoTokenizer

    name = name or folder.name
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer.model")):
        raise ModelError(f"the language model {name} has neither tokenizer.json nor tokenizer.model")
    file = "tokenizer.json" if (folder / "tokenizer.json").is_file() else "tokenizer.model"
    try:
        if file == "tokenizer.model":  # transformers takes a damaged one for a file of another library
            from sentencepiece import SentencePieceProcessor

            SentencePieceProcessor(model_file=str(folder / file))
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False).backend_tokenizer
        if not tokenizer.decode(encode_text(tokenizer, "The heart is normal.")).strip():
            raise ValueError("it has no words")
    except ImportError as error:
        raise ModelError(f"{file} of {name} needs a package: {first_line(error)}") from error
    except Exception as error:  # sentencepiece, protobuf and tokenizers each raise types of their own
        raise ModelError(f"{file} of {name} is damaged or of an unknown kind: {first_line(error)}") from error
    return Tokens(tokenizer, token_ids(config, name))


def make_projector(source: str | Path | None, in_features: int, out_features: int, seed: int) -> Projector:
    """Read a projector from a safetensors file, or make one with random weights from ``seed`` if it is None.

    Raises:
        ModelError: if the file is damaged or does not fit.
    """
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    projector = Projector(in_features, out_features)
    torch.random.set_rng_state(generator_state)
    if source is not None:
        tensors = read_safetensors(Path(source).expanduser(), "the projector")
        try:
            projector.load_state_dict(tensors)
        except RuntimeError as error:
            raise ModelError(f"the projector file does not fit: {first_line(error)}") from error
    return projector
