"""A checkpoint ready to write reports: the parts of ``LlavaRad`` in their inference form, without transformers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from encoder.backbones.base import Vision, image_tokens
from encoder.backbones.loading import load_vision
from encoder.errors import LlavaRadError, ModelError
from encoder.files import sha256_of
from encoder.preprocessing import Recipe
from llava_rad.conversion.published import open_checkpoint
from llava_rad.generation.compiled import CompiledDecoder
from llava_rad.generation.llama import Llama
from llava_rad.generation.quantized import BITS
from llava_rad.model.checkpoint import ENCODER, FAMILIARITY, LANGUAGE_MODEL, PROJECTOR, load_checked
from llava_rad.model.config import LlavaRadConfig
from llava_rad.model.familiarity import Familiarity
from llava_rad.model.llava_rad import greedy, join, load_language_model
from llava_rad.model.projector import Projector
from llava_rad.model.prompt import Prompt
from llava_rad.model.tokenizer import Tokens

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from transformers import PreTrainedModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Engine:
    """Encoder, projector and language model of one checkpoint on one device; use ``from_pretrained``.

    Attributes:
        config: what the checkpoint says of itself.
        model_id: its name.
        revision: the revision asked for, or None.
        sha256: of its ``config.json``, which holds the SHA-256 of every other file.
        device: where it computes.
        dtype: in which type.
    """

    def __init__(
        self,
        config: LlavaRadConfig,
        vision: Vision,
        projector: Projector,
        llama: Llama,
        tokens: Tokens,
        *,
        familiarity: Familiarity | None = None,
        sha256: str = "",
        revision: str | None = None,
    ) -> None:
        tokens_of_image = image_tokens(vision, config.preprocessing.size)
        inner = (projector.in_features, projector.out_features)
        if tokens_of_image != config.image_tokens or inner != (vision.width, llama.width):
            raise ModelError("the checkpoint's encoder, projector, language model and recipe do not fit together")
        self.familiarity = familiarity
        self.config, self.model_id, self.sha256, self.revision = config, config.name, sha256, revision
        self.device, self.dtype = llama.device, llama.dtype
        self.vision, self.projector, self.llama, self.tokens = vision, projector.eval(), llama, tokens  # no dropout

    @property
    def precision(self) -> str:
        """The type that it computes in, and in how few bits the language model's layers are kept if they are."""
        name = str(self.dtype).removeprefix("torch.")
        return f"{name}, {self.llama.bits}-bit weights" if self.llama.bits else name

    @property
    def recipe(self) -> Recipe:
        """How images are prepared for this model."""
        return self.config.preprocessing

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        offline: bool = False,
    ) -> Engine:
        """Load a checkpoint directory (None: the embedded default) after checking the SHA-256 of every file.

        Args:
            source: a folder or hub repository in the directory format.
            revision: branch, tag or commit of a repository.
            device: ``"auto"`` (CUDA where there is one, else the CPU) or a torch device.
            dtype: ``"auto"`` (bfloat16 on CUDA, else float32), ``"float32"``, ``"bfloat16"`` or ``"float16"``; with
                ``"8bit"`` and ``"4bit"`` the language model's layers are kept in so few bits, the rest as with auto.
            offline: never ask the hub.

        Raises:
            ModelError: missing, damaged, or not of a form that is read.
            LlavaRadError: no such device or type.
        """
        place = choose_device(device)
        bits = BITS.get(dtype)
        kind = choose_dtype("auto" if bits else dtype, place)
        folder = open_checkpoint(source, revision=revision, offline=offline)
        config = load_checked(folder)
        size = config.preprocessing.size
        vision = load_vision(folder / ENCODER, size=size, device=place, dtype=kind, features=config.features)
        projector = Projector.load(folder / PROJECTOR).to(device=place, dtype=kind)
        language_model = folder / LANGUAGE_MODEL
        if (language_model / "adapter_config.json").is_file():
            llama = _merge_adapter(language_model, place, kind, bits, offline=offline)
        else:
            llama = Llama.load(language_model, device=place, dtype=kind, bits=bits)
        tokens = Tokens.load(language_model, config.tokens)
        known = Familiarity.load(folder / FAMILIARITY, vision.width, place)
        digest = sha256_of(folder / "config.json")
        return cls(config, vision, projector, llama, tokens, familiarity=known, sha256=digest, revision=revision)

    @torch.inference_mode()
    def see(self, images: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Patch features [B, N, D] of images [B, S, S] uint8, prepared by the recipe."""
        return self.vision(self.recipe.normalise(images).to(self.device)).patches

    def unfamiliar(self, patches: torch.Tensor) -> list[bool]:
        """Which images, of those with these patch features, are unlike the training images; none if that is unknown."""
        return [False] * len(patches) if self.familiarity is None else self.familiarity.unfamiliar(patches)

    @torch.inference_mode()
    def embed(self, patches: torch.Tensor, prompts: Sequence[Prompt]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Prompts with their images in place, as word embeddings, padded on the left.

        Args:
            patches: [I, N, D], as ``see`` gives them: the images of the first prompt, of the second and so on.
            prompts: B of them.

        Returns:
            inputs_embeds [B, L, D] and a bool mask [B, L], or None for the mask where nothing is padded.
        """
        projected = self.projector(patches)
        chunks = {prompt: prompt.pieces(self.tokens.tokenizer, self.tokens.ids.bos) for prompt in set(prompts)}
        table = self.llama.embedding
        pairs = [chunks[prompt] for prompt in prompts]
        embeds, mask = join(projected, pairs, lambda ids: torch.nn.functional.embedding(ids, table))
        return embeds, None if bool(mask.all()) else mask.bool()

    @cached_property
    def compiled(self) -> CompiledDecoder:
        """Greedy decoding by a compiled step; compiled when it is first used."""
        return CompiledDecoder(self.llama, self.tokens.suppressed)

    def language_model(self) -> PreTrainedModel:
        """The language model as transformers' ``LlamaForCausalLM``, sharing the weights: for beam search."""
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(**{key: value for key, value in self.llama.config.items() if key != "dtype"})
        with torch.device("meta"):
            model = LlamaForCausalLM(config)
        model.load_state_dict(self.llama.tensors(), assign=True)
        model.model.rotary_emb = type(model.model.rotary_emb)(config).to(self.device)
        model.generation_config = greedy(self.tokens.ids)
        return model.eval()  # torch's evaluation mode: no dropout


def choose_device(name: str) -> torch.device:
    """``"auto"`` or a torch device name as a device that exists.

    Raises:
        LlavaRadError: torch does not know the name or has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise LlavaRadError(f"there is no device {name!r} here", hint="'llava-rad doctor' lists the devices") from None
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """``"auto"`` or the name of a floating-point type as that type.

    Raises:
        LlavaRadError: no such type.
    """
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise LlavaRadError(f"there is no type {name!r}", hint=f"choose one of auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def _merge_adapter(folder: Path, device: torch.device, dtype: torch.dtype, bits: int | None, *, offline: bool) -> Llama:
    """A LoRA adapter merged into its base, in float32, where the sum is most exact."""
    merged = load_language_model(folder, dtype=torch.float32, offline=offline).merge_and_unload()
    return Llama(merged.config.to_dict(), merged.state_dict(), device=device, dtype=dtype, bits=bits)
