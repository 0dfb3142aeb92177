"""The doctor sees what is missing and what should not be there, and says what to do."""

from __future__ import annotations

from importlib import metadata

import pytest

from encoder.decoders import TRANSFER_SYNTAXES
from llava_rad import doctor


def checks(kind: str) -> dict[str, doctor.Check]:
    return {check.name: check for check in getattr(doctor, kind)()}


def test_every_transfer_syntax_has_a_decoder_here() -> None:
    found = checks("_decoders")
    assert len(found) == len(TRANSFER_SYNTAXES)
    assert {check.status for check in found.values()} == {"ok"}


def test_a_missing_decoder_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "jpeg_ls" else real(name))
    found = checks("_decoders")
    assert found["decoder .2.4.80"].status == "missing"
    assert found["decoder .2.4.80"].fix == "pip install pyjpegls"
    assert found["decoder .2.4.90"].status == "ok"


def test_a_missing_package_and_unwanted_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    assert checks("_unwanted") == {}
    monkeypatch.setattr(doctor, "version", version)
    assert checks("_packages")["torch"].fix == "pip install torch"
    unwanted = checks("_unwanted")
    assert unwanted["python-gdcm"].fix == "pip uninstall python-gdcm"
    assert "GPL" in unwanted["pylibjpeg-libjpeg"].detail


def test_every_problem_has_a_fix_or_is_explained() -> None:
    diagnosis = doctor.diagnose()
    assert all(check.fix for check in diagnosis.checks if check.status == "missing")
    assert diagnosis.ok == all(check.status != "missing" for check in diagnosis.checks)
    assert diagnosis.to_text().splitlines()[-1].startswith("everything" if diagnosis.ok else "something")


def test_cache_and_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = checks("_cache")
    assert str(tmp_path) in found["hub cache"].detail
    assert "switched off" in found["hub"].detail
    assert "hf_secret" not in str(found)


def test_a_broken_package_does_not_stop_the_other_checks() -> None:
    def broken() -> object:
        raise ImportError("libtorch.so")
        yield

    (check,) = doctor._guarded("device", broken)  # type: ignore[arg-type]
    assert (check.status, check.detail) == ("missing", "fails with ImportError")
