"""Two runs on one output: every command that writes refuses the second in one line, before it computes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from encoder.errors import LlavaRadError
from encoder.locks import locked_folder, locked_output
from encoder.runs import folder as run_folder
from llava_rad.cli import app
from llava_rad.model.checkpoint import DEMO
from tests.llava_rad.conftest import Run

FILES = {
    "generate": ["generate", "IMAGE", "-f", "json", "-o", "OUT.json"],
    "inspect": ["inspect", "IMAGE", "--save-image", "OUT.png"],
    "manifest": ["manifest", "table", "images.csv", "-o", "OUT.csv"],
    "reports": ["reports", "table", "pairs.csv", "-o", "OUT.csv"],
    "evaluate": ["evaluate", "pairs.csv", "pairs.csv", "-o", "OUT.txt"],
    "evaluate each": ["evaluate", "pairs.csv", "pairs.csv", "--per-sample", "OUT.csv"],
    "embed": ["embed", "IMAGE", "-o", "OUT.npz"],
    "maps attention": ["maps", "attention", "IMAGE", "-o", "OUT.png"],
    "maps match": ["maps", "match", "IMAGE", "IMAGE", "--at", "0.5,0.5", "-o", "OUT.png"],
    "assemble": ["assemble", "OUT", "--encoder", f"{DEMO}/encoder", "--language-model", f"{DEMO}/language_model"],
    "convert": ["convert", "none", "OUT", "--from", "llava-rad"],
    "rexrank infer": [
        "rexrank",
        "infer",
        "--input_json_file",
        "studies.json",
        "--save_json_file",
        "OUT.json",
        "--img_root_dir",
        ".",
    ],
}
FOLDERS = {
    "generate fhir": ["generate", "IMAGE", "-f", "fhir", "-o", "OUT"],
    "benchmark": ["benchmark", "--dataset", "csv", "--data", "pairs.csv", "-o", "OUT"],
    "probe nnunet": ["probe", "nnunet", "--data", "none.csv", "-o", "OUT"],
    "probe linear": ["probe", "linear", "--data", "OWN", "--encoder", "none", "-o", "OUT", "--device", "cpu"],
    "probe demographics": ["probe", "demographics", "--data", "OWN", "--encoder", "none", "-o", "OUT", "--all-images"],
    "probe segment": ["probe", "segment", "--data", "OWN", "--encoder", "none", "-o", "OUT", "--device", "cpu"],
    "pacs pull": ["pacs", "pull", "--url", "http://127.0.0.1:9", "-o", "OUT"],
    "pacs watch": ["pacs", "watch", "--url", "http://127.0.0.1:9", "-o", "OUT", "--once"],
}
ELSEWHERE = {
    "pretrain", "train",  # the run folder: test_the_first_start_of_a_run_folder_excludes_another
    "serve", "api",  # tests/app
    "user add", "user remove", "key add", "key remove",  # wait for one another: tests/app
    "doctor", "pacs push", "user list", "key list",  # write nothing here
}  # fmt: skip


def words(command: list[str], image: Path, manifest: Path) -> list[str]:
    stand_ins = {"IMAGE": str(image), "OWN": str(manifest)}
    return [stand_ins.get(word, word.replace("OUT", "out")) for word in command]


@pytest.fixture
def manifest(chest: list[Path], tmp_path: Path) -> Path:
    """Images with two labels, sexes, ages and masks; and tables of images and of pairs in the working folder."""
    from encoder.datasets.manifest import Row, write_manifest

    rows = [
        Row(path, "own", f"p{n}", image=f"i{n}", split="train" if n < 4 else "test",
            labels={"Edema": float(n % 2)}, attributes={"sex": "MF"[n % 2], "age": str(30 + n)}, masks={"lung": path})
        for n, path in enumerate(chest)
    ]  # fmt: skip
    write_manifest(rows, tmp_path / "own.csv")
    lines = [f"{n},{path},No effusion {n}.,test" for n, path in enumerate(chest)]
    (tmp_path / "pairs.csv").write_text("\n".join(["id,image,findings,split", *lines]), encoding="utf-8")
    study = {"key_image_path": chest[0].name, "image_path": [chest[0].name], "section_findings": "No effusion."}
    (tmp_path / "studies.json").write_text(json.dumps({"CXR1": study}), encoding="utf-8")
    (tmp_path / "images.csv").write_text("\n".join(["image", *map(str, chest)]), encoding="utf-8")
    return tmp_path / "own.csv"


@pytest.mark.parametrize("name", FILES)
def test_a_second_run_on_one_output_file_is_refused(
    name: str, run: Run, chest: list[Path], manifest: Path, tmp_path: Path
) -> None:
    command = words(FILES[name], chest[0], manifest)
    output = next(word for word in command if word.startswith("out"))
    with locked_output(tmp_path / output, busy=""):
        done = run(*command)
    assert (done.code, done.err) == (2, "llava-rad: error: another process is writing to the output\n")
    assert not (tmp_path / output).exists()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_second_run_on_one_results_folder_is_refused(
    name: str, run: Run, chest: list[Path], manifest: Path, tmp_path: Path
) -> None:
    with locked_folder(tmp_path / "out", busy=""):
        done = run(*words(FOLDERS[name], chest[0], manifest))
        last = done.err.splitlines()[-1]
        assert (done.code, last) == (2, "llava-rad: error: another process is writing to the output folder")
    assert not (tmp_path / "out").exists()


def test_every_command_is_looked_at() -> None:
    from typer.main import get_command

    def names(group: object, before: str = "") -> list[str]:
        commands = getattr(group, "commands", None)
        if commands is None:
            return [before.strip()]
        return [name for key, one in commands.items() for name in names(one, f"{before} {key}")]

    known = {*FILES, *FOLDERS, *ELSEWHERE}
    assert [name for name in names(get_command(app)) if name not in known] == []


def test_the_first_start_of_a_run_folder_excludes_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``pretrain`` and ``train`` hold their folder by ``locked_run``, before there is anything in it."""
    monkeypatch.setattr(run_folder, "_PATIENCE", 0.0)
    with (
        run_folder.locked_run(tmp_path / "run"),
        pytest.raises(LlavaRadError, match="another run is writing to the run folder"),
        run_folder.locked_run(tmp_path / "run"),
    ):
        pass


def test_two_outputs_of_one_name_are_refused(run: Run, manifest: Path) -> None:
    done = run("evaluate", "pairs.csv", "pairs.csv", "-o", "x.csv", "--per-sample", "x.csv", "--metrics", "rouge_l")
    assert (done.code, done.err) == (2, "llava-rad: error: two outputs are called x.csv\n")


def test_an_overwritten_benchmark_is_held_to_its_end(run: Run, manifest: Path, tmp_path: Path) -> None:
    """The folder is emptied, not replaced: a lock of the one that was there would exclude nobody."""
    call = ("benchmark", "--dataset", "csv", "--data", "pairs.csv", "--predictions", "own=pairs.csv", "-o", "out")
    quick = ("--metrics", "rouge_l", "--no-cache", "--bootstrap", "5", "--reference-points", "none")
    assert run(*call, *quick).code == 0
    before = (tmp_path / "out").stat().st_ino
    assert run(*call, *quick, "--overwrite").code == 0
    assert (tmp_path / "out").stat().st_ino == before
    assert json.loads((tmp_path / "out" / "run.json").read_text())["schema"]
