"""FHIR bundles of every kind, validated by fhir.resources (PyPI) and fhir (npm), both against R4.

Neither resolves references, evaluates the invariants (FHIRPath), or has the codes of LOINC, SNOMED CT, UCUM and the
security labels. R5, in which ``DiagnosticReport.imagingStudy`` is ``study``, is not written and not checked.
"""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest

from llava_rad.outputs.fhir import to_fhir
from tests.llava_rad.outputs.kinds import KINDS
from tests.referees import npm

pytestmark = pytest.mark.referee

WARNINGS = {
    r'Code "RAD" \(.*v2-0074\) not found': "the value set is a part of a code system that the package does not have",
    r'Code "18748-4" \(http://loinc.org\) not found': "the value set is all of LOINC (DiagnosticReport), or preferred",
    r'Observation\.\S*code: Code "(410668003|103355008)" .*snomed': "the value set is an example, of LOINC codes",
    r'section\[\d\]\.code: Code "(59776-5|19005-8)" .* not found': "the value set is an example; codes as in PS3.20",
}


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Messages of the npm package for each kind, and for a bundle with three faults."""
    packages, folder = npm.installed("documents"), tmp_path_factory.mktemp("bundles")
    bundles = {kind: to_fhir(document) for kind, document in KINDS.items()}
    broken = copy.deepcopy(bundles["draft, identified"])
    report = broken["entry"][0]["resource"]
    del report["code"]
    report |= {"status": "finished", "colour": "red"}
    files = []
    for number, bundle in enumerate([*bundles.values(), broken]):
        files.append(folder / f"{number}.json")
        files[-1].write_text(json.dumps(bundle), encoding="utf-8")
    return dict(zip([*KINDS, "broken"], npm.run(packages, "fhir.mjs", *files), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_npm_package_finds_no_error(validated: dict[str, Any], kind: str) -> None:
    found = validated[kind]
    assert (found["valid"], found["fatal"], found["error"]) == (True, [], [])
    assert [one for one in found["warning"] if not any(re.search(known, one) for known in WARNINGS)] == []
    assert [one for one in found["info"] if not one.endswith("could not be found.")] == [], "value sets it lacks"


def test_the_npm_package_finds_faults(validated: dict[str, Any]) -> None:
    found = validated["broken"]
    assert not found["valid"]
    for fault in ("DiagnosticReport.code", "DiagnosticReport.status", "DiagnosticReport.colour"):
        assert [one for one in found["error"] if one.startswith(f"{fault}:")]


@pytest.mark.parametrize("kind", KINDS)
def test_fhir_resources_parses_and_returns_the_same(kind: str) -> None:
    bundle = pytest.importorskip("fhir.resources.R4B.bundle", reason="fhir.resources is not installed")
    found = to_fhir(KINDS[kind])
    parsed = bundle.Bundle.model_validate(found).model_dump_json(exclude_none=True)
    assert json.loads(parsed) == json.loads(json.dumps(found).replace("+00:00", "Z")), "it writes UTC as Z"
