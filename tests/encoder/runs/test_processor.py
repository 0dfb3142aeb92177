"""Warnings and the choice of a type on processors that are slow in bfloat16."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from encoder.runs import processor
from encoder.runs.preflight import Report


@pytest.fixture(params=[0.5, 51.0])
def times(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """Slowdown of a processor with AMX, and of one without AVX-512 (measured on both kinds)."""
    monkeypatch.setattr(processor, "bfloat16_slowdown", lambda: request.param)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return float(request.param)


def test_a_slow_processor_is_named_before_a_run_and_avoided_by_scripts(times: float) -> None:
    slow = times > 1
    warning = processor.slow_precision("bf16")
    assert processor.slow_precision("fp32") is None
    assert (warning is not None) is slow
    assert processor.fast_type() is (torch.float32 if slow else torch.bfloat16)
    report = Report()
    report.tell_time(1.0, 1, "1 TFLOP an image", precision="bf16")
    assert report.warnings == ([warning] if slow else [])
    if warning:
        assert "51 times" in warning and "engine.precision=fp32" in warning


def test_a_run_on_a_gpu_has_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "bfloat16_slowdown", lambda: 51.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert processor.slow_precision("bf16") is None


def test_the_slowdown_is_measured() -> None:
    processor.bfloat16_slowdown.cache_clear()
    assert processor.bfloat16_slowdown() > 0


def test_work_of_others_does_not_hide_the_slowdown() -> None:
    """Threads of OpenMP wait for each other: beside a busy process, float32 seemed as slow as bfloat16."""
    threads = torch.get_num_threads()
    processor.bfloat16_slowdown.cache_clear()
    quiet = processor.bfloat16_slowdown()
    code = "while True: pass"
    busy = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(os.cpu_count() or 1)]
    try:
        processor.bfloat16_slowdown.cache_clear()
        assert processor.bfloat16_slowdown() > quiet / 3
    finally:
        for one in busy:
            one.kill()
            one.wait()
    assert torch.get_num_threads() == threads
