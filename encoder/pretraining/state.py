"""What a run must remember, as flat dictionaries of whole tensors, however the parameters are spread over processes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from encoder.errors import ModelError
from encoder.pretraining.student_teacher import StudentTeacher

Groups = dict[str, dict[str, torch.Tensor]]


def gather(model: StudentTeacher, optimizer: torch.optim.Optimizer) -> Groups:
    """Student, teacher, centres and optimiser state, on the CPU. With sharding every process must call this."""
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.student.named_parameters()}
    moments = {
        f"{names[parameter]}/{key}": _whole(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }
    return {
        "student": {name: _whole(tensor) for name, tensor in model.student.state_dict().items()},
        "teacher": {name: _whole(tensor) for name, tensor in model.teacher.state_dict().items()},
        "centres": {"dino": _whole(model.dino_centre.centre), "ibot": _whole(model.ibot_centre.centre)},
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
            value = tensor.clone() if tensor.ndim == 0 else _like(parameter, tensor)
            optimizer.state[parameter][key] = value.to(parameter.device)
    if moments:
        raise ModelError(f"the checkpoint's optimiser state has a parameter too many: {min(moments)}")


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    from torch.distributed.tensor import DTensor

    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()


def _like(parameter: nn.Parameter | torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """A whole tensor, spread over the processes as ``parameter`` is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(parameter, DTensor):
        return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)
    return tensor.clone()


@torch.no_grad()
def _fill(targets: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], what: str) -> None:
    if odd := sorted(set(targets) ^ set(tensors)):
        raise ModelError(f"the checkpoint's {what} has {len(odd)} tensors missing or left over, first {odd[0]}")
    for name, target in targets.items():
        if target.shape != tensors[name].shape:
            raise ModelError(
                f"the checkpoint's {what} {name} is {tuple(tensors[name].shape)}, not {tuple(target.shape)}"
            )
        target.copy_(_like(target, tensors[name]).to(target.device))
