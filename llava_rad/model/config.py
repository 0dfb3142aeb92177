"""What a checkpoint says of itself: ``config.json`` of the directory format, read strictly."""

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

from encoder.backbones.outputs import AFTER_NORM, FeatureKind
from encoder.errors import ModelError
from encoder.preprocessing import Recipe
from llava_rad.model.prompt import INSTRUCTION, SYSTEM, Chunks, Prompt
from llava_rad.model.templates import TemplateName

FORMAT: Literal["llava-rad/1"] = "llava-rad/1"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PromptConfig(_Strict):
    """The conversation around the image; see ``llava_rad.model.prompt``.

    ``chunks = "separate"``: the text before the image, the text after it and the answer are tokenised each on its own,
    as LLaVA-1.5 does; ``"whole"``: at once, ``<image>`` being a token, as transformers' processors do.
    ``template`` and ``turn`` are left out of the file where they are LLaVA-1.5's.
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
    """Ids of the special tokens (those of Llama-2 and Vicuna by default); ``pad`` is never attended to."""

    bos: int = 1
    eos: int = 2
    pad: int = 0


class GenerationDefaults(_Strict):
    """Decoding defaults; greedy unless beams are asked for (paper E.3.3: at most 150 tokens)."""

    max_new_tokens: int = Field(default=150, ge=1)
    num_beams: int = Field(default=1, ge=1)


class LlavaRadConfig(_Strict):
    """The contents of ``config.json``.

    Attributes:
        format: version of the directory format.
        name: what the model is called in reports.
        demonstration: True marks every output as coming from a demonstration model.
        features: which output of the encoder is projected: the one that its family has, said aloud.
        image_tokens: number of patch features that stand for one image, (recipe.size / patch size) squared.
        prompt: the conversation.
        tokens: ids of the special tokens.
        recipe: the preprocessing recipe; a checkpoint without one is refused.
        generation: decoding defaults.
        files: SHA-256 of every file of the checkpoint but this one and ``README.md``, by relative path.
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
        """The recipe as an object."""
        return Recipe.from_dict(self.recipe)

    @property
    def conversation(self) -> Prompt:
        """The prompt as an object."""
        prompt = self.prompt
        return Prompt(prompt.system, prompt.instruction, prompt.template, prompt.turn, prompt.chunks)

    @classmethod
    def load(cls, folder: Path) -> LlavaRadConfig:
        """Read ``config.json`` of a checkpoint.

        Raises:
            ModelError: it is missing, not valid, of another format, or names no preprocessing recipe.
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
