"""Plant faults in the code, one at a time, and report the ones that the tests of their package catch.

    python -m scripts.plant_faults [--package P] [--only NAME ...] [--root DIR] [--jobs N] [-o results.json]
    python -m scripts.plant_faults --list | --check

The faults are in ``plant_faults.yaml``. Each is planted in a git worktree of its own, of the commit that is checked
out in ``--root``; uncommitted changes are neither used nor touched. The fast tests of the package run there, those
most related to the changed module first, until one fails. Run by itself, that test must fail with the fault and pass
without it, in turn, each time, since tests of a busy machine may time out. Otherwise it is left out, and the other
tests run.

With ``-o`` each outcome is written as it comes, and a second run with the same file judges the remaining faults. Takes
an hour on two cores. Exit code 0 if all were judged, 1 if not, 2 if a snippet is not found exactly once.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("encoder", "llava_rad", "metrics", "app")
TIMEOUT_S = 5400.0
REPEATS = 2
"""Number of runs of a failing test by itself with the fault, and of those without."""
LEFT_OUT = 10
"""Number of tests that may fail for other reasons before a fault counts as not judged."""
CAUGHT, AT_IMPORT, MISSED, NOT_JUDGED = "caught", "caught at import", "missed", "not judged"


class PlantError(Exception):
    """Raised for a fault that cannot be planted, or a checkout that cannot be judged."""


@dataclass(frozen=True)
class Fault:
    """One fault: ``find`` becomes ``replace`` somewhere in a package."""

    name: str
    package: str
    kind: str
    find: str
    replace: str

    @property
    def digest(self) -> str:
        """Hash of the change; outcomes of another change do not count."""
        return hashlib.sha256(f"{self.find}\0{self.replace}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Outcome:
    """Outcome of one fault: verdict, first failing test, tests that failed for other reasons, seconds."""

    name: str
    package: str
    kind: str
    verdict: str
    test: str
    left_out: list[str]
    seconds: float
    digest: str


def table() -> list[Fault]:
    """All faults, by package."""
    data = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return [Fault(name, package, **fault) for package in PACKAGES for name, fault in data[package].items()]


def locate(faults: Sequence[Fault], root: Path) -> dict[str, tuple[Path, re.Match[str]]]:
    """Find each fault in the files of a checkout, ignoring indentation and line breaks of the snippet.

    Returns:
        Name -> file and match.

    Raises:
        PlantError: if a snippet is not found exactly once.
    """
    found, wrong = {}, []
    for package in dict.fromkeys(fault.package for fault in faults):
        files = (path for path in sorted((root / package).rglob("*")) if path.suffix in (".py", ".js"))
        code = {path: path.read_text(encoding="utf-8") for path in files}
        for fault in (fault for fault in faults if fault.package == package):
            pattern = re.compile(r"\s+".join(map(re.escape, fault.find.split())))
            places = [(path, match) for path, text in code.items() for match in pattern.finditer(text)]
            if len(places) == 1:
                found[fault.name] = places[0]
            else:
                wrong.append(f"{fault.name} ({len(places)} times)")
    if wrong:
        raise PlantError(f"snippets that are not found exactly once in their package: {', '.join(wrong)}")
    return found


def planted(fault: Fault, place: re.Match[str]) -> str:
    """Text of the file with the fault, indented like the line of the snippet."""
    text = place.string
    line = text[text.rfind("\n", 0, place.start()) + 1 :]
    indent = line[: len(line) - len(line.lstrip(" "))]
    new = textwrap.indent(fault.replace, indent).removeprefix(indent)
    return text[: place.start()] + new + text[place.end() :]


def related_first(root: Path, package: str, module: Path) -> list[str]:
    """Test files of a package: those that import a module or have its name, mention it, lie in its folder, the rest."""
    stem = module.parent.name if module.stem == "__init__" else module.stem
    dotted = ".".join(module.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    parent, _, last = dotted.rpartition(".")
    imported = re.compile(rf"\b{re.escape(dotted)}\b|\bfrom {re.escape(parent)} import [^\n]*\b{re.escape(last)}\b")

    folder = root / "tests" / module.parent.relative_to(root)

    def rank(path: Path) -> tuple[int, str]:
        text = path.read_text(encoding="utf-8")
        near = path.stem.startswith(f"test_{stem}") or imported.search(text)
        mentioned = re.search(rf"\b{re.escape(stem)}\b", text)
        return (0 if near else 1 if mentioned else 2 if path.parent == folder else 3), str(path)

    return [str(path.relative_to(root)) for path in sorted((root / "tests" / package).rglob("test_*.py"), key=rank)]


def fast(root: Path) -> str:
    """The Makefile's expression for the fast tests.

    Raises:
        PlantError: if it has none.
    """
    found = re.search(r"^FAST := (.+)$", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise PlantError("the Makefile does not define the fast tests (FAST := ...)")
    return found[1]


class Bench:
    """Worktrees of one commit in a temporary folder, and the tests that run in them.

    Args:
        root: a checkout.
        folder: temporary.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self._root, self._folder = root, folder
        self._git_lock, self._stopped = threading.Lock(), threading.Event()
        self._running: set[subprocess.Popen[str]] = set()
        self.commit = self._git("rev-parse", "HEAD")
        shared = root.parent / "shared"  # reference data, which tests look for beside their checkout
        if shared.is_dir():
            (folder / "shared").symlink_to(shared.resolve())

    def _git(self, *arguments: str) -> str:
        with self._git_lock:
            command = ["git", "-C", str(self._root), *arguments]
            done = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
        if done.returncode:
            raise PlantError(f"git {arguments[0]} fails in {self._root}: {done.stderr.strip()}")
        return done.stdout.strip()

    @contextlib.contextmanager
    def checkout(self, name: str) -> Iterator[Path]:
        """A temporary worktree."""
        tree = self._folder / name
        self._git("worktree", "add", "--quiet", "--detach", str(tree), self.commit)
        try:
            yield tree
        finally:
            self._git("worktree", "remove", "--force", str(tree))

    def stop(self) -> None:
        """Kill all running tests and start no others."""
        self._stopped.set()
        for process in list(self._running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def test(self, tree: Path, tests: Sequence[str], left_out: Sequence[str] = ()) -> tuple[int | None, str]:
        """Run tests until one fails.

        Returns:
            pytest's exit code, or None if the tests did not end; and the first failing test or file, or "".
        """
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(tree)}
        temporary = tree.with_name(f"{tree.name}-tmp")
        command = [sys.executable, "-m", "pytest", "-m", fast(tree), "-x", "-q", "--no-header", "--tb=no"]
        command += ["-p", "no:cacheprovider", f"--basetemp={temporary}"]
        command += [f"--deselect={test}" for test in left_out]
        if self._stopped.is_set():
            raise KeyboardInterrupt
        with subprocess.Popen(
            [*command, *tests], cwd=tree, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        ) as process:  # fmt: skip
            self._running.add(process)
            try:
                output, _ = process.communicate(timeout=TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return None, ""
            finally:
                self._running.discard(process)
        if self._stopped.is_set():
            raise KeyboardInterrupt
        failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, re.MULTILINE)
        return process.returncode, failed[1] if failed else ""


def _caused(bench: Bench, tree: Path, change: tuple[Path, str, str], tests: Sequence[str]) -> bool:
    """True if tests fail with a fault (file, text with it, text without) and pass without it, each time."""
    path, faulty, sound = change
    for _ in range(REPEATS):
        path.write_text(faulty, encoding="utf-8")
        if bench.test(tree, tests)[0] in (0, None):
            return False
        path.write_text(sound, encoding="utf-8")
        if bench.test(tree, tests)[0] not in (0, 5):
            return False
    return True


def judge(fault: Fault, bench: Bench) -> Outcome:
    """Plant one fault and run its package's tests."""
    started = time.monotonic()
    left_out: list[str] = []
    with bench.checkout(fault.name) as tree:
        path, place = locate([fault], tree)[fault.name]
        faulty, tests = planted(fault, place), related_first(tree, fault.package, path)
        verdict, test = NOT_JUDGED, ""
        while len(left_out) <= LEFT_OUT:
            path.write_text(faulty, encoding="utf-8")
            code, test = bench.test(tree, tests, left_out)
            if code == 0 or (code == 5 and left_out):  # 5: there is no test besides those
                verdict = MISSED
                break
            if code not in (1, 2, 3, 4):  # no test ran, the tests did not end, or their process died
                break
            if _caused(bench, tree, (path, faulty, place.string), [test] if test else tests):
                verdict = CAUGHT if code == 1 else AT_IMPORT
                break
            if not test or test in left_out:
                break
            left_out.append(test)
            file = test.partition("::")[0]
            tests = tests[tests.index(file) if file in tests else 0 :]  # those before it have passed
    seconds = round(time.monotonic() - started, 1)
    return Outcome(fault.name, fault.package, fault.kind, verdict, test, left_out, seconds, fault.digest)


def read_results(file: Path, commit: str) -> list[Outcome]:
    """Read the outcomes in a file.

    Raises:
        PlantError: if they belong to another commit.
    """
    if not file.exists():
        return []
    data = json.loads(file.read_text(encoding="utf-8"))
    if data["commit"] != commit:
        raise PlantError(f"{file} holds results of commit {data['commit'][:12]}, not of {commit[:12]}")
    return [Outcome(**one) for one in data["faults"]]


def write_results(file: Path, commit: str, outcomes: Iterable[Outcome]) -> None:
    """Write outcomes in one step."""
    temporary = file.with_name(f"{file.name}.tmp")
    data = {"commit": commit, "faults": [asdict(one) for one in outcomes]}
    temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    temporary.replace(file)


def shown(outcomes: Sequence[Outcome]) -> str:
    """Table of outcomes, followed by a line for each package."""
    rows = [("package", "fault", "kind", "verdict", "first failing test", "seconds")]
    rows += [(one.package, one.name, one.kind, one.verdict, one.test, f"{one.seconds:.0f}") for one in outcomes]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for package in PACKAGES:
        own = [one.verdict for one in outcomes if one.package == package]
        if own:
            lines.append(f"{package}: {sum(one in (CAUGHT, AT_IMPORT) for one in own)} of {len(own)} caught")
    return "\n".join(lines)


def judge_all(faults: Sequence[Fault], root: Path, jobs: int, output: Path | None) -> list[Outcome]:
    """Judge the faults that ``output`` does not contain yet.

    Raises:
        PlantError: if one cannot be planted, or git fails.
        KeyboardInterrupt: if interrupted; temporary files are removed.
    """
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder:
        bench = Bench(root, Path(folder))
        done = {one.name: one for one in (read_results(output, bench.commit) if output else [])}
        known = {(one.name, one.digest) for one in done.values() if one.verdict != NOT_JUDGED}
        left = [fault for fault in faults if (fault.name, fault.digest) not in known]
        with bench.checkout("all") as tree:
            locate(left, tree)
        with ThreadPoolExecutor(jobs) as pool:
            try:
                for future in as_completed([pool.submit(judge, fault, bench) for fault in left]):
                    one = future.result()
                    done[one.name] = one
                    if output:
                        write_results(output, bench.commit, done.values())
                    said = f"{one.name}: {one.verdict} ({one.seconds:.0f} s) {one.test}"
                    print(said, file=sys.stderr, flush=True)
            except BaseException:
                bench.stop()
                pool.shutdown(cancel_futures=True)
                raise
    return [done[fault.name] for fault in faults]


def main(arguments: list[str] | None = None) -> int:
    """Judge the faults, or list or locate them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--package", choices=PACKAGES, help="only its faults")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these faults")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="DIR", help="checkout to judge (this one)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="faults at a time (1)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="results as JSON; a second run goes on")
    parser.add_argument("--list", action="store_true", help="print the faults and end")
    parser.add_argument("--check", action="store_true", help="look for the snippets in the files of DIR and end")
    options = parser.parse_args(arguments)
    every, root = table(), options.root.resolve()
    if unknown := set(options.only or ()) - {fault.name for fault in every}:
        parser.error(f"there is no fault {min(unknown)}")
    faults = [
        fault for fault in every
        if options.package in (None, fault.package) and fault.name in (options.only or [fault.name])
    ]  # fmt: skip
    if options.list:
        print("\n".join(f"{fault.package:10} {fault.name:22} {fault.kind}" for fault in faults))
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.check:
            for name, (path, place) in locate(faults, root).items():
                print(f"{path.relative_to(root)}:{place.string.count(chr(10), 0, place.start()) + 1}: {name}")
            return 0
        outcomes = judge_all(faults, root, options.jobs, options.output)
    except PlantError as error:
        print(f"plant_faults: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(shown(outcomes))
    return int(any(one.verdict == NOT_JUDGED for one in outcomes))


if __name__ == "__main__":
    sys.exit(main())
