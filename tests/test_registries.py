"""A dummy of each registered kind, added in one place, appears in the command line, ``doctor`` and the reference."""

from __future__ import annotations

import json
import os
import subprocess
import sys


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
    env = {**os.environ, "TERM": "dumb"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    help, reference, downloads, archive = json.loads(done.stdout)
    assert "|hl7>" in help and "one HL7 message" in help
    assert "hl7: one HL7 message" in reference and "`hl7`: HL7 v2 message" in reference
    assert {"name": "hl7", "title": "HL7 v2 message", "file": "report.oru.hl7"} in downloads
    assert archive == ["sr", "hl7"]


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
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "TERM": "dumb"}
    )
    assert done.returncode == 0, done.stderr
    manifest, reports, probe, doctor, reference = json.loads(done.stdout)
    assert "ward-seven (radiographs of ward 7)" in manifest and "ward-seven" in probe
    assert "ward-reports (reports of ward 7)" in reports
    assert "ward-seven" in doctor and "ward-reports" in doctor
    assert "ward-seven (radiographs of ward 7)" in reference and "ward-reports (reports of ward 7)" in reference
