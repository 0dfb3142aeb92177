"""Installation: vulnerable versions are excluded, no GPL package is required, and the wheel is complete."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from scripts.deploy.lock import closure, requirements_of
from tests.referees.programs import program
from tests.source_tree import ROOT

pytestmark = pytest.mark.acceptance(row=28)

# Lowest versions that may be declared, in any group or extra, and why.
FLOORS = {
    "pydicom": "3.0.2",  # CVE-2026-32711: path traversal through DICOMDIR
    "gradio": "6.31",  # CVE-2026-28414, -28415, -28416 and later server-side request forgeries
    "pynetdicom": "3.0.4",  # CVE-2026-56445
    "torch": "2.6",  # weights_only loading is safe and the default
    "transformers": "5.17",
}
# Never beside this project, whatever else changes: copyleft, or crashes of the whole process on damaged files.
BANNED = {"pylibjpeg-libjpeg": "GPL-3", "python-gdcm": "segfaults on fuzzed input", "lightly-train": "AGPL-3"}
# Names whose metadata states no licence, or one that the rule below misreads -> what it really is.
KNOWN_LICENCES = {
    "cuda-toolkit": "NVIDIA proprietary; an empty package that names the CUDA libraries torch is built on"
}
# Vulnerabilities that pip-audit knows and no version mends, or that no code of ours reaches -> the reason.
ACCEPTED: dict[tuple[str, str], str] = {}
PACKAGED = ("encoder", "llava_rad", "metrics", "app")
COPYLEFT = re.compile(r"\bA?GPL|GNU (Affero )?General Public", re.IGNORECASE)


def declared() -> list[Requirement]:
    """Every requirement of pyproject.toml: dependencies, extras, dependency groups and the build system."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    lists = [
        data["build-system"]["requires"],
        data["project"]["dependencies"],
        *data["project"]["optional-dependencies"].values(),
        *data["dependency-groups"].values(),
    ]
    return [Requirement(entry) for entries in lists for entry in entries if isinstance(entry, str)]


def below(requirement: Requirement, floor: str) -> bool:
    """Return True if a requirement admits a version below the floor."""
    lower = [Version(s.version) for s in requirement.specifier if s.operator in {">=", "==", "~=", ">", "==="}]
    return not lower or max(lower) < Version(floor)


def unmet(asked: dict[str, list[Requirement]]) -> list[str]:
    """Return the complaints of `pip check`."""
    problems = []
    for name, requirements in asked.items():
        version = metadata.version(name)
        problems += [
            f"{name} {version} is installed, {r} is asked for"
            for r in requirements
            if not r.specifier.contains(version, prereleases=True)
        ]
    return problems


def licence_of(name: str) -> list[str]:
    """Every statement that a package's metadata makes about its licence; a whole licence text counts by its title."""
    data = metadata.metadata(name)
    fields = [
        text.strip().split("\n")[0] for key in ("License-Expression", "License") for text in data.get_all(key) or []
    ]
    classifiers = [c for c in data.get_all("Classifier") or [] if c.startswith("License ::")]
    return [s for s in [*fields, *classifiers] if s and s != "UNKNOWN"]


def is_copyleft(statement: str) -> bool:
    """Return True if GPL or AGPL applies, without LGPL, linking exceptions and choices that include another licence.

    Nested brackets are not resolved: in doubt the answer is True, and KNOWN_LICENCES lists the exceptions with reasons.
    """
    clauses = re.split(r"\s+AND\s+", statement)
    return any(
        all(COPYLEFT.search(choice) and " WITH " not in choice for choice in re.split(r"\s+OR\s+", clause))
        for clause in clauses
    )


def test_dependency_floors() -> None:
    names = {canonicalize_name(r.name) for r in declared()}
    assert {"pydicom", "gradio", "torch", "transformers"} <= names
    assert [str(r) for r in declared() if r.name in FLOORS and below(r, FLOORS[r.name])] == []


@pytest.mark.parametrize(
    ("requirement", "bad"),
    [
        ("pydicom>=3.0.2", False),
        ("pydicom>=3.0.1", True),
        ("pydicom", True),
        ("pydicom<4", True),
        ("pydicom~=3.1", False),
    ],
)
def test_the_floor_rule_itself(requirement: str, bad: bool) -> None:
    assert below(Requirement(requirement), "3.0.2") is bad


def test_nothing_banned_is_declared_or_installed_by_default() -> None:
    assert {canonicalize_name(r.name) for r in declared()} & set(BANNED) == set()
    assert set(closure(requirements_of("llava-rad"))) & set(BANNED) == set()
    assert [str(r) for r in declared() if r.name == "pydicom" and r.extras] == [], "its extras bring GPL decoders"


def test_default_install_is_consistent() -> None:
    asked = closure(requirements_of("llava-rad"))
    assert {"torch", "transformers", "pydicom", "imagecodecs", "typer"} <= set(asked)
    assert unmet(asked) == []


def test_an_inconsistent_install_is_seen() -> None:
    version = metadata.version("pydicom")
    assert unmet({"pydicom": [Requirement(f"pydicom<{version}")]}) != []


def test_the_whole_environment_is_consistent() -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    if "No module named pip" in done.stderr:
        pytest.skip("an environment without pip (its consistency is checked from metadata above)")
    assert done.returncode == 0, done.stdout


def test_no_gpl_in_the_default_install() -> None:
    names = [name for name in closure(requirements_of("llava-rad")) if name not in KNOWN_LICENCES]
    assert [name for name in names if not licence_of(name)] == [], "state their licence in KNOWN_LICENCES"
    assert {name: licence_of(name) for name in names if any(map(is_copyleft, licence_of(name)))} == {}


@pytest.mark.parametrize(
    ("statement", "bad"),
    [
        ("GPL-3.0-or-later", True),
        ("GPLv3", True),
        ("AGPL-3.0-only", True),
        ("License :: OSI Approved :: GNU General Public License v3 (GPLv3)", True),
        ("License :: OSI Approved :: GNU Affero General Public License v3", True),
        ("BSD-3-Clause AND GPL-2.0-only", True),
        ("MIT OR GPL-2.0-only", False),
        ("BSD-3-Clause AND GPL-3.0-or-later WITH GCC-exception-3.1", False),
        ("LGPL-2.1-or-later", False),
        ("License :: OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)", False),
        ("MIT", False),
    ],
)
def test_the_licence_rule_itself(statement: str, bad: bool) -> None:
    assert is_copyleft(statement) is bad


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.referee
def test_check_wheel_contents_finds_no_fault(wheel: Path) -> None:
    command = [program("check-wheel-contents"), "--config", str(ROOT / "pyproject.toml"), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, f"{wheel}: OK")


@pytest.mark.referee
def test_validate_pyproject_finds_no_fault() -> None:
    command = [program("validate-pyproject"), str(ROOT / "pyproject.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


@pytest.mark.referee
@pytest.mark.nightly
def test_pip_audit_knows_no_vulnerability_of_the_default_install(tmp_path: Path) -> None:
    names = [name for name in closure(requirements_of("llava-rad")) if name != "llava-rad"]
    versions = [f"{name}=={metadata.version(name).split('+')[0]}" for name in names]
    (tmp_path / "requirements.txt").write_text("\n".join(versions), encoding="utf-8")
    command = [program("pip-audit"), "--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    command += ["--requirement", str(tmp_path / "requirements.txt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if not done.stdout.startswith("{"):
        pytest.skip(f"pip-audit reaches no list of vulnerabilities: {(done.stderr.strip() or 'no message')[-200:]}")
    audited = json.loads(done.stdout)["dependencies"]
    assert {one["name"] for one in audited} >= {"torch", "pydicom", "transformers"}
    found = {(one["name"], fault["id"]) for one in audited for fault in one.get("vulns", ())}
    assert found - ACCEPTED.keys() == set()


@pytest.mark.slow
def test_wheel_holds_all_four_packages_their_data_and_stays_small(wheel: Path) -> None:
    assert wheel.stat().st_size <= 90_000_000
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = [n for n in names if n.endswith(".dist-info/entry_points.txt")]
        assert "llava-rad = llava_rad.cli:main" in archive.read(entry_points).decode()
    info = entry_points.split("/")[0]
    assert {name.split("/")[0] for name in names} == {*PACKAGED, info}
    assert {f"{p}/py.typed" for p in PACKAGED} <= names
    # every tracked or new file of the four packages: schemas, configurations and the embedded model, not only modules
    files = [
        p for folder in PACKAGED for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts
    ]
    assert {p.relative_to(ROOT).as_posix() for p in files} == {n for n in names if n.split("/")[0] != info}
    assert any(n.endswith("licenses/LICENSE") for n in names)
    assert "llava_rad/demo/config.json" in names, "the embedded model must come with the package"
    assert "llava_rad/demo/README.md" in names, "its card, with the licences of what it was made from, too"


# fmt: off
# Fields of the Citation File Format 1.2.0 (https://github.com/citation-file-format/citation-file-format, schema.json)
CFF = {
    "abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi", "identifiers", "keywords",
    "license", "license-url", "message", "preferred-citation", "references", "repository", "repository-artifact",
    "repository-code", "title", "type", "url", "version",
}
CFF_REFERENCE = {
    "abstract", "authors", "collection-title", "conference", "doi", "editors", "end", "issn", "issue", "journal",
    "keywords", "month", "notes", "number", "pages", "publisher", "section", "start", "status", "title", "type", "url",
    "volume", "year",
}
CFF_PERSON = {"family-names", "given-names", "name-particle", "name-suffix", "orcid", "affiliation", "email", "website"}
# fmt: on


def test_the_citation_file_is_valid_and_of_this_version() -> None:
    """The rules of the schema for the fields that the file has; cffconvert needs an older jsonschema than ours."""
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert set(content) <= CFF and {"authors", "cff-version", "message", "title"} <= set(content)
    assert content["cff-version"] == "1.2.0" and content["type"] in ("software", "dataset")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert (content["version"], content["license"]) == (project["version"], project["license"])
    assert isinstance(content["version"], str) and len(content["keywords"]) == len(set(content["keywords"]))
    references = [content["preferred-citation"], *content["references"]]
    for one in references:
        assert set(one) <= CFF_REFERENCE and {"authors", "title", "type"} <= set(one)
        assert one["type"] in ("article", "conference-paper")
        assert isinstance(one["year"], int) and 1 <= one.get("month", 1) <= 12
        assert re.fullmatch(r"10\.\d{4,9}(\.\d+)?/\S+", one.get("doi", "10.1234/x")), one["doi"]
        assert one.get("url", "https://").startswith("https://")
    for author in [*content["authors"], *(author for one in references for author in one["authors"])]:
        assert set(author) == {"name"} or ("family-names" in author and set(author) <= CFF_PERSON)
