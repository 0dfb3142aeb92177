"""Linear layers against torch's own, in double precision where they round."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional

from encoder.backbones.linear import linear, works_in_float32
from encoder.pretraining.fused_layers import product_type
from tests.encoder.gradients import LAYOUTS, doubled, furthest, gradients, leaf, numbers


@pytest.fixture(autouse=True)
def avx512(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A processor on which oneDNN is used; its kernels follow what the processor really has."""
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
    works_in_float32.cache_clear()
    yield
    works_in_float32.cache_clear()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weight_layout", ["contiguous", "columns first", "part of wider rows"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (40, 48), (3, 17, 48), (2, 3, 5, 48), (1, 48)])
def test_linear_is_torchs(layout: str, weight_layout: str, bias: bool, shape: tuple[int, ...]) -> None:
    inputs, outputs = shape[-1], 36
    x = numbers(*shape)
    x = LAYOUTS[layout](x) if x.ndim > 1 else x
    tensors = [x, LAYOUTS[weight_layout](numbers(outputs, inputs, seed=1))]
    tensors += [numbers(outputs, seed=2)] if bias else []
    slope = numbers(*shape[:-1], outputs, seed=3)
    for ours, exact in zip(gradients(linear, tensors, slope), doubled(functional.linear, tensors, slope), strict=True):
        assert ours.dtype == torch.float32 and furthest(ours, exact) < 2e-6


@pytest.mark.parametrize(
    "layout", ["columns first", "every other row", "every other column", "one row again and again"]
)
def test_linear_takes_slopes_of_any_layout(layout: str) -> None:
    tensors = [numbers(3, 40, 48), numbers(36, 48, seed=1), numbers(36, seed=2)]
    slope = LAYOUTS[layout](numbers(3, 40, 36, seed=3))
    assert not slope.is_contiguous()
    for ours, exact in zip(gradients(linear, tensors, slope), doubled(functional.linear, tensors, slope), strict=True):
        assert furthest(ours, exact) < 2e-6
    summed = [leaf(tensor) for tensor in tensors]
    linear(*summed).sum().backward()  # a slope of one number, expanded
    assert summed[2].grad is not None and torch.equal(summed[2].grad, torch.full((36,), 120.0))


@pytest.mark.xfail(reason="oneDNN reads a bias as if its numbers lay side by side, and beyond it", strict=True)
def test_linear_takes_a_strided_bias() -> None:
    tensors = [numbers(40, 48), numbers(36, 48, seed=1), numbers(72, seed=2)[::2]]
    torch.testing.assert_close(linear(*tensors), functional.linear(*tensors))


@pytest.mark.parametrize("shape", [(0, 48), (3, 0, 48), (0, 5, 48)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_of_no_rows(shape: tuple[int, ...], bias: bool) -> None:
    tensors = [numbers(*shape), numbers(36, 48, seed=1), *([numbers(36)] if bias else [])]
    out, *slopes = gradients(linear, tensors, torch.zeros(*shape[:-1], 36))
    assert out.shape == (*shape[:-1], 36)
    assert all(not slope.any() and slope.shape == tensor.shape for slope, tensor in zip(slopes, tensors, strict=True))


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_linear_gives_only_the_gradients_that_are_wanted(wanted: tuple[bool, ...]) -> None:
    tensors = [numbers(5, 8), numbers(6, 8, seed=1), numbers(6, seed=2)]
    ours, theirs = (
        [tensor.clone().requires_grad_(need) for tensor, need in zip(tensors, wanted, strict=True)] for _ in range(2)
    )
    linear(*ours).square().sum().backward()
    functional.linear(*theirs).square().sum().backward()
    for one, other, need in zip(ours, theirs, wanted, strict=True):
        assert (one.grad is not None) == need
        if need:
            torch.testing.assert_close(one.grad, other.grad)


def test_linear_under_autocast_is_torchs() -> None:
    tensors = [numbers(5, 8), numbers(6, 8, seed=1), numbers(6, seed=2)]
    with torch.autocast("cpu", torch.bfloat16):
        assert product_type(torch.device("cpu")) == torch.bfloat16
        ours, theirs = linear(*tensors), functional.linear(*tensors)
    assert ours.dtype == torch.bfloat16 and torch.equal(ours, theirs)
    assert product_type(torch.device("cpu")) == torch.float32


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
@pytest.mark.parametrize(("capability", "used"), [("AVX512", True), ("AVX2", False), ("DEFAULT", False)])
def test_float32_goes_to_onednn_on_processors_with_avx512(
    monkeypatch: pytest.MonkeyPatch, capability: str, used: bool
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    assert ("_OneDnnLinear" in str(linear(leaf(numbers(2, 8)), numbers(6, 8)).grad_fn)) == used


def test_a_torch_without_the_operator_uses_its_own_products(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> torch.Tensor:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    tensors = [leaf(numbers(5, 8)), numbers(6, 8, seed=1), numbers(6, seed=2)]
    monkeypatch.setattr("encoder.backbones.linear._product", gone)
    assert torch.equal(linear(*tensors), functional.linear(*tensors))
