"""The contract of the command line: help, exit codes, forms of output, inputs, partial failure."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from llava_rad import cli
from llava_rad.cli import main
from llava_rad.outputs.report import json_schema
from tests.llava_rad import small_files
from tests.llava_rad.conftest import Ran, Run

pytestmark = pytest.mark.acceptance(row=22)


def test_version(run: Run) -> None:
    assert run("--version") == Ran(0, f"llava-rad {version('llava-rad')}\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell: str) -> None:
    environment = {"_LLAVA_RAD_COMPLETE": f"source_{shell}", "PATH": "/usr/bin:/bin"}
    command = [str(Path(sys.executable).with_name("llava-rad"))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert "llava-rad" in done.stdout, done.stderr


def test_help_states_exit_codes_and_the_rule_on_file_names(run: Run) -> None:
    text = " ".join(run("generate", "--help").out.split())
    assert "130 interrupted" in text
    assert "never by file name" in text
    assert "not for clinical use" in text


def test_text_of_one_image(run: Run, tiny: Path, chest: list[Path]) -> None:
    done = run("generate", chest[0], "--model", tiny)
    assert done.code == 0
    assert done.err == ""
    lines = done.out.splitlines()
    assert lines[0] == "AI-generated draft. Research use only. Not for clinical use."
    assert lines[3] == "FINDINGS:"
    assert len(lines[4]) > 10


def test_json_follows_the_schema(run: Run, tiny: Path, chest: list[Path]) -> None:
    done = run("generate", chest[0], "--model", tiny, "--format", "json", "--seed", "3")
    report = json.loads(done.out)
    jsonschema.validate(report, json_schema())
    assert report["schema"] == "llava-rad.report/3"
    assert report["model"]["id"] == "tiny test model"
    assert report["input"]["view"] == "PA"
    assert report["input"]["recipe"] == {"name": "test-56", "version": 1}
    assert report["generation"]["seed"] == 3
    assert report["generation"]["max_new_tokens"] == 24
    assert report["input"]["sha256"] == sha256sum(chest[0])
    assert report["model"]["sha256"] == sha256sum(tiny / "config.json")


@pytest.mark.parametrize("slowdown", [0.5, 51.0])
def test_a_type_in_which_the_processor_is_slow_is_warned_of(
    run: Run, tiny: Path, chest: list[Path], monkeypatch: pytest.MonkeyPatch, slowdown: float
) -> None:
    monkeypatch.setattr("encoder.runs.processor.bfloat16_slowdown", lambda: slowdown)
    for dtype in ("auto", "float32", "bfloat16"):
        done = run("generate", chest[0], "--model", tiny, "--device", "cpu", "--dtype", dtype)
        assert done.code == 0
        assert ("51 times as long" in done.err) == (dtype == "bfloat16" and slowdown > 2), (dtype, done.err)


def test_json_of_several_is_an_array_whatever_is_in_the_folder(
    run: Run, tiny: Path, chest: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "one").mkdir()
    small_files.dicom(tmp_path / "one" / "a.dcm")
    one = json.loads(run("generate", "one", "--model", tiny, "-f", "json").out)
    two = json.loads(run("generate", *chest[:2], "--model", tiny, "-f", "json").out)
    assert [len(one), len(two)] == [1, 2]
    for report in [*one, *two]:
        jsonschema.validate(report, json_schema())


def test_jsonl_has_one_report_a_line_in_the_order_of_the_inputs(run: Run, tiny: Path, chest: list[Path]) -> None:
    arguments = ["generate", *reversed(chest), "--model", tiny, "-f", "jsonl", "--batch-size", "4"]
    done = run(*arguments)
    assert run(*arguments).out == done.out, "the same again gives the same bytes"
    reports = [json.loads(line) for line in done.out.splitlines()]
    assert [report["input"]["sha256"] for report in reports] == [sha256sum(path) for path in reversed(chest)]
    assert len({report["report"]["text"] for report in reports}) > 3, "the text must depend on the image"


def test_standard_input(run: Run, tiny: Path, chest: list[Path]) -> None:
    piped = run("generate", "-", "--model", tiny, stdin=chest[1].read_bytes())
    assert piped.code == 0
    assert piped.out == run("generate", chest[1], "--model", tiny).out
    assert run("generate", "-", "--model", tiny, stdin=b"hello").code == 4
    assert run("generate", "-", "--model", tiny, stdin=b"").code == 4


def test_quoted_pattern(run: Run, tiny: Path, chest: list[Path], tmp_path: Path) -> None:
    done = run("generate", chest[0].parent / "[0-2].dcm", "--model", tiny, "-f", "jsonl")
    assert shas(done) == [sha256sum(path) for path in chest[:3]]
    assert run("generate", tmp_path / "*.dcm", "--model", tiny).code == 4


def test_folder_and_recursive(run: Run, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "study" / "deep").mkdir(parents=True)
    top = small_files.dicom(tmp_path / "study" / "image", seed=1)  # no suffix
    deep = small_files.dicom(tmp_path / "study" / "deep" / "b.dcm", seed=2)
    (tmp_path / "study" / "notes.txt").write_text("no image")
    flat = run("generate", "study", "--model", tiny, "-f", "jsonl")
    assert shas(flat) == [sha256sum(top)]
    assert "files skipped as no images: 1" in flat.err
    both = run("generate", "study", "--recursive", "--model", tiny, "-f", "jsonl")
    assert shas(both) == [sha256sum(top), sha256sum(deep)]


def test_empty_folder(run: Run, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run("generate", "empty", "--model", tiny)
    assert done.code == 4
    assert "no image" in done.err


def test_pictures(run: Run, tiny: Path, tmp_path: Path) -> None:
    files = [small_files.picture(tmp_path / name) for name in ("a.png", "a.jpg", "a.tif", "a.webp")]
    done = run("generate", *files, "--model", tiny, "-f", "json")
    assert done.code == 0, done.err
    assert [report["input"]["format"] for report in json.loads(done.out)] == ["png", "jpeg", "tiff", "webp"]


def test_sixteen_bit_png_reads_like_the_dicom_it_came_from(
    run: Run, tiny: Path, chest: list[Path], tmp_path: Path
) -> None:
    png = small_files.picture(tmp_path / "a.png", seed=2, sixteen_bit=True)
    texts = [json.loads(run("generate", path, "--model", tiny, "-f", "json").out)["report"] for path in (png, chest[2])]
    assert texts[0] == texts[1]


def test_example(run: Run, tiny: Path) -> None:
    done = run("generate", "--example", "--model", tiny, "-f", "json")
    facts = json.loads(done.out)["input"]["facts"]
    # as dcmdump shows them for RG1_UNCI.dcm
    assert (facts["rows"], facts["columns"], facts["photometric_interpretation"]) == (1955, 1841, "MONOCHROME1")
    assert (facts["view"], facts["bits_stored"], facts["inverted"]) == ("PA", 15, True)


def test_one_refused_input_ends_with_4(run: Run, tiny: Path, lateral: Path) -> None:
    done = run("generate", lateral, "--model", tiny)
    assert done.code == 4
    assert done.out == ""
    assert done.err.startswith("llava-rad: error: ")
    assert "lateral" in done.err
    assert "--force" in done.err


def test_force_reads_what_is_refused_and_says_so(run: Run, tiny: Path, lateral: Path) -> None:
    done = run("generate", lateral, "--model", tiny, "--force", "-f", "json")
    assert done.code == 0
    assert any("force" in warning for warning in json.loads(done.out)["warnings"])


def test_partial_failure_writes_the_rest_and_ends_with_3(
    run: Run, tiny: Path, chest: list[Path], lateral: Path
) -> None:
    done = run(
        "generate", chest[0], lateral, chest[1], "missing.dcm", "--model", tiny, "-f", "jsonl", "--batch-size", "2"
    )
    assert done.code == 3
    assert shas(done) == [sha256sum(chest[0]), sha256sum(chest[1])]
    assert f"input 2 of 4 (sha256 {sha256sum(lateral)[:12]}): " in done.err
    assert "input 4 of 4: there is no such file" in done.err
    assert done.err.splitlines()[-1] == "llava-rad: 2 of 4 reports written, 2 inputs failed"


def test_all_of_several_failed(run: Run, tiny: Path, lateral: Path) -> None:
    done = run("generate", lateral, lateral, "--model", tiny, "-f", "json")
    assert (done.code, done.out) == (3, "[]\n")


def test_quiet_says_errors_only(run: Run, tiny: Path, chest: list[Path], lateral: Path) -> None:
    assert run("generate", *chest, "--model", tiny, "--quiet").err == ""
    assert "lateral" in run("generate", chest[0], lateral, "--model", tiny, "-q").err


@pytest.mark.parametrize("model", ["./nothing", "owner/name", "http://x/y"])
def test_missing_model_ends_with_5_and_a_hint_of_what_was_looked_for(run: Run, chest: list[Path], model: str) -> None:
    done = run("generate", chest[0], "--model", model, "--offline")
    assert done.code == 5
    assert done.out == ""
    assert len([line for line in done.err.splitlines() if line.startswith("llava-rad: error:")]) == 1
    assert "Traceback" not in done.err


def test_damaged_model_ends_with_5(run: Run, tiny: Path, chest: list[Path], tmp_path: Path) -> None:
    import shutil

    broken = shutil.copytree(tiny, tmp_path / "broken")
    weights = bytearray((broken / "projector.safetensors").read_bytes())
    weights[-1] ^= 1
    (broken / "projector.safetensors").write_bytes(weights)
    done = run("generate", chest[0], "--model", broken)
    assert done.code == 5
    assert "projector.safetensors" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--stream", "--format", "json"],
        ["--stream", "--num-beams", "2"],
        ["--temperature", "1", "--num-beams", "2"],
        ["--temperature", "-1"],
        ["--overwrite"],
        ["--format", "xml"],
        ["--dtype", "int8"],
        ["--max-new-tokens", "0"],
        ["--frame", "0"],
        ["--output", "."],
        ["--output", "no/such/folder/x.json"],
    ],
    ids=" ".join,
)
def test_usage_errors(run: Run, chest: list[Path], arguments: list[str]) -> None:
    done = run("generate", chest[0], *arguments)
    assert (done.code, done.out) == (2, "")


def test_unknown_device_fails_with_a_hint(run: Run, tiny: Path, chest: list[Path]) -> None:
    done = run("generate", chest[0], "--model", tiny, "--device", "toaster")
    assert done.code == 1
    assert "llava-rad doctor" in done.err


def test_stream_prints_the_same_text(run: Run, tiny: Path, chest: list[Path]) -> None:
    whole = run("generate", *chest[:2], "--model", tiny, "--no-stream", "--batch-size", "1")
    streamed = run("generate", *chest[:2], "--model", tiny, "--stream")
    assert streamed == whole


def test_stream_of_a_refused_image(run: Run, tiny: Path, chest: list[Path], lateral: Path) -> None:
    assert run("generate", lateral, "--model", tiny, "--stream").code == 4
    done = run("generate", lateral, chest[0], "--model", tiny, "--stream")
    assert done.code == 3
    assert done.out.count("FINDINGS:") == 1


@pytest.mark.slow
def test_prompt_seed_temperature_beams_and_length_reach_the_model(run: Run, tiny: Path, chest: list[Path]) -> None:
    def text(*arguments: str) -> str:
        report: dict[str, Any] = json.loads(run("generate", chest[0], "--model", tiny, "-f", "json", *arguments).out)
        return str(report["report"]["text"])

    plain, sampled = text(), text("--temperature", "1.5", "--seed", "1")
    assert len(text("--max-new-tokens", "3")) < len(plain)
    assert text("--prompt", "Is the heart large?") != plain
    assert text("--temperature", "1.5", "--seed", "1") == sampled
    assert text("--temperature", "1.5", "--seed", "2") != sampled
    assert text("--num-beams", "3") != ""


def test_show_paths_names_the_file_and_nothing_else_does(
    run: Run, tiny: Path, chest: list[Path], lateral: Path
) -> None:
    for form in ("text", "jsonl"):
        arguments = ["generate", chest[0], lateral, "--model", tiny, "-f", form]
        hidden, shown = run(*arguments), run(*arguments, "--show-paths")
        assert str(chest[0]) not in hidden.out
        assert str(lateral) not in hidden.err
        assert str(chest[0]) in shown.out
        assert str(lateral) in shown.err


def test_unforeseen_errors_show_no_message_and_no_traceback(
    run: Run, monkeypatch: pytest.MonkeyPatch, chest: list[Path]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Doe^Jane")

    monkeypatch.setattr("llava_rad.commands.generate.expand", fail)
    done = run("generate", chest[0])
    assert done.code == 1
    assert "unexpected RuntimeError" in done.err
    assert "Doe" not in done.err
    monkeypatch.setenv("LLAVA_RAD_DEBUG", "1")
    with pytest.raises(RuntimeError, match="Doe"):
        main(["generate", str(chest[0])])


def test_doctor_json(run: Run) -> None:
    done = run("doctor", "--format", "json")
    diagnosis = json.loads(done.out)
    assert diagnosis["schema"] == "llava-rad.doctor/1"
    assert done.code == (0 if diagnosis["ok"] else 1)
    assert {"Python", "torch", "reader", "embedded model", "hub cache"} <= {
        check["name"] for check in diagnosis["checks"]
    }


def sha256sum(path: Path) -> str:
    return subprocess.run(["sha256sum", str(path)], capture_output=True, text=True, check=True).stdout.split()[0]


def shas(done: Ran) -> list[str]:
    return [json.loads(line)["input"]["sha256"] for line in done.out.splitlines()]


def test_assemble_makes_a_checkpoint_that_generate_takes(
    run: Run, chest: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from encoder.preprocessing import RECIPES
    from tests.llava_rad.published import rad_dino_folder, vicuna_folder
    from tests.llava_rad.tiny_model import RECIPE

    monkeypatch.setitem(RECIPES, RECIPE.name, RECIPE)
    parts = ["--encoder", rad_dino_folder(tmp_path / "e"), "--language-model", vicuna_folder(tmp_path / "l")]
    command = ["assemble", tmp_path / "out", *parts, "--recipe", RECIPE.name, "--name", "mine"]
    done = run(*command)
    assert done.code == 0, done.err
    report = json.loads(run("generate", chest[0], "--model", "out", "-f", "json", "--max-new-tokens", "5").out)
    assert report["model"] == {
        "id": "mine",
        "revision": None,
        "sha256": sha256sum(tmp_path / "out" / "config.json"),
        "demonstration": False,
    }
    again = run(*command)
    assert again.code == 1
    assert "--overwrite" in again.err
    assert run(*command, "--overwrite").code == 0


def test_assemble_from_what_is_no_model(run: Run, tiny: Path, tmp_path: Path) -> None:
    done = run("assemble", "out", "--encoder", tmp_path, "--language-model", tmp_path)
    assert done.code == 5
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "level", "shown"),
    [
        ("bitsandbytes.cextension", logging.WARNING, False),
        ("safetensors", logging.INFO, False),
        ("encoderlike", logging.WARNING, False),
        ("bitsandbytes", logging.ERROR, True),
        ("llava_rad", logging.WARNING, True),
        ("metrics.cache", logging.WARNING, True),
    ],
)
def test_warnings_of_libraries_are_not_passed_on(name: str, level: int, shown: bool) -> None:
    record = logging.LogRecord(name, level, "file", 1, "message", None, None)
    assert cli._is_ours(record) is shown
