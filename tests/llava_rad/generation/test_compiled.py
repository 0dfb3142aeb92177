"""Decoding in slots of one shape gives the tokens of ordinary decoding, compiled or not, and is compiled once."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from encoder.errors import LlavaRadError
from llava_rad.generation import decoding
from llava_rad.generation.compiled import EVERY, CompiledDecoder, Tokens, as_graph, guards_of_arguments
from llava_rad.generation.decoding import _decode, compiles, generate, stream, warm_up, without_padding
from llava_rad.generation.engine import Engine
from llava_rad.generation.options import Decoding, GenerationOptions
from llava_rad.generation.report_writer import ReportWriter
from llava_rad.model.templates import Study
from tests.llava_rad import tiny_model

STEPS = tiny_model.MAX_NEW_TOKENS
SETTINGS = Decoding(max_new_tokens=STEPS)
Record = Callable[[Any], Any]


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.kron(image, np.ones((14, 14))).astype(np.uint8) for image in rng.integers(0, 256, (9, 4, 4))]


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Engine:
    return Engine.from_pretrained(tiny, device="cpu")


@pytest.fixture
def slots(monkeypatch: pytest.MonkeyPatch) -> list[CompiledDecoder]:
    """Decode as on CUDA, with steps that are not compiled; returns the decoders that are made."""
    made: list[CompiledDecoder] = []

    def make(*arguments: Any) -> CompiledDecoder:
        llama, suppressed, slots, length = arguments
        made.append(CompiledDecoder(llama, suppressed, slots, length, lambda step: step))
        return made[-1]

    monkeypatch.setattr("llava_rad.generation.engine.CompiledDecoder", make)
    monkeypatch.setattr(decoding, "compiles", lambda engine, settings: settings.compile is not False)
    return made


def prompts(engine: Engine, images: list[np.ndarray], *, padded: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    words = ["The heart?", "Is there a pleural effusion in this image?", "Lungs"] if padded else [None] * len(images)
    prompts = [engine.config.conversation.with_instruction(word) for word in words]
    return engine.embed(engine.encode_images(np.stack(images)), prompts)


def rows(pieces: Iterable[Tokens], count: int) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in range(count)]
    for row, token in chain.from_iterable(pieces):
        found[row].append(token)
    return found


def decoder(engine: Engine, record: Record, slots: int = 3, length: int = 240) -> CompiledDecoder:
    return CompiledDecoder(engine.llama, engine.tokens.suppressed, slots, length, record)


def written(of: CompiledDecoder, engine: Engine, embeds: torch.Tensor, mask: torch.Tensor | None) -> list[list[int]]:
    with torch.inference_mode():
        return rows(of(without_padding(embeds, mask), STEPS, engine.tokens.ids.eos), len(embeds))


@pytest.mark.parametrize(("number", "padded"), [(1, True), (2, False), (3, True), (5, False)])
def test_slots_give_the_tokens_of_ordinary_decoding(
    engine: Engine, images: list[np.ndarray], number: int, padded: bool
) -> None:
    one = decoder(engine, lambda step: step, number)
    for part in (images[:3], images[3:6]):  # the second batch finds the slots as the first one left them
        embeds, mask = prompts(engine, part, padded=padded)
        assert (mask is not None) == padded
        expected = rows(_decode(engine, embeds, mask, SETTINGS), 3)
        assert written(one, engine, embeds, mask) == expected
    assert one.compiled


def test_studies_of_several_lengths_go_through_the_slots(
    study_model: Path, images: list[np.ndarray], slots: list[CompiledDecoder]
) -> None:
    engine = Engine.from_pretrained(study_model, device="cpu")
    studies = [Study(), Study(lateral=True, indication="pain in the chest"), Study(prior=True), Study(lateral=True)]
    batch = images[: sum(study.images for study in studies)]
    plain = generate(engine, batch, Decoding(compile=False), studies=studies)
    assert [draft.ids for draft in generate(engine, batch, Decoding(), at_once=2, studies=studies)] == [
        draft.ids for draft in plain
    ]
    assert [one.slots for one in slots] == [2]


def test_a_report_that_ends_leaves_its_slot_to_the_next(engine: Engine, images: list[np.ndarray]) -> None:
    embeds, mask = prompts(engine, images, padded=False)
    one = decoder(engine, lambda step: mock.Mock(wraps=step), 2)
    found = written(one, engine, embeds, mask)
    calls: Any = one._step
    lengths = [len(row) - 1 for row in found]  # the first token comes with the prompt
    assert len(set(lengths)) > 1
    # two slots do the steps of all reports, but for the last looks; batches would wait for their longest report
    assert sum(lengths) <= 2 * calls.call_count <= sum(lengths) + 2 * EVERY * (len(lengths) + 1)
    assert found == rows(_decode(engine, embeds, mask, SETTINGS), len(images))


def test_a_slot_forgets_what_was_in_it(engine: Engine, images: list[np.ndarray]) -> None:
    embeds, mask = prompts(engine, images[:3], padded=False)
    one = decoder(engine, lambda step: step)
    one._cache.states.fill_(torch.nan)
    assert written(one, engine, embeds, mask) == rows(_decode(engine, embeds, mask, SETTINGS), 3)


def test_a_report_too_long_for_its_slot_is_an_error(engine: Engine, images: list[np.ndarray]) -> None:
    embeds, _ = prompts(engine, images[:1], padded=False)
    one = decoder(engine, lambda step: step, 1, embeds.shape[1])
    assert one.length % 64 == 0 and one.fits(1, one.length) and not one.fits(2, 1) and not one.fits(1, one.length + 1)
    with pytest.raises(ValueError, match="do not fit"):
        list(one(iter(embeds), one.length, 0))


def test_without_a_compiler_the_steps_run_as_they_are(engine: Engine, images: list[np.ndarray]) -> None:
    def record(step: object) -> Callable[..., torch.Tensor]:
        def fail(*_: object) -> torch.Tensor:
            raise RuntimeError("Failed to find C compiler.\nPlease install one.")

        return fail

    one = decoder(engine, record)
    embeds, mask = prompts(engine, images[:3], padded=False)
    with pytest.warns(UserWarning, match="not compiled: RuntimeError: Failed to find C compiler.$"):
        found = written(one, engine, embeds, mask)
    assert found == rows(_decode(engine, embeds, mask, SETTINGS), 3)
    assert not one.compiled


def test_generate_and_stream_write_the_same_in_slots(
    engine: Engine, images: list[np.ndarray], slots: list[CompiledDecoder]
) -> None:
    plain = Decoding(max_new_tokens=STEPS, compile=False)
    expected = generate(engine, images, plain)
    assert generate(engine, images, SETTINGS, at_once=4) == expected
    assert generate(engine, images[:3], SETTINGS) == expected[:3]  # the last batch is smaller
    assert "".join(stream(engine, images[0], SETTINGS)) == expected[0].text
    short = Decoding(max_new_tokens=5, prompt="The heart?")  # shorter ones fit
    assert generate(engine, images[:2], short) == generate(
        engine, images[:2], Decoding(max_new_tokens=5, prompt="The heart?", compile=False)
    )
    assert [(one.slots, one.length) for one in slots] == [(4, 256)]
    generate(engine, images, SETTINGS)  # all at once: nine slots
    assert [(one.slots, one.length) for one in slots] == [(4, 256), (9, 256)]


def test_threads_take_turns_in_the_slots(
    engine: Engine, images: list[np.ndarray], slots: list[CompiledDecoder]
) -> None:
    plain = Decoding(max_new_tokens=STEPS, compile=False)
    expected = [draft.text for draft in generate(engine, images[:4], plain)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: "".join(stream(engine, image, SETTINGS)), images[:4]))
    assert found == expected
    half = stream(engine, images[0], SETTINGS)
    next(half)
    with pytest.raises(LlavaRadError, match="half written"):
        generate(engine, images[:1], SETTINGS)
    half.close()
    assert generate(engine, images[:1], SETTINGS)[0].text == expected[0]


def test_warming_up_makes_the_decoder_of_the_first_report(tiny: Path, slots: list[CompiledDecoder]) -> None:
    with ReportWriter(GenerationOptions(model=tiny, device="cpu")) as writer:
        writer.warm_up()
        image = np.zeros((56, 56), np.uint8)
        list(stream(writer.engine(), image))
    assert [one.slots for one in slots] == [1]


def test_decoding_is_compiled_on_cuda_by_default(engine: Engine) -> None:
    def card(bits: int | None = None) -> Any:
        return mock.Mock(device=torch.device("cuda"), llama=mock.Mock(bits=bits), config=engine.config)

    assert compiles(card(), Decoding()) and compiles(card(4), Decoding(compile=True))
    assert not compiles(card(), Decoding(compile=False)) and not compiles(card(8), Decoding())
    assert not compiles(card(), Decoding(temperature=1.0)) and not compiles(card(), Decoding(num_beams=2))
    assert not compiles(engine, Decoding()) and not compiles(engine, Decoding(compile=True))


def test_on_a_cpu_nothing_is_compiled(tiny: Path, images: list[np.ndarray]) -> None:
    engine = Engine.from_pretrained(tiny, device="cpu")
    assert generate(engine, images[:2], Decoding(compile=True)) == generate(engine, images[:2])
    warm_up(engine, Decoding())
    assert engine._decoder is None


@pytest.mark.parametrize(("every", "padded"), [(3, True), (8, False), (100, True)])
def test_looking_at_tokens_every_few_steps_changes_no_report(
    engine: Engine, images: list[np.ndarray], every: int, padded: bool
) -> None:
    embeds, mask = prompts(engine, images[:3], padded=padded)
    pieces = list(_decode(engine, embeds, mask, SETTINGS, every))
    assert len(pieces[0]) == 3  # the first tokens are not kept waiting
    assert rows(pieces, 3) == rows(_decode(engine, embeds, mask, SETTINGS), 3)


def test_compiled_kernels_are_kept_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    as_graph(lambda *_: torch.zeros(1))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "llava-rad" / "compiled")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    as_graph(lambda *_: torch.zeros(1))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere"


def test_the_log_says_how_long_compilation_took(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def slow(step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*inputs: Any) -> Any:
            time.sleep(0.6)
            return step(*inputs)

        return run

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch, "compile", lambda step, **_: slow(step))
    step = as_graph(lambda tokens, index, key: tokens)
    for _ in range(2):
        step(torch.zeros(1), torch.zeros(1), 0)
    assert [record.message for record in caplog.records] == [
        "llava-rad: compiling the decoder; later runs find its kernels (--no-compile does without)",
        "llava-rad: the decoder was compiled in 1 s",
    ]


class Traced:
    """Record a step as `as_graph` does, without the minute that a C++ compiler takes; counts compilations."""

    def __init__(self) -> None:
        self.graphs = 0

    def compile(self, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        self.graphs += 1
        return graph.forward

    def __call__(self, step: Callable[..., Any]) -> Any:
        options: Any = {"guard_filter_fn": guards_of_arguments}
        return torch.compile(step, backend=self.compile, fullgraph=True, dynamic=False, options=options)


@pytest.mark.slow
def test_one_compilation_serves_all_lengths_and_batches(engine: Engine, images: list[np.ndarray]) -> None:
    torch._dynamo.reset()
    record = Traced()
    one = decoder(engine, record)
    for part, padded in ((images[:3], True), (images[3:5], False), (images[5:6], False), (images, False)):
        embeds, mask = prompts(engine, part, padded=padded)
        assert written(one, engine, embeds, mask) == rows(_decode(engine, embeds, mask, SETTINGS), len(part))
    assert one.compiled and record.graphs == 1


@pytest.mark.slow
def test_a_larger_decoder_takes_the_memory_of_the_smaller_one(
    tiny: Path, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    record, engine = Traced(), Engine.from_pretrained(tiny, device="cpu")
    monkeypatch.setattr("llava_rad.generation.engine.CompiledDecoder", partial(CompiledDecoder, record=record))
    embeds, mask = prompts(engine, images[:3], padded=False)
    expected = rows(_decode(engine, embeds, mask, SETTINGS), 3)
    small = engine.decoder(1, 240)
    assert written(small, engine, embeds, mask) == expected
    cache = weakref.ref(small._cache.states)
    large = engine.decoder(2, 230)
    assert (large.slots, large.length) == (2, 256) and cache() is None
    assert written(large, engine, embeds, mask) == expected
    assert record.graphs == 2 and large.compiled


@pytest.mark.slow
def test_two_models_in_one_process_are_compiled_apart(engine: Engine, images: list[np.ndarray], tmp_path: Path) -> None:
    torch._dynamo.reset()
    record = Traced()
    other = Engine.from_pretrained(tiny_model.make(tmp_path / "other", seed=5), device="cpu")
    first, second = decoder(engine, record), decoder(other, record)
    for _ in range(2):
        for one, of in ((first, engine), (second, other)):
            embeds, mask = prompts(of, images[:3], padded=False)
            assert written(one, of, embeds, mask) == rows(_decode(of, embeds, mask, SETTINGS), 3)
            assert one.compiled
    assert record.graphs == 2


@pytest.mark.nightly
def test_inductor_gives_the_same_tokens(engine: Engine, images: list[np.ndarray]) -> None:
    torch._dynamo.reset()
    one = decoder(engine, as_graph)
    embeds, mask = prompts(engine, images[:3], padded=True)
    assert written(one, engine, embeds, mask) == rows(_decode(engine, embeds, mask, SETTINGS), 3)
    assert one.compiled


@pytest.mark.gpu
def test_as_a_cuda_graph(tiny: Path, images: list[np.ndarray]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    engine = Engine.from_pretrained(tiny, device="cuda", dtype="float32")
    found = [generate(engine, part, SETTINGS, at_once=3) for part in (images[:3], images[3:])]
    assert engine._decoder is not None and engine._decoder.compiled
    plain = Decoding(max_new_tokens=STEPS, compile=False)
    assert found == [generate(engine, part, plain) for part in (images[:3], images[3:])]
