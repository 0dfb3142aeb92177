"""Checkpoints that name code, or packages that would fetch it: nothing is fetched, imported or asked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.llava_rad.model.test_checkpoint import rehash

CODE = {
    "attn_implementation": "evil/kernel", "_attn_implementation": "evil/kernel",
    "_attn_implementation_internal": "evil/kernel", "experts_implementation": "evil/kernel",
    "_experts_implementation": "evil/kernel", "use_kernels": True, "kernel_config": {"RMSNorm": "evil/kernel"},
    "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoTokenizer": ["evil.T", None]},
    "trust_remote_code": True, "custom_generate": "evil/kernel", "custom_pipelines": {"x": {"impl": "evil.P"}},
}  # fmt: skip
FLASH = {"attn_implementation": "flash_attention_2", "_attn_implementation": "flash_attention_2"}
QUANTISED = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}

# each says so in a file when it is imported (bitsandbytes, flash_attn, evil) or used (kernels)
STAND_INS = {
    "kernels": "def __getattr__(name):\n    if name[:2] == '__': raise AttributeError(name)\n"
    "    return lambda *a, **k: said(name)\n",
    "bitsandbytes": "said('import')\n",
    "flash_attn": "said('import')\n",
    "evil": "said('import')\n",
}
SAID = "def said(what):\n    open({log!r}, 'a').write(f'{{__name__}} {{what}}\\n')\n    raise RuntimeError('asked')\n"
VERSIONS = {"kernels": "0.14.0", "bitsandbytes": "0.50.0", "flash_attn": "2.8.0"}
LOAD = """
import json, sys
from pathlib import Path
from encoder.errors import LlavaRadError
from llava_rad.generation.engine import Engine
from llava_rad.model.llava_rad import LlavaRad
for folder in map(Path, sys.argv[1:]):
    for load in (Engine.from_pretrained, LlavaRad.from_pretrained):
        try:
            made = load(folder, offline=True)
            if load == Engine.from_pretrained and 'adapter' not in folder.name:
                made.language_model()
            print(folder.name, 'loaded')
        except LlavaRadError as error:
            print(folder.name, error.exit_code, error)
"""


def changed(tiny: Path, folder: Path, part: str, more: Mapping[str, Any], *names: str) -> Path:
    shutil.copytree(tiny, folder)
    for name in names or ("config.json", "generation_config.json", "tokenizer_config.json"):
        path = folder / part / name
        before = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(before | more))
    rehash(folder)
    return folder


def with_adapter(tiny: Path, folder: Path, **more: Any) -> Path:
    """The checkpoint with a language model that is a LoRA adapter of its own."""
    from peft import LoraConfig, get_peft_model

    from llava_rad.model.llava_rad import load_llama

    shutil.copytree(tiny, folder)
    base = shutil.copytree(tiny / "language_model", folder.with_name(f"{folder.name}-base"))
    settings = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    adapted = get_peft_model(load_llama(base, "base", dtype="auto"), settings)
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (folder / "language_model" / name).unlink(missing_ok=True)
    adapted.save_pretrained(folder / "language_model")
    (folder / "language_model" / "README.md").unlink()
    path = folder / "language_model" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(base)} | more))
    rehash(folder)
    return folder


@pytest.mark.slow
def test_no_key_of_a_checkpoint_fetches_or_imports_code(tiny: Path, tmp_path: Path) -> None:
    log, packages = tmp_path / "said", tmp_path / "packages"
    for name, body in STAND_INS.items():
        (packages / name).mkdir(parents=True)
        (packages / name / "__init__.py").write_text(SAID.format(log=str(log)) + body)
        if name in VERSIONS:
            about = packages / f"{name}-{VERSIONS[name]}.dist-info"
            about.mkdir()
            (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {VERSIONS[name]}\n")
    base = tmp_path / "embedded"
    cases = {
        "code-llama": (changed(tiny, tmp_path / "code-llama", "language_model", CODE), "loaded"),
        "code-encoder": (changed(tiny, tmp_path / "code-encoder", "encoder", CODE, "config.json"), "loaded"),
        "flash-llama": (changed(tiny, tmp_path / "flash-llama", "language_model", FLASH), "loaded"),
        "flash-encoder": (changed(tiny, tmp_path / "flash-encoder", "encoder", FLASH, "config.json"), "loaded"),
        "quantised-llama": (changed(tiny, tmp_path / "quantised-llama", "language_model", QUANTISED), "quantised"),
        "quantised-encoder": (changed(tiny, tmp_path / "quantised-encoder", "encoder", QUANTISED), "loaded"),
        "adapter": (with_adapter(tiny, tmp_path / "adapter"), "loaded"),
        "adapter-keys": (
            with_adapter(tiny, tmp_path / "adapter-keys", auto_mapping={"parent_library": "evil"}),
            "loaded",
        ),
        "adapter-megatron": (
            with_adapter(tiny, tmp_path / "adapter-megatron", megatron_config={"a": 1}, megatron_core="evil"),
            "megatron_config",
        ),
        "adapter-kind": (with_adapter(tiny, tmp_path / "adapter-kind", peft_type="IA3"), "of LoRA"),
        "adapter-of-adapter": (with_adapter(tiny, tmp_path / "adapter-of-adapter"), "an adapter itself"),
        "embedded": (changed(tiny, base, "encoder", {"peft_type": "LORA"}, "adapter_config.json"), "has an adapter"),
    }
    (tmp_path / "adapter-of-adapter-base" / "adapter_config.json").write_text("{}")
    path = os.pathsep.join([str(packages), str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *(str(folder) for folder, _ in cases.values())],
        env=os.environ | {"PYTHONPATH": path},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    for name, (_, expected) in cases.items():
        own = [line for line in lines if line.startswith(f"{name} ")]
        assert own and any(expected in line for line in own), (name, own)
        assert expected != "loaded" or all("loaded" in line for line in own), own
    assert not log.exists(), log.read_text()
