"""Loss of a study model on ``val`` with other inputs than its own: does it look at them?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import distributed

from llava_rad.training.studies import INPUTS, StudySamples, collate_studies

if TYPE_CHECKING:
    from llava_rad.training.trainer import ReportTrainer

_Alter = Callable[[int], dict[str, Any]]


class StudyLosses:
    """Measures losses over all processes; every process computes as many batches, as ZeRO-3 needs it.

    Args:
        trainer: with the model.
        samples: of ``val``.
    """

    def __init__(self, trainer: ReportTrainer, samples: StudySamples) -> None:
        self.trainer, self.samples = trainer, samples

    def measure(self, limit: int) -> dict[str, float]:
        """Return the means over tokens of the first samples.

        ``val_loss`` is with all inputs, ``val_loss_other_image`` with the frontal image of another patient. For each
        input, over the samples that have it: ``val_loss_INPUT`` with all inputs, ``val_loss_other_INPUT`` with that of
        another patient, and ``val_loss_without_INPUT``.
        """
        samples = self.samples
        tokens = np.array([len(samples.answers[number]) for number in range(limit)], np.float64)
        own = self._losses(range(limit), samples.sample, limit)
        found = {"val_loss": float(own.sum() / tokens.sum())}
        for name in ("frontal", *INPUTS):
            donors = samples.donors(name, limit)
            having = sorted(donors)
            if not having:
                continue
            size = tokens[having].sum()

            def other(number: int, name: str = name, donors: dict[int, int] = donors) -> dict[str, Any]:
                return samples.sample(number, others={name: donors[number]})

            swapped = float(self._losses(having, other, limit).sum() / size)
            if name == "frontal":
                found["val_loss_other_image"] = swapped
                continue

            def without(number: int, name: str = name) -> dict[str, Any]:
                return samples.sample(number, without=(name,))

            found[f"val_loss_{name}"] = float(own[having].sum() / size)
            found[f"val_loss_other_{name}"] = swapped
            found[f"val_loss_without_{name}"] = float(self._losses(having, without, limit).sum() / size)
        found.setdefault("val_loss_other_image", found["val_loss"])  # a single patient
        return found

    @torch.no_grad()
    def _losses(self, numbers: Sequence[int], alter: _Alter, limit: int) -> np.ndarray:
        """Return the sum of each sample's loss, [limit]; 0 for samples that are not asked for."""
        trainer = self.trainer
        sums = torch.zeros(limit, dtype=torch.float64, device=trainer.args.device)
        for part, counts in self._shares(list(numbers)):
            batch = trainer._prepare_inputs(collate_studies([alter(number) for number in part]))
            with trainer.compute_loss_context_manager():
                each = trainer.model_wrapped(**batch, num_items_in_batch=1.0)["each"]
            if counts:
                sums[torch.tensor(part, device=sums.device)] = each.double()
        if distributed.is_initialized():
            distributed.all_reduce(sums)
        found: np.ndarray = sums.cpu().numpy()
        return found

    def _shares(self, numbers: list[int]) -> Iterator[tuple[list[int], bool]]:
        """Yield this process's batches, as many on every process; surplus ones do not count."""
        arguments = self.trainer.args
        size, rank, world = arguments.per_device_eval_batch_size, arguments.process_index, arguments.world_size
        parts = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        for turn in range(-(-len(parts) // world)):
            mine = turn * world + rank
            yield (parts[mine], True) if mine < len(parts) else (parts[0], False)
