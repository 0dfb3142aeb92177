"""A dummy of each registered kind, added in one place, appears in the command line, ``doctor`` and the reference."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def printed_by(code: str) -> Any:
    """Run a script that registers dummies before anything reads the registries; what it prints, as JSON."""
    env = {**os.environ, "TERM": "dumb"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_registered_output_format_appears_in_help_reference_and_page() -> None:
    code = """
import json
from typer.testing import CliRunner
from llava_rad.outputs.formats import FORMATS, OutputFormat

row = OutputFormat("hl7", "HL7 v2 message", "one HL7 message", "elsewhere:Writer", ("oru.hl7",), "application/dicom")
FORMATS[row.name] = row
from app.routes import downloads
from llava_rad.cli import app
from llava_rad.outputs.formats import archive_formats
from scripts.write_reference import reference

help = CliRunner().invoke(app, ["generate", "--help"], env={"COLUMNS": "200"}).output
print(json.dumps([help, reference(), downloads(), [row.name for row in archive_formats()]]))
"""
    help, reference, downloads, archive = printed_by(code)
    assert "|hl7>" in help and "one HL7 message" in help
    assert "hl7: one HL7 message" in reference and "`hl7`: HL7 v2 message" in reference
    assert {"name": "hl7", "title": "HL7 v2 message", "file": "report.oru.hl7"} in downloads
    assert archive == ["sr", "hl7"]


@pytest.mark.slow
def test_a_registered_encoder_family_appears_in_help_doctor_reference_and_errors() -> None:
    code = """
import json
import sys
from types import ModuleType
from typer.testing import CliRunner
from encoder.backbones import registry

registry.FAMILIES["convnext"] = "elsewhere_convnext"
registry.ENCODERS["ward-net"] = registry.PublishedEncoder(
    "ward-net", "convnext", "elsewhere/ward-net", "rad-dino", 1369, 768, "CLS", "MIT", "this test"
)
from encoder.backbones.base import EncoderFamily
from encoder.backbones.loading import sizes
from encoder.errors import LlavaRadError

class Family(EncoderFamily):
    model_types = {"ward_net": "ward-net"}
    def config(self, entry):
        return {"model_type": "ward_net"}
    def sizes(self, folder, config, recipe):
        return config["model_type"], recipe
    def stored(self, folder, what): ...
    def published(self, entry, fetch, what): ...

sys.modules["elsewhere_convnext"] = ModuleType("elsewhere_convnext")
sys.modules["elsewhere_convnext"].FAMILY = Family()
from llava_rad.cli import app
from llava_rad.doctor import _encoders
from scripts.write_reference import reference

help = " ".join(CliRunner().invoke(app, ["assemble", "--help"], env={"COLUMNS": "200"}).output.split())
doctor = " ".join(f"{check.name}: {check.detail}" for check in _encoders())
try:
    registry.encoder_named("vgg")
except LlavaRadError as error:
    hint = error.hint
print(json.dumps([help, doctor, reference(), hint, sizes("elsewhere/ward-net", offline=True)]))
"""
    help, doctor, reference, hint, sizes = printed_by(code)
    assert "ward-net" in help and "encoders convnext: ward-net" in doctor
    assert "ward-net" in reference and "ward-net" in hint
    assert sizes == ["ward_net", "rad-dino"], "the family is asked, without a network"


def test_a_registered_data_set_appears_in_help_doctor_and_reference() -> None:
    code = """
import json
from typer.testing import CliRunner
from encoder.datasets import registry as images
from llava_rad.reports import registry as pairs

images.DATASETS["ward-seven"] = images.DataSet("ward-seven", "radiographs of ward 7", "elsewhere.ward:read")
pairs.DATASETS["ward-reports"] = pairs.PairSet("ward-reports", "reports of ward 7", "elsewhere.ward:read_pairs")
from llava_rad.cli import app
from llava_rad.doctor import _data_sets
from scripts.write_reference import reference

def shown(*arguments):
    return " ".join(CliRunner().invoke(app, [*arguments, "--help"], env={"COLUMNS": "200"}).output.split())

doctor = " ".join(check.detail for check in _data_sets())
print(json.dumps([shown("manifest"), shown("reports"), shown("probe", "linear"), doctor, reference()]))
"""
    manifest, reports, probe, doctor, reference = printed_by(code)
    assert "ward-seven (radiographs of ward 7)" in manifest and "ward-seven" in probe
    assert "ward-reports (reports of ward 7)" in reports
    assert "ward-seven" in doctor and "ward-reports" in doctor
    assert "ward-seven (radiographs of ward 7)" in reference and "ward-reports (reports of ward 7)" in reference


DUMMY_METRIC = '''
from dataclasses import dataclass

import numpy as np

from metrics.base import Metric, option
from metrics.scores import mean_scores


@dataclass(frozen=True)
class WordOptions:
    """Options of the dummy.

    Attributes:
        word: Word that is counted.
    """

    word: str = option("effusion")


class Words(Metric):
    summary, titles, options = "share of reports with a word", {"words": "Word share"}, (WordOptions,)

    def scores(self, candidates, references):
        word = self.settings.of(WordOptions).word
        return mean_scores({"words": np.array([float(word in text) for text in candidates])}, "words")
'''


@pytest.mark.slow
def test_a_registered_metric_appears_in_help_reference_and_doctor_and_is_scored(tmp_path: Path) -> None:
    code = """
import json, sys
from typer.testing import CliRunner
from metrics import registry

registry.METRICS["words"] = "dummy_metric:Words"
from llava_rad.cli import app
from llava_rad.doctor import diagnose
from metrics.evaluate_modules import load
from scripts.write_reference import reference

def run(*arguments):
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}).output

table = sys.argv[1]
print(json.dumps([
    run("evaluate", "--help"), run("benchmark", "--help"), reference(), diagnose().to_text(),
    run("evaluate", table, table, "--metrics", "words", "--word", "clear"),
    load("words").compute(predictions=["an effusion", "none"], references=["a", "b"]),
]))
"""
    (tmp_path / "dummy_metric.py").write_text(DUMMY_METRIC)
    table = tmp_path / "a.csv"
    table.write_text("id,text\n1,clear\n2,effusion\n3,effusion\n4,effusion\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "TERM": "dumb", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code, str(table)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    evaluate, benchmark, reference, doctor, scores, module = json.loads(done.stdout)
    for help in (evaluate, benchmark):
        assert "--word" in help and "Word that is counted." in help
        assert "words (share of reports with a word)" in " ".join(help.split())
    assert "words (share of reports with a word)" in reference and "- `--word`" in reference
    assert "metric words" in doctor and "share of reports with a word" in doctor
    assert "Word share" in scores and "25.00" in scores
    assert module == {"words": 0.5}


@pytest.mark.slow
def test_a_registered_published_model_appears_in_help_doctor_and_reference() -> None:
    code = """
import json
from typer.testing import CliRunner
from llava_rad.conversion.published import MODELS, PublishedModel

row = PublishedModel("raddy", "somebody/raddy", "MIT", ("*.json",), 100, "elsewhere:raddy")
MODELS[row.kind] = row
from llava_rad.cli import app
from llava_rad.doctor import diagnose
from scripts.write_reference import reference

help = CliRunner().invoke(app, ["convert", "--help"], env={"COLUMNS": "200"}).output
checks = {check.name: check.detail for check in diagnose("somebody/raddy").checks}
print(json.dumps([help, reference(), checks]))
"""
    help, reference, checks = printed_by(code)
    assert "llava-1.5, raddy" in help and "llava-1.5, raddy" in reference
    assert checks["published raddy"] == "somebody/raddy, converted on first use"
    assert checks["model"] == "somebody/raddy is not converted yet"
