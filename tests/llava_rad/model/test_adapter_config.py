"""Settings of a LoRA adapter that somebody else wrote: patterns of names mean what PEFT means, within a limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from encoder.errors import ModelError
from llava_rad.model import adapter_config
from llava_rad.model.adapter_config import with_module_names
from llava_rad.model.llava_rad import load_llama

KINDS = ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj", "input_layernorm")
MODULES = ["", "model", "lm_head", *(f"model.layers.{n}.{kind}" for n in range(12) for kind in KINDS)]


def resolved(**settings: Any) -> dict[str, Any]:
    return with_module_names({"r": 8} | settings, MODULES, 64)


@pytest.mark.parametrize(
    ("pattern", "number"),
    [
        (r".*\.(q|k)_proj", 24),
        (r"(?:.*?(?:text|layers).*?(?:self_attn|mlp).*?(?:q_proj|gate_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.x)", 24),
        (r"model\.layers\.(0|1)\.mlp\.gate_proj", 2),
        ("lm_head", 1),
    ],
    ids=["usual", "unsloth", "layers", "name"],
)  # fmt: skip
def test_a_pattern_becomes_the_names_that_it_matches(pattern: str, number: int) -> None:
    found = resolved(target_modules=pattern)["target_modules"]
    assert len(found) == number and set(found) <= set(MODULES)


def test_names_and_the_word_for_all_linear_layers_stay() -> None:
    assert resolved(target_modules=["q_proj"])["target_modules"] == ["q_proj"]
    assert resolved(target_modules="all-linear")["target_modules"] == "all-linear"
    assert resolved(exclude_modules=None)["exclude_modules"] is None
    assert resolved(exclude_modules=".*nothing")["exclude_modules"] is None


@pytest.mark.parametrize("pattern", [r"((.*)*)*x", r".*(a+)+b", ".*" * 60 + "x"], ids=["stars", "plus", "many"])
@pytest.mark.parametrize("key", ["target_modules", "exclude_modules", "rank_pattern"])
def test_a_pattern_without_end_is_refused(key: str, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_config, "_PATIENCE_S", 2.0)
    long = ["model.layers.10.self_attn.q_proj." + "a" * 60]
    with pytest.raises(ModelError, match="take too long"):
        with_module_names({"r": 8, key: {pattern: 4} if key == "rank_pattern" else pattern}, long, 64)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": "(("}, {"target_modules": "x" * 20_000}, {"target_modules": [1]},
        {"exclude_modules": {"a": 1}},
        {"modules_to_save": ["(a+)+"]}, {"layers_pattern": "(.*)*"}, {"layers_pattern": ["a|b"]},
        {"rank_pattern": ["q"]}, {"rank_pattern": {"q": 10**9}}, {"alpha_pattern": {"(": 1}},
        {"r": 10**9}, {"r": "8"}, {"r": 0}, {"target_modules": ".*nothing"},
    ],
    ids=lambda settings: str(settings)[:50],
)  # fmt: skip
def test_settings_that_are_none_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        resolved(**settings)


@pytest.mark.slow
def test_a_resolved_adapter_is_the_one_that_peft_builds(tiny: Path) -> None:
    """Ranks, scales and adapted modules, against PEFT with the patterns themselves."""
    from peft import LoraConfig, get_peft_model

    settings = {
        "r": 2, "lora_alpha": 4, "target_modules": r".*\.layers\.\d+\.self_attn\.(q|v)_proj",
        "exclude_modules": r".*layers\.1\.self_attn\.v_proj",
        "rank_pattern": {"q_proj": 3, r".*v_proj": 5}, "alpha_pattern": {r"layers\.0\..*": 7, "q_proj": 9},
    }  # fmt: skip

    def made(given: dict[str, Any]) -> dict[str, Any]:
        model = get_peft_model(load_llama(tiny / "language_model", "it", dtype="auto"), LoraConfig(**given))
        return {
            name: (module.r["default"], module.scaling["default"])
            for name, module in model.named_modules() if hasattr(module, "lora_A") and hasattr(module, "scaling")
        }  # fmt: skip

    base = load_llama(tiny / "language_model", "it", dtype="auto")
    expected = made(settings)
    assert len(expected) >= 3 and len(set(expected.values())) >= 2
    assert made(with_module_names(settings, [name for name, _ in base.named_modules()], 64)) == expected
