"""What a run must remember, as flat dictionaries of whole tensors, however the parameters are spread over processes."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from encoder.errors import ModelError
from encoder.pretraining.student_teacher import StudentTeacher
from encoder.runs.distributed import like, whole

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
        ModelError: the tensors are not those of this model.
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
