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
