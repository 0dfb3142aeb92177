"""One way from images to reports: command line, Python, batches and streams give the same (table row 6)."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import llava_rad
from encoder.errors import ConfigError, LlavaRadError, ModelError, ReadError
from llava_rad import Failure, Report, ReportWriter
from llava_rad.generation.options import GenerationOptions
from llava_rad.generation.sources import expand
from llava_rad.model.templates import FRONTAL_ONLY
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


@pytest.mark.slow
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


def test_threads_share_one_model(tiny: Path, eight: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from llava_rad.generation.engine import Engine

    load, loads = Engine.from_pretrained, list[object]()

    def slow(*arguments: Any, **more: Any) -> Engine:
        loads.append(arguments)
        time.sleep(0.2)  # every thread asks meanwhile
        return load(*arguments, **more)

    monkeypatch.setattr(Engine, "from_pretrained", slow)
    alone = [report.text for report in llava_rad.generate(eight[:4], tiny)]
    loads.clear()
    with ReportWriter(GenerationOptions(model=tiny)) as writer, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda source: list(writer.write([source])), expand(eight[:4]).sources))
    assert len(loads) == 1
    assert [[report.text for report in reports if isinstance(report, Report)] for reports in found] == [
        [text] for text in alone
    ]


def test_abandoned_writing_ends_its_reading_thread(tiny: Path, eight: list[Path]) -> None:
    def reading() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "decode"}

    before = reading()
    with ReportWriter(GenerationOptions(model=tiny, batch_size=1)) as writer:
        written = writer.write(expand(eight).sources)
        next(written)
        (thread,) = reading() - before
        written.close()  # type: ignore[attr-defined]
        thread.join(5)
        assert not thread.is_alive()
        assert len(list(writer.write(expand(eight[:1]).sources))) == 1  # the writer itself goes on


def test_a_closed_writer_is_an_error_and_no_wait_for_ever(tiny: Path, eight: list[Path]) -> None:
    with ReportWriter(GenerationOptions(model=tiny, batch_size=1)) as writer:
        written = writer.write(eight)
        next(written)
    with pytest.raises(LlavaRadError, match="closed"):  # while images are left
        list(written)
    with pytest.raises(LlavaRadError, match="closed"):
        list(writer.write(eight[:1]))
    with pytest.raises(LlavaRadError, match="closed"):
        list(writer.stream(eight[0]))


def test_the_writer_takes_what_generate_takes(tiny: Path, eight: list[Path]) -> None:
    with ReportWriter(GenerationOptions(model=tiny)) as writer:
        for images in ([eight[5]], [str(eight[5])], [eight[5].read_bytes()], str(eight[5]), expand([eight[5]]).sources):
            (report,) = writer.write(images)
            assert isinstance(report, Report)
            assert report.text == llava_rad.generate(eight[5], tiny)[0].text
            assert list(writer.stream(eight[5]))[-1] == report
        with pytest.raises(ConfigError, match="not int"):
            list(writer.write([5]))  # type: ignore[list-item]
        with pytest.raises(ConfigError, match="not 8"):
            list(writer.stream(eight[0].parent))


def test_reports_written_together_are_those_written_alone(tiny: Path, eight: list[Path]) -> None:
    from llava_rad.outputs.report import cleaned

    alone = llava_rad.generate(eight, tiny)
    with ReportWriter(GenerationOptions(model=tiny)) as writer:
        recipe = writer.engine().recipe
        images = [writer._reader.prepare(path, recipe) for path in eight]
        for more in ({}, {"streamed": {2, 5}}):
            pieces, reports = dict[int, str](), dict[int, Report]()
            for number, part in writer.stream_batch([(image, ()) for image in images], FRONTAL_ONLY, **more):
                if isinstance(part, str):
                    assert number not in reports
                    pieces[number] = pieces.get(number, "") + part
                else:
                    reports[number] = part
            assert [reports[number] for number in range(8)] == alone
            joined = {number: "".join(cleaned([text])) for number, text in pieces.items()}
            assert joined == {number: alone[number].text for number in more.get("streamed", ())}


def test_a_dropped_report_leaves_the_batch_and_changes_no_other(tiny: Path, eight: list[Path]) -> None:
    alone = llava_rad.generate(eight[:3], tiny)
    with ReportWriter(GenerationOptions(model=tiny)) as writer:
        engine = writer.engine()
        images = [(writer._reader.prepare(path, engine.recipe), ()) for path in eight[:3]]
        rows, forward = list[int](), engine.llama.__call__
        dropped = set[int]()
        with mock.patch.object(type(engine.llama), "__call__", autospec=True) as counted:
            counted.side_effect = lambda llama, embeds, *more: (rows.append(len(embeds)), forward(embeds, *more))[1]
            reports = {}
            for number, part in writer.stream_batch(images, FRONTAL_ONLY, streamed={0}, dropped=dropped):
                dropped.add(0)  # after its first piece
                reports[number] = part
        assert reports == {0: reports[0], 1: alone[1], 2: alone[2]}
        assert isinstance(reports[0], str)
        assert rows[0] == 3 and rows[2] <= 2
