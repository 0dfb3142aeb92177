"""Decoding in steps of one shape gives the tokens of ordinary decoding, compiled or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llava_rad.generation.compiled import CompiledDecoder, as_graph
from llava_rad.generation.decoding import _decode, _decode_compiled, generate
from llava_rad.generation.engine import Engine
from llava_rad.generation.options import Decoding
from tests.llava_rad import tiny_model

SETTINGS = Decoding(max_new_tokens=tiny_model.MAX_NEW_TOKENS, compile=True)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.kron(image, np.ones((14, 14))).astype(np.uint8) for image in rng.integers(0, 256, (6, 4, 4))]


def engine_with(tiny: Path, record: Callable[[Any], Any]) -> Engine:
    engine = Engine.from_pretrained(tiny, device="cpu")
    engine.compiled = CompiledDecoder(engine.llama, engine.tokens.suppressed, record)
    return engine


def prompts(engine: Engine, images: list[np.ndarray], *, padded: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    words = ["The heart?", "Is there a pleural effusion in this image?", "Lungs"] if padded else [None] * 3
    prompts = [engine.config.conversation.with_instruction(word) for word in words]
    return engine.embed(engine.encode_images(np.stack(images)), prompts)


@pytest.mark.parametrize("padded", [False, True])
def test_steps_of_one_shape_give_the_same_tokens(tiny: Path, images: list[np.ndarray], padded: bool) -> None:
    engine = engine_with(tiny, lambda step: step)
    for part in (images[:3], images[3:]):  # the second batch finds the first one's cache
        embeds, mask = prompts(engine, part, padded=padded)
        assert (mask is not None) == padded
        found = list(_decode_compiled(engine, embeds, mask, SETTINGS))
        assert found == list(_decode(engine, embeds, mask, SETTINGS))
    assert engine.compiled.compiled


def test_only_the_first_shape_fits(tiny: Path, images: list[np.ndarray]) -> None:
    engine = engine_with(tiny, lambda step: step)
    assert engine.compiled.fits(3, 99)
    embeds, mask = prompts(engine, images[:3], padded=False)
    list(_decode_compiled(engine, embeds, mask, SETTINGS))
    length = embeds.shape[1] + SETTINGS.max_new_tokens
    assert engine.compiled.fits(3, length)
    assert not engine.compiled.fits(2, length) and not engine.compiled.fits(3, length + 1)


def test_without_a_compiler_the_steps_run_as_they_are(tiny: Path, images: list[np.ndarray]) -> None:
    def record(step: object) -> Callable[..., torch.Tensor]:
        def fail(*_: object) -> torch.Tensor:
            raise RuntimeError("Failed to find C compiler.\nPlease install one.")

        return fail

    engine = engine_with(tiny, record)
    embeds, mask = prompts(engine, images[:3], padded=False)
    with pytest.warns(UserWarning, match="not compiled: RuntimeError: Failed to find C compiler.$"):
        found = list(_decode_compiled(engine, embeds, mask, SETTINGS))
    assert found == list(_decode(engine, embeds, mask, SETTINGS))
    assert not engine.compiled.compiled


def test_on_a_cpu_the_switch_changes_nothing(tiny: Path, images: list[np.ndarray]) -> None:
    engine = Engine.from_pretrained(tiny, device="cpu")
    assert generate(engine, images, SETTINGS) == generate(engine, images)
    assert "compiled" not in vars(engine)


def traced(step: Callable[..., Any]) -> Callable[..., Any]:
    """Record a step as `as_graph` does, without the minute that a C++ compiler takes."""
    compiled: Callable[..., Any] = torch.compile(step, backend="aot_eager", fullgraph=True, dynamic=False)
    return compiled


@pytest.mark.parametrize(
    "record", [pytest.param(traced, marks=pytest.mark.slow), pytest.param(as_graph, marks=pytest.mark.nightly)]
)
def test_torch_compile_gives_the_same_tokens(tiny: Path, images: list[np.ndarray], record: Callable[..., Any]) -> None:
    engine = engine_with(tiny, record)
    embeds, mask = prompts(engine, images[:3], padded=True)
    assert list(_decode_compiled(engine, embeds, mask, SETTINGS)) == list(_decode(engine, embeds, mask, SETTINGS))
    assert engine.compiled.compiled


@pytest.mark.gpu
def test_as_a_cuda_graph(tiny: Path, images: list[np.ndarray]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    engine = Engine.from_pretrained(tiny, device="cuda", dtype="float32")
    found = [generate(engine, part, SETTINGS) for part in (images[:3], images[3:])]
    assert engine.compiled.compiled
    assert found == [generate(engine, part) for part in (images[:3], images[3:])]
