"""``config.json`` of a checkpoint directory, read strictly: unknown keys and missing recipes are refused."""

from __future__ import annotations

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
from encoder.preprocessing import Recipe
from llava_rad.model.prompt import INSTRUCTION, SYSTEM, Chunks, Prompt
from llava_rad.model.templates import TemplateName

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
    files: dict[str, str] = Field(default_factory=dict)

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
        return value

    @property
    def preprocessing(self) -> Recipe:
        """Preprocessing recipe as an object."""
        return Recipe.from_dict(self.recipe)

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
            return cls.model_validate_json(path.read_bytes())
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
