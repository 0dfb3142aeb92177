"""Dockerfile, compose file, configurations and lock agree with each other, with the commands and with the document."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from scripts.deploy import lock
from tests.scripts.deploy.conftest import VALUES
from tests.scripts.deploy.dockerfile import (
    FOLDER,
    MissingVariable,
    compose,
    dockerfile,
    expand,
    ignored,
    pairs,
    variables,
    words,
)
from tests.source_tree import ROOT
from tests.test_documents import complaint

pytestmark = pytest.mark.acceptance(row=31)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
DOCUMENT = (ROOT / "docs" / "deploy.md").read_text("utf-8")
OURS = ("watch", "review", "api", "admin")


def steps(name: str) -> list[str]:
    return [rest for stage in dockerfile() for found, rest in stage.steps if found == name]


# the lock


def test_the_lock_has_no_faults_for_this_environment() -> None:
    """Every dependency is locked, and neither pyproject.toml nor a locked package asks for another version."""
    assert lock.faults(lock.read(), *lock.declared()) == []


def test_faults_of_a_lock_are_seen() -> None:
    found = lock.read()
    package, groups = [Requirement("pydicom>=99"), Requirement("no-such-package>=1")], [Requirement("pillow<2")]
    assert lock.faults(found, package, groups) == [
        f"pillow {found['pillow']} is locked, pyproject.toml asks for pillow<2",
        f"pydicom {found['pydicom']} is locked, pyproject.toml asks for pydicom>=99",
        "no-such-package is not locked, pyproject.toml asks for it",
    ]
    assert lock.faults({}, [Requirement("pydicom; python_version < '3'")], []) == []


def test_faults_between_locked_packages_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"a": [Requirement("b>=2"), Requirement("c")]}
    monkeypatch.setattr(lock, "requirements_of", lambda name, extras: asked.get(name, []))
    monkeypatch.setattr(lock, "_installed", lambda name: Version("1"))
    found = {"a": Version("1"), "b": Version("1")}
    assert lock.faults(found, [Requirement("a[x]")], []) == [
        "b 1 is locked, a asks for b>=2",
        "c is not locked, a asks for it",
    ]
    assert lock.faults({**found, "a": Version("2")}, [Requirement("a")], []) == []  # its metadata is not known here


def test_differences_name_other_versions_and_absent_packages() -> None:
    version = Version(metadata.version("pydicom"))
    assert lock.differences({"pydicom": version}) == []
    assert lock.differences({"pydicom": Version("0.1"), "no-such-package": Version("1")}) == [
        f"pydicom 0.1 is locked, {version} installed",
        "no-such-package 1 is locked, not installed",
    ]


@pytest.mark.parametrize("line", ["pydicom>=3", "pydicom", "PyDicom==3.0.2", "a==1\na==2", "a==x"])
def test_a_file_that_is_no_lock_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(f"# a comment\n\n{line}\n")
    with pytest.raises(ValueError):
        lock.read(tmp_path / "lock")


# the unit of systemd


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd")
def test_the_documents_unit_is_taken_by_systemd_and_starts_a_command_that_exists(tmp_path: Path) -> None:
    (unit,) = re.findall(r"```ini\n(.*?)```", DOCUMENT, re.DOTALL)
    (program, *arguments) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)[0].split()
    assert complaint([Path(program).name, *arguments]) is None
    (tmp_path / "reports.service").write_text(unit.replace(program, "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "reports.service"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# the Dockerfile


def test_the_image_runs_without_root_and_checks_its_health() -> None:
    *_, last = dockerfile()
    assert [name for name, _ in last.steps if name in ("USER", "ENTRYPOINT", "CMD", "HEALTHCHECK")] == [
        "USER", "HEALTHCHECK", "ENTRYPOINT", "CMD",
    ]  # fmt: skip
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", last.last("USER"))
    assert complaint([*words(last.last("ENTRYPOINT")), *words(last.last("CMD"))]) is None
    assert pairs(last.last("ENV"), {"PATH": "/bin"})["PATH"] == "/opt/llava-rad/bin:/bin"


def test_the_packages_and_nothing_else_are_copied() -> None:
    sources = {source for rest in steps("COPY") if "--from" not in rest for source in shlex.split(rest)[:-1]}
    assert set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) < sources
    assert {PROJECT["project"]["readme"], "LICENSE", "pyproject.toml"} < sources
    assert [source for source in sources if not (ROOT / source).exists() or ignored(source)] == []
    assert all(map(ignored, ("tests", ".git", ".venv/bin/python", "app/__pycache__", "runs", "scripts/deploy/.env")))
    assert not ignored("app/static/viewer.js")


def test_packages_are_installed_in_locked_versions_with_extras_that_exist() -> None:
    installs = [rest for rest in steps("RUN") if "pip install" in rest]
    assert len(installs) == 2 and all("-c /build/constraints.txt" in one for one in installs)
    (extras,) = [one.partition("=")[2] for one in steps("ARG") if one.startswith("EXTRAS=")]
    assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])
    python = Version(dockerfile()[0].base.removeprefix("python:").partition("-")[0])
    assert f">={python}" == PROJECT["project"]["requires-python"]
    assert all(f"Python {python}." in line for line in lock.LOCK.read_text().splitlines()[:1])


def test_build_arguments_are_documented() -> None:
    text = (FOLDER / "Dockerfile").read_text("utf-8")
    for name in set(re.findall(r"^ARG (\w+)", text, re.MULTILINE)):
        assert f"`{name}`" in DOCUMENT and f"{name} (" in text


# the compose file


@pytest.mark.parametrize("name", OURS)
def test_services_run_commands_that_exist_without_rights(name: str) -> None:
    service = compose(VALUES)["services"][name]
    assert complaint(["llava-rad", *service["command"]]) is None
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["tmpfs"] == ["/tmp"]
    assert service["security_opt"] == ["no-new-privileges:true"] and "privileged" not in service
    assert service["image"] == f"llava-rad:{PROJECT['project']['version']}"
    assert (FOLDER / service["build"]["context"] / service["build"]["dockerfile"]).resolve() == FOLDER / "Dockerfile"
    assert "ports" not in service, "the proxy publishes them"


def test_each_server_has_a_health_check_of_its_own_port() -> None:
    from typer.main import get_command

    from llava_rad.cli import app

    found = compose(VALUES)["services"]
    *_, last = dockerfile()
    defaults = {
        name: next(one.default for one in get_command(app).commands[name].params if one.name == "port")  # type: ignore[attr-defined]
        for name in ("serve", "api")
    }
    checks = {"api": words(last.last("HEALTHCHECK")), "serve": found["review"]["healthcheck"]["test"][1:]}
    proxied = (FOLDER / "Caddyfile").read_text("utf-8")
    for name, service in (("api", "api"), ("serve", "review")):
        assert f"'127.0.0.1', {defaults[name]}," in checks[name][-1] and "/health/live" in checks[name][-1]
        assert f"{service}:{defaults[name]}" in proxied
    assert found["api"]["command"][0] == "api" and "healthcheck" not in found["api"]
    assert all(found[name]["healthcheck"] == {"disable": True} for name in ("watch", "admin"))


def test_the_proxy_is_trusted_by_its_network_only() -> None:
    whole = compose(VALUES)
    (subnet,) = [one["subnet"] for one in whole["networks"]["front"]["ipam"]["config"]]
    command = whole["services"]["review"]["command"]
    assert command[command.index("--trusted-proxy") + 1] == subnet
    assert {name for name, one in whole["services"].items() if "front" in one["networks"]} == {"review", "api", "proxy"}


def test_volumes_are_declared_and_where_the_image_lets_its_user_write() -> None:
    whole = compose(VALUES)
    *_, last = dockerfile()
    (made,) = [rest for name, rest in last.steps if name == "RUN" and rest.startswith("install -d")]
    for name, service in whole["services"].items():
        for volume in service.get("volumes", ()):
            source, target, *_ = volume.split(":")
            assert source in whole["volumes"] or (FOLDER / source).exists() or source == "./models", volume
            assert name not in OURS or f" {target}" in made
    assert all(f"`{volume}`" in DOCUMENT for volume in whole["volumes"])
    assert all(f"`{service}`" in DOCUMENT for service in whole["services"])


def test_the_archive_has_the_password_of_its_users() -> None:
    found = compose(VALUES)["services"]
    configuration = json.loads((FOLDER / "orthanc.json").read_text("utf-8"))
    env: Mapping[str, str] = found["watch"]["environment"]
    (user,) = configuration["RegisteredUsers"]
    assert user == env["LLAVA_RAD_PACS_USER"] and configuration["AuthenticationEnabled"]
    password = expand(configuration["RegisteredUsers"][user], found["orthanc"]["environment"])
    assert password == env["LLAVA_RAD_PACS_PASSWORD"] == VALUES["ORTHANC_PASSWORD"]
    assert env["LLAVA_RAD_PACS_URL"] == f"http://orthanc:{configuration['HttpPort']}/dicom-web"
    with pytest.raises(MissingVariable):
        compose({})


def test_variables_are_those_of_the_document() -> None:
    asked = variables(FOLDER / "compose.yaml")
    rows = re.search(r"\| in `\.env` .*?\n\n", DOCUMENT, re.DOTALL)
    assert rows is not None
    told = {name for row in rows[0].strip().splitlines()[2:] for name in re.findall(r"`([A-Z_]+)`", row.split("|")[1])}
    assert told == asked
    shown = next(line for line in DOCUMENT.splitlines() if line.startswith("printf"))
    assert all(f"{name}=" in shown for name in VALUES)


def test_the_file_for_gpus_changes_services_that_exist() -> None:
    more = yaml.safe_load((FOLDER / "compose.cuda.yaml").read_text("utf-8"))
    found: dict[str, Any] = compose(VALUES)["services"]
    assert set(more["services"]) <= set(found)
    arguments = {name for one in more["services"].values() for name in one["build"]["args"]}
    # with a read-only root, each has a place for kernels: its home
    for name, one in more["services"].items():
        assert any(volume.split(":")[1] == "/data" for volume in one.get("volumes", found[name]["volumes"])), name
    assert all(f"`{volume}`" in DOCUMENT for volume in more["volumes"])
    assert arguments <= {one.partition("=")[0] for one in steps("ARG")}


def test_commands_of_the_document_exist() -> None:
    """Those inside of ``docker compose run`` and ``docker run``."""
    inner = re.findall(r"(?:--rm admin|--tmpfs /tmp llava-rad) (.*?)(?:  #|$)", DOCUMENT, re.MULTILINE)
    inner = [line for line in inner if line[0].isalpha()]
    assert len(inner) == 5
    assert [told for line in inner if (told := complaint(["llava-rad", *shlex.split(line)]))] == []


# the readers of both languages


@pytest.mark.parametrize(
    ("text", "found"),
    [("a$$b", "a$b"), ("$X${X}", "11"), ("${Y:-2}", "2"), ("${X:-2}", "1"), ("${E:-2}", "2"), ("$X-$E", "1-")],
)
def test_variables_are_replaced(text: str, found: str) -> None:
    assert expand(text, {"X": "1", "E": ""}) == found


@pytest.mark.parametrize("text", ["$Y", "${Y}", "${Y:?set it}", "${E:?set it}"])
def test_a_missing_variable_is_seen(text: str) -> None:
    with pytest.raises(MissingVariable):
        expand(text, {"X": "1", "E": ""})


def test_a_dockerfile_is_read(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text('# c\nARG A=1\nFROM x:$A AS y\nRUN a \\\n    # no\n    && b\nFROM z\nCMD ["c", "d"]\n')
    first, second = dockerfile(path, {"A": "2"})
    assert (first.base, first.name, first.steps) == ("x:2", "y", [("RUN", "a && b")])
    assert (second.base, second.name, words(second.last("CMD"))) == ("z", "", ["c", "d"])
