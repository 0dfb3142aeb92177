"""lightly-train's half of ``scripts.bench.pretraining``: its DINOv2 step on the same crops, masks and weights.

lightly-train is licensed under the AGPL and therefore no part of this project: only this program imports it, and runs
as a separate process, by the interpreter of an environment of its own (``pip install lightly-train safetensors``).
Written against 0.18.0.

The method is driven without Lightning's loop, in Lightning's order: forward and losses, backward, clipping of the whole
gradient, optimiser, schedules, moving average. Gradients are freed right after the optimiser, which Lightning does only
after the next forward pass; the peer's memory is the smaller for it. Its defaults are kept but for what would make the
comparison unfair: MLP in place of SwiGLU (ViT-B), the same drop path on every block, position embeddings interpolated
to a size, not by a factor with an offset of 0.1 (so that results can be compared at all), and constant temperature.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file

from scripts.bench.worker import Order, Side, peak_bytes, work

_RENAMED = {
    "last_layer.weight_g": "last_layer.parametrizations.weight.original0",
    "last_layer.weight_v": "last_layer.parametrizations.weight.original1",
}


class Peer(Side):
    """Student, teacher and optimiser of lightly-train's DINOv2."""

    def __init__(self, order: Order) -> None:
        self.case, self.device = order["case"], order["device"]
        self.dinov2: Any = import_module("lightly_train._methods.dinov2.dinov2")
        self.base = peak_bytes("cpu")
        torch.set_num_threads(order["threads"])
        torch.manual_seed(0)
        folder = Path(order["folder"])
        self.method = self._method(load_file(folder / "weights.safetensors")).to(self.device)
        self.views = self._views(load_file(folder / "inputs.safetensors"))
        self.trainer = SimpleNamespace(global_step=0, estimated_stepping_batches=60000, max_epochs=1)
        self.method.trainer = self.trainer
        self.method.log_dict = lambda *_, **__: None  # there is no logger
        (self.optimizer,), (scheduler,) = self.method.configure_optimizers()
        self.scheduler = scheduler["scheduler"]
        self.method.train()
        self.method.teacher_embedding_model.eval()
        self.method.teacher_head.eval()

    def _method(self, weights: dict[str, torch.Tensor]) -> Any:
        case, temperature = self.case, self.case["teacher_temperature"]
        package = import_module("lightly_train._models.dinov2_vit.dinov2_vit_package").DINOV2_VIT_PACKAGE
        sizes = {"img_size": case["image_size"], "ffn_layer": "mlp", "drop_path_rate": case["drop_path"]}
        sizes |= {"drop_path_uniform": True, "interpolate_offset": 0.0}
        backbone = package.get_model(case["peer_model"], load_weights=False, model_args=sizes)
        wrapper = package.get_model_wrapper(backbone)
        embedding = import_module("lightly_train._models.embedding_model").EmbeddingModel(wrapper)
        method = self.dinov2.DINOv2(
            method_args=self.dinov2.DINOv2Args(
                output_dim=case["prototypes"], hidden_dim=case["head_hidden"], dino_bottleneck_dim=case["bottleneck"],
                center_method="softmax",  # the moving average
                teacher_temp_start=temperature, teacher_temp_end=temperature, weight_decay_start=0.04,
                mask_probability=0.5, student_freeze_last_layer_steps=600, warmup_steps=6000,
            ),
            optimizer_args=self.dinov2.DINOv2AdamWViTArgs(lr=1e-3),
            embedding_model=embedding,
            global_batch_size=case["batch"],
            num_input_channels=3,
        )  # fmt: skip
        for role in ("student", "teacher"):
            model = getattr(method, f"{role}_embedding_model").wrapped_model.get_model()
            model.load_state_dict(_part(weights, f"{role}.backbone."))
            head = _part(weights, f"{role}.dino_head.")
            head = {_RENAMED.get(name, name): tensor for name, tensor in head.items()}
            getattr(method, f"{role}_head").dino_head.load_state_dict(head)
        return method

    def _views(self, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Normalised float32 [B, 3, S, S] of each view, as its loader gives them; replaces its masks too."""
        mean, std = inputs["normalisation"].tolist()
        views = [*inputs["global"], *inputs["local"]]
        masks = inputs["masks"].flatten(0, 1)
        share = 1 / masks.sum(1).clamp_min(1)
        given = {
            "collated_masks": masks,
            "mask_indices_list": masks.flatten().nonzero().flatten(),
            "masks_weight": share[:, None].expand_as(masks)[masks],
        }
        self.dinov2.create_collated_masks = lambda **_: given
        normalised = [((view.float() / 255 - mean) / std)[:, None].expand(-1, 3, -1, -1) for view in views]
        return [view.contiguous().to(self.device) for view in normalised]

    def _forward(self) -> Any:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.case["precision"] == "bf16"):
            return self.method.training_step_impl({"views": self.views}, 0)

    def train(self) -> None:
        """One step."""
        self._forward().loss.backward()
        self.method.on_before_optimizer_step(self.optimizer)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, self.method.method_args.gradient_clip_val)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.trainer.global_step += 1
        self.scheduler.step()
        self.method.on_train_batch_end(None, {"views": self.views}, 0)

    def check(self) -> dict[str, Any]:
        """Loss parts before and after the centres first move, and the gradient's norms of the second pass."""
        answer: dict[str, Any] = {}
        for turn in (1, 2):
            result = self._forward()
            parts = {name.removeprefix("train_loss/"): float(value) for name, value in result.log_dict.items()}
            answer[f"dino, pass {turn}"] = parts["dino_global_loss"] + parts["dino_local_loss"]
            answer[f"ibot, pass {turn}"] = parts["ibot_loss"]
            answer[f"koleo, pass {turn}"] = parts["koleo_loss"] * self.method.method_args.koleo_loss_weight
        result.loss.backward()
        for name, module in (("backbone", "student_embedding_model"), ("head", "student_head")):
            gradients = [p.grad for p in getattr(self.method, module).parameters() if p.grad is not None]
            answer[f"gradient norm, {name}"] = float(torch.nn.utils.get_total_norm(gradients))
        return answer

    def about(self) -> dict[str, Any]:
        """Versions, and whether xFormers (which it uses where it is installed) is there."""
        from importlib.metadata import version

        xformers = import_module("lightly_train._models.dinov2_vit.dinov2_vit_src.layers.attention").XFORMERS_AVAILABLE
        return {"name": f"lightly-train {version('lightly_train')}", "torch": torch.__version__, "xformers": xformers}


def _part(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


if __name__ == "__main__":
    work(Peer)
