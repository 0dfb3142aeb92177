"""transformers' Trainer for this model: order of samples, optimiser, checkpoints, evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from transformers import PrinterCallback, Trainer, TrainingArguments

from encoder.errors import LlavaRadError, ModelError
from encoder.runs.checkpoints import check_disk, diverged, first_not_finite, not_written
from encoder.runs.distributed import on_first
from encoder.runs.trainer_checkpoints import TrainerCheckpoints
from llava_rad.training import deepspeed_config
from llava_rad.training.callbacks import LOWER
from llava_rad.training.config import TrainingConfig
from llava_rad.training.data import IMPRESSION_TOKENS, LengthGrouped, Samples, collate
from llava_rad.training.module import ReportLoss
from llava_rad.training.studies import StudySamples, collate_studies
from llava_rad.training.study_losses import StudyLosses

_WEIGHTS = "trained.safetensors"
_PROJECTOR = "projector."


class ReportTrainer(Trainer):  # type: ignore[misc]
    """Trains a :class:`ReportLoss`.

    Args:
        model: what is trained.
        arguments: the Trainer's own.
        config: the run.
        train: samples to train on.
        val: samples to evaluate on.
        checkpoints: the run's.
    """

    def __init__(
        self,
        model: ReportLoss,
        arguments: TrainingArguments,
        config: TrainingConfig,
        train: Samples | StudySamples,
        val: Samples | StudySamples,
        checkpoints: TrainerCheckpoints,
        callbacks: list[Any],
    ) -> None:
        self.config, self.checkpoints = config, checkpoints
        self.collate: Any = collate_studies if isinstance(train, StudySamples) else collate
        self.order = LengthGrouped(
            train.lengths,
            config.optimization.batch_size,
            config.seed,
            grouped=config.optimization.group_by_length,
            numbered_by_epoch=isinstance(train, StudySamples),
        )
        super().__init__(
            model=model,
            args=arguments,
            data_collator=self.collate,
            train_dataset=train,
            eval_dataset=val,
            callbacks=callbacks,
        )
        self.tokens_seen = torch.zeros((), dtype=torch.long, device=self.args.device)
        self.remove_callback(PrinterCallback)  # it prints to stdout

    # Order, optimiser

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGrouped:
        return self.order

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW on what is trained: no decay on norms and biases, the projector at its own rate where it has one."""
        run = self.config.optimization
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        decayed = set(self.get_decay_parameter_names(self.model))
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                lr = run.projector_lr if name.startswith(_PROJECTOR) and run.projector_lr else run.lr
                decay = run.weight_decay if name in decayed else 0.0
                groups.setdefault((lr, decay), []).append(parameter)
        listed = [{"params": found, "lr": lr, "weight_decay": decay} for (lr, decay), found in groups.items()]
        kind: Any = torch.optim.AdamW
        extra: dict[str, Any] = {"fused": self.args.device.type == "cuda"}
        if self.is_deepspeed_enabled and self.accelerator.state.deepspeed_plugin.hf_ds_config.is_offload():
            from deepspeed.ops.adam import DeepSpeedCPUAdam

            kind, extra = DeepSpeedCPUAdam, {}
        made: torch.optim.Optimizer = kind(listed, lr=run.lr, betas=run.betas, eps=run.epsilon, **extra)
        self.optimizer: Any = made
        return made

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One micro-batch; counts its tokens, images' included."""
        labels, ids = inputs["labels"], inputs.get("ids")
        if ids is None:
            self.tokens_seen += (labels >= 0).sum() + self.model.prompt.length * len(labels)
        else:
            self.tokens_seen += (ids != 0).sum()  # 0 is what pads them
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss

    def _maybe_log_save_evaluate(self, tr_loss: torch.Tensor, grad_norm: Any, *rest: Any, **more: Any) -> None:
        """Check every step before it is logged, evaluated and saved.

        Raises:
            LlavaRadError: if its loss or gradient is not finite.
        """
        norm = torch.as_tensor(0.0 if grad_norm is None else grad_norm, device=tr_loss.device)
        finite = torch.isfinite(tr_loss) & torch.isfinite(norm) & (norm >= 0)  # DeepSpeed's norm is -1 where it is not
        if self.any_process(not bool(finite)):
            raise diverged(self.state.global_step, LOWER)
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *rest, **more)

    def any_process(self, flag: bool) -> bool:
        """Return True on all processes if the flag is True on one of them."""
        if not distributed.is_initialized():
            return flag
        flags = torch.tensor(float(flag), device=self.args.device)
        distributed.all_reduce(flags)
        return bool(flags > 0)

    # Checkpoints

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.checkpoints.partial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        name = f"checkpoint-{self.state.global_step}"
        if on_first(lambda: self.checkpoints.folder / name in self.checkpoints.all()):  # a stop at the end of an epoch
            return
        # with ZeRO-3, a parameter is an empty shell around this process's part
        odd = first_not_finite((name, getattr(value, "ds_tensor", value).data) for name, value in self._trained())
        if self.any_process(odd is not None):
            raise LlavaRadError(
                f"the weights are no longer finite{f' (first {odd})' if odd else ''}; no checkpoint was written",
                hint=LOWER,
            )
        if not math.isfinite(self._loss_of_one()):  # of finite weights too: the next step would show it, after this
            raise diverged(self.state.global_step, LOWER)
        on_first(lambda: self._make_room(name))
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError) as error:  # torch raises the latter on a full disk
            raise not_written(f"{name} could not be written ({type(error).__name__})") from error
        self._wait()
        if self.is_world_process_zero():
            self.checkpoints.publish(name)
        self._wait()

    def _make_room(self, name: str) -> None:
        """Make an empty folder for a checkpoint, on a disk that has room for it.

        Raises:
            LlavaRadError: if it has not.
        """
        self.checkpoints.clear()
        (self.checkpoints.partial / name).mkdir(parents=True)
        trained = sum(getattr(value, "ds_numel", value.numel()) for _, value in self._trained())
        check_disk(self.checkpoints.folder, deepspeed_config.checkpoint_bytes(self.config, trained), name)

    @torch.no_grad()
    def _loss_of_one(self) -> float:
        """Loss of the first training sample with the present weights (all processes must call)."""
        self.model.eval()
        batch = self._prepare_inputs(self.collate([self.train_dataset[0]]))
        with self.compute_loss_context_manager():
            return float(self.model_wrapped(**batch, num_items_in_batch=1.0)["loss"])

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what is trained; DeepSpeed writes its own, with the optimiser's state."""
        if self.is_deepspeed_enabled or not self.args.should_save:
            return
        from safetensors.torch import save_file

        assert output_dir is not None
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self._trained()}
        save_file(state, Path(output_dir) / _WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            stored = load_file(Path(resume_from_checkpoint) / _WEIGHTS)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"the newest checkpoint's {_WEIGHTS} is damaged", hint="remove its folder") from error
        ours = dict(self._trained())
        if stored.keys() != ours.keys() or any(stored[name].shape != ours[name].shape for name in ours):
            raise ModelError("the newest checkpoint's weights are those of another model")
        with torch.no_grad():
            for name, parameter in ours.items():
                parameter.copy_(stored[name])

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, value) for name, value in self.model.named_parameters() if value.requires_grad)

    def gather(self) -> dict[str, torch.Tensor]:
        """All weights of the module on the first process (all processes must call); empty on others."""
        if self.is_deepspeed_enabled:
            state = self.accelerator.get_state_dict(self.deepspeed)
        else:
            state = self.accelerator.unwrap_model(self.model).state_dict()
        return dict(state) if self.is_world_process_zero() and state is not None else {}

    def _wait(self) -> None:
        self.accelerator.wait_for_everyone()

    # Evaluation

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Loss on ``val``, also with the images of other pairs; both are means over tokens."""
        limit = min(len(self.eval_dataset), self.config.evaluation.max_pairs)
        if not limit:
            return {}
        self.model.eval()
        if isinstance(self.eval_dataset, StudySamples):
            return self._logged(StudyLosses(self, self.eval_dataset).measure(limit))
        sums = torch.zeros(3, dtype=torch.float64, device=self.args.device)
        for batch, weight in self._shares(limit):
            with torch.no_grad(), self.compute_loss_context_manager():
                own = self.model_wrapped(**batch, num_items_in_batch=1.0)["loss"]
                others = {name: value.roll(1, 0) if name != "labels" else value for name, value in batch.items()}
                other = self.model_wrapped(**others, num_items_in_batch=1.0)["loss"]
            tokens = (batch["labels"] >= 0).sum()
            sums += weight * torch.stack([own.double(), other.double(), tokens.double()])
        if distributed.is_initialized():
            distributed.all_reduce(sums)
        own_loss, other_loss = (sums[:2] / sums[2]).tolist()
        return self._logged({"val_loss": own_loss, "val_loss_other_image": other_loss})

    def _logged(self, metrics: dict[str, float]) -> dict[str, float]:
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _shares(self, limit: int) -> Iterator[tuple[dict[str, torch.Tensor], float]]:
        """This process's batches of the first samples of ``val``, as many on every process; surplus ones weigh 0.

        Neighbours in a batch swap images; a last batch of one sample is joined to the one before it.
        """
        size = self.args.per_device_eval_batch_size
        cuts = list(range(0, limit, size))
        if len(cuts) > 1 and limit - cuts[-1] == 1:
            cuts.pop()
        parts = [range(start, end) for start, end in zip(cuts, [*cuts[1:], limit], strict=True)]
        rank, world = self.args.process_index, self.args.world_size
        for turn in range(-(-len(parts) // world)):
            mine = turn * world + rank
            rows = parts[mine] if mine < len(parts) else parts[0]
            batch = self.collate([self.eval_dataset[number] for number in rows])
            yield self._prepare_inputs(batch), float(mine < len(parts))

    @torch.no_grad()
    def write_reports(self, limit: int, batch: int = 16) -> list[tuple[str, str]]:
        """Greedy reports for the first samples of ``val`` (all processes must call), each with its reference."""
        from transformers import GenerationConfig

        limit = min(limit, len(self.eval_dataset))
        self.model.eval()
        tokens, longest = self.model.tokens, self.config.evaluation.max_new_tokens
        if "impression" in self.config.data.sections:
            longest += IMPRESSION_TOKENS
        settings = GenerationConfig(
            bos_token_id=tokens.ids.bos,
            eos_token_id=tokens.ids.eos,
            pad_token_id=tokens.ids.pad,
            do_sample=False,
            max_new_tokens=longest,
            suppress_tokens=list(tokens.suppressed) or None,
            use_cache=True,
        )
        written: list[str] = []
        for start in range(0, limit, batch):
            samples = [self.eval_dataset[number] for number in range(start, min(start + batch, limit))]
            inputs = self._prepare_inputs(self.collate(samples))
            with self.accelerator.autocast():  # the Trainer's own context leaves this to the wrapped forward
                embeds, mask = self.model.prompts(inputs)
                found = self.model.language_model.generate(
                    inputs_embeds=embeds, attention_mask=mask, generation_config=settings
                )
            written += [tokens.decode(row) for row in found.tolist()]
        return list(zip(written, self.eval_dataset.texts[:limit], strict=True))
