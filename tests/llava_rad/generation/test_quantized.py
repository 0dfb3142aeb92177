"""Weights in 8 and 4 bits against transformers' own loading by bitsandbytes, and what cannot be done with them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from llava_rad.doctor import need_of
from llava_rad.generation.compiled import CompiledDecoder
from llava_rad.generation.llama import Llama
from llava_rad.generation.quantized import BITS, QuantizedLinear, _bitsandbytes
from tests.llava_rad import small_files
from tests.llava_rad.conftest import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3}
    config = LlamaConfig(**sizes, num_attention_heads=4, max_position_embeddings=64, initializer_range=0.2)
    folder = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", BITS)
def test_logits_equal_transformers(name: str, device: str, folder: Path) -> None:
    from transformers import BitsAndBytesConfig, LlamaForCausalLM

    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    few = (
        BitsAndBytesConfig(load_in_8bit=True)
        if name == "8bit"
        else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    )
    reference = LlamaForCausalLM.from_pretrained(
        folder, quantization_config=few, dtype=torch.float32, device_map=device
    )
    whole = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)
    llama = Llama.load(folder, bits=BITS[name], device=device)
    ids = torch.randint(3, 97, (2, 12), generator=torch.Generator().manual_seed(1)).to(device)
    with torch.inference_mode():
        expected, exact = reference(ids).logits[:, -1], whole(ids).logits[:, -1]
        words = torch.nn.functional.embedding(ids, llama.embedding)
        found = llama(words, llama.cache(2, 12), 0)
    rounding = float((expected - exact).abs().mean())
    assert rounding > 0.01  # so that whole weights would be told from rounded ones
    assert float((found - expected).abs().mean()) < rounding / 20


@pytest.mark.gpu
def test_4_bits_as_a_cuda_graph(folder: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    llama = Llama.load(folder, bits=4, device="cuda", dtype=torch.bfloat16)
    ids = torch.randint(3, 97, (2, 12), generator=torch.Generator().manual_seed(1)).cuda()
    decoder = CompiledDecoder(llama, (), 2, 20)
    with torch.inference_mode():
        words = torch.nn.functional.embedding(ids, llama.embedding)
        found = list(decoder(iter(words), 8, -1))
        assert decoder.compiled
        decoder.compiled = False
        assert found == list(decoder(iter(words), 8, -1))


@pytest.mark.parametrize("rows", [32, 40])
@pytest.mark.parametrize(("bits", "levels"), [(8, 255), (4, 16)])
def test_few_values_are_left(bits: int, levels: int, rows: int) -> None:
    # a product with the unit matrix gives the weight that is multiplied by
    weight = torch.randn(rows, 64, generator=torch.Generator().manual_seed(0))
    found = QuantizedLinear(weight, bits)(torch.eye(64)).T
    assert all(len(row.unique()) <= levels for row in found)
    assert not torch.equal(found, weight)
    # half of the widest step, and 5 % for scales in 16 bits: 2 / 254 of a row's largest; NF4's widest step lies
    # between -1 and -0.6962 (arXiv 2305.14314, appendix E)
    widest = {8: 1 / 254, 4: 0.3038 / 2}[bits]
    assert bool(((found - weight).abs() <= widest * 1.05 * weight.abs().amax(1, keepdim=True)).all())


@pytest.mark.parametrize("name", BITS)
def test_a_report_says_in_which_precision_it_was_written(name: str, tiny: Path, tmp_path: Path, run: Run) -> None:
    image = small_files.dicom(tmp_path / "a.dcm")
    done = run("generate", image, "--model", tiny, "--dtype", name, "--format", "json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["generation"]["dtype"] == f"float32, {BITS[name]}-bit weights"


def test_beam_search_is_refused(tiny: Path, tmp_path: Path, run: Run) -> None:
    image = small_files.dicom(tmp_path / "a.dcm")
    done = run("generate", image, "--model", tiny, "--dtype", "4bit", "--num-beams", "2")
    assert done.code == 1
    assert done.err.splitlines()[0] == "llava-rad: error: beam search needs the model's whole weights"


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, tiny: Path, tmp_path: Path, run: Run) -> None:
    _bitsandbytes.cache_clear()
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    done = run("generate", small_files.dicom(tmp_path / "a.dcm"), "--model", tiny, "--dtype", "8bit")
    assert done.code == 1
    assert "bitsandbytes" in done.err
    assert "pip install 'llava-rad[quantized]'" in done.err


@pytest.mark.slow
def test_no_code_is_fetched() -> None:
    """With the package ``kernels`` bitsandbytes would load a compiled kernel from the hub when it is imported."""
    import subprocess

    script = (
        "import sys, types\n"
        "kernels = types.ModuleType('kernels')\n"
        "kernels.get_kernel = lambda *a, **k: (_ for _ in ()).throw(SystemExit('code was fetched'))\n"
        "sys.modules['kernels'] = kernels\n"
        "from llava_rad.generation.quantized import _bitsandbytes\n"
        "_bitsandbytes()\n"
        "assert sys.modules['kernels'] is kernels"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_memory_in_few_bits(tiny: Path) -> None:
    need = need_of(tiny)
    # two layers of 4 x 32 x 32 + 3 x 32 x 64 weights
    assert need.quantisable == 20_480
    whole = need.bytes("bfloat16")
    assert need.bytes("8bit") == whole - 20_480
    assert need.bytes("4bit") == whole - 20_480 * 2 + 20_480 // 2 + 20_480 // 64 * 4
