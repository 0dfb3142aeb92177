"""Our half of ``scripts.bench.pretraining``: student, teacher and optimiser of ``encoder.pretraining`` in memory."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from encoder.pretraining.config import PretrainingConfig
from encoder.pretraining.data import Batch
from encoder.pretraining.masking import batch_masks
from encoder.pretraining.optimization import Schedules, clip_gradients, make_optimizer, set_rates
from encoder.pretraining.student_teacher import Losses, StudentTeacher
from encoder.pretraining.validation import cost_of
from encoder.pretraining.vit import MEAN, STD
from encoder.runs.distributed import keep_freed_memory
from scripts.bench.pretraining import Case
from scripts.bench.worker import Order, Side, peak_bytes, work


def settings(case: Case) -> PretrainingConfig:
    """The case as a configuration of ours."""
    crops = {key: getattr(case, key) for key in ("global_size", "local_size", "local_crops")}
    model = {"hidden_size": case.width, "num_hidden_layers": case.layers, "num_attention_heads": case.heads}
    head = {"prototypes": case.prototypes, "hidden_size": case.head_hidden, "bottleneck": case.bottleneck}
    return PretrainingConfig.model_validate(
        {
            "model": model | {"image_size": case.image_size}, "crops": crops, "head": head,
            "loss": {"teacher_temperature": (case.teacher_temperature,) * 2},
            "optimization": {"batch_size": case.batch, "drop_path": case.drop_path},
            "engine": {"precision": case.precision},
        }
    )  # fmt: skip


def prepare(order: Order) -> None:
    """Write ``inputs.safetensors`` and ``weights.safetensors``: crops, masks, student and teacher of a fixed seed.

    The weights are random, but as large as those of a trained network: at DINOv2's first weights (LayerScale 1e-5, CLS
    1e-6) all images look alike, and KoLeo, the logarithm of their distance, would compare rounding errors.
    """
    case, folder = Case(**order["case"]), Path(order["folder"])
    config = settings(case)
    torch.manual_seed(0)
    model = StudentTeacher(config)
    with torch.no_grad():
        for name, student in model.student.named_parameters():
            if name.endswith("gamma"):
                student.uniform_(0.1, 0.5)
            elif student.ndim == 1 or name.endswith(("token", "pos_embed")):
                student.add_(torch.randn_like(student), alpha=0.02)
        for _, teacher, student in model.pairs():
            teacher.copy_(student * (1 + 0.1 * torch.randn_like(student)))
    networks = {"student": model.student, "teacher": model.teacher}
    weights = {f"{role}.{name}": tensor for role, one in networks.items() for name, tensor in one.state_dict().items()}
    save_file(weights, folder / "weights.safetensors")

    def images(views: int, size: int) -> torch.Tensor:
        coarse = torch.rand(views * case.batch, 1, 9, 9)
        smooth = functional.interpolate(coarse, size=(size, size), mode="bilinear")[:, 0]
        noise = torch.rand(views * case.batch, size, size)
        return ((0.8 * smooth + 0.2 * noise) * 255).byte().view(views, case.batch, size, size)

    side = case.global_size // config.model.patch_size
    masks = batch_masks(
        seed=0, batch=0, first=0, images=case.batch, part=slice(None), side=side,
        probability=config.masking.probability, ratio=config.masking.ratio,
    )  # fmt: skip
    inputs = {"global": images(2, case.global_size), "local": images(case.local_crops, case.local_size)}
    inputs |= {"masks": torch.from_numpy(masks), "normalisation": torch.tensor([MEAN, STD], dtype=torch.float64)}
    save_file(inputs, folder / "inputs.safetensors")


class Ours(Side):
    """Our student, teacher and optimiser; the same answers as the peer's.

    Args:
        order: with ``compile``.
    """

    def __init__(self, order: Order) -> None:
        self.base = peak_bytes("cpu")
        self.case, self.device = Case(**order["case"]), order["device"]
        torch.set_num_threads(order["threads"])
        keep_freed_memory()
        folder, config = Path(order["folder"]), settings(self.case)
        self.model = StudentTeacher(config)
        weights = load_file(folder / "weights.safetensors")
        for role in ("student", "teacher"):
            part = {name.removeprefix(f"{role}."): one for name, one in weights.items() if name.startswith(role)}
            getattr(self.model, role).load_state_dict(part)
        del weights, part
        if order["compile"]:
            self.model.compile_parts()
        self.model.to(self.device).train()
        inputs = load_file(folder / "inputs.safetensors")
        batch = Batch(inputs["global"], inputs["local"], inputs["masks"], torch.arange(self.case.batch))
        self.batch = batch.to(self.device)
        self.config, self.schedules, self.done = config, Schedules.from_config(config), 0
        self.optimizer = make_optimizer(self.model.student, config.optimization)
        torch.manual_seed(0)

    def _forward(self) -> Losses:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.case.precision == "bf16"):
            losses: Losses = self.model(self.batch, self.schedules.at(self.done).teacher_temperature)
        return losses

    def train(self) -> None:
        """One step."""
        self._forward().total.backward()
        values = self.schedules.at(self.done)
        set_rates(self.optimizer, values)
        clip_gradients(self.model.student, self.config.optimization.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.model.update_teacher(values.momentum)
        self.done += 1

    def check(self) -> dict[str, Any]:
        """Loss parts before and after the centres first move, and the gradient's norms of the second pass."""
        answer: dict[str, Any] = {}
        for turn in (1, 2):
            losses = self._forward()
            answer |= {f"{part}, pass {turn}": float(getattr(losses, part)) for part in ("dino", "ibot", "koleo")}
        losses.total.backward()
        for name, module in (("backbone", self.model.student.backbone), ("head", self.model.student.dino_head)):
            gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
            answer[f"gradient norm, {name}"] = float(torch.nn.utils.get_total_norm(gradients))
        return answer

    def about(self) -> dict[str, Any]:
        """Version, hardware, and 1e12 FLOPs of an image's step: with all residual branches, without dropped ones."""
        card = torch.cuda.get_device_name() if self.device == "cuda" else platform.processor() or platform.machine()
        costs = cost_of(self.config)
        flops = {"model": costs.tera_flops, "run": costs.tera_flops_run}
        return {"name": "ours", "torch": torch.__version__, "device": card, "tera_flops": flops}


if __name__ == "__main__":
    work(Ours, prepare)
