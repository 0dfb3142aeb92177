"""Study inputs of the page reach the model as those of ``llava-rad generate`` do."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import llava_rad
from app import exports
from app.drafting import inputs_of
from app.review import ReviewError
from app.routes import Services
from app.server import Settings, services
from app.store import CONTEXT_IMAGES
from encoder.errors import ReadError
from llava_rad.conversion.published import convert
from llava_rad.generation.options import GenerationOptions
from llava_rad.generation.pieces import Draft
from llava_rad.model.llava_rad import LlavaRad
from llava_rad.model.sections import BOTH
from llava_rad.model.templates import TEMPLATES
from tests.app.reviews import act
from tests.llava_rad import small_files
from tests.llava_rad.conversion import replicas

TEXTS = {"indication": "the heart", "technique": "two images", "comparison": "to the size", "prior_report": "lungs"}


@pytest.fixture(scope="module")
def maira(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("maira")
    convert("maira-2", replicas.maira_2(folder / "source"), folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def parts(maira: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Services with a replica of MAIRA-2, shared: every test reviews studies of its own."""
    with at_work(tmp_path_factory.mktemp("services"), maira) as running:
        yield running


@pytest.fixture(scope="module")
def with_boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boxes")
    convert("maira-2", replicas.maira_2_with_boxes(folder / "source"), folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("images")
    return {
        "frontal": small_files.dicom(folder / "frontal.dcm", seed=0),
        "lateral": small_files.dicom(folder / "lateral.dcm", seed=1, ViewPosition="LL"),
        "prior": small_files.dicom(folder / "prior.dcm", seed=2),
    }


@contextmanager
def at_work(folder: Path, model: Path, tokens: int = 8) -> Iterator[Services]:
    options = GenerationOptions(model=model, device="cpu", max_new_tokens=tokens)
    with services(Settings(data=folder / "data", options=options, example=False)) as parts:
        yield parts


def drafted(parts: Services, study: str, *, grounded: bool = False) -> dict[str, Any]:
    parts.drafting.queue("ann", study, replace=True, grounded=grounded)
    end = time.monotonic() + 60
    while parts.store.jobs.draft("ann", study)["state"] in ("queued", "running"):  # type: ignore[index]
        assert time.monotonic() < end
        time.sleep(0.01)
    return parts.store.state("ann", study)


def filled(parts: Services, files: dict[str, Path], *fields: str) -> str:
    """A study with both context images and these fields."""
    study = parts.uploads.study("ann", files["frontal"]).study
    for kind in CONTEXT_IMAGES:
        parts.uploads.context_image("ann", study, kind, files[kind])
    for name in fields:
        act(parts.store, study, "field", field=name, text=TEXTS[name])
    return study


@pytest.mark.parametrize("grounded", [False, True])
def test_the_draft_is_what_generate_writes_of_the_same_inputs(
    parts: Services, maira: Path, files: dict[str, Path], grounded: bool
) -> None:
    (expected,) = llava_rad.generate(
        files["frontal"], maira, lateral=files["lateral"], prior=files["prior"], max_new_tokens=8, device="cpu",
        grounded=grounded, **TEXTS,
    )  # fmt: skip
    (plain,) = llava_rad.generate(files["frontal"], maira, max_new_tokens=8, device="cpu")
    study = filled(parts, files, *TEXTS)
    state = drafted(parts, study, grounded=grounded)
    assert state["draft"]["report"] == expected.model_dump(mode="json")
    assert state["draft"]["text"] == expected.text != plain.text
    assert set(state["draft"]["inputs"]) == {*TEXTS, *CONTEXT_IMAGES, *(["grounded"] if grounded else [])}
    alone = drafted(parts, parts.uploads.study("ann", files["frontal"]).study)
    assert alone["draft"]["report"] == plain.model_dump(mode="json") and alone["draft"]["inputs"] == {}


def test_each_input_reaches_the_model_and_its_change_makes_the_draft_outdated(
    parts: Services, files: dict[str, Path]
) -> None:
    study, store = filled(parts, files), parts.store
    texts = [drafted(parts, study)["draft"]["text"]]
    for name, text in TEXTS.items():
        state = act(store, study, "field", field=name, text=text)
        assert parts.drafting.outdated(state)
        state = drafted(parts, study)
        assert not parts.drafting.outdated(state)
        texts.append(state["draft"]["text"])
    for kind in CONTEXT_IMAGES:
        store.set_context("ann", study, kind, None)
        assert parts.drafting.outdated(store.state("ann", study))
        texts.append(drafted(parts, study)["draft"]["text"])
    assert len(set(texts)) == len(texts) == 7
    left = store.state("ann", study)
    assert left["fields"] == TEXTS, "a prior report without its image is kept, and not given to the model"
    assert set(left["draft"]["inputs"]) == {"indication", "technique", "comparison"}


@pytest.mark.slow
def test_inputs_that_the_prompt_does_not_take_stay_with_the_review(
    tiny: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    (expected,) = llava_rad.generate(files["frontal"], tiny, max_new_tokens=8, device="cpu")
    with at_work(tmp_path, tiny) as parts:
        state = drafted(parts, filled(parts, files, *TEXTS))
        assert state["draft"]["report"] == expected.model_dump(mode="json")
        assert (state["draft"]["inputs"], state["fields"]) == ({}, TEXTS)
        assert not parts.drafting.outdated(state) and parts.drafting.status()["takes"] == []
        asked = drafted(parts, state["id"], grounded=True)
        assert asked["draft"]["error"].startswith("the model's prompt has no place for --grounded")
        assert asked["sentences"] == state["sentences"]


@pytest.mark.parametrize("token", ["<image>", "</s>", "<obj>"])
def test_a_field_with_a_special_token_fails_the_draft_and_is_kept(
    parts: Services, files: dict[str, Path], token: str
) -> None:
    study = filled(parts, files)
    before = drafted(parts, study)
    act(parts.store, study, "field", field="indication", text=f"Cough {token}")
    state = drafted(parts, study)
    assert state["draft"]["state"] == "failed"
    assert state["draft"]["error"] == f"the indication holds {token}, which is a token of the model"
    assert state["sentences"] == before["sentences"] and state["draft"]["report"] == before["draft"]["report"]
    assert state["fields"]["indication"] == f"Cough {token}"
    act(parts.store, study, "field", field="indication", text="Cough")
    assert drafted(parts, study)["draft"]["state"] == "done"


def test_a_lateral_image_is_accepted_as_lateral_only(parts: Services, files: dict[str, Path], tmp_path: Path) -> None:
    study = parts.uploads.study("ann", files["frontal"]).study
    with pytest.raises(ReadError, match="neither a lateral nor a frontal view"):
        oblique = small_files.dicom(tmp_path / "oblique.dcm", seed=4, ViewPosition="LAO")
        parts.uploads.context_image("ann", study, "lateral", oblique)
    with pytest.raises(ReadError, match="the prior image: "):
        parts.uploads.context_image("ann", study, "prior", files["lateral"])
    parts.uploads.context_image("ann", study, "lateral", files["lateral"])
    state = parts.store.state("ann", study)
    assert (state["lateral"]["facts"]["view"], state["prior"]) == ("lateral", None)
    assert [one["action"] for one in parts.store.events("ann", study)] == ["open", "lateral"]


def test_attention_maps_use_the_inputs_of_the_draft(parts: Services, files: dict[str, Path]) -> None:
    study = filled(parts, files, *TEXTS)
    drafted(parts, study)
    found = parts.drafting.evidence("ann", study, sentence="s1")
    act(parts.store, study, "field", field="indication", text="")  # the draft was written with it
    assert parts.drafting.evidence("ann", study, sentence="s1") == found and found["side"] == 4
    parts.store.set_context("ann", study, "lateral", None)
    with pytest.raises(ReviewError, match="is gone"):
        parts.drafting.evidence("ann", study, sentence="s1")
    assert parts.drafting.evidence("ann", study, sentence=None, encoder=True)["side"] == 4
    drafted(parts, study, grounded=True)
    with pytest.raises(ReviewError, match="boxes"):
        parts.drafting.evidence("ann", study, sentence="s1")


def test_boxes_stay_with_their_sentence_through_review_signature_and_exports(
    with_boxes: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    box = {"x_min": 0.105, "y_min": 0.205, "x_max": 0.305, "y_max": 0.405}  # bins 10, 20, 30, 40; the image is square
    with at_work(tmp_path, with_boxes, 40) as parts:
        study, store = parts.uploads.study("ann", files["frontal"]).study, parts.store
        state = drafted(parts, study, grounded=True)
        assert state["draft"]["text"] == "The heart is normal in size. lungs are clear"
        assert state["draft"]["report"]["schema"] == "llava-rad.report/3"
        assert [one.get("boxes") for one in state["sentences"]] == [[box], None]
        edited = act(store, study, "edit", sentence="s1", text="The heart is large.")["sentences"][0]
        assert (edited["boxes"], edited["draft"]) == ([box], "The heart is normal in size.")
        assert "boxes" not in act(store, study, "add", text="Mine.", after="s1")["sentences"][1]
        assert act(store, study, "reject", sentence="s1")["sentences"][0]["boxes"] == [box], "a rejection is undone"
        act(store, study, "undo")
        act(store, study, "accept", sentence="s2")
        state = act(store, study, "sign")
        record = exports.report_json(state)
        assert [one.get("boxes") for one in record["sentences"]] == [[box], None, None]
        assert record["draft"]["report"]["findings"][0]["boxes"] == [box | {"image": 0}] and record["inputs"] == {
            "grounded": True
        }
        assert "<box>" not in exports.report_text(state) and "Mine." in exports.document(state).sentences
        (line,) = exports.jsonl(store, "ann")
        written = json.loads(line)
        assert written["versions"][0]["document"]["sentences"][0]["boxes"] == [box]
        after = next(json.loads(one["after"]) for one in written["events"] if one["action"] == "drafted")
        assert after[0]["boxes"] == [box]


def test_an_impression_of_the_draft_fills_the_section_of_the_review(
    tiny: Path, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = LlavaRad.from_pretrained(tiny)
    whole.config = whole.config.model_copy(update={"sections": BOTH})
    whole.save_pretrained(tmp_path / "both")
    answer = "FINDINGS: The heart is normal. No effusion.\nIMPRESSION: Normal. Follow up."

    def stream(*_: Any) -> Generator[str, None, Draft]:
        yield from (answer[at : at + 5] for at in range(0, len(answer), 5))
        return Draft(answer, (), True)

    monkeypatch.setattr("llava_rad.generation.decoding.stream", stream)
    with at_work(tmp_path, tmp_path / "both") as parts:
        study, store = parts.uploads.study("ann", files["frontal"]).study, parts.store
        state = drafted(parts, study)
        assert [(one["text"], one["section"]) for one in state["sentences"]] == [
            ("The heart is normal.", "findings"), ("No effusion.", "findings"),
            ("Normal.", "impression"), ("Follow up.", "impression"),
        ]  # fmt: skip
        assert state["draft"]["text"] == "The heart is normal. No effusion.\n\nIMPRESSION:\nNormal. Follow up."
        assert parts.drafting.evidence("ann", study, sentence="s3")["side"] == 4
        act(store, study, "accept_rest")
        state = act(store, study, "sign")
    assert "IMPRESSION:\nNormal. Follow up.\n" in exports.report_text(state)
    assert exports.document(state).impression == ("Normal.", "Follow up.")


def test_the_streamed_text_has_no_box_tags(with_boxes: Path, files: dict[str, Path], tmp_path: Path) -> None:
    with at_work(tmp_path, with_boxes, 12) as parts:  # which ends within the box
        study, seen = parts.uploads.study("ann", files["frontal"]).study, set()
        parts.drafting.queue("ann", study, grounded=True)
        end = time.monotonic() + 60
        while (now := parts.drafting.now("ann", study)) and now["state"] in ("queued", "running"):
            seen.add(now["text"])
            assert time.monotonic() < end
        state = parts.store.state("ann", study)
    assert not any("<" in text for text in seen)
    assert [one["text"] for one in state["sentences"]] == ["The heart is normal in size."]
    assert "boxes" not in state["sentences"][0]
    assert "some boxes of the model were malformed and are left out" in state["draft"]["report"]["warnings"]


def test_the_report_signed_about_a_prior_image_becomes_the_prior_report(
    parts: Services, files: dict[str, Path], tmp_path: Path
) -> None:
    store, prior = parts.store, small_files.dicom(tmp_path / "other prior.dcm", seed=3)
    for owner, text in (("ann", "Clear lungs."), ("bob", "Bob's.")):
        earlier = parts.uploads.study(owner, prior).study
        revision = store.state(owner, earlier)["revision"]
        store.act(owner, earlier, revision, {"action": "add", "text": text}, user=owner)
        store.act(owner, earlier, revision + 1, {"action": "sign"}, user=owner)
    study = parts.uploads.study("ann", files["frontal"]).study
    parts.uploads.context_image("ann", study, "prior", prior)
    assert store.state("ann", study)["fields"]["prior_report"] == "Clear lungs."
    assert act(store, study, "undo")["fields"]["prior_report"] == ""
    act(store, study, "field", field="prior_report", text="Typed.")
    parts.uploads.context_image("ann", study, "prior", prior)
    assert store.state("ann", study)["fields"]["prior_report"] == "Typed.", "what is typed stays"


def test_inputs_are_those_that_the_prompt_takes() -> None:
    state = {
        "lateral": {"sha256": "a"}, "prior": None, "draft": None, "sentences": [],
        "fields": {"indication": "Cough.", "technique": "", "comparison": "Old.", "prior_report": "Clear."},
    }  # fmt: skip
    assert inputs_of(state, TEMPLATES["maira-2"].places) == {
        "lateral": "a", "indication": "Cough.", "comparison": "Old.",
    }  # fmt: skip
    assert inputs_of(state, TEMPLATES["llava-rad"].places) == {"indication": "Cough."}
    assert inputs_of(state, TEMPLATES["llava-1.5"].places) == {}
    state["prior"] = {"sha256": "b"}
    assert inputs_of(state, TEMPLATES["maira-2"].places)["prior_report"] == "Clear."
