"""What a run will cost, worked out from its configuration: parameters, FLOPs, memory of each process, space on disk.

FLOPs are those of matrix products, 2 for each multiplication with addition. Memory is what training holds on to:
weights, gradients and optimiser state, what the backward pass needs of the forward pass, and one chunk of scores on the
prototypes; kernels' workspaces and fragmentation come on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from encoder.pretraining.config import HeadConfig, ModelConfig, PretrainingConfig

_GLOBAL_CROPS = 2
_CHUNK = 1 << 27
"""Scores held at a time on a GPU (``losses.py``)."""
_CHUNK_BYTES = 14
"""For each of them: student's and teacher's scores, probabilities in float32, and their slope in bfloat16."""


@dataclass(frozen=True)
class Estimate:
    """Costs of a run on ``processes`` processes.

    Attributes:
        backbone: parameters of the backbone.
        heads: parameters of the head, or of both heads.
        images: of each batch of each process.
        tera_flops: for each image of a step, in units of 1e12, with all residual branches (3.33 for the paper's run).
        tera_flops_run: the same without the branches that drop path leaves out: what is really computed.
        weights: bytes of each process for weights of student and teacher, gradients and AdamW's moments.
        activations: bytes of each process for what the backward pass needs.
        scores: bytes of each process for one chunk of scores and the prototypes' gradients.
        checkpoint: bytes of each checkpoint on disk.
    """

    backbone: int
    heads: int
    images: int
    tera_flops: float
    tera_flops_run: float
    weights: int
    activations: int
    scores: int
    checkpoint: int

    @property
    def memory(self) -> int:
        """Bytes of each process, together."""
        return self.weights + self.activations + self.scores


def backbone_parameters(model: ModelConfig) -> int:
    """Parameters of the vision transformer: 86,580,480 for ViT-B/14 at 518 px."""
    width = model.hidden_size
    patches = (model.image_size // model.patch_size) ** 2
    qkv_bias = 3 * width if model.qkv_bias else 0
    attention = 4 * width * width + width + qkv_bias
    hidden = _hidden(model)
    inner = 2 if model.use_swiglu_ffn else 1  # hidden layers side by side
    mlp = (inner + 1) * width * hidden + inner * hidden + width
    block = attention + mlp + 2 * 2 * width + 2 * width  # two LayerNorms, two LayerScales
    embedding = (3 * model.patch_size**2 + 1) * width + (1 + patches) * width + 2 * width  # positions, CLS, mask token
    return embedding + model.num_hidden_layers * block + 2 * width


def head_parameters(width: int, head: HeadConfig) -> int:
    """Parameters of one head, prototypes with their lengths included."""
    sizes = _head_sizes(width, head)
    mlp = sum((a + 1) * b for a, b in pairwise(sizes))
    return mlp + head.prototypes * (head.bottleneck + 1)


def estimate(config: PretrainingConfig, processes: int = 1) -> Estimate:
    """The costs of a run."""
    model, run = config.model, config.optimization
    images = max(1, run.batch_size // (run.accumulation * processes))
    separate = 2 if config.head.separate and config.loss.ibot else 1
    backbone = backbone_parameters(model)
    heads = separate * head_parameters(model.hidden_size, config.head)
    kept = 1 - run.drop_path
    teacher, student = _GLOBAL_CROPS * _crop_flops(config, config.crops.global_size), _student_flops(config)
    head = _head_flops(config)
    shards = processes if config.engine.sharding == "fsdp" else 1
    # student, teacher, gradient and two moments in float32; besides, the student's weights as autocast casts them
    parameters = backbone + heads
    weights = 20 * parameters // shards + (2 * parameters if config.engine.precision == "bf16" else 0)
    return Estimate(
        backbone=backbone,
        heads=heads,
        images=images,
        tera_flops=(teacher + 3 * student + head) / 1e12,
        tera_flops_run=(teacher + 3 * student * kept + head) / 1e12,
        weights=weights,
        activations=images * _activations(config),
        scores=_scores(config, images),
        checkpoint=16 * parameters,
    )


def masked_patches(config: PretrainingConfig) -> float:
    """Masked patches of an image's two global crops together, on average: 411 at 518 px."""
    if config.loss.ibot == 0:
        return 0.0
    patches = (config.crops.global_size // config.model.patch_size) ** 2
    return _GLOBAL_CROPS * config.masking.probability * sum(config.masking.ratio) / 2 * patches


def _hidden(model: ModelConfig) -> int:
    hidden = model.hidden_size * model.mlp_ratio
    return (int(hidden * 2 / 3) + 7) // 8 * 8 if model.use_swiglu_ffn else hidden


def _head_sizes(width: int, head: HeadConfig) -> list[int]:
    return [width, *[head.hidden_size] * (head.layers - 1), head.bottleneck]


def _crop_flops(config: PretrainingConfig, side: int) -> float:
    """One crop's way through the transformer, forward."""
    model = config.model
    width, patches = model.hidden_size, (side // model.patch_size) ** 2
    tokens = 1 + patches
    matrices = 4 * width * width + (3 if model.use_swiglu_ffn else 2) * width * _hidden(model)
    block = 2 * tokens * matrices + 4 * tokens * tokens * width
    return model.num_hidden_layers * block + 2 * patches * 3 * model.patch_size**2 * width


def _student_flops(config: PretrainingConfig) -> float:
    crops = config.crops
    local = crops.local_crops * _crop_flops(config, crops.local_size) if crops.local_crops else 0.0
    return _GLOBAL_CROPS * _crop_flops(config, crops.global_size) + local


def _head_flops(config: PretrainingConfig) -> float:
    """Both heads' MLPs and scores, forward and for the student backward."""
    sizes = _head_sizes(config.model.hidden_size, config.head)
    vector = 2 * sum(a * b for a, b in pairwise(sizes))
    vector += 2 * config.head.bottleneck * config.head.prototypes
    masked = masked_patches(config)
    return vector * (3 * (_GLOBAL_CROPS + config.crops.local_crops + masked) + _GLOBAL_CROPS + masked)


def _activations(config: PretrainingConfig) -> int:
    """Bytes that the backward pass needs of one image.

    Each kept token of each block leaves: input of LayerNorm in float32 (twice), and q, k, v, the attention's output by
    crop and packed, and the inner values of the MLP, in the type of the products. (The attention's output
    once on CPUs.)
    """
    model, crops = config.model, config.crops
    width, hidden = model.hidden_size, _hidden(model)
    size = 2 if config.engine.precision == "bf16" else 4
    tokens = _GLOBAL_CROPS * (1 + (crops.global_size // model.patch_size) ** 2)
    if crops.local_crops:
        tokens += crops.local_crops * (1 + (crops.local_size // model.patch_size) ** 2)
    inner = 4 * hidden if model.use_swiglu_ffn else hidden
    kept = 1 - config.optimization.drop_path
    block = 2 * 4 * width + size * ((3 + 2) * width + inner)
    if config.engine.activation_checkpointing:
        blocks = model.num_hidden_layers * 4.0 * width + kept * block  # inputs of all, and one block recomputed
    else:
        blocks = model.num_hidden_layers * kept * block
    blocks += size * model.patch_size**2  # grey pixels, for the patch embedding
    vectors = _GLOBAL_CROPS + crops.local_crops + masked_patches(config)
    head = size * (width + 2 * sum(_head_sizes(width, config.head)[1:-1])) + 4 * config.head.bottleneck
    return int(tokens * blocks + vectors * head)


def _scores(config: PretrainingConfig, images: int) -> int:
    """Bytes of the largest chunk of scores, and of the prototypes with their gradients."""
    head, crops = config.head, _GLOBAL_CROPS + config.crops.local_crops
    rows = max(images * crops, int(images * masked_patches(config)))
    held = max(min(_CHUNK, rows * head.prototypes), crops * head.prototypes)
    return held * _CHUNK_BYTES + 3 * 4 * head.prototypes * head.bottleneck
