"""One way from images to reports: command line, Python, batches and streams give the same (table row 6)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import llava_rad
from encoder.errors import ModelError, ReadError
from llava_rad import Failure, Report, ReportWriter
from llava_rad.generation.options import GenerationOptions
from llava_rad.generation.sources import expand
from tests.llava_rad import small_files
from tests.llava_rad.conftest import Run

pytestmark = pytest.mark.acceptance(row=6)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of so small a model only wait for each other where other processes share the machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Eight radiographs in several formats."""
    folder = tmp_path_factory.mktemp("eight")
    pictures = [small_files.picture(folder / f"{n}.png", seed=n, sixteen_bit=n % 2 == 0) for n in range(4)]
    return [*pictures, *(small_files.dicom(folder / f"{n}.dcm", seed=n) for n in range(4, 8))]


def test_command_line_python_stream_and_every_batch_size_agree(run: Run, tiny: Path, eight: list[Path]) -> None:
    single = [llava_rad.generate(path, tiny)[0].to_json() for path in eight]
    assert len(set(single)) == 8
    for batch_size in (1, 3, 8):
        assert [report.to_json() for report in llava_rad.generate(eight, tiny, batch_size=batch_size)] == single
    printed = json.loads(run("generate", *eight, "--model", tiny, "-f", "json", "--batch-size", "5").out)
    assert printed == [json.loads(text) for text in single]
    with ReportWriter(GenerationOptions(model=tiny)) as writer:
        for source, text in zip(expand(eight).sources, single, strict=True):
            *pieces, report = writer.stream(source)
            assert isinstance(report, Report)
            assert report.to_json() == text
            assert "".join(map(str, pieces)) == report.text


def test_sampling_does_not_depend_on_the_batch(tiny: Path, eight: list[Path]) -> None:
    def texts(batch_size: int) -> list[str]:
        reports = llava_rad.generate(eight[:5], tiny, temperature=1.0, seed=9, batch_size=batch_size)
        return [report.text for report in reports]

    assert texts(1) == texts(5)


def test_bytes_are_read_like_the_file(tiny: Path, eight: list[Path]) -> None:
    assert llava_rad.generate(eight[0].read_bytes(), tiny) == llava_rad.generate(eight[0], tiny)


def test_writer_keeps_order_and_goes_on_after_failures(tiny: Path, chest: list[Path], lateral: Path) -> None:
    named: list[Path | bytes] = [lateral, chest[0], b"", chest[1], Path("missing"), lateral]
    for batch_size in (1, 2, 9):
        with ReportWriter(GenerationOptions(model=tiny, batch_size=batch_size)) as writer:
            outcomes = list(writer.write(expand(named).sources))
        kinds = [outcome.error.reason if isinstance(outcome, Failure) else "report" for outcome in outcomes]
        assert kinds == ["lateral", "report", "empty", "report", "missing", "lateral"]
        shas = [outcome.sha256 if isinstance(outcome, Failure) else outcome.input.sha256 for outcome in outcomes]
        assert shas[0] == shas[5] is not None
        assert shas[4] is None


def test_python_raises_the_first_refusal(tiny: Path, chest: list[Path], lateral: Path) -> None:
    with pytest.raises(ReadError) as refused:
        llava_rad.generate([chest[0], lateral], tiny)
    assert refused.value.reason == "lateral"
    assert len(llava_rad.generate([chest[0], lateral], tiny, force=True)) == 2


def test_missing_model_raises_at_once(chest: list[Path]) -> None:
    with pytest.raises(ModelError):
        llava_rad.generate(chest, "no/such/model", offline=True)


def test_no_inputs_no_reports(tiny: Path) -> None:
    assert llava_rad.generate([], tiny) == []


def test_a_report_that_is_cut_off_says_so(tiny: Path, chest: list[Path]) -> None:
    (report,) = llava_rad.generate(chest[0], tiny, max_new_tokens=2)
    assert "the report was cut off after 2 tokens" in report.warnings


def test_a_report_comes_back_from_its_json(tiny: Path, chest: list[Path]) -> None:
    (report,) = llava_rad.generate(chest[0], tiny)
    assert Report.from_json(report.to_json()) == report
    assert "\n" not in report.to_json(indent=None)


def test_path_is_kept_on_request_only(tiny: Path, chest: list[Path]) -> None:
    assert llava_rad.generate(chest[0], tiny)[0].input.path is None
    assert llava_rad.generate(chest[0], tiny, show_paths=True)[0].input.path == str(chest[0])


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, llava_rad; print(sorted({'torch', 'numpy', 'pydantic', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    with pytest.raises(AttributeError):
        _ = llava_rad.nothing


def test_generating_does_not_import_transformers_or_pydicom(tiny: Path, chest: list[Path]) -> None:
    code = (
        f"import sys, llava_rad; llava_rad.generate({str(chest[0])!r}, {str(tiny)!r}); "
        "print(sorted({'transformers', 'pydicom', 'PIL', 'gradio', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
