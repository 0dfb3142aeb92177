"""Small files in the formats in which the paper's other encoders are published: real key names, scaled-down shapes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.encoder.dinov2_models import random_


def clip_model(size: int = 28, patch: int = 14, width: int = 64, seed: int = 0) -> Any:
    """A random ``CLIPModel`` with a small text tower."""
    from transformers import CLIPConfig, CLIPModel

    vision = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": size,
        "patch_size": patch,
    }
    text = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    torch.manual_seed(seed)
    return random_(CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=16)), seed)


def clip_folder(folder: Path, *, pickled: bool = False, **sizes: int) -> Path:
    """A folder as ``openai/clip-vit-large-patch14`` (with the index of positions that its files hold) or ``-336``."""
    clip_model(**sizes).save_pretrained(folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tokens = len(tensors["vision_model.embeddings.position_embedding.weight"])
    tensors["vision_model.embeddings.position_ids"] = torch.arange(tokens)[None]
    if pickled:
        torch.save(tensors, folder / "pytorch_model.bin")
        path.unlink()
    else:
        save_file(tensors, path, metadata={"format": "pt"})
    return folder


def openai_model(size: int = 64, patch: int = 32, width: int = 128) -> Any:
    """A random CLIP in OpenAI's names, by open_clip."""
    import open_clip

    vision = open_clip.model.CLIPVisionCfg(
        layers=2, width=width, head_width=64, mlp_ratio=4.0, patch_size=patch, image_size=size
    )
    text = open_clip.model.CLIPTextCfg(context_length=8, vocab_size=64, width=64, heads=1, layers=1)
    torch.manual_seed(0)
    return random_(open_clip.model.CLIP(16, vision, text, quick_gelu=True))


def chexzero_file(path: Path, **sizes: int) -> Path:
    """A state dict as CheXzero's ``best_64_….pt``."""
    torch.save(openai_model(**sizes).state_dict(), path)
    return path


def vit(width: int = 128, size: int = 48, pool: str = "token") -> Any:
    """A random ViT as timm builds it, two layers, patches of 16."""
    import timm

    torch.manual_seed(0)
    return random_(
        timm.create_model(
            "vit_base_patch16_224",
            num_classes=0,
            global_pool=pool,
            fc_norm=False,
            embed_dim=width,
            depth=2,
            num_heads=width // 64,
            img_size=size,
        )
    )


OPEN_CLIP_CONFIG = {
    "model_cfg": {
        "embed_dim": 512,
        "vision_cfg": {
            "timm_model_name": "vit_base_patch16_224",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 224,
        },
        "text_cfg": {"hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract", "context_length": 256},
    },
    "preprocess_cfg": {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]},
}


def biomedclip_folder(folder: Path, *, pickled: bool = True, **sizes: Any) -> Path:
    """A folder as BiomedCLIP's repository: open_clip's config, tensors of trunk, head and text tower."""
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps(OPEN_CLIP_CONFIG))
    network = vit(**sizes)
    tensors = {f"visual.trunk.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {
        "logit_scale": torch.tensor(4.0),
        "visual.head.proj.weight": torch.zeros(16, network.embed_dim),
        "text.transformer.embeddings.position_ids": torch.arange(8)[None],
        "text.transformer.embeddings.word_embeddings.weight": torch.zeros(10, 8),
        "text.proj.0.weight": torch.zeros(8, 8),
        "text.proj.2.weight": torch.zeros(16, 8),
    }
    if pickled:
        torch.save(tensors, folder / "open_clip_pytorch_model.bin")
    else:
        save_file(tensors, folder / "open_clip_model.safetensors")
    return folder


def mrm_file(path: Path, **sizes: Any) -> Path:
    """A checkpoint as ``MRM.pth``: MAE's names, both decoders, and what ``save_model`` of its util/misc.py adds."""
    network = vit(pool="avg", **sizes)
    width = network.embed_dim
    tensors = dict(network.state_dict())
    tensors |= {
        "mask_token": torch.zeros(1, 1, width),
        "decoder_pos_embed": torch.zeros_like(tensors["pos_embed"]),
        "decoder_embed.weight": torch.zeros(width, width),
        "decoder_embed.bias": torch.zeros(width),
        "decoder_blocks.0.norm1.weight": torch.ones(width),
        "decoder_norm.weight": torch.ones(width),
        "decoder_pred.weight": torch.zeros(3, width),
        "bert_encoder.model.bert.embeddings.word_embeddings.weight": torch.zeros(5, 8),
        "bert_mlp.weight": torch.zeros(8, width),
        "bert_mlp.bias": torch.zeros(8),
    }
    torch.save(
        {"model": tensors, "epoch": 199, "scaler": {"scale": 65536.0}, "args": argparse.Namespace(lr=1.5e-4)}, path
    )
    return path


def biovil_t_network(join: int = 8) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """A random ResNet of Bottlenecks with one block a stage, the 1 x 1 convolution and the vector for no prior."""
    from torchvision.models.resnet import Bottleneck, ResNet

    torch.manual_seed(0)
    resnet = random_(ResNet(Bottleneck, [1, 1, 1, 1]))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, buffer in resnet.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(torch.randn(buffer.shape, generator=generator) * 0.1)
            elif name.endswith("running_var"):
                buffer.mul_(torch.rand(buffer.shape, generator=generator) + 0.5)
    weight = torch.randn(join, 2048, 1, 1, generator=generator) * 0.05
    return resnet, weight, torch.randn(1, join, 1, 1, generator=generator)


def biovil_t_file(path: Path, join: int = 8) -> Path:
    """A state dict as ``biovil_t_image_model_proj_size_128.pt``."""
    resnet, weight, missing = biovil_t_network(join)
    tensors = {f"encoder.encoder.{name}": tensor for name, tensor in resnet.state_dict().items()}
    tensors |= {
        "encoder.backbone_to_vit.weight": weight,
        "encoder.missing_previous_emb": missing,
        "encoder.vit_pooler.type_embed": torch.zeros(2, 1, join),
        "encoder.vit_pooler.blocks.0.attn.proj_q.weight": torch.zeros(join, join),
        "encoder.vit_pooler.norm_post.weight": torch.ones(join),
        "projector.model.0.weight": torch.zeros(4, 2 * join, 1, 1),
        "projector.model.1.running_mean": torch.zeros(4),
        "projector.model.1.num_batches_tracked": torch.tensor(3),
        "projector.model.3.bias": torch.zeros(4),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, path)
    return path


def change_pickle(path: Path, change: Any) -> None:
    """Alter the tensors of a pickled file."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        found = torch.load(path, weights_only=True)
    change(found.get("model", found))
    torch.save(found, path)
