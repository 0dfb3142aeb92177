"""Files that version 0.1.0 wrote open with today's code, and say what they said then; README.md lists them."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.llava_rad.conftest import Run

ARCHIVE = Path(__file__).with_name("0.1.0.tar.xz")
PASSWORD = "a password of tests"


@pytest.fixture
def old(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The unpacked archive, which is also the working directory."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path / "0.1.0")
    return tmp_path / "0.1.0"


@pytest.fixture
def expected(old: Path) -> dict[str, Any]:
    """Results that version 0.1.0 recorded for its files."""
    content: dict[str, Any] = json.loads((old / "expected.json").read_bytes())
    return content


@pytest.fixture
def do(run: Run, old: Path) -> Run:
    """The command line, in the archive's folder."""
    return run


def texts(lines: str) -> list[str]:
    """The reports of JSON lines."""
    return [json.loads(line)["report"]["text"] for line in lines.splitlines()]


def times(files: Iterable[Path]) -> dict[Path, int]:
    """When the files were written."""
    return {file: file.stat().st_mtime_ns for file in files}


def test_the_archive_is_small() -> None:
    assert ARCHIVE.stat().st_size < 1_000_000


def test_a_checkpoint_writes_the_same_reports(do: Run, expected: dict[str, Any]) -> None:
    assert texts(do("generate", "chest", "--model", "model", "-f", "jsonl").out) == expected["texts"]


def test_a_trained_checkpoint_writes_the_same_report(do: Run, expected: dict[str, Any]) -> None:
    assert texts(do("generate", "chest/0.dcm", "--model", "trained", "-f", "jsonl").out) == [expected["train"]["text"]]


def test_familiarity(old: Path, expected: dict[str, Any]) -> None:
    import torch

    from llava_rad.model.familiarity import Familiarity

    known = Familiarity.load(old / "familiarity.safetensors", 8)
    assert known is not None and known.limit == expected["familiarity"]["limit"]
    found = known.distance(torch.linspace(-1, 1, 16)[None]).tolist()
    assert found == pytest.approx(expected["familiarity"]["distance"])


def test_an_exported_encoder_gives_the_same_features(old: Path, expected: dict[str, Any]) -> None:
    import numpy as np

    from encoder.backbones.loading import load_encoder
    from encoder.preprocessing import recipe_named

    blobs = [np.random.default_rng(seed).integers(0, 256, (7, 7)) for seed in range(2)]
    pixels = np.stack([np.kron(blob, np.ones((4, 4))).astype(np.uint8) for blob in blobs])
    found = load_encoder("encoder")(recipe_named("rad-dino-28").normalise(pixels))
    for name in ("cls", "patches"):
        np.testing.assert_allclose(getattr(found, name).detach(), expected["features"][name], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "folder", "result", "unbroken"),
    [
        ("pretrain", "pretraining", "export/model.safetensors", "encoder/model.safetensors"),
        ("train", "training", "model/projector.safetensors", "trained/projector.safetensors"),
    ],
)
def test_a_run_goes_on(
    do: Run, old: Path, expected: dict[str, Any], command: str, folder: str, result: str, unbroken: str
) -> None:
    images = times((old / folder / "cache").iterdir())
    done = do(*(argument for argument in expected[command]["arguments"] if argument != "--quiet"))
    assert done.code == 0 and "going on from step 2" in done.err, done.err
    lines = [json.loads(line) for line in (old / folder / "metrics.jsonl").read_text().splitlines()]
    losses = {str(line["step"]): line["loss"] for line in lines if "loss" in line}
    assert times(images) == images, "no image is read anew"
    if command == "pretrain":  # masks of a seed are others than in the old version: the steps after its last one differ
        wanted = expected[command]["losses"]
        assert losses.keys() == wanted.keys() and all(math.isfinite(loss) for loss in losses.values())
        assert {step: losses[step] for step in "12"} == pytest.approx({step: wanted[step] for step in "12"})
        same_weights(old / folder / result, old / unbroken, shapes_only=True)
    else:
        assert losses == pytest.approx(expected[command]["losses"], rel=1e-3)
        same_weights(old / folder / result, old / unbroken)


def same_weights(file: Path, other: Path, *, shapes_only: bool = False) -> None:
    """Both files hold the same tensors, but for rounding; or tensors of the same shapes, all finite."""
    import torch
    from safetensors.torch import load_file

    found, wanted = load_file(file), load_file(other)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].shape == tensor.shape and bool(found[name].isfinite().all()), name
        if not shapes_only:
            torch.testing.assert_close(found[name], tensor, atol=2e-3, rtol=1e-2, msg=name)


def test_the_checkpoints_of_runs_are_found(old: Path) -> None:
    from encoder.runs.checkpoints import Checkpoints
    from encoder.runs.trainer_checkpoints import TrainerCheckpoints

    kept = Checkpoints(old / "pretraining" / "checkpoints", keep=3)
    newest = kept.latest()
    assert newest is not None and kept.steps() == [2]
    groups, state = kept.load(newest)
    assert state["step"] == 2 and {"student", "teacher", "optimizer", "centres"} == groups.keys()
    facts = {"processes": 1, "engine.deepspeed": "none"}
    trained = TrainerCheckpoints(old / "training" / "checkpoints", 3, facts).latest()
    assert trained is not None and trained.name == "checkpoint-2"


@pytest.mark.parametrize("name", ["manifest.csv", "drawn.csv"])
def test_manifests(old: Path, expected: dict[str, Any], name: str) -> None:
    from encoder.datasets.manifest import read_manifest

    for row, wanted in zip(read_manifest(old / name), expected["manifests"][name], strict=True):
        paths = {"path": old / wanted["path"], "masks": {key: old / mask for key, mask in wanted["masks"].items()}}
        assert {key: getattr(row, key) for key in wanted} == wanted | paths


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.csv"])
def test_tables_of_pairs(old: Path, expected: dict[str, Any], name: str) -> None:
    from llava_rad.reports.pairs import read_pairs

    found = [(pair.id, pair.row.path, pair.findings, pair.row) for pair in read_pairs(old / name)]
    assert [
        [id, path.relative_to(old).as_posix(), text, row.subject, row.study, row.view, row.split]
        for id, path, text, row in found
    ] == expected["pairs"]


def test_a_log_of_reports_is_continued(do: Run, old: Path, expected: dict[str, Any]) -> None:
    before = (old / "reports.jsonl").read_text()
    done = do("generate", "chest", "--model", "model", "-f", "jsonl", "-o", "reports.jsonl")
    assert "1 of 4 reports written, 3 were there already" in done.err
    after = (old / "reports.jsonl").read_text()
    assert after.startswith(before) and texts(after) == expected["texts"]


def test_a_folder_of_documents_is_not_written_anew(do: Run, old: Path) -> None:
    before = times((old / "documents").iterdir())
    done = do("generate", "chest/0.dcm", "chest/1.dcm", "--model", "model", "-f", "fhir", "-o", "documents")
    assert "0 of 2 reports written, 2 were there already" in done.err
    assert times(before) == before


def test_a_benchmark_is_taken_up(do: Run, old: Path, expected: dict[str, Any]) -> None:
    folder = old / "benchmark"
    before = times([folder / "predictions" / "model.jsonl"])
    done = do(*expected["benchmark"]["arguments"])
    assert done.code == 0 and done.out.count("its reports may be of other images") == 1, done.err
    lines = expected["benchmark"]["output"].splitlines()
    assert len(lines) == 19
    del lines[2]  # the caption, which now states the number of patients
    assert set(lines) <= set(done.out.splitlines())
    assert times(before) == before, "reports are not written anew"


def test_the_cache_of_metrics_gives_its_values_or_is_passed_over(old: Path) -> None:
    from metrics.annotations import annotate
    from metrics.cache import Cache

    def anew(some: list[str]) -> Iterator[list[list[Any]]]:
        yield [[len(text), "x"] for text in some]

    with closing(Cache(old / "annotations.sqlite")) as cache:
        assert annotate(["a", "bb", "ccc"], anew, model="old", cache=cache) == [[1, "x"], [2, "x"], [3, "x"]]


def test_the_cache_of_vectors_gives_its_values_or_is_passed_over(old: Path, expected: dict[str, Any]) -> None:
    import numpy as np

    from encoder.backbones.loading import load_encoder
    from encoder.datasets.manifest import Row
    from encoder.preprocessing import recipe_named
    from encoder.probing.vectors import vectors

    rows = [Row(Path(f"drawn/{number}.png"), number=number + 1) for number in range(3)]
    found = vectors(load_encoder("encoder"), rows, recipe_named("rad-dino-28"), cache=old / "vectors")
    np.testing.assert_allclose(found, expected["vectors"], atol=1e-4)


@pytest.mark.parametrize("number", [0, 1], ids=["linear", "segment"])
def test_results_of_probes_are_taken_up(do: Run, old: Path, expected: dict[str, Any], number: int) -> None:
    call = expected["probes"][number]
    (result,) = (old / ("probe-linear", "probe-segment")[number] / "encoders").iterdir()
    assert "contents" not in json.loads(result.read_bytes())
    done = do(*call["arguments"])
    assert done.code == 0, done.err
    now = iter(re.findall(r"[\d.]+", done.out))
    before = re.findall(r"[\d.]+", call["output"].split("\nmacro")[0].split("\nProtocol")[0])
    assert all(number in now for number in before), "intervals are new; one label has no average; notes may be reworded"
    assert "contents" in json.loads(result.read_bytes()), "computed anew, since the images may be others"


def test_a_segmentation_head(old: Path) -> None:
    from encoder.probing.segmentation.model import Segmenter

    (folder,) = (old / "probe-segment" / "work").iterdir()
    head = Segmenter.load(folder)
    assert (head.structures, head.width, head.recipe.name, head.config.head) == (
        ("square",),
        8,
        "rad-dino-28",
        "linear",
    )


class Archive:
    """As much of an archive as a watch asks of one: an image of each of three studies."""

    def studies(self, **_: object) -> list[str]:
        return ["2.25.1", "2.25.2", "2.25.3"]

    def images(self, study: str, *_: object) -> list[Any]:
        from llava_rad.pacs.client import Instance

        return [Instance(study, f"{study}.1", f"{study}.1.1")]

    def image(self, instance: Any) -> bytes:
        return Path(f"chest/{int(instance.study[5:]) - 1}.dcm").read_bytes()


def test_a_watch_knows_what_is_done(old: Path) -> None:
    from llava_rad.generation.options import GenerationOptions
    from llava_rad.generation.report_writer import ReportWriter
    from llava_rad.generation.study_writer import StudyWriter
    from llava_rad.pacs.watch import watch_once

    with ReportWriter(GenerationOptions(model="model", device="cpu")) as writer:
        count = watch_once(Archive(), old / "watch", StudyWriter(writer))  # type: ignore[arg-type]
    assert (count.known, count.new, count.refused) == (2, 1, 0)


def test_reviews(old: Path, expected: dict[str, Any]) -> None:
    from app.store import Store

    store = Store(old / "review" / "reviews.sqlite")
    assert store.check() == [] and set(store.studies("ann")) == expected["review"].keys()
    assert store.worklist("ann")["counts"] == {"signed": 1, "draft": 1, "pending": 1}
    for study, wanted in expected["review"].items():
        state = store.state("ann", study)
        assert [[one["who"], one["action"], one["sentence"]] for one in store.events("ann", study)] == wanted.pop(
            "events"
        )
        draft, signed = wanted.pop("draft"), wanted.pop("signed")
        new = {"section": "findings", "error": None, "confidence": None}
        assert state.pop("sentences") == [new | one for one in wanted.pop("sentences")]
        assert {key: state[key] for key in wanted} == wanted
        assert draft is None or {key: state["draft"][key] for key in draft} == draft
        assert [{key: one[key] for key in ("version", "by", "text")} for one in state["signed"]] == signed
    assert [[one["study"], one["text"], one["seconds"]] for one in store.signed("ann")] == expected["signed"]


def test_reviews_go_on(old: Path, expected: dict[str, Any]) -> None:
    from app.store import Store

    store = Store(old / "review" / "reviews.sqlite")
    by_status = {wanted["status"]: study for study, wanted in expected["review"].items()}
    state = store.state("ann", by_status["draft"])
    for sentence in [one["id"] for one in state["sentences"] if one["state"] == "undecided"]:
        step = {"action": "accept", "sentence": sentence}
        state = store.act("ann", state["id"], state["revision"], step, user="ann")
    state = store.act("ann", state["id"], state["revision"], {"action": "sign"}, user="ann")
    assert state["signed"][0]["text"] == "Lungs are clear. No fracture. No pneumothorax is seen."
    job = store.jobs.next()
    assert job is not None and job.study == by_status["pending"]


def test_pixels_of_studies(old: Path, expected: dict[str, Any]) -> None:
    from app.images import ImageFolder
    from app.store import Store
    from llava_rad.model.config import LlavaRadConfig

    recipe = LlavaRadConfig.load(old / "model").preprocessing
    store, images = Store(old / "review" / "reviews.sqlite"), ImageFolder(old / "review" / "images")
    found = {study: images.prepared(store.state("ann", study), recipe).pixels for study in expected["pixels"]}
    assert {study: hashlib.sha256(pixels.tobytes()).hexdigest() for study, pixels in found.items()} == expected[
        "pixels"
    ]


def test_users_log_in(old: Path) -> None:
    from app.accounts import Accounts, LoginRefused

    accounts = Accounts(old / "users", old / "review" / "sessions.sqlite")
    assert accounts.user_of(accounts.login("ann", PASSWORD, "127.0.0.1")) == "ann"
    with pytest.raises(LoginRefused):
        accounts.login("ann", "another password", "127.0.0.1")


@pytest.mark.slow
def test_the_application_serves_old_reviews(old: Path, tmp_path: Path) -> None:
    from scripts.soak.serving import served

    shutil.move(old / "review", tmp_path / "data")
    with served(tmp_path, "--auth-file", str(old / "users"), "--model", str(old / "model"), "--no-example") as server:
        client = server.client()
        client.login("ann", PASSWORD)
        (waiting,) = [one for one in worklist(client) if one["status"] != "signed" and one["name"] == "Radiograph 3"]
        assert client.ended(waiting["id"])["draft"]["state"] == "done", "the draft that was asked for is written"
        assert sorted(one["status"] for one in worklist(client)) == ["draft", "draft", "signed"]


def worklist(client: Any) -> list[dict[str, Any]]:
    """The studies that a client sees."""
    found: list[dict[str, Any]] = client.call("GET", "/api/studies").json()["studies"]
    return found
