"""Linear layers by oneDNN: the same numbers, and nothing else touched."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from metrics import onednn
from metrics.onednn import OneDnnLinear, with_onednn


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 16), nn.GELU(), nn.Sequential(nn.Linear(16, 4, bias=False), nn.LayerNorm(4))
    ).eval()


def test_results_are_those_of_torch() -> None:
    plain = model()
    fast = with_onednn(copy.deepcopy(plain))
    assert isinstance(fast[0], OneDnnLinear) == torch.backends.mkldnn.is_available()
    for shape in ((3, 8), (2, 5, 8), (1, 1, 8)):
        inputs = torch.randn(shape)
        with torch.inference_mode():
            torch.testing.assert_close(fast(inputs), plain(inputs), atol=1e-6, rtol=1e-5)


def test_other_types_stay() -> None:
    assert isinstance(with_onednn(model().to(torch.bfloat16))[0], nn.Linear)


def test_a_torch_without_the_operation_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: object) -> None:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    for broken in (missing, lambda inputs, weight, bias: torch.zeros(3, 2, 5)):
        onednn._works.cache_clear()
        monkeypatch.setattr(onednn, "_onednn", broken)
        assert isinstance(with_onednn(model())[0], nn.Linear)
    onednn._works.cache_clear()
