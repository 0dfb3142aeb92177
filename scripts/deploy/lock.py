"""Write ``constraints.txt``: the versions of all dependencies and extras with which the tests ran.

    python -m scripts.deploy.lock [--check]

Versions are those of the running environment, for its platform. With ``--check`` nothing is written: faults of the file
are printed (exit code 1), and versions in which this environment differs from it (no fault: the tests then ran with
other versions than those that are deployed).
"""

from __future__ import annotations

import argparse
import platform
import sys
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from encoder.files import write

ROOT = Path(__file__).resolve().parents[2]
LOCK = Path(__file__).with_name("constraints.txt")
Lock = Mapping[str, Version]


def declared(only: Collection[str] | None = None) -> tuple[list[Requirement], list[Requirement]]:
    """Return the requirements of the package with its extras, and those of the dependency groups, by pyproject.toml.

    Args:
        only: the extras; None for all.
    """
    data = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    known = data["project"]["optional-dependencies"]
    extras = [text for name in (known if only is None else only) for text in known[name]]
    groups = [text for texts in data["dependency-groups"].values() for text in texts if isinstance(text, str)]
    return [*map(Requirement, [*data["project"]["dependencies"], *extras])], [*map(Requirement, groups)]


def requirements_of(name: str, extras: Iterable[str] = ()) -> list[Requirement]:
    """Return what an installed package needs on this platform, with its extras; markers are resolved.

    Raises:
        PackageNotFoundError: if it is not installed.
    """
    found = []
    for requirement in map(Requirement, metadata.requires(name) or []):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            requirement.marker = None
            found.append(requirement)
    return found


def closure(wanted: Iterable[Requirement]) -> dict[str, list[Requirement]]:
    """Return the packages of an install, by canonical name, each with the requirements for it.

    Raises:
        PackageNotFoundError: if one is not installed.
    """
    asked: dict[str, list[Requirement]] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [one for one in wanted if one.marker is None or one.marker.evaluate()]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        asked.setdefault(name, []).append(requirement)
        key = (name, frozenset(requirement.extras))
        if key not in seen:
            seen.add(key)
            todo += requirements_of(name, requirement.extras)
    return asked


def read(path: Path = LOCK) -> dict[str, Version]:
    """Read a file of ``name==version`` lines.

    Raises:
        ValueError: if a line is something else, or a name stands twice.
    """
    lock: dict[str, Version] = {}
    for line in path.read_text("utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if not text:
            continue
        name, separator, version = text.partition("==")
        if not separator or name != canonicalize_name(name) or name in lock:
            raise ValueError(f"not a line NAME==VERSION with a canonical name, or a repeated one: {text}")
        lock[name] = Version(version)
    return lock


def faults(lock: Lock, package: Iterable[Requirement], groups: Iterable[Requirement]) -> list[str]:
    """Return what cannot be installed with a lock, one line each.

    What a locked package asks for is known if this environment has it in the locked version.

    Args:
        lock: versions by canonical name.
        package: requirements of the package and its extras, which must be locked.
        groups: requirements of the dependency groups, which may be locked.
    """
    source = "pyproject.toml"
    found = [
        f"{one.name} {lock[name]} is locked, {source} asks for {one}"
        for one in groups
        if (name := canonicalize_name(one.name)) in lock and not _admits(one, lock[name])
    ]
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [(source, one) for one in package]
    while todo:
        source, one = todo.pop(0)
        name = canonicalize_name(one.name)
        if one.marker is not None and not one.marker.evaluate():
            continue
        if name not in lock:
            found.append(f"{one.name} is not locked, {source} asks for it")
        elif not _admits(one, lock[name]):
            found.append(f"{one.name} {lock[name]} is locked, {source} asks for {one}")
        elif (key := (name, frozenset(one.extras))) not in seen:
            seen.add(key)
            if _installed(name) == lock[name]:
                todo += [(name, more) for more in requirements_of(name, one.extras)]
    return list(dict.fromkeys(found))


def _admits(requirement: Requirement, version: Version) -> bool:
    return requirement.specifier.contains(version, prereleases=True)


def _installed(name: str) -> Version | None:
    """Installed version of a package without a local part such as ``+cpu``, or None."""
    try:
        return Version(Version(metadata.version(name)).public)
    except metadata.PackageNotFoundError:
        return None


def differences(lock: Lock) -> list[str]:
    """Return the locked packages of which this environment has another version or none, one line each."""
    return [
        f"{name} {version} is locked, {_installed(name) or 'not'} installed"
        for name, version in lock.items()
        if _installed(name) != version
    ]


def text(names: Iterable[str]) -> str:
    """Return the file of the installed versions of packages; local parts such as ``+cpu`` are left out."""
    head = (
        f"# Versions with which the tests ran on {date.today().isoformat()}: Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}.\n"
        "# The package and all its extras, by `python -m scripts.deploy.lock`. Use: pip install -c FILE ...\n"
    )
    return head + "".join(f"{name}=={_installed(name)}\n" for name in sorted(names))


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the file; exit code 1 if it has faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; print faults and differences")
    options = parser.parse_args(argv)
    package, groups = declared()
    if not options.check:
        try:
            write(LOCK, text(closure(package)))
        except metadata.PackageNotFoundError as missing:
            print(f"{missing.name} is not installed: make test installs everything", file=sys.stderr)
            return 1
    lock = read()
    found = faults(lock, package, groups)
    print("\n".join([*found, *differences(lock), f"{len(lock)} packages, {len(found)} faults"]))
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
