"""One step of the method: the student predicts the output of the teacher, its moving average, for other views.

DINO (Caron et al. 2021) on whole crops, iBOT (Zhou et al. 2022) on masked patches, KoLeo on the global crops, together
as in DINOv2 (Oquab et al. 2023, section 4).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from encoder.errors import LlavaRadError, ModelError
from encoder.pretraining.config import PretrainingConfig
from encoder.pretraining.heads import Head
from encoder.pretraining.losses import (
    Compute,
    MovingAverage,
    cross_entropy_chunk,
    dino_pairs,
    koleo_loss,
    prototype_cross_entropy,
    sinkhorn_knopp,
)
from encoder.pretraining.vit import Crops, VisionTransformer
from encoder.runs.distributed import like, part, whole

if TYPE_CHECKING:
    from encoder.pretraining.data import Batch


@dataclass
class Losses:
    """Losses of one step: ``total`` is optimised, the parts are weighted as in it.

    Attributes:
        total: scalar with gradient.
        dino, ibot, koleo: scalars, detached.
        teacher_cls: [2B, D], the teacher's CLS features of the global crops, for the collapse monitor.
        teacher_vectors: [2B, C], their bottleneck vectors.
    """

    total: torch.Tensor
    dino: torch.Tensor
    ibot: torch.Tensor
    koleo: torch.Tensor
    teacher_cls: torch.Tensor
    teacher_vectors: torch.Tensor


class Network(nn.Module):
    """A backbone with its head or heads: the student, or the teacher."""

    def __init__(self, config: PretrainingConfig, drop_path: float) -> None:
        super().__init__()
        self.backbone = VisionTransformer(config.model, drop_path)
        self.dino_head = Head(config.model.hidden_size, config.head)
        separate = config.head.separate and config.loss.ibot > 0
        self.ibot_head = Head(config.model.hidden_size, config.head) if separate else None

    def vectors(self, features: torch.Tensor, crops: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Bottleneck vectors of [M, D]: the first ``crops`` by the DINO head, the rest by the iBOT head."""
        if self.ibot_head is None:
            vectors = self.dino_head(features)
            return vectors[:crops], vectors[crops:]
        return self.dino_head(features[:crops]), self.ibot_head(features[crops:])

    def prototypes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """[K, C] of the DINO head and of the iBOT head, which may be the same."""
        first = self.dino_head.last_layer()
        return first, first if self.ibot_head is None else self.ibot_head.last_layer()


class StudentTeacher(nn.Module):
    """Student, teacher and the teacher's centres.

    Args:
        config: the run's configuration.
    """

    def __init__(self, config: PretrainingConfig) -> None:
        super().__init__()
        self.config = config
        self.student = Network(config, config.optimization.drop_path)
        self.teacher = Network(config, 0.0)
        self.teacher.requires_grad_(False)
        self.start_teacher()
        if config.loss.ibot == 0:
            self.student.backbone.mask_token.requires_grad_(False)  # never used
        prototypes, momentum = config.head.prototypes, config.loss.centre_momentum
        self.dino_centre = MovingAverage(prototypes, momentum)
        self.ibot_centre = MovingAverage(prototypes, momentum)
        self.chunk: Compute = cross_entropy_chunk

    def compile_parts(self, **options: Any) -> None:
        """Compile blocks, heads and the losses' work on the scores, each apart, so that blocks share their code.

        Args:
            options: of `torch.compile`.
        """
        for network in (self.student, self.teacher):
            for module in (*network.backbone.blocks, network.dino_head, network.ibot_head):
                if module is not None:
                    module.compile(**options)
        self.chunk = torch.compile(cross_entropy_chunk, **options)

    def train(self, mode: bool = True) -> StudentTeacher:
        """The teacher stays in evaluation mode: it drops no paths."""
        super().train(mode)
        self.teacher.eval()
        return self

    def start_teacher(self) -> None:
        """Make the teacher equal to the student."""
        self.teacher.load_state_dict(self.student.state_dict())

    def pairs(self) -> Iterator[tuple[str, nn.Parameter, nn.Parameter]]:
        """Name, teacher's and student's parameter, each once."""
        students: Mapping[str, nn.Parameter] = dict(self.student.named_parameters())
        for name, parameter in self.teacher.named_parameters():
            yield name, parameter, students[name]

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """``teacher = momentum * teacher + (1 - momentum) * student`` for backbone and heads."""
        teachers, students = [], []
        for _, teacher, student in self.pairs():
            teachers.append(part(teacher))
            students.append(part(student))
        torch._foreach_lerp_(teachers, students, 1 - momentum)

    def forward(self, batch: Batch, teacher_temperature: float) -> Losses:
        """Losses of a batch, averaged over this process's images.

        Args:
            batch: crops and masks.
            teacher_temperature: of this step.
        """
        weights = self.config.loss
        images = batch.global_crops.shape[1]
        globals_, locals_ = batch.global_crops.flatten(0, 1), batch.local_crops.flatten(0, 1)
        masking = weights.ibot > 0
        masks = batch.masks.flatten(0, 1)
        side = self.config.model.patch_size
        length = 1 + (globals_.shape[-1] // side) ** 2
        device = globals_.device

        cls_tokens = torch.arange(2 * images, device=device) * length
        patches = batch.masked
        masked, masked_weights = (patches.tokens, patches.weights) if masking else (cls_tokens[:0],) * 2

        with torch.no_grad():
            teacher_features = self.teacher.backbone([Crops(globals_)], torch.cat([cls_tokens, masked]))
            teacher_cls, teacher_patches = self.teacher.vectors(teacher_features, 2 * images)
            teacher_prototypes = self.teacher.prototypes()
            dino_offset = self._offset(self.dino_centre, teacher_cls, teacher_prototypes[0], teacher_temperature)

        groups = [Crops(globals_, masks if masking else None)]
        student_tokens = [cls_tokens]
        if len(locals_):
            groups.append(Crops(locals_))
            local_length = 1 + (locals_.shape[-1] // side) ** 2
            student_tokens.append(2 * images * length + torch.arange(len(locals_), device=device) * local_length)
        crops = 2 * images + len(locals_)
        features = self.student.backbone(groups, torch.cat([*student_tokens, masked]))
        student_cls, student_patches = self.student.vectors(features, crops)
        student_prototypes = self.student.prototypes()

        cross_entropy = partial(
            prototype_cross_entropy,
            student_temperature=weights.student_temperature,
            teacher_temperature=teacher_temperature,
            compute=self.chunk,
        )
        views = crops // images
        dino = weights.dino * cross_entropy(
            student_cls.view(-1, images, student_cls.shape[-1]).transpose(0, 1),
            student_prototypes[0],
            teacher_cls.view(2, images, -1).transpose(0, 1),
            teacher_prototypes[0],
            dino_offset,
            pairs=dino_pairs(views - 2, device),
            weights=torch.full((images,), 1 / (images * 2 * (views - 1)), device=device),
        )
        ibot = koleo = dino.new_zeros(())
        if masking:
            with torch.no_grad():
                offset = self._offset(
                    self.ibot_centre, teacher_patches[: patches.number], teacher_prototypes[1], teacher_temperature
                )
            ibot = weights.ibot * cross_entropy(
                student_patches[:, None],
                student_prototypes[1],
                teacher_patches[:, None],
                teacher_prototypes[1],
                offset,
                pairs=None,
                weights=masked_weights,
            )
        if weights.koleo:
            koleo = weights.koleo * sum(
                (koleo_loss(view) for view in features[: 2 * images].split(images)), start=koleo
            )
        return Losses(
            dino + ibot + koleo,
            dino.detach(),
            ibot.detach(),
            koleo.detach(),
            teacher_features[: 2 * images],
            teacher_cls,
        )

    def _offset(
        self, centre: MovingAverage, vectors: torch.Tensor, prototypes: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        if self.config.loss.centering == "sinkhorn-knopp":
            return sinkhorn_knopp(vectors, prototypes, temperature, iterations=self.config.loss.sinkhorn_iterations)
        offset = centre.offset(temperature)
        if self.training:
            centre.update(vectors, prototypes)
        return offset


@contextmanager
def compiler_errors() -> Iterator[None]:
    """Explain errors of the compiler.

    Raises:
        LlavaRadError: in their place.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise LlavaRadError(f"the step cannot be compiled: {reason}", hint="engine.compile=false") from error


Groups = dict[str, dict[str, torch.Tensor]]


def gather(model: StudentTeacher, optimizer: torch.optim.Optimizer) -> Groups:
    """Student, teacher, centres and optimiser state, on the CPU. With sharding every process must call this."""
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.student.named_parameters()}
    moments = {
        f"{names[parameter]}/{key}": whole(value).cpu()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }
    return {
        "student": {name: whole(tensor).cpu() for name, tensor in model.student.state_dict().items()},
        "teacher": {name: whole(tensor).cpu() for name, tensor in model.teacher.state_dict().items()},
        "centres": {"dino": whole(model.dino_centre.centre).cpu(), "ibot": whole(model.ibot_centre.centre).cpu()},
        "optimizer": moments,
    }


def restore(
    model: StudentTeacher, optimizer: torch.optim.Optimizer, groups: Mapping[str, Mapping[str, torch.Tensor]]
) -> None:
    """Put back what ``gather`` returned, onto any number of processes.

    Raises:
        ModelError: if the tensors are not those of this model.
    """
    for network, group in ((model.student, "student"), (model.teacher, "teacher")):
        _fill(dict(network.state_dict()), groups[group], group)
    _fill({"dino": model.dino_centre.centre, "ibot": model.ibot_centre.centre}, groups["centres"], "centres")
    moments: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in groups["optimizer"].items():
        parameter_name, _, key = name.rpartition("/")
        moments.setdefault(parameter_name, {})[key] = tensor
    for name, parameter in model.student.named_parameters():
        for key, tensor in moments.pop(name, {}).items():
            value = tensor.to(parameter.device) if tensor.ndim == 0 else like(parameter, tensor)
            optimizer.state[parameter][key] = value.clone()
    if moments:
        raise ModelError(f"the checkpoint's optimiser state has a parameter too many: {min(moments)}")


@torch.no_grad()
def _fill(targets: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], what: str) -> None:
    if odd := sorted(set(targets) ^ set(tensors)):
        raise ModelError(f"the checkpoint's {what} has {len(odd)} tensors missing or left over, first {odd[0]}")
    for name, target in targets.items():
        if target.shape != tensors[name].shape:
            raise ModelError(
                f"the checkpoint's {what} {name} is {tuple(tensors[name].shape)}, not {tuple(target.shape)}"
            )
        target.copy_(like(target, tensors[name]))
