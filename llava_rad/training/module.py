"""The trained part as one module: image features and answers in, loss out. Logits only where there is a loss.

The frozen encoder is called from here but is no part of the module: it is in no optimiser, no checkpoint and no
DeepSpeed partition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from encoder.backbones.base import FrozenEncoder
from encoder.preprocessing import Recipe
from llava_rad.model.projector import Projector, project_images
from llava_rad.model.tokenizer import Tokens
from llava_rad.training.data import IGNORED, Prompted
from llava_rad.training.kept_features import as_tensor
from llava_rad.training.studies import IMAGE

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ReportLoss(nn.Module):
    """Projector and language model under teacher forcing.

    Args:
        projector: trained.
        language_model: ``LlamaForCausalLM``, or a PEFT model around one.
        tokens: tokenizer.
        prompt: the ids around the image.
        encoder: frozen.
        recipe: turns pixels into encoder input.
        pool: side of the squares of patches that are averaged in images after the first, see ``projector.pool``.

    Attributes:
        accepts_loss_kwargs: tells transformers' Trainer that the loss is a sum over the whole step's tokens, divided by
            their number.
    """

    accepts_loss_kwargs = True

    def __init__(
        self,
        projector: Projector,
        language_model: PreTrainedModel,
        tokens: Tokens,
        prompt: Prompted,
        encoder: FrozenEncoder,
        recipe: Recipe,
        pool: int = 1,
    ) -> None:
        super().__init__()
        self.pool = pool
        self.projector = projector
        self.language_model = language_model
        self.tokens, self.prompt, self.recipe = tokens, prompt, recipe
        self._outside = (encoder,)  # in a tuple: modules and parameters that are attributes would become this one's

    @property
    def config(self) -> Any:
        """The language model's, from which DeepSpeed takes its sizes."""
        return self.language_model.config

    @property
    def encoder(self) -> FrozenEncoder:
        """The frozen encoder."""
        return self._outside[0]

    @property
    def llama(self) -> Any:
        """The ``LlamaForCausalLM``, whose layers hold the adapters where there are some."""
        model: Any = self.language_model
        return model.get_base_model() if hasattr(model, "peft_config") else model

    def features(self, pixels: torch.Tensor | None, features: torch.Tensor | None) -> torch.Tensor:
        """Patch features [B, N, D] of [B, S, S] uint8 images, or those that were kept."""
        if features is not None:
            return as_tensor(features)
        assert pixels is not None
        patches: torch.Tensor = self.encoder(self.recipe.normalise(pixels)).patches
        return patches

    def embed(self, features: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        """Prompt, image and answer as word embeddings.

        Args:
            features: [B, N, D].
            answers: [B, T] token ids; T may be 0.

        Returns:
            [B, prompt + T, width].
        """
        before = len(self.prompt.before)
        prompt = torch.tensor([*self.prompt.before, *self.prompt.after], device=answers.device)
        # one look-up: DeepSpeed gathers a partitioned table for each
        words = self.language_model.get_input_embeddings()(torch.cat([prompt.expand(len(answers), -1), answers], dim=1))
        images = self.projector(features).to(words.dtype)
        return torch.cat([words[:, :before], images, words[:, before:]], dim=1)

    def embed_studies(self, ids: torch.Tensor, features: torch.Tensor, kinds: Sequence[int]) -> torch.Tensor:
        """Embed rows of ids with the features of their images.

        Args:
            ids: [B, L], ``IMAGE`` at the places of features.
            features: [I, N, D], those of the first row first.
            kinds: kind of each image.

        Returns:
            [B, L, width].
        """
        words: torch.Tensor = self.language_model.get_input_embeddings()(ids.clamp_min(0))
        images = torch.cat(project_images(self.projector, features, kinds, self.pool)).to(words.dtype)
        return words.masked_scatter((ids == IMAGE)[..., None], images)

    def prompts(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed the prompts of a batch without their answers, padded on the left.

        Returns:
            [B, L, width] and the attention mask [B, L] int64.
        """
        features = self.features(batch.get("pixels"), batch.get("features"))
        labels = batch["labels"]
        if "ids" not in batch:
            embeds = self.embed(features, labels[:, :0])
            return embeds, torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        rows = self.embed_studies(batch["ids"], features, batch["kinds"])
        lengths = (labels != IGNORED).int().argmax(1) + 1  # the answer's first token is predicted at the prompt's last
        longest = int(lengths.max())
        embeds = rows.new_zeros(len(rows), longest, rows.shape[-1])
        mask = torch.zeros(embeds.shape[:2], dtype=torch.long, device=rows.device)
        for number, length in enumerate(lengths.tolist()):
            embeds[number, longest - length :], mask[number, longest - length :] = rows[number, :length], 1
        return embeds, mask

    def forward(
        self,
        labels: torch.Tensor,
        pixels: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | float | None = None,
        ids: torch.Tensor | None = None,
        kinds: Sequence[int] = (),
    ) -> dict[str, torch.Tensor]:
        """Cross-entropy of the answers.

        Answers stand at the right end and attention is causal, so that what pads them is seen by no token with a loss:
        no mask is needed.

        Args:
            labels: [B, T] token ids of the answers, end token last, ``IGNORED`` after it. With ``ids`` [B, L]: at each
                position the token that follows, or ``IGNORED``.
            pixels: [I, S, S] uint8, an image for each of B samples unless there are ``ids``; or
            features: [I, N, D].
            num_items_in_batch: tokens that the sum is divided by; None is the number in this batch.
            ids: [B, L] of studies, see ``llava_rad.training.studies``.
            kinds: of the I images of studies.

        Returns:
            ``loss``, a scalar in float32; for studies that are evaluated also ``each`` [B], the sum of each sample.
        """
        if ids is not None:
            embeds = self.embed_studies(ids, self.features(pixels, features), kinds)
            return self._study_loss(embeds, labels, num_items_in_batch)
        answers = labels.masked_fill(labels == IGNORED, self.tokens.ids.pad)[:, :-1]
        embeds = self.embed(self.features(pixels, features), answers)
        model = self.llama
        hidden = model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        wanted = labels != IGNORED
        spoken = hidden[:, -labels.shape[1] :][wanted]  # what stands before a token predicts it
        logits = model.lm_head(spoken).float()
        total = functional.cross_entropy(logits, labels[wanted], reduction="sum")
        return {"loss": total / (wanted.sum() if num_items_in_batch is None else num_items_in_batch)}

    def _study_loss(
        self, embeds: torch.Tensor, labels: torch.Tensor, number: torch.Tensor | float | None
    ) -> dict[str, torch.Tensor]:
        model, wanted = self.llama, labels != IGNORED
        hidden = model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[wanted]).float()
        if self.training:
            total = functional.cross_entropy(logits, labels[wanted], reduction="sum")
            return {"loss": total / (wanted.sum() if number is None else number)}
        losses = functional.cross_entropy(logits, labels[wanted], reduction="none")
        each = losses.new_zeros(len(labels)).index_add(0, wanted.nonzero()[:, 0], losses)
        return {"loss": each.sum() / (wanted.sum() if number is None else number), "each": each}
