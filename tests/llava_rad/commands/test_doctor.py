"""The doctor sees what is missing and what should not be there, and says what to do."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from safetensors.torch import load_file

from encoder.reader.decoders import TRANSFER_SYNTAXES
from llava_rad import doctor
from tests.llava_rad.conftest import Run


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
    assert (check.status, check.detail) == ("missing", "a library cannot be loaded: libtorch.so")


def test_memory_of_a_model(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {check.name: check for check in doctor._model(str(tiny))}
    tensors = [tensor for path in tiny.rglob("*.safetensors") for tensor in load_file(path).values()]
    numbers = sum(tensor.numel() for tensor in tensors)
    assert found["model"].detail.startswith(f"{numbers:,} parameters: ")
    assert found["memory"].status == "ok"
    # two layers of keys and values of 32 numbers, for 16 image tokens, 512 of texts and 24 of an answer
    need = doctor.need_of(tiny)
    assert (need.parameters, need.cached) == (numbers, 2 * 2 * 32 * (16 + 512 + 24))
    assert (need.bytes("bfloat16"), need.bytes("float32")) == (
        2 * (numbers + need.cached), 4 * (numbers + need.cached),
    )  # fmt: skip
    assert f": {4 * (numbers + need.cached) / 2**20:.1f} MiB in float32, " in found["model"].detail
    assert doctor.in_words(14 * 2**30) == "14.0 GiB"
    monkeypatch.setattr(doctor, "memory_of_machine", lambda: 1000)
    assert {check.name: check for check in doctor._model(str(tiny))}["memory"].status == "warning"


def test_a_model_that_is_not_there(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (check,) = doctor._model("microsoft/maira-2")
    assert check.status == "missing" and check.fix == "llava-rad convert --from maira-2 microsoft/maira-2 DEST"
    (check,) = doctor._model(str(tmp_path))
    assert check.status == "missing" and check.fix
    done = run("doctor", "--model", "microsoft/maira-2")
    assert done.code == 1 and "not converted yet" in done.out


def test_a_machine_without_a_temporary_folder_is_told_the_variable_not_to_install_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/none"])

    def check() -> Iterator[doctor.Check]:
        yield doctor.Check(name="device", status="ok", detail=tempfile.gettempdir())

    (found,) = doctor._guarded("device", check)
    assert (found.status, found.detail, found.fix) == (
        "missing", "there is no writable temporary folder", "set TMPDIR to one",
    )  # fmt: skip
