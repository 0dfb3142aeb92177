"""The vLLM backend: its wire and its errors with a stand-in for vLLM, and parity with transformers on the same folder.

``LLAVA_RAD_VLLM_PYTHON=DIR/bin/python`` also runs it against a real vLLM.
"""

from __future__ import annotations

import io
import os
import sys
import venv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from encoder.errors import LlavaRadError
from llava_rad.generation.decoding import generate, prepare
from llava_rad.generation.engine import Engine
from llava_rad.generation.options import Decoding, GenerationOptions
from llava_rad.generation.report_writer import ReportWriter
from llava_rad.generation.vllm import VllmWriter
from llava_rad.generation.vllm_worker import receive, send
from llava_rad.generation.words import WordEmbeddings
from tests.llava_rad import tiny_model

SETTINGS = Decoding(max_new_tokens=tiny_model.MAX_NEW_TOKENS)
STANDINS = Path(__file__).parents[1] / "standins"


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Engine:
    return Engine.from_pretrained(tiny, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.kron(image, np.ones((14, 14))).astype(np.uint8) for image in rng.integers(0, 256, (5, 4, 4))]


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(STANDINS))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.slow
@pytest.mark.usefixtures("standin")
def test_the_same_reports_by_way_of_the_worker(tiny, engine, images) -> None:
    with VllmWriter(engine, tiny, sys.executable) as writer:
        assert writer.version == "stand-in" and writer.recipe == engine.recipe
        assert writer.generate(images, SETTINGS) == generate(engine, images, SETTINGS)
        short = Decoding(max_new_tokens=3, prompt="The heart?")
        assert writer.generate(images[:2], short) == generate(engine, images[:2], short)
        assert writer.generate([]) == []
        with pytest.raises(LlavaRadError, match="greedy"):
            writer.generate(images, Decoding(num_beams=2))
        with pytest.raises(LlavaRadError, match="exceed the model's 512"):
            writer.generate(images, Decoding(max_new_tokens=500))


@pytest.mark.slow
@pytest.mark.usefixtures("standin")
def test_bfloat16_embeddings_arrive_as_they_are(tiny, images) -> None:
    engine = Engine.from_pretrained(tiny, device="cpu", dtype="bfloat16")
    with VllmWriter(engine, tiny, sys.executable) as writer:
        assert len(writer.generate(images, SETTINGS)) == len(images)


@pytest.mark.slow
@pytest.mark.usefixtures("standin")
@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("die", r"ended without an answer \(exit code 9\): "),
        ("forget", "answered 4 of 5 prompts"),
        ("fail", "vLLM failed: RuntimeError: no room left$"),
    ],
)
def test_failures_are_one_line(told: str, message: str, tiny, engine, images, monkeypatch) -> None:
    monkeypatch.setenv("STANDIN", told)
    with VllmWriter(engine, tiny, sys.executable) as writer, pytest.raises(LlavaRadError, match=message) as error:
        writer.generate(images, SETTINGS)
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.usefixtures("standin")
def test_a_killed_worker_is_an_error_and_not_a_hang(tiny, engine, images) -> None:
    with VllmWriter(engine, tiny, sys.executable) as writer:
        writer._process.kill()
        for _ in range(2):
            with pytest.raises(LlavaRadError, match=r"ended without an answer \(exit code -9\)"):
                writer.generate(images, SETTINGS)


@pytest.mark.slow
@pytest.mark.usefixtures("standin")
def test_a_report_writer_decodes_by_vllm_without_a_second_language_model(tiny, chest) -> None:
    from llava_rad.generation.sources import Source

    sources, plain = (
        [Source(n, path) for n, path in enumerate(chest[:3], 1)],
        GenerationOptions(model=tiny, device="cpu"),
    )
    with ReportWriter(plain) as writer:
        expected = [outcome.text for outcome in writer.write(sources)]
    with ReportWriter(replace(plain, vllm_python=sys.executable)) as writer:
        found = list(writer.write(sources))
        engine, process = writer.engine(), writer._model.vllm._process
        assert isinstance(engine.words, WordEmbeddings)
        with pytest.raises(LlavaRadError, match="runs in vLLM"):
            engine.llama  # noqa: B018
        *pieces, report = writer.stream(sources[0])
        assert "".join(pieces).strip() == report.text == expected[0]
        writer.warm_up()
    assert process.returncode is not None
    assert [outcome.text for outcome in found] == expected
    assert {outcome.generation.dtype for outcome in found} == {"float32, vLLM stand-in"}


@pytest.mark.slow
@pytest.mark.usefixtures("standin")
def test_generate_decodes_by_vllm(tiny, chest, run) -> None:
    call = ("generate", *chest[:2], "--model", tiny, "--device", "cpu")
    found = run(*call, "--vllm-python", sys.executable)
    assert (found.code, found.out) == (0, run(*call).out)
    missing = run(*call, "--vllm-python", "/no/python")
    assert missing.code == 1 and missing.err.startswith("llava-rad: error: /no/python cannot be run")


def test_word_embeddings_are_those_of_the_language_model(tiny, engine, images, tmp_path: Path) -> None:
    alone = Engine.from_pretrained(tiny, device="cpu", dtype="float32", decodes=False)
    for settings in (SETTINGS, Decoding(prompt="The heart?", max_new_tokens=5)):
        assert torch.equal(prepare(alone, images, settings)[0], prepare(engine, images, settings)[0])
    assert (alone.words.longest, alone.words.width, alone.precision) == (512, 32, "float32")
    with pytest.raises(LlavaRadError, match="exceed the model's 512"):
        prepare(alone, images, Decoding(max_new_tokens=500))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(LlavaRadError, match="adapter"):
        WordEmbeddings.load(tmp_path, device="cpu", dtype=torch.float32)


def test_an_environment_without_vllm(tiny, engine, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", symlinks=True)
    with pytest.raises(LlavaRadError, match="bin/python has no vLLM") as error:
        VllmWriter(engine, tiny, tmp_path / "bare" / "bin" / "python")
    assert "pip install vllm" in str(error.value.hint)
    with pytest.raises(LlavaRadError, match="cannot be run"):
        VllmWriter(engine, tiny, tmp_path / "nowhere" / "python")


def test_an_adapter_is_refused(engine, tmp_path: Path) -> None:
    (tmp_path / "language_model").mkdir()
    (tmp_path / "language_model" / "adapter_config.json").write_text("{}")
    with pytest.raises(LlavaRadError, match="adapter") as error:
        VllmWriter(engine, tmp_path, sys.executable)
    assert "merge" in str(error.value.hint)


def test_messages_come_back_as_they_were_sent() -> None:
    stream = io.BytesIO()
    send(stream, {"do": "write", "n": 1}, b"\0\1")
    stream.seek(0)
    assert receive(stream) == {"do": "write", "n": 1}
    assert stream.read() == b"\0\1"
    assert receive(stream) is None
    for cut in (3, 12):
        with pytest.raises(EOFError):
            receive(io.BytesIO(stream.getvalue()[:cut]))


@pytest.mark.slow
def test_a_real_vllm(tmp_path: Path) -> None:
    """The embedded model: vLLM has no CPU kernel for the tiny one's heads."""
    python = os.environ.get("LLAVA_RAD_VLLM_PYTHON")
    if not python:
        pytest.skip("LLAVA_RAD_VLLM_PYTHON names no interpreter with vLLM")
    from llava_rad.model.checkpoint import locate
    from scripts.bench.generate import crops_of_the_example

    engine = Engine.from_pretrained(None, device="cpu", dtype="float32")
    images = crops_of_the_example(engine.recipe, 16)[:6]
    with VllmWriter(engine, locate(None), python) as writer:
        found = writer.generate(images)
    assert found == generate(engine, images)
    assert len({draft.text for draft in found}) > 3
