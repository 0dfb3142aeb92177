"""Numbers of trainable parameters against the paper's table 3, and the shapes that heads give."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from encoder.errors import ConfigError, ModelError
from encoder.probing.heads import HEADS, UNet, build_head, trainable

VIT_B = 768


def parameters(name: str, width: int = VIT_B, structures: int = 1, channels: int | None = None) -> int:
    with torch.device("meta"):
        return trainable(build_head(name, width, structures, channels))


def test_the_papers_numbers_of_parameters() -> None:
    assert parameters("linear") == 769
    assert parameters("linear", 2048) == 2049  # BioViL-T's row
    assert parameters("linear", structures=6) == 6 * 769
    assert f"{parameters('vitdet') / 1e6:.1f}" == "24.8"
    assert f"{parameters('upernet') / 1e6:.1f}" == "39.3"


def test_the_exact_numbers_that_the_docstrings_state() -> None:
    for name in ("vitdet", "upernet"):
        assert f"{parameters(name):,}" in (HEADS[name].__doc__ or "")


def test_upernet_adds_up_by_hand() -> None:
    width, channels = VIT_B, 512
    doubling, norm = 4 * width * width + width, 2 * channels
    pooled = 4 * (width * channels + norm) + 9 * (width + 4 * channels) * channels + norm
    pyramid = 3 * (width * channels + norm) + 3 * (9 * channels * channels + norm)
    merged = 9 * 4 * channels * channels + norm + channels + 1
    assert parameters("upernet") == 3 * doubling + 2 * width + pooled + pyramid + merged


def test_the_u_net_is_not_within_the_papers_rounding_and_says_so() -> None:
    pytest.importorskip("segmentation_models_pytorch")
    number = parameters("unet", 0)
    assert f"{number:,}" in (HEADS["unet"].__doc__ or "")
    assert f"{number / 1e6:.1f}" == "43.8" != "45.9"


@pytest.mark.parametrize(("name", "scale"), [("linear", 1), ("vitdet", 4), ("upernet", 4)])
@pytest.mark.parametrize("side", [5, 8])
def test_shapes(name: str, scale: int, side: int) -> None:
    head = build_head(name, 24, 3, None if name == "linear" else 16)
    logits = head([torch.randn(1, 24, side, side) for _ in range(head.layers)])
    assert logits.shape == (1, 3, scale * side, scale * side)


@pytest.mark.parametrize("name", ["vitdet", "upernet"])
def test_every_activation_and_every_parameter_counts(name: str) -> None:
    torch.manual_seed(0)
    head = build_head(name, 24, 2, 16)
    maps = [torch.randn(2, 24, 6, 6, requires_grad=True) for _ in range(4)]
    head(maps).square().sum().backward()
    assert all(one.grad is not None and bool(one.grad.any()) for one in maps)
    assert all(one.grad is not None and bool(one.grad.any()) for one in head.parameters())


class Strict(torch.nn.Module):
    """Takes what EfficientNet takes."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        assert pixels.shape[-2] % 32 == 0 == pixels.shape[-1] % 32
        return pixels[:, :2]


@pytest.mark.parametrize("size", [70, 64])
def test_the_u_net_takes_sizes_that_are_no_multiple_of_32(size: int) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    with torch.device("meta"):
        head = build_head("unet", 0, 2)
    assert isinstance(head, UNet)
    head.network = Strict()
    pixels = torch.randn(1, 3, size, size)
    assert torch.equal(head([pixels]), pixels[:, :2])


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ConfigError, match="no segmentation head"):
        build_head("deeplab", 24, 1)
    with pytest.raises(ConfigError, match="no channels"):
        build_head("linear", 24, 1, 16)
    with pytest.raises(ConfigError, match="halved"):
        build_head("unet", 0, 1, 100)


@pytest.mark.slow
def test_the_u_net_takes_image_nets_weights_strictly(tmp_path: Path) -> None:
    """The library's own encoder is the reference; its published file also has the classifier that it drops."""
    library = pytest.importorskip("segmentation_models_pytorch")
    from safetensors.torch import save_file

    torch.manual_seed(1)
    state = library.Unet("efficientnet-b6", encoder_weights=None).encoder.state_dict()
    head = build_head("unet", 0, 1)
    assert isinstance(head, UNet)
    full = state | {"_fc.weight": torch.zeros(1000, 2304), "_fc.bias": torch.zeros(1000)}
    for name, save in (("b6.safetensors", save_file), ("b6.pth", torch.save)):
        with torch.no_grad():
            head.network.encoder._conv_stem.weight.zero_()
        save(full, tmp_path / name)
        head.load_image_net(tmp_path / name)
        for key, value in head.network.encoder.state_dict().items():
            assert torch.equal(value, state[key]), key
    stem = state["_conv_stem.weight"]
    for wrong in (
        {name: value for name, value in state.items() if name != "_bn1.bias"},
        state | {"features.0.0.weight": torch.zeros(1)},
        state | {"_conv_stem.weight": stem[:32]},
        state | {"_conv_stem.weight": torch.full_like(stem, torch.nan)},
    ):
        torch.save(wrong, tmp_path / "wrong.pth")
        with pytest.raises(ModelError, match=r"does not fit|not all finite") as error:
            head.load_image_net(tmp_path / "wrong.pth")
        assert "smp-hub/efficientnet-b6.imagenet" in error.value.hint
    torch.save({"model": print}, tmp_path / "code.pth")
    with pytest.raises(ModelError, match="more than tensors"):
        head.load_image_net(tmp_path / "code.pth")
