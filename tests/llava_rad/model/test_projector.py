"""Projectors of two and of more layers, against torch's own Sequential."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from encoder.errors import ModelError
from llava_rad.model.projector import Projector


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_any_number_of_layers_is_read_off_the_file(layers: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for number in range(layers):
        parts += [nn.Linear(5 if not number else 7, 7), nn.GELU()]
    published = nn.Sequential(*parts[:-1])
    names = {f"linear_{key // 2 + 1}": module for key, module in enumerate(published) if isinstance(module, nn.Linear)}
    weights = {f"{name}.{kind}": getattr(m, kind).detach() for name, m in names.items() for kind in ("weight", "bias")}
    save_file(weights, tmp_path / "projector.safetensors")
    projector = Projector.load(tmp_path / "projector.safetensors")
    assert (projector.in_features, projector.out_features) == (5, 7)
    inputs = torch.randn(2, 3, 5)
    torch.testing.assert_close(projector(inputs), published(inputs))


def test_two_layers_are_the_default_and_gaps_are_refused(tmp_path: Path) -> None:
    assert set(Projector(5, 7).state_dict()) == {f"linear_{n}.{k}" for n in (1, 2) for k in ("weight", "bias")}
    save_file(Projector(5, 7, 3).state_dict(), tmp_path / "p.safetensors")
    weights = load_file(tmp_path / "p.safetensors")
    del weights["linear_2.weight"], weights["linear_2.bias"]
    save_file(weights, tmp_path / "p.safetensors")
    with pytest.raises(ModelError, match="does not fit"):
        Projector.load(tmp_path / "p.safetensors")
