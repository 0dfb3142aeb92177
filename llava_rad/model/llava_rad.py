"""LlavaRad: a composition of an image encoder, a projector and a language model, each loadable on its own.

This form serves training and adapters; ``llava_rad.generation.engine`` runs the same directory faster.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from encoder.backbones.base import FrozenEncoder, first_line, image_tokens, refuse_incomplete
from encoder.backbones.loading import check_features, load_stored
from encoder.backbones.weight_files import CONFIG, architecture_of, read_json
from encoder.errors import ModelError
from encoder.hub import fetch, refused_packages
from encoder.runs.distributed import choose_deepspeed_device
from llava_rad.model.adapter_config import ADAPTER, read_adapter, with_module_names
from llava_rad.model.checkpoint import (
    ENCODER,
    FAMILIARITY,
    FINDINGS,
    LANGUAGE_MODEL,
    PROJECTOR,
    load_checked,
    locate,
    writing,
)
from llava_rad.model.config import LlavaRadConfig, TokenIds, check_language_model, token_ids
from llava_rad.model.familiarity import Familiarity
from llava_rad.model.findings import Findings
from llava_rad.model.projector import Projector, project_images
from llava_rad.model.tokenizer import Tokens

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel


class LlavaRad(nn.Module):
    """A frozen encoder, a projector and a causal language model that reads ``inputs_embeds``.

    Args:
        encoder: frozen image encoder.
        projector: map from the encoder's width to the language model's.
        language_model: ``LlamaForCausalLM``, or a PEFT model around one.
        tokens: tokenizer with its special ids.
        config: recipe, prompt and defaults.
        familiarity: description of the training images; None if unknown.
        findings: probabilities of findings; None if unknown.

    Raises:
        ModelError: if the parts do not fit together.
    """

    def __init__(
        self,
        encoder: FrozenEncoder,
        projector: Projector,
        language_model: PreTrainedModel,
        tokens: Tokens,
        config: LlavaRadConfig,
        familiarity: Familiarity | None = None,
        findings: Findings | None = None,
    ) -> None:
        super().__init__()
        check_features(encoder.features, config.features)
        tokens_of_image = image_tokens(encoder, config.preprocessing.size)
        width = language_model.get_input_embeddings().embedding_dim
        if tokens_of_image != config.image_tokens:
            raise ModelError(
                f"recipe {config.preprocessing.name} ({config.preprocessing.size} px) with patches of "
                f"{encoder.patch_size} px gives {tokens_of_image} image tokens, not {config.image_tokens}"
            )
        if (projector.in_features, projector.out_features) != (encoder.width, width):
            raise ModelError(
                f"the projector maps {projector.in_features} to {projector.out_features} features, "
                f"but the encoder gives {encoder.width} and the language model takes {width}"
            )
        self.encoder = encoder
        self.projector = projector
        self.language_model = language_model
        self.tokens = tokens
        self.config = config
        self.familiarity = familiarity
        self.findings = findings

    def embed(
        self,
        pixel_values: torch.Tensor,
        prompts: Sequence[Sequence[Sequence[int]]],
        kinds: Sequence[int] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed prompts with their images in place, padded on the left.

        Args:
            pixel_values: [I, 3, S, S], normalised by the recipe; I is B if each prompt has one image.
            prompts: for each of B prompts the token ids before, between and after its images (``Prompt.pieces``),
                the last followed by the answer if there is one.
            kinds: kind of each image, see ``Study.kinds``; None: all are frontal.

        Returns:
            inputs_embeds [B, L, D] and attention_mask [B, L] (int64; 0 on padding).
        """
        further = self.config.further_images
        patches = self.encoder(pixel_values).patches
        images = project_images(self.projector, patches, kinds or [0] * len(patches), further.pool if further else 1)
        table = self.language_model.get_input_embeddings()
        return join(images, prompts, lambda ids: table(ids))

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        revision: str | None = None,
        offline: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> LlavaRad:
        """Load a checkpoint directory (None: the embedded default); every file's SHA-256 is checked first.

        Raises:
            ModelError: if it is missing, damaged, of another format, or has a tensor too few or too many.
        """
        folder = locate(source, revision=revision, offline=offline)
        config = load_checked(folder)
        encoder = load_stored(folder / ENCODER).to(dtype)
        projector = Projector.load(folder / PROJECTOR)
        language_model = load_language_model(folder / LANGUAGE_MODEL, dtype=dtype, offline=offline)
        tokens = Tokens.load(folder / LANGUAGE_MODEL, config.tokens)
        known = Familiarity.load(folder / FAMILIARITY, encoder.width)
        findings = Findings.load(folder / FINDINGS, encoder.width)
        return cls(encoder, projector.to(dtype), language_model, tokens, config, known, findings).eval()

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        force: bool = False,
        card: str | None = None,
        encoder_dtype: torch.dtype | None = None,
    ) -> None:
        """Write a checkpoint directory in one step (temporary folder, then rename).

        Args:
            folder: target; must be empty or absent unless ``force``.
            force: replace an existing folder.
            card: text of ``README.md``, the model card.
            encoder_dtype: type in which the encoder is stored (float16 halves its size); None keeps its own.
        """
        from safetensors.torch import save_file

        choose_deepspeed_device()
        with writing(Path(folder), self.config, force=force) as temporary:
            encoder = self.encoder
            if encoder_dtype is not None and encoder_dtype != encoder.dtype:
                own = encoder.dtype
                encoder.to(encoder_dtype).save_pretrained(temporary / ENCODER)
                encoder.to(own)
            else:
                encoder.save_pretrained(temporary / ENCODER)
            state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.projector.state_dict().items()}
            save_file(state, temporary / PROJECTOR)
            self.language_model.generation_config = greedy(self.config.tokens)
            self.language_model.save_pretrained(temporary / LANGUAGE_MODEL)
            for leftover in (temporary / LANGUAGE_MODEL).glob("README.md"):
                leftover.unlink()
            self.tokens.save(temporary / LANGUAGE_MODEL)
            if self.familiarity is not None:
                self.familiarity.save(temporary / FAMILIARITY)
            if self.findings is not None:
                self.findings.save(temporary / FINDINGS)
            if card is not None:
                (temporary / "README.md").write_text(card, encoding="utf-8")


def join(
    images: Sequence[torch.Tensor],
    prompts: Sequence[Sequence[Sequence[int]]],
    look_up: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Put projected images between the embeddings of their prompts' ids, padded with zeros on the left.

    Args:
        images: I of [N, D], those of the first prompt, then those of the second and so on.
        prompts: for each of B prompts the ids before, between and after its images.
        look_up: function from ids to embeddings.

    Returns:
        inputs_embeds [B, L, D] and attention_mask [B, L] (int64).

    Raises:
        ValueError: if the number of images is not that of the prompts.
    """
    device = images[0].device
    if sum(len(pieces) - 1 for pieces in prompts) != len(images):
        raise ValueError(f"{len(images)} images for prompts with another number of places")
    rows, left = [], iter(images)
    for pieces in prompts:
        words = look_up(torch.tensor([token for piece in pieces for token in piece], device=device))
        first, *others = words.split([len(piece) for piece in pieces])
        parts = [first]
        for part in others:
            parts += [next(left).to(words.dtype), part]
        rows.append(torch.cat(parts))
    longest = max(len(row) for row in rows)
    embeds = rows[0].new_zeros(len(rows), longest, rows[0].shape[-1])
    mask = torch.zeros(len(rows), longest, dtype=torch.long, device=device)
    for index, row in enumerate(rows):
        embeds[index, longest - len(row) :] = row
        mask[index, longest - len(row) :] = 1
    return embeds, mask


def load_language_model(folder: Path, *, dtype: torch.dtype | str, offline: bool = False) -> PreTrainedModel:
    """Load a ``LlamaForCausalLM`` folder, or a PEFT adapter folder that names its base.

    Raises:
        ModelError: if it is missing, not safetensors, not a Llama, or has missing or unexpected tensors.
    """
    if (folder / ADAPTER).is_file():
        return _load_adapter(folder, dtype=dtype, offline=offline)
    return load_llama(folder, f"the language model {folder.name}", dtype=dtype)


def load_llama(folder: Path, what: str, *, dtype: torch.dtype | str, use_safetensors: bool = True) -> PreTrainedModel:
    """Load a Llama folder, refuse missing and unexpected tensors, and replace its generation config by greedy decoding.

    Args:
        folder: folder of the model.
        what: name of the model in error messages.
        dtype: type of the weights, or ``"auto"``.
        use_safetensors: refuse .bin files.

    Raises:
        ModelError: if it cannot be loaded.
    """
    published = read_json(folder / CONFIG, what)
    if published.get("model_type") != "llama":
        raise ModelError(f"{what} is a {published.get('model_type')!r} model, not 'llama'")
    check_language_model(published, what)
    if (folder / ADAPTER).exists():  # transformers would fetch and load it
        raise ModelError(f"{what} is an adapter itself, not a whole model")
    ids = token_ids(published, what)
    from transformers import LlamaConfig, LlamaForCausalLM

    try:
        config = LlamaConfig(**architecture_of(published, LlamaConfig, what))
        # None lets transformers take .bin shards as well, which it reads with weights_only=True
        with refused_packages():
            model, report = LlamaForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                use_safetensors=True if use_safetensors else None,
                attn_implementation="sdpa",
                output_loading_info=True,
            )
    except Exception as error:  # transformers, safetensors and torch each raise types of their own for damaged files
        cut = isinstance(error, EOFError) or (isinstance(error, OSError) and error.errno == errno.EINVAL)
        reason = "a file of its weights is cut short" if cut else first_line(error)
        raise ModelError(f"{what} could not be loaded: {reason}") from error
    refuse_incomplete(report, what)
    # Vicuna's own file has temperature and top_p without do_sample, which makes save_pretrained raise
    model.generation_config = greedy(ids)
    return model


def greedy(ids: TokenIds) -> GenerationConfig:
    """Make transformers' generation config of plain greedy decoding."""
    from transformers import GenerationConfig

    return GenerationConfig(bos_token_id=ids.bos, eos_token_id=ids.eos, pad_token_id=ids.pad, do_sample=False)


def adapter_base(folder: Path, *, offline: bool = False) -> tuple[str, Path]:
    """Return name and folder of the base model that a PEFT adapter folder names.

    Raises:
        ModelError: if the adapter's configuration cannot be read or names no base, or the base cannot be found.
    """
    adapter = read_json(folder / ADAPTER, "the adapter")
    name, revision = adapter.get("base_model_name_or_path"), adapter.get("revision")
    if not isinstance(name, str) or not name or not isinstance(revision, str | None):
        raise ModelError("adapter_config.json does not name its base model")
    patterns = ("*.json", "*.safetensors", "tokenizer.model")
    return name, fetch(name, revision=revision, offline=offline, patterns=patterns)


def _load_adapter(folder: Path, *, dtype: torch.dtype | str, offline: bool) -> PreTrainedModel:
    from safetensors.torch import load_file

    settings = read_adapter(folder)
    with refused_packages():
        from peft import LoraConfig, PeftModel, get_peft_model_state_dict

    name, place = adapter_base(folder, offline=offline)
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError("the adapter has no adapter_model.safetensors")
    tensors = load_file(folder / "adapter_model.safetensors")
    largest = max((side for tensor in tensors.values() for side in tensor.shape), default=0)
    base = load_llama(place, f"the base model {name}", dtype=dtype)
    settings = with_module_names(settings, [name for name, _ in base.named_modules()], largest)
    try:
        with refused_packages():
            model = PeftModel.from_pretrained(base, str(folder), config=LoraConfig(**settings))
    except (ValueError, TypeError, KeyError, OSError, RuntimeError) as error:
        raise ModelError(f"the adapter could not be loaded: {first_line(error)}") from error
    stored = set(tensors)
    expected = set(get_peft_model_state_dict(model))
    if stored != expected:
        odd = sorted(stored ^ expected)
        raise ModelError(f"the adapter's tensors do not fit its configuration: {len(odd)} differ, first {odd[0]}")
    return model
