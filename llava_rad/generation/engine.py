"""A checkpoint loaded for inference: the parts of ``LlavaRad`` in their fast form, without transformers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from encoder.backbones.base import Vision, image_tokens
from encoder.backbones.loading import load_vision
from encoder.backbones.weight_files import architecture_of
from encoder.errors import LlavaRadError, ModelError
from encoder.files import sha256_of
from encoder.hub import refused_packages
from encoder.preprocessing import Recipe
from llava_rad.conversion.published import open_checkpoint
from llava_rad.generation.compiled import CompiledDecoder
from llava_rad.generation.llama import Llama
from llava_rad.generation.quantized import BITS
from llava_rad.generation.words import WordEmbeddings
from llava_rad.model.checkpoint import ENCODER, FAMILIARITY, FINDINGS, LANGUAGE_MODEL, PROJECTOR, load_checked
from llava_rad.model.config import LlavaRadConfig
from llava_rad.model.familiarity import Familiarity
from llava_rad.model.findings import Findings
from llava_rad.model.llava_rad import greedy, join, load_language_model
from llava_rad.model.projector import Projector, pooled_tokens, project_images
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
        config: ``config.json`` of the checkpoint.
        model_id: name of the checkpoint.
        revision: requested revision, or None.
        sha256: SHA-256 of ``config.json``, which holds the SHA-256 of every other file.
        device: device of the computation.
        dtype: type of the computation.
        words: language model, or its word embeddings alone where another engine decodes.
        decoder_name: name and version of that engine, once it runs.
    """

    def __init__(
        self,
        config: LlavaRadConfig,
        vision: Vision,
        projector: Projector,
        words: Llama | WordEmbeddings,
        tokens: Tokens,
        *,
        familiarity: Familiarity | None = None,
        findings: Findings | None = None,
        sha256: str = "",
        revision: str | None = None,
    ) -> None:
        tokens_of_image = image_tokens(vision, config.preprocessing.size)
        inner = (projector.in_features, projector.out_features)
        if tokens_of_image != config.image_tokens or inner != (vision.width, words.width):
            raise ModelError("the checkpoint's encoder, projector, language model and recipe do not fit together")
        self.familiarity, self.findings = familiarity, findings
        self.config, self.model_id, self.sha256, self.revision = config, config.name, sha256, revision
        self.device, self.dtype = words.device, words.dtype
        self.vision, self.projector, self.words, self.tokens = vision, projector.eval(), words, tokens
        self.decoder_name: str | None = None
        self._decoder: CompiledDecoder | None = None
        self._decoding, self._decoding_thread = threading.Lock(), 0

    @property
    def precision(self) -> str:
        """Type of the computation; bits of the language model's layers if they are quantised; another engine's name."""
        name = str(self.dtype).removeprefix("torch.")
        bits = self.words.bits if isinstance(self.words, Llama) else None
        return ", ".join([name, *([f"{bits}-bit weights"] if bits else []), *filter(None, [self.decoder_name])])

    @property
    def llama(self) -> Llama:
        """The language model.

        Raises:
            LlavaRadError: if another engine decodes.
        """
        if not isinstance(self.words, Llama):
            raise LlavaRadError("the language model runs in vLLM", hint="leave --vllm-python out for this")
        return self.words

    @property
    def recipe(self) -> Recipe:
        """Preprocessing recipe of this model's images."""
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
        decodes: bool = True,
    ) -> Engine:
        """Load a checkpoint (None: the embedded default) after checking the SHA-256 of every file.

        Args:
            source: checkpoint folder or hub repository, or the repository of a published report model.
            revision: branch, tag or commit of a repository.
            device: ``"auto"`` (CUDA if available, else the CPU) or a torch device.
            dtype: ``"auto"`` (bfloat16 on CUDA, else float32), ``"float32"``, ``"bfloat16"`` or ``"float16"``;
                ``"8bit"`` and ``"4bit"`` quantise the language model's layers, the rest is as with auto.
            offline: never ask the hub.
            decodes: False loads word embeddings in place of the language model, which another engine runs.

        Raises:
            ModelError: if it is missing, damaged, or of an unknown form.
            LlavaRadError: if there is no such device or type, or another engine cannot run the language model.
        """
        target, bits = choose_device(device), BITS.get(dtype)
        kind = choose_dtype("auto" if bits else dtype, target)
        folder = open_checkpoint(source, revision=revision, offline=offline)
        config = load_checked(folder)
        size = config.preprocessing.size
        vision = load_vision(folder / ENCODER, size=size, device=target, dtype=kind, features=config.features)
        projector = Projector.load(folder / PROJECTOR).to(device=target, dtype=kind)
        language_model = folder / LANGUAGE_MODEL
        words: Llama | WordEmbeddings
        if not decodes:
            words = WordEmbeddings.load(language_model, device=target, dtype=kind)
        elif (language_model / "adapter_config.json").is_file():
            words = _merge_adapter(language_model, target, kind, bits, offline=offline)
        else:
            words = Llama.load(language_model, device=target, dtype=kind, bits=bits)
        tokens = Tokens.load(language_model, config.tokens)
        known = Familiarity.load(folder / FAMILIARITY, vision.width, target)
        findings = Findings.load(folder / FINDINGS, vision.width, target)
        digest = sha256_of(folder / "config.json")
        return cls(
            config, vision, projector, words, tokens, familiarity=known, findings=findings, sha256=digest,
            revision=revision,
        )  # fmt: skip

    @torch.inference_mode()
    def encode_images(self, images: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Compute the patch features [B, N, D] of images [B, S, S] uint8, prepared by the recipe."""
        return self.vision(self.recipe.normalise(images).to(self.device)).patches

    def unfamiliar(self, patches: torch.Tensor) -> list[bool]:
        """Tell which images, given their patch features [B, N, D], are unlike the training images.

        All are familiar if the checkpoint does not describe its training images.
        """
        return [False] * len(patches) if self.familiarity is None else self.familiarity.unfamiliar(patches)

    def unsure(self, patches: torch.Tensor) -> list[tuple[str, ...]]:
        """Name the findings of each image, given its patch features [B, N, D], that cannot be judged.

        Raises:
            LlavaRadError: if the checkpoint has no probabilities of findings.
        """
        if self.findings is None:
            raise LlavaRadError(
                "this checkpoint has no probabilities of findings, so none is left out as uncertain",
                hint="use --unsure written, or a checkpoint with findings.safetensors",
            )
        return self.findings.unsure(Familiarity.describe(patches).to(self.findings.weight))

    @torch.inference_mode()
    def embed(self, patches: torch.Tensor, prompts: Sequence[Prompt]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embed prompts with their images in place, padded on the left.

        Args:
            patches: [I, N, D], as ``encode_images`` returns them: the images of the first prompt, then those of the
                second and so on.
            prompts: B prompts.

        Returns:
            inputs_embeds [B, L, D] and a bool mask [B, L], or None for the mask if nothing is padded.
        """
        kinds, further = [kind for prompt in prompts for kind in prompt.study.kinds], self.config.further_images
        projected = project_images(self.projector, patches, kinds, further.pool if further else 1)
        chunks = {prompt: prompt.pieces(self.tokens.tokenizer, self.tokens.ids.bos) for prompt in set(prompts)}
        table = self.words.embedding
        pairs = [chunks[prompt] for prompt in prompts]
        embeds, mask = join(projected, pairs, lambda ids: torch.nn.functional.embedding(ids, table))
        return embeds, None if bool(mask.all()) else mask.bool()

    def length(self, prompt: Prompt) -> int:
        """Return the number of tokens of a prompt, features of its images included."""
        further = self.config.further_images
        pooled = pooled_tokens(self.config.image_tokens, further.pool) if further else self.config.image_tokens
        images = sum(pooled if kind else self.config.image_tokens for kind in prompt.study.kinds)
        return images + sum(map(len, prompt.pieces(self.tokens.tokenizer, self.tokens.ids.bos)))

    def decoder(self, slots: int, length: int) -> CompiledDecoder:
        """Return the greedy decoder with compiled steps, which is compiled when it first runs.

        It is made anew only for more reports at a time or longer ones than before.

        Args:
            slots: reports at a time.
            length: longest prompt and answer together.
        """
        if self._decoder is not None:
            if self._decoder.fits(slots, length):
                return self._decoder
            slots, length = max(slots, self._decoder.slots), max(length, self._decoder.length)
            self._decoder.release()
        self._decoder = CompiledDecoder(self.llama, self.tokens.suppressed, slots, length)
        return self._decoder

    @contextmanager
    def slots_in_use(self) -> Iterator[None]:
        """Hold the compiled decoder, whose one cache two threads would overwrite; others wait.

        Raises:
            LlavaRadError: if this thread itself holds it, by a stream that it has not read to the end.
        """
        if self._decoding_thread == threading.get_ident():
            raise LlavaRadError("another report of this thread is half written", hint="read its stream to the end")
        with self._decoding:
            self._decoding_thread = threading.get_ident()
            try:
                yield
            finally:
                self._decoding_thread = 0

    def language_model(self) -> PreTrainedModel:
        """Make transformers' ``LlamaForCausalLM`` on the same weights, for beam search."""
        from transformers import LlamaConfig, LlamaForCausalLM

        described = architecture_of(self.llama.config, LlamaConfig, "the language model")
        config = LlamaConfig(**{key: value for key, value in described.items() if "dtype" not in key})
        with torch.device("meta"), refused_packages():
            model = LlamaForCausalLM(config)
        model.load_state_dict(self.llama.tensors(), assign=True)
        model.model.rotary_emb = type(model.model.rotary_emb)(config).to(self.device)
        model.generation_config = greedy(self.tokens.ids)
        return model.eval()


def choose_device(name: str) -> torch.device:
    """Return the device of a name, ``"auto"`` or a torch device.

    Raises:
        LlavaRadError: if there is no such device.
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
    """Return the floating-point type of a name or of ``"auto"``.

    Raises:
        LlavaRadError: if there is no such type.
    """
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise LlavaRadError(f"there is no type {name!r}", hint=f"choose one of auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def _merge_adapter(folder: Path, device: torch.device, dtype: torch.dtype, bits: int | None, *, offline: bool) -> Llama:
    """Merge a LoRA adapter into its base, in float32 for accuracy."""
    merged = load_language_model(folder, dtype=torch.float32, offline=offline).merge_and_unload()
    return Llama(merged.config.to_dict(), merged.state_dict(), device=device, dtype=dtype, bits=bits)
