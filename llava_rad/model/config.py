"""``config.json`` of a checkpoint directory, read strictly: unknown keys and missing recipes are refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
)

from encoder.backbones.registry import AFTER_NORM, FeatureKind
from encoder.errors import ModelError
from encoder.json_files import read_json
from encoder.preprocessing import Recipe
from llava_rad.model.prompt import INSTRUCTION, SYSTEM, Chunks, Prompt
from llava_rad.model.sections import BOTH, FINDINGS_ALONE, Section
from llava_rad.model.templates import TEMPLATES, Study, TemplateName

FORMAT: Literal["llava-rad/1"] = "llava-rad/1"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PromptConfig(_Strict):
    """Conversation around the image; see ``llava_rad.model.prompt.Prompt`` for the fields.

    ``template`` and ``turn`` are left out of the file if they are LLaVA-1.5's.
    """

    system: str = SYSTEM
    instruction: str = INSTRUCTION
    template: TemplateName = "llava-1.5"
    turn: str | None = Field(default=None, pattern=r"^[^{}]*\{\}[^{}]*$")
    chunks: Chunks = "separate"

    @model_serializer(mode="wrap")
    def _short(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        usual = {"template": "llava-1.5", "turn": None}
        data: dict[str, Any] = serialise(self)
        return {key: value for key, value in data.items() if key not in usual or value != usual[key]}


class TokenIds(_Strict):
    """Ids of the special tokens, by default those of Llama-2 and Vicuna; ``pad`` is never attended to."""

    bos: int = 1
    eos: int = 2
    pad: int = 0


class GenerationDefaults(_Strict):
    """Defaults of decoding: greedy, at most 150 tokens (paper, section E.3.3)."""

    max_new_tokens: int = Field(default=150, ge=1)
    num_beams: int = Field(default=1, ge=1)


class FurtherImages(_Strict):
    """Form in which a prompt takes the images after its frontal one.

    Attributes:
        pool: side of the squares of patches whose features are averaged; 1 keeps all of them. Of 37 x 37 patches, 2
            leaves 19 x 19 = 361.
        markers: the projector has a learned vector for laterals and one for priors, which is added to their features.
    """

    pool: int = Field(default=1, ge=1)
    markers: bool = False


_READ: Mapping[str, Any] = {
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "pretraining_tp": 1,
    "sliding_window": None,
    "partial_rotary_factor": 1.0,
    "quantization_config": None,
}
"""Values of a language model's ``config.json`` with which ``llava_rad.generation.llama`` computes; null is the same."""
_LARGEST_SIZE = 10_000_000
_MOST_LAYERS = 1000
_LONGEST_NAME = 1000
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def check_language_model(config: Mapping[str, Any], what: str = "the language model") -> None:
    """Refuse a Llama that would be computed wrongly. Assembling, training and generation all ask here.

    Args:
        config: contents of ``config.json``, as published or as transformers completes it.
        what: name of the model in error messages.

    Raises:
        ModelError: if a size is missing or does not fit, or it is of a variant that is not read.
    """
    for key, value in _READ.items():
        if config.get(key) not in (None, value) or (key == "model_type" and key not in config):
            if key == "quantization_config":
                raise ModelError(f"{what} is quantised (quantization_config); only whole weights are read")
            raise ModelError(f"config.json of {what} says {key} = {config.get(key)!r}; only {value!r} is read")
    rope_of(config, what)
    sizes = {key: config.get(key) for key in _SIZES}
    kv_heads = config.get("num_key_value_heads") or sizes["num_attention_heads"]
    for key, size in {**sizes, "num_key_value_heads": kv_heads, "max_position_embeddings": positions(config)}.items():
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= _LARGEST_SIZE:
            raise ModelError(f"config.json of {what} has no usable {key}")
    if config["num_hidden_layers"] > _MOST_LAYERS:
        raise ModelError(f"config.json of {what} has no usable num_hidden_layers")
    width, heads = config["hidden_size"], config["num_attention_heads"]
    head_size = config.get("head_dim") or width // heads
    fits = isinstance(head_size, int) and head_size > 0 and head_size % 2 == 0 and heads % kv_heads == 0
    if not fits or (not config.get("head_dim") and width % heads):
        raise ModelError(f"config.json of {what}: its hidden_size, heads and head_dim do not fit together")
    eps = config.get("rms_norm_eps", 1e-6)
    if not isinstance(eps, float) or not 0 <= eps < math.inf:
        raise ModelError(f"config.json of {what} has no usable rms_norm_eps")


def rope_of(config: Mapping[str, Any], what: str = "the language model") -> tuple[float, float]:
    """Base frequency of the rotary position embedding, and the factor of linear scaling (1 without scaling).

    MAIRA-2 scales by 1.5, so that three images fit (Bannur et al. 2024, arXiv 2406.04449).

    Args:
        config: contents of ``config.json`` with ``rope_parameters`` (transformers 5) or ``rope_scaling`` (before).
        what: name of the model in error messages.

    Raises:
        ModelError: if it has another kind of scaling.
    """
    rope, older = config.get("rope_parameters") or {}, config.get("rope_scaling") or {}
    if not isinstance(rope, Mapping) or not isinstance(older, Mapping) or (rope and older and rope != older):
        raise ModelError(f"config.json of {what} does not say clearly how positions are scaled (rope)")
    rope = rope or older
    kind = rope.get("rope_type", rope.get("type", "default"))
    factor = rope.get("factor", 0.0) if kind == "linear" else 1.0
    if kind not in ("default", "linear") or not isinstance(factor, int | float) or not 1 <= factor < math.inf:
        raise ModelError(f"the rope_type of {what} is {kind!r}; only 'default' and 'linear' are read")
    if rope.get("partial_rotary_factor") not in (None, 1.0) or any(isinstance(part, Mapping) for part in rope.values()):
        raise ModelError(f"the rotary embedding of {what} covers a part of each head or differs by layer: not read")
    theta = rope.get("rope_theta") or config.get("rope_theta") or 10000.0
    if not isinstance(theta, int | float) or not 0 < theta < math.inf:
        raise ModelError(f"config.json of {what} has no usable rope_theta")
    return float(theta), float(factor)


def positions(config: Mapping[str, Any]) -> int:
    """Longest text of a language model in tokens, by its ``config.json``; 0 if that is no number."""
    found = config.get("max_position_embeddings", 2048)
    return int(found * rope_of(config)[1]) if isinstance(found, int) else 0


def token_ids(config: Mapping[str, Any], what: str = "the language model") -> TokenIds:
    """Ids of the special tokens of a language model's ``config.json``; absent ones are Llama's.

    Raises:
        ModelError: if it has none for the beginning or the end of a text.
    """
    found = {"bos": config.get("bos_token_id", 1), "eos": config.get("eos_token_id", 2)}
    found |= {"pad": config.get("pad_token_id")}
    ids = {name: value[0] if isinstance(value, list) and value else value for name, value in found.items()}
    if not isinstance(ids["pad"], int) or ids["pad"] < 0:
        ids["pad"] = 0
    for name, value in ids.items():
        if not isinstance(value, int) or not 0 <= value < config.get("vocab_size", 1 << 31):
            raise ModelError(f"config.json of {what} has no usable {name}_token_id")
    return TokenIds(**ids)


class LlavaRadConfig(_Strict):
    """The contents of ``config.json``.

    Attributes:
        format: version of the directory format.
        name: name of the model in reports.
        demonstration: True marks every output as coming from a demonstration model.
        features: output of the encoder that is projected; it must be the one of the encoder's family.
        image_tokens: number of patch features per image, (recipe.size / patch size) squared.
        prompt: conversation around the image.
        tokens: ids of the special tokens.
        recipe: preprocessing recipe; a checkpoint without one is refused.
        generation: defaults of decoding.
        further_images: form of the images after the frontal one; None is that of the frontal one.
        sections: of an answer, see ``llava_rad.model.sections``; left out of the file if it is the findings alone.
        files: SHA-256 of every file of the checkpoint except this one and ``README.md``, by relative path.
    """

    format: Literal["llava-rad/1"] = FORMAT
    name: str
    demonstration: bool = False
    features: FeatureKind = AFTER_NORM
    image_tokens: int = Field(ge=1)
    prompt: PromptConfig = PromptConfig()
    recipe: dict[str, Any]
    tokens: TokenIds = TokenIds()
    generation: GenerationDefaults = GenerationDefaults()
    further_images: FurtherImages | None = None
    sections: tuple[Section, ...] = FINDINGS_ALONE
    files: dict[str, str] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _without_absent(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = serialise(self)
        usual = {"further_images": self.further_images is None, "sections": self.sections == FINDINGS_ALONE}
        return {key: value for key, value in data.items() if not usual.get(key)}

    @field_validator("sections")
    @classmethod
    def _known_sections(cls, value: tuple[Section, ...]) -> tuple[Section, ...]:
        if value not in (FINDINGS_ALONE, BOTH):
            raise ValueError("an answer is findings, or findings and impression")
        return value

    @field_validator("name")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not value.isprintable() or len(value) > _LONGEST_NAME:
            raise ValueError("a name is one printable line")
        return value

    @field_validator("recipe")
    @classmethod
    def _known_recipe(cls, value: dict[str, Any]) -> dict[str, Any]:
        Recipe.from_dict(value)
        return value

    @field_validator("files")
    @classmethod
    def _inside(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if name.startswith("/") or ".." in Path(name).parts:
                raise ValueError(f"the file {name!r} lies outside the checkpoint")
            if not name.isprintable():
                raise ValueError(f"the file {name!r} has control characters in its name")
        return value

    @property
    def preprocessing(self) -> Recipe:
        """Preprocessing recipe as an object."""
        return Recipe.from_dict(self.recipe)

    @property
    def places(self) -> frozenset[str]:
        """Study inputs that the prompt takes, as ``Study.used`` spells them."""
        return TEMPLATES[self.prompt.template].places

    def check(self, study: Study) -> None:
        """Refuse study inputs that the prompt does not take.

        Raises:
            ConfigError: if there is one.
        """
        _ = self.conversation.with_study(study).text

    def request(self, given: str | None = None) -> str:
        """Return the request to the model: the one given, or the checkpoint's own."""
        return self.conversation.with_instruction(given).instruction

    @property
    def with_impression(self) -> bool:
        """True if answers have a section Impression."""
        return self.sections == BOTH

    @property
    def conversation(self) -> Prompt:
        """Prompt as an object."""
        prompt = self.prompt
        return Prompt(prompt.system, prompt.instruction, prompt.template, prompt.turn, prompt.chunks)

    @classmethod
    def load(cls, folder: Path) -> LlavaRadConfig:
        """Read ``config.json`` of a checkpoint.

        Raises:
            ModelError: if it is missing, not valid, of another format, or names no preprocessing recipe.
        """
        path = folder / "config.json"
        try:
            return cls.model_validate(read_json(path))
        except FileNotFoundError:
            raise ModelError(
                f"{folder.name or folder} holds no config.json, so it is not a LLaVA-Rad checkpoint"
            ) from None
        except OSError as error:
            raise ModelError(
                f"config.json of {folder.name or folder} cannot be read ({type(error).__name__})"
            ) from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            if where == "recipe" and first["type"] == "missing":
                raise ModelError(
                    "the checkpoint names no preprocessing recipe; without one the images would be prepared by guess"
                ) from None
            raise ModelError(f"config.json of the checkpoint is not valid: {where or 'file'}: {first['msg']}") from None
        except ValueError as error:
            reason = str(error) if type(error) is ValueError else "no JSON"
            raise ModelError(f"config.json of the checkpoint is not valid: file: {reason}") from None
