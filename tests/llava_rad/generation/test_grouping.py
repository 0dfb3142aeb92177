"""``generate --group`` and ``--study``: images of a study, and the reports of the same images named one by one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydicom import dcmread

from encoder.errors import ReadError
from encoder.reader.identity import Identity
from llava_rad.generation.grouping import Group, group
from llava_rad.generation.pieces import Draft
from llava_rad.generation.sources import Source
from llava_rad.model.llava_rad import LlavaRad
from llava_rad.model.sections import BOTH
from llava_rad.outputs.report import json_schema
from tests.llava_rad import small_files
from tests.llava_rad.conftest import Run


@pytest.fixture(scope="module")
def model(study_model: Path) -> Path:
    """A checkpoint whose prompt takes laterals and priors."""
    return study_model


def identity(study: str, patient: str = "p1", day: str = "", time: str = "", birth: str = "") -> Identity:
    stated = {"PatientID": patient, "StudyDate": day, "StudyTime": time, "PatientBirthDate": birth}
    return Identity(study, "1.2", "1.3", "1.4", {name: value for name, value in stated.items() if value})


def grouped(*found: Identity | None, together: bool = False) -> list[Group]:
    def identify(source: Source) -> Identity:
        one = found[source.number - 1]
        if one is None:
            raise ReadError("not_an_image", "no header")
        return one

    return group([Source(number) for number in range(1, len(found) + 1)], identify, together=together)


def numbers(groups: list[Group]) -> list[list[int]]:
    return [[source.number for source in one.sources] for one in groups]


def test_images_of_one_study_are_a_group_in_the_order_of_the_first() -> None:
    a, b = identity("1.1"), identity("1.2")
    assert numbers(grouped(a, b, None, a, b, None)) == [[1, 4], [2, 5], [3], [6]]
    assert numbers(grouped(a, None, b, None, together=True)) == [[1], [2, 4], [3]]


def test_one_uid_for_two_patients_is_two_studies() -> None:
    assert numbers(grouped(identity("1.1", "p1"), identity("1.1", "q1"))) == [[1], [2]]


@pytest.mark.parametrize(
    ("earlier", "now", "prior"),
    [
        (identity("1", day="20200101"), identity("2", day="20200102"), True),
        (identity("1", day="20200101", time="0800"), identity("2", day="20200101", time="080001"), True),
        (identity("1", day="20200101"), identity("2", day="20200101", time="0800"), False),  # at an unknown time
        (identity("1", day="20200101"), identity("2", day="20200101"), False),
        (identity("1", day="20200102"), identity("2", day="20200101"), False),
        (identity("1"), identity("2", day="20200101"), False),
        (identity("1", day="20200101"), identity("2"), False),
        (identity("1", "q1", day="20200101"), identity("2", day="20200102"), False),
        (identity("1", "ANONYMOUS", "20200101"), identity("2", "ANONYMOUS", "20200102"), False),
        (identity("1", "000", "20200101"), identity("2", "000", "20200102"), False),
        (identity("1", day="20200101", birth="19500101"), identity("2", day="20200102", birth="19600101"), False),
    ],
    ids=[
        "a day before", "a second before", "time unknown", "same day", "after", "date unknown", "own date unknown",
        "another patient", "anonymous", "zeros", "another date of birth",
    ],
)  # fmt: skip
def test_priors(earlier: Identity, now: Identity, prior: bool) -> None:
    first, second = grouped(earlier, now)
    assert (second.prior is first) is prior
    if prior:
        assert first.prior is None


def test_the_newest_earlier_study_is_the_prior() -> None:
    days = ["20200301", "20200101", "20200201", "20200401"]
    found = grouped(*(identity(f"1.{n}", day=day) for n, day in enumerate(days, 1)))
    priors = [None if one.prior is None else one.prior.sources[0].number for one in found]
    assert priors == [3, None, 2, 1]


def file(folder: Path, name: str, study: str, day: str = "20200101", **more: Any) -> Path:
    seed = sum(name.encode())
    return small_files.dicom(
        folder / f"{name}.dcm", seed=seed, StudyInstanceUID=study, SeriesInstanceUID="1.2.3", StudyDate=day, **more
    )


def reports(printed: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed.splitlines()]


@pytest.mark.slow
def test_reports_of_studies_are_those_of_images_named_one_by_one(model: Path, run: Run, tmp_path: Path) -> None:
    """Two studies of a patient, the newer one with a lateral; two frontal images of another; a picture."""
    folder = tmp_path / "in"
    folder.mkdir()
    old = file(folder, "a-old", "1.2.3.1")
    lateral = file(folder, "b-lateral", "1.2.3.2", "20200301", ViewPosition="LL")
    now = file(folder, "c-now", "1.2.3.2", "20200301")
    ap = file(folder, "d-ap", "1.2.3.3", PatientID="X2", ViewPosition="AP")
    pa = file(folder, "e-pa", "1.2.3.3", PatientID="X2")
    picture = small_files.picture(folder / "f.png", seed=5)
    options = ["--model", model, "-f", "jsonl", "--show-paths"]
    done = run("generate", folder, "--group", *options)
    assert done.code == 0, done.err
    assert "4 studies, 2 of several images, 1 with an earlier study" in done.err
    found = {Path(one["input"]["path"]).name: one for one in reports(done.out)}
    assert list(found) == ["a-old.dcm", "c-now.dcm", "e-pa.dcm", "f.png"]
    alone = {
        old: [], now: ["--lateral", lateral, "--prior", old], pa: [], picture: [],
    }  # fmt: skip
    for path, more in alone.items():
        (expected,) = reports(run("generate", path, *more, *options).out)
        assert found[path.name]["report"] == expected["report"]
        assert found[path.name]["input"] == expected["input"]
    assert "the study has 2 frontal images (AP, PA): image 2 of the study is used" in found["e-pa.dcm"]["warnings"]
    assert any("written from more than this image" in one for one in found["c-now.dcm"]["warnings"])
    for secret in ("4711", "X2", "Doe", "1.2.3.2", "20200301", ap.name):
        assert secret not in done.out + done.err


def test_copies_of_an_image_are_used_once(model: Path, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    file(folder, "a-now", "1.2.3.2")
    for name in ("b-lateral", "c-lateral"):
        small_files.dicom(
            folder / f"{name}.dcm", seed=7, StudyInstanceUID="1.2.3.2", SeriesInstanceUID="1.2.3", StudyDate="20200101",
            ViewPosition="LL",
        )  # fmt: skip
    file(folder, "d-lateral", "1.2.3.2", ViewPosition="LL")
    done = run("generate", folder, "--group", "--model", model, "-f", "jsonl")
    (report,) = reports(done.out)
    assert "the study has 2 lateral images: image 2 of the study is used" in report["warnings"]
    assert "the study has 1 images that are copies of others: each is used once" in report["warnings"]


def test_pictures_of_a_folder_are_one_study_on_request(model: Path, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(2):
        small_files.picture(folder / f"{number}.png", seed=number)
    done = run("generate", folder, "--study", "--model", model, "-f", "jsonl")
    assert done.code == 0, done.err
    (report,) = reports(done.out)
    assert any(one.startswith("the study has 2 frontal images (") for one in report["warnings"])


def test_a_model_of_one_image_says_what_it_does_not_take(tiny: Path, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    file(folder, "a-now", "1.2.3.2")
    file(folder, "b-lateral", "1.2.3.2", ViewPosition="LL")
    done = run("generate", folder, "--group", "--model", tiny, "-f", "jsonl")
    assert done.code == 0 and len(reports(done.out)) == 1
    assert "the model takes no lateral and no prior images: they are not used" in done.err


def test_studies_without_a_frontal_image_and_refused_images_are_named(model: Path, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    file(folder, "a-lateral", "1.2.3.1", ViewPosition="LL")
    file(folder, "b-now", "1.2.3.2")
    file(folder, "c-hand", "1.2.3.2", BodyPartExamined="HAND")
    done = run("generate", folder, "--group", "--model", model, "-f", "jsonl")
    assert done.code == 3
    assert len(reports(done.out)) == 1
    assert (
        "the study has no frontal image" in done.err and "1 reports of 2 studies written, 2 images refused" in done.err
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [(["--indication", "cough"], "studies have their own"), (["--stream"], "not streamed")],
    ids=["indication", "stream"],
)
def test_options_that_do_not_go_with_studies(
    model: Path, run: Run, chest: list[Path], more: list[str], message: str
) -> None:
    done = run("generate", *chest[:2], "--group", "--model", model, *more)
    assert done.code == 2 and message in " ".join(done.err.replace("│", " ").split())


def test_a_file_of_reports_is_not_continued_with_studies(model: Path, run: Run, chest: list[Path]) -> None:
    assert run("generate", *chest[:2], "--group", "--model", model, "-f", "jsonl", "-o", "r.jsonl").code == 0
    again = run("generate", *chest[:2], "--group", "--model", model, "-f", "jsonl", "-o", "r.jsonl")
    assert again.code == 2 and "not continued with studies" in again.err
    over = run("generate", *chest[:2], "--group", "--model", model, "-f", "jsonl", "-o", "r.jsonl", "--overwrite")
    assert over.code == 0


def study_of_three(folder: Path) -> dict[str, Path]:
    """A study with a lateral, and the patient's earlier study."""
    folder.mkdir()
    return {
        "frontal": file(folder, "a-now", "1.2.3.2", "20200301", SOPInstanceUID="1.2.9.1"),
        "lateral": file(folder, "b-lateral", "1.2.3.2", "20200301", ViewPosition="LL", SOPInstanceUID="1.2.9.2"),
        "prior": file(folder, "c-old", "1.2.3.1", SOPInstanceUID="1.2.9.3"),
    }


def test_a_report_lists_the_images_of_its_study(model: Path, run: Run, tmp_path: Path) -> None:
    files = study_of_three(tmp_path / "in")
    arguments = ["generate", tmp_path / "in", "--group", "--model", model, "-f"]
    for more in ([], ["--identifiers"]):
        done = run(*arguments, "jsonl", *more)
        assert done.code == 0, done.err
        now, old = reports(done.out)
        for report in (now, old):
            jsonschema.validate(report, json_schema())
        listed = {one["role"]: one for one in now["images"]}
        assert list(listed) == ["frontal", "lateral", "prior"]
        for role, path in files.items():
            assert listed[role]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        uids = [(one["study_uid"], one["sop_instance_uid"]) for one in now["images"]]
        named = [("1.2.3.2", "1.2.9.1"), ("1.2.3.2", "1.2.9.2"), ("1.2.3.1", "1.2.9.3")]
        assert uids == (named if more else [(None, None)] * 3)
        assert [one["role"] for one in old["images"]] == ["frontal"]
        assert ("1.2.9" in done.out) == bool(more)
    refused = run(*arguments, "text", "--identifiers")
    assert refused.code == 2 and "json, jsonl, sr, fhir" in " ".join(refused.err.replace("│", " ").split())


def test_identifiers_of_pictures_are_null_and_no_file_is_continued_with_them(
    tiny: Path, run: Run, tmp_path: Path
) -> None:
    picture = small_files.picture(tmp_path / "a.png", seed=1)
    named = file(tmp_path, "b", "1.2.3.1", SOPInstanceUID="1.2.9.1")
    arguments = ["generate", picture, named, "--model", tiny, "-f", "jsonl", "--identifiers", "-o", "r.jsonl"]
    done = run(*arguments)
    assert done.code == 0, done.err
    found = [report["images"][0]["sop_instance_uid"] for report in reports((tmp_path / "r.jsonl").read_text())]
    assert found == [None, "1.2.9.1"]
    again = run(*arguments)
    assert again.code == 2 and "not continued with --identifiers" in " ".join(again.err.replace("│", " ").split())


def test_documents_of_studies_refer_to_all_their_images(model: Path, run: Run, tmp_path: Path) -> None:
    files = study_of_three(tmp_path / "in")
    done = run(
        "generate", tmp_path / "in", "--group", "--model", model, "-f", "sr", "-o", tmp_path / "out", "--identifiers"
    )
    assert done.code == 0, done.err
    digest = hashlib.sha256(files["frontal"].read_bytes()).hexdigest()[:16]
    written = sorted((tmp_path / "out").glob(f"{digest}-*.dcm"))
    assert len(written) == 2 and len(list((tmp_path / "out").glob("*.dcm"))) == 4
    for path in written:
        read = dcmread(path)
        assert read.StudyInstanceUID == "1.2.3.2"
        sequences = (*read.CurrentRequestedProcedureEvidenceSequence, *read.PertinentOtherEvidenceSequence)
        referred = [
            image.ReferencedSOPInstanceUID
            for study in sequences
            for series in study.ReferencedSeriesSequence
            for image in series.ReferencedSOPSequence
        ]
        assert referred == ["1.2.9.1", "1.2.9.2", "1.2.9.3"]


def test_a_lateral_that_is_named_is_referred_to_and_a_prior_of_another_patient_is_not(
    model: Path, run: Run, tmp_path: Path
) -> None:
    files = study_of_three(tmp_path / "in")
    other = file(tmp_path / "in", "d-other", "1.2.3.9", PatientID="X2", SOPInstanceUID="1.2.9.4")
    done = run(
        "generate", files["frontal"], "--lateral", files["lateral"], "--prior", other, "--model", model, "-f", "fhir",
        "-o", tmp_path / "out", "--identifiers",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "the prior image has no identifiers of this patient" in done.err
    (path,) = (tmp_path / "out").glob("*.fhir.json")
    text = path.read_text()
    assert "1.2.9.1" in text and "1.2.9.2" in text and "1.2.9.4" not in text


def test_an_answer_with_two_sections_is_cut(
    tiny: Path, run: Run, chest: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = LlavaRad.from_pretrained(tiny)
    whole.config = whole.config.model_copy(update={"sections": BOTH})
    whole.save_pretrained(tmp_path / "both")
    answers = ["FINDINGS: Clear. Heart normal.\nIMPRESSION: Normal.", "No heading at all."]

    def generate(engine: Any, images: Any, *_: Any, **__: Any) -> list[Draft]:
        return [Draft(answers[number % 2], (), True) for number in range(len(images))]

    monkeypatch.setattr("llava_rad.generation.decoding.generate", generate)
    done = run("generate", *chest[:2], "--model", tmp_path / "both", "-f", "jsonl")
    first, second = reports(done.out)
    assert first["report"]["text"] == "Clear. Heart normal." and len(first["report"]["findings"]) == 2
    assert first["report"]["impression"] == {"text": "Normal.", "sentences": [{"text": "Normal."}]}
    assert (second["report"]["text"], second["report"]["impression"]) == ("No heading at all.", None)
    assert first["warnings"] == second["warnings"], "an answer without a heading is findings"
    assert run("generate", *chest[:2], "--model", tmp_path / "both", "-f", "jsonl").out == done.out
    text = run("generate", chest[0], "--model", tmp_path / "both").out
    assert "FINDINGS:\nClear. Heart normal.\n\nIMPRESSION:\nNormal.\n" in text
