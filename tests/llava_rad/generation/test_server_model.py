"""Models behind a server: what is sent, what reports say, and the same text by every way."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llava_rad
from encoder.errors import ConfigError, ModelError, ReadError
from encoder.reader.sandbox import Reader
from llava_rad import Failure, Report, ReportWriter, StudyInputs
from llava_rad.generation import chat_server
from llava_rad.generation.chat_server import Address, ServerError
from llava_rad.generation.options import GenerationOptions
from llava_rad.generation.pieces import Draft
from llava_rad.generation.server_model import FoundServer, ServerModel
from llava_rad.generation.sources import expand
from llava_rad.model.templates import Study
from tests.llava_rad import small_files
from tests.llava_rad.conftest import Run
from tests.llava_rad.standins.chat_server import NAME, StandIn, grey, pictures, standing_in, status, words
from tests.llava_rad.test_privacy import CANARY, NUMBER, canary_file

TEXT_VRS = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setattr(chat_server, "BACKOFF_S", 0.01)
    with standing_in() as running:
        yield running


def options(server: StandIn, **more: Any) -> GenerationOptions:
    return GenerationOptions(model=server.model, **more)


def loaded(server: StandIn, **more: Any) -> ServerModel:
    chosen = options(server, **more)
    return FoundServer(chosen).load(chosen)


def pixels(*seeds: int) -> list[Any]:
    return [(small_files.pixels(seed) >> 4).astype(np.uint8) for seed in seeds]


def test_the_report_names_model_profile_and_settings_and_not_the_server(server: StandIn, chest: list[Path]) -> None:
    (report,) = llava_rad.generate(chest[0], server.model, max_new_tokens=33)
    assert report.model.id == f"openai:{NAME}" and report.model.demonstration is False
    assert report.generation.max_new_tokens == 33 and report.generation.prompt in words(server.questions[0])[-1]
    assert report.text == f"The mean grey level is {grey(server.questions[0])}. No pneumothorax."
    assert len(report.report.findings) == 2
    assert "127.0.0.1" not in report.to_json()
    other = FoundServer(GenerationOptions(model=server.model.replace(NAME, "medgemma-4b-it")))
    assert other.config.name == "medgemma-4b-it" and other.verify() != report.model.sha256
    assert FoundServer(options(server)).verify() == report.model.sha256


@pytest.mark.slow
def test_the_pixels_are_those_of_the_readers_recipe(server: StandIn, chest: list[Path]) -> None:
    llava_rad.generate(chest[1], server.model)
    (sent,) = pictures(server.questions[0])
    recipe = FoundServer(options(server)).config.preprocessing
    with Reader() as reader:
        prepared = reader.prepare(chest[1], recipe)
    assert sent.mode == "L" and sent.info == {}
    assert np.array_equal(np.asarray(sent), prepared.pixels)


def test_no_header_value_and_no_file_name_is_sent(server: StandIn, tmp_path: Path) -> None:
    """A canary in every attribute of the standard with a value representation of text, but those of the pixels."""
    import pydicom
    from pydicom.datadict import DicomDictionary, keyword_for_tag

    file = canary_file(tmp_path / f"{CANARY}^JANE.dcm")
    data, number = pydicom.dcmread(file), 0
    before = pydicom.config.settings.writing_validation_mode
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    try:
        for tag, (vr, *_) in DicomDictionary.items():
            group = tag >> 16
            if vr in TEXT_VRS and group not in (0x0000, 0x0002, 0x0028) and keyword_for_tag(tag) and tag not in data:
                value = NUMBER if vr in ("DS", "IS") else CANARY
                data.add(pydicom.DataElement(tag, vr, value, validation_mode=pydicom.config.IGNORE))
                number += 1
        data.save_as(file)
    finally:
        pydicom.config.settings.writing_validation_mode = before
    file.write_bytes(file.read_bytes().replace(NUMBER.encode(), CANARY.encode()))
    assert number > 2000 and file.read_bytes().count(CANARY.encode()) > number
    (report,) = llava_rad.generate(file, server.model, force=True)
    llava_rad.generate(
        [file, small_files.dicom(tmp_path / f"{CANARY}.dcm", PatientName=CANARY)], server.model, force=True
    )
    assert len(server.questions) == 3 and report.text
    values = {str(element.value).encode() for element in data if element.VR in ("PN", "LO", "UI") and element.value}
    everything = b"".join(server.received)
    for form in (CANARY.encode(), CANARY.lower().encode(), CANARY.encode("utf-16-le"), b"JANE", *values):
        assert len(form) < 4 or form not in everything
    decoded = b"".join(one.tobytes() for body in server.questions for one in pictures(body))
    assert CANARY.encode() not in decoded


@pytest.mark.slow
def test_study_inputs_are_sent_in_the_order_of_the_profile(server: StandIn, chest: list[Path], lateral: Path) -> None:
    study = StudyInputs(lateral=lateral, prior=chest[1], prior_report="Old <image> text.", indication="Cough,\nfever.")
    with ReportWriter(options(server), study) as writer:
        (report,) = writer.write(expand([chest[0]]).sources)
    assert isinstance(report, Report) and "written from more than this image" in " ".join(report.warnings)
    sent = words(server.questions[0])
    assert sent[:-1] == ["Frontal image:", "IMAGE", "Lateral image:", "IMAGE", "Earlier frontal image:", "IMAGE"]
    assert sent[-1].splitlines()[:2] == ["Earlier report: Old <image> text.", "Indication: Cough, fever."]
    with (
        ReportWriter(options(server), StudyInputs(grounded=True)) as writer,
        pytest.raises(ConfigError, match="grounded"),
    ):
        list(writer.write(expand([chest[0]]).sources))


@pytest.mark.slow
def test_batches_streams_and_single_requests_give_the_same(server: StandIn, chest: list[Path]) -> None:
    server.reply = lambda body: f"The mean grey level is {grey(body)}." + 30 * " There is no pneumothorax."
    chest = chest[:3]
    single = [llava_rad.generate(path, server.model)[0].to_json() for path in chest]
    assert len(set(single)) == len(chest)
    for batch_size in (1, 2):
        assert [one.to_json() for one in llava_rad.generate(chest, server.model, batch_size=batch_size)] == single
    with ReportWriter(options(server)) as writer:
        for source, text in zip(expand(chest).sources, single, strict=True):
            *pieces, report = writer.stream(source)
            assert isinstance(report, Report) and report.to_json() == text
            assert "".join(map(str, pieces)) == report.text and len(pieces) > 1


def test_so_many_requests_as_the_batch_size_are_sent_at_a_time(server: StandIn) -> None:
    gate, together, most = threading.Barrier(3, timeout=20), [0], [0]
    lock = threading.Lock()

    def meet(handler: Any, body: dict[str, Any]) -> None:
        with lock:
            together[0] += 1
            most[0] = max(most[0], together[0])
        gate.wait()
        with lock:
            together[0] -= 1
        handler.answer(body)

    server.faults = [meet] * 6
    drafts = loaded(server).generate(pixels(*range(6)), options(server, batch_size=3))
    assert most == [3] and len({draft.text for draft in drafts}) == 6


def test_reasoning_and_refusals_are_cut_out_of_text_and_stream(server: StandIn, chest: list[Path]) -> None:
    server.reply = lambda body: "<think>A heart?\nPerhaps.</think>**Findings:** The heart is large.\n\nImpression: Big."
    with ReportWriter(options(server)) as writer:
        *pieces, report = writer.stream(expand([chest[0]]).sources[0])
    assert isinstance(report, Report)
    shown = "".join(map(str, pieces))
    assert shown.startswith("The heart is large.") and "Big." in shown and "Perhaps" not in report.to_json()
    assert report.text.startswith("The heart is large.")
    server.reply = lambda body: "I'm sorry, I can't help with that."
    (report,) = llava_rad.generate(chest[0], server.model)
    assert report.text == "" and "the model refused to answer" in report.warnings


@pytest.mark.slow
def test_a_cut_off_answer_is_marked(server: StandIn, chest: list[Path]) -> None:
    server.cut_off = True
    (report,) = llava_rad.generate(chest[0], server.model, max_new_tokens=12)
    assert "the report was cut off after 12 tokens" in report.warnings


def test_an_answer_longer_than_asked_is_refused(server: StandIn, chest: list[Path]) -> None:
    server.reply = lambda body: "word " * 1000
    with pytest.raises(ServerError, match="more than the 10 tokens"):
        llava_rad.generate(chest[0], server.model, max_new_tokens=10)


def test_reports_that_nobody_waits_for_are_given_up(server: StandIn) -> None:
    closed = threading.Event()

    def drip(handler: Any, body: dict[str, Any]) -> None:
        handler.begin()
        handler.piece("The lungs are clear. " * 30)
        try:
            while not closed.wait(0.02):
                handler.piece("Clear. ")
        except OSError:
            closed.set()

    server.faults = [drip]
    model, dropped = loaded(server), set[int]()
    parts = model.stream_batch(pixels(0, 1), options(server, batch_size=1), streamed={0}, dropped=dropped)
    assert next(parts)[0] == 0
    dropped.add(0)
    ((number, draft),) = parts
    assert number == 1 and isinstance(draft, Draft) and closed.wait(60), "its connection is closed"


def test_one_failure_ends_a_batch_with_its_reason(server: StandIn) -> None:
    server.faults = [status(400)]
    with pytest.raises(ServerError, match="HTTP 400"):
        loaded(server).generate(pixels(1, 2, 3), options(server))


def test_another_machine_needs_permission_and_is_told_once(
    server: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, chest: list[Path]
) -> None:
    monkeypatch.setattr(Address, "local", property(lambda self: False))
    with pytest.raises(ConfigError, match="another machine") as raised:
        llava_rad.generate(chest[0], server.model)
    assert "--allow-remote" in (raised.value.hint or "") and server.received == []
    with caplog.at_level(logging.WARNING, "llava_rad"):
        assert len(llava_rad.generate(chest[:3], server.model, allow_remote=True, batch_size=1)) == 3
    (said,) = [record.getMessage() for record in caplog.records if "sent to" in record.getMessage()]
    for part in (
        "127.0.0.1",
        "pixels",
        "text that is part of them",
        "prompt",
        "no header value",
        "Nothing is encrypted",
    ):
        assert part in said


@pytest.mark.slow
def test_burned_in_text_is_not_sent_to_another_machine(
    server: StandIn, monkeypatch: pytest.MonkeyPatch, chest: list[Path], tmp_path: Path
) -> None:
    burned = small_files.dicom(tmp_path / "burned.dcm", BurnedInAnnotation="YES")
    assert llava_rad.generate(burned, server.model), "this machine has it anyway"
    monkeypatch.setattr(Address, "local", property(lambda self: False))
    server.questions.clear()
    with ReportWriter(options(server, allow_remote=True)) as writer:
        first, second = writer.write(expand([burned, chest[0]]).sources)
        assert isinstance(first, Failure) and first.error.reason == "burned_in" and first.error.forcible
        assert isinstance(second, Report) and len(server.questions) == 1
        with Reader() as reader:
            image = reader.prepare(burned, writer.model().recipe)
        with pytest.raises(ReadError, match="burned-in text"):
            list(writer.stream_image(image))
        with pytest.raises(ReadError, match="burned-in text"):
            list(writer.stream_batch([(image, ())], Study()))
    assert len(server.questions) == 1
    assert llava_rad.generate(burned, server.model, allow_remote=True, force=True)


@pytest.mark.slow
def test_a_model_that_the_server_has_not_is_refused_with_those_that_it_has(server: StandIn, chest: list[Path]) -> None:
    server.names = ["one", "two", "evil\x1b[2J"]
    with pytest.raises(ModelError, match="has no model") as raised:
        llava_rad.generate(chest[0], server.model)
    assert raised.value.hint == "it has one, two" and server.questions == []
    server.names = [f"{NAME}:latest"]  # Ollama's
    assert llava_rad.generate(chest[0], server.model)


@pytest.mark.parametrize(
    ("more", "message"),
    [({"num_beams": 2}, "one beam|greedy or sampled"), ({"vllm_python": "python"}, "for checkpoints of this project")],
)
def test_what_a_server_cannot_do_is_refused(server: StandIn, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loaded(server, **more)


@pytest.mark.slow
def test_a_run_is_continued(server: StandIn, run: Run, chest: list[Path], tmp_path: Path) -> None:
    command = ("generate", *chest[:3], "--model", server.model, "-f", "jsonl", "-o", tmp_path / "o.jsonl")
    server.faults = [lambda handler, body: handler.answer(body), status(400)]
    first = run(*command, "--batch-size", "1")
    assert first.code == 5 and "HTTP 400" in first.err and "Traceback" not in first.err
    kept = (tmp_path / "o.jsonl").read_text().splitlines()
    assert len(kept) == 1
    asked = len(server.questions)
    assert run(*command, "--batch-size", "1").code == 0
    lines = (tmp_path / "o.jsonl").read_text().splitlines()
    assert lines[0] == kept[0] and len(lines) == 3 and len(server.questions) == asked + 2
    assert len({json.loads(line)["report"]["text"] for line in lines}) == 3


@pytest.mark.slow
def test_studies_are_grouped_for_a_server(server: StandIn, run: Run, tmp_path: Path) -> None:
    study = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.1"}
    small_files.dicom(tmp_path / "a.dcm", seed=1, **study)
    small_files.dicom(tmp_path / "b.dcm", seed=2, ViewPosition="LL", **study)
    done = run("generate", tmp_path / "a.dcm", tmp_path / "b.dcm", "--group", "--model", server.model)
    assert done.code == 0, done.err
    assert words(server.questions[0])[:4] == ["Frontal image:", "IMAGE", "Lateral image:", "IMAGE"]
    assert Study(lateral=True).images == 2 and len(server.questions) == 1


def test_a_server_may_start_later(server: StandIn, caplog: pytest.LogCaptureFixture) -> None:
    with standing_in() as gone:
        chosen = options(gone)
    with caplog.at_level(logging.WARNING, "llava_rad"):
        model = FoundServer(chosen).load(chosen)
    assert "asked again for each report" in caplog.text
    with pytest.raises(ServerError, match="cannot be reached"):
        model.generate(pixels(1), chosen)
