"""The demonstration model in training: settings, modules, greedy generation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from llava_rad.model.llava_rad import join
from llava_rad.model.projector import Projector
from llava_rad.model.prompt import Prompt
from llava_rad.model.tokenizer import Tokens
from scripts.demo.nih import LABELS

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of the training of the demonstration model.

    Attributes:
        width: hidden size of the language model.
        layers: its number of decoder layers.
        heads: its attention heads.
        inner: width of its MLPs.
        text_steps: steps of the language model alone, without images.
        label_epochs: passes with the projector alone, under a multi-label loss on the mean of its tokens. Cheap, and
            its tokens then already separate findings when the language model starts.
        epochs: passes over the training images, each in another view with other wording.
        batch_size: images per step.
        learning_rate: peak, after a linear warm-up over a twentieth of the steps; then cosine to a fiftieth.
        weight_decay: of matrices; none on norms and biases.
        patch_share: share of the patches that most training steps see, drawn at random: quicker, and less to memorise.
        whole_share: share of the training steps that see all patches, as generation does.
        dropout: of projected patch features in training.
        most_weight: largest weight of the words that affirm a label, see ``training.label_weights``.
        average: decay per step of the running average of the weights, which is scored and kept.
        auxiliary: weight of the multi-label losses on the mean of the projected tokens and at the last token of the
            prompt (their layers are not kept).
        evaluate_every: epochs between scores on the held-out images.
        patience: scores without a new best before training stops.
        seed: of all random choices.
    """

    width: int = 192
    layers: int = 3
    heads: int = 3
    inner: int = 512
    text_steps: int = 400
    label_epochs: int = 20
    epochs: int = 14
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    patch_share: float = 0.2
    whole_share: float = 0.3
    dropout: float = 0.1
    most_weight: float = 10.0
    average: float = 0.98
    auxiliary: float = 0.5
    evaluate_every: int = 2
    patience: int = 6
    seed: int = 0

    def tiny(self) -> TrainingConfig:
        """Settings for a run of seconds that tests the path."""
        small = replace(self, width=32, layers=2, heads=2, inner=64, text_steps=3)
        return replace(small, label_epochs=1, epochs=2, evaluate_every=1)


@dataclass
class Model:
    """The trained modules, and two auxiliary layers that are dropped after training."""

    projector: Projector
    language_model: LlamaForCausalLM
    tokens: Tokens
    prompt: Prompt
    of_tokens: nn.Linear
    of_prompt: nn.Linear

    @classmethod
    def create(cls, config: TrainingConfig, feature_width: int, tokens: Tokens, patches: int) -> Model:
        """Random weights from the seed."""
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(config.seed)
        language_model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=tokens.tokenizer.get_vocab_size(), hidden_size=config.width,
                num_hidden_layers=config.layers, num_attention_heads=config.heads, intermediate_size=config.inner,
                max_position_embeddings=2 * patches + 512, bos_token_id=tokens.ids.bos, eos_token_id=tokens.ids.eos,
                pad_token_id=None, attn_implementation="sdpa",
            )
        )  # fmt: skip
        projector = Projector(feature_width, config.width)
        of_tokens, of_prompt = (nn.Linear(config.width, len(LABELS)) for _ in range(2))
        return cls(projector, language_model, tokens, Prompt(), of_tokens, of_prompt)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """All modules with parameters."""
        return self.projector, self.language_model, self.of_tokens, self.of_prompt

    def parameters(self) -> list[nn.Parameter]:
        """The parameters of all parts."""
        return [parameter for module in self.modules for parameter in module.parameters()]

    def exchange(self, weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Set other weights and return a copy of the previous ones."""
        before = [parameter.detach().clone() for parameter in self.parameters()]
        with torch.no_grad():
            for parameter, weight in zip(self.parameters(), weights, strict=True):
                parameter.copy_(weight)
        return before

    def train(self, mode: bool) -> None:
        """Set training or evaluation mode of all parts."""
        for module in self.modules:
            module.train(mode)

    def state(self) -> list[dict[str, torch.Tensor]]:
        """Copy all weights."""
        return [copy.deepcopy(module.state_dict()) for module in self.modules]

    def restore(self, state: list[dict[str, torch.Tensor]]) -> None:
        """Load a copy of the weights."""
        for module, weights in zip(self.modules, state, strict=True):
            module.load_state_dict(weights)

    @torch.inference_mode()
    def generate(self, features: torch.Tensor, batch_size: int = 64) -> list[str]:
        """Greedy reports for patch features [N, patches, width]."""
        self.train(False)
        table = self.language_model.get_input_embeddings()
        chunks = self.prompt.encode(self.tokens.tokenizer, self.tokens.ids.bos)
        reports = []
        for part in torch.split(features, batch_size):
            embeds, mask = join(list(self.projector(part.float())), [chunks] * len(part), table)
            ids = self.language_model.generate(
                inputs_embeds=embeds, attention_mask=mask, do_sample=False, max_new_tokens=150,
                pad_token_id=self.tokens.ids.pad,
            )  # fmt: skip
            reports += [self.tokens.decode(row) for row in ids.tolist()]
        return reports
