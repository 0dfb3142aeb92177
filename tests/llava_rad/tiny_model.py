"""A checkpoint with random weights, made by the project's own classes: small enough to load in no time."""

from __future__ import annotations

from pathlib import Path

from encoder.preprocessing import Recipe

RECIPE = Recipe("test-56", 1, 56, "resize-then-minmax", 0.5, 0.25, "tests")
SENTENCES = (
    "The heart is enlarged. There is a large left pleural effusion. No pneumothorax is seen. The lungs are clear.",
    "Multiple rounded opacities are present in both lungs. The mediastinum is not widened. Bones are intact.",
)
MAX_NEW_TOKENS = 24


def make(folder: Path, *, seed: int = 0, demonstration: bool = True) -> Path:
    """Write a checkpoint folder whose reports depend on the image.

    Args:
        folder: must not exist yet.
        seed: of the weights.
        demonstration: what its config says of itself.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM

    from encoder.backbones.dinov2 import RadDino
    from llava_rad.model.config import GenerationDefaults, LlavaRadConfig
    from llava_rad.model.llava_rad import LlavaRad
    from llava_rad.model.projector import Projector
    from llava_rad.model.tokenizer import Tokens

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    tokenizer.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=200, special_tokens=special))

    torch.manual_seed(seed)
    encoder = RadDino(
        Dinov2Model(
            Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
        )
    )
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=512,
            initializer_range=0.4,  # large, so that the words depend on what stands before them
        )
    )
    config = LlavaRadConfig(
        name="tiny test model",
        demonstration=demonstration,
        image_tokens=16,
        recipe=RECIPE.to_dict(),
        generation=GenerationDefaults(max_new_tokens=MAX_NEW_TOKENS),
    )
    model = LlavaRad(encoder, Projector(24, 32), llama, Tokens(tokenizer, config.tokens), config)
    with torch.no_grad():
        for parameter in model.projector.parameters():
            parameter.mul_(8)
    model.save_pretrained(folder)
    return folder
