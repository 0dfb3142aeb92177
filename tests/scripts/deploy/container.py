"""Containers without Docker, for root on Linux: the steps of the Dockerfile in namespaces, on this machine's system.

A root folder has this machine's /usr, /bin and /lib, read-only, and nothing else of it but Python. Packages that a
build would download are links to those of the environment of the tests.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shlex
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from packaging.requirements import Requirement

from scripts.deploy.lock import closure, declared
from tests.scripts.deploy.dockerfile import Stage, dockerfile, pairs, words
from tests.source_tree import ROOT

T = TypeVar("T")
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
DEVICES = ("null", "zero", "full", "random", "urandom")
PATH = f"{sys.base_prefix}/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
SHARED_MEMORY = 64 << 20
"""Docker's /dev/shm."""
_NEW_NETWORK = 0x40000000


def refusal() -> str:
    """Return why this machine allows no containers, or ""."""
    if os.geteuid() != 0:
        return "needs root"
    command = ["unshare", "--mount", "--pid", "--net", "--fork", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return "needs unshare (Debian: util-linux)"
    return "" if done.returncode == 0 else f"namespaces are not allowed here: {done.stderr.strip()}"


@dataclass
class Image:
    """A built image.

    Attributes:
        root: folder of its root file system.
        env: variables.
        user: user and group id, as UID:GID.
        folder: working folder.
        entrypoint: first words of the command.
        command: of a container that states none.
        check: command of the health check.
    """

    root: Path
    env: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    folder: str = "/"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    check: list[str] = field(default_factory=list)


def build(place: Path, arguments: Mapping[str, str], context: Path = ROOT) -> Image:
    """Build the image of scripts/deploy/Dockerfile; the last stage is the image."""
    built: dict[str, Image] = {}
    stages = dockerfile(arguments=arguments)
    image = None
    for number, stage in enumerate(stages):
        image = Image(skeleton(place / f"stage{number}"), {"PATH": PATH})
        for name, rest in stage.steps:
            _step(image, stage, name, rest, dict(arguments), built, context)
        built[stage.name] = image
    assert image is not None
    return image


def _step(
    image: Image, stage: Stage, name: str, rest: str, arguments: dict[str, str], built: Mapping[str, Image],
    context: Path,
) -> None:  # fmt: skip
    """Carry out one instruction."""
    if name == "RUN":
        defaults = [one.partition("=") for step, one in stage.steps if step == "ARG"]
        given = {key: arguments.get(key, default) for key, _, default in defaults}
        if "venv" in rest:
            _run(image, ["sh", "-ec", rest], given)
            _link_packages(image, given["EXTRAS"])
        else:
            _run(image, ["sh", "-ec", rest], given | {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"})
    elif name == "COPY":
        options, *paths = shlex.split(rest) if rest.startswith("--from=") else ("", *shlex.split(rest))
        sources, target = paths[:-1], paths[-1]
        origin = built[options.removeprefix("--from=")].root if options else context
        for source in sources:
            to = image.root / target.lstrip("/") / (Path(source).name if target.endswith("/") else "")
            to.parent.mkdir(parents=True, exist_ok=True)
            found = origin / source.lstrip("/")
            if options:
                found.rename(to)  # the earlier stage is not used any more
            else:
                subprocess.run(["cp", "-rT", str(found), str(to)], check=True)
    elif name == "ENV":
        image.env |= pairs(rest, image.env)
    elif name == "USER":
        image.user = rest
    elif name == "WORKDIR":
        image.folder = rest
    elif name == "ENTRYPOINT":
        image.entrypoint = words(rest)
    elif name == "CMD":
        image.command = words(rest)
    elif name == "HEALTHCHECK":
        image.check = words(rest)
    else:
        assert name in ("ARG", "EXPOSE", "STOPSIGNAL"), name


def skeleton(root: Path) -> Path:
    """Make the folders of a root file system that this machine's are bound to."""
    root.mkdir(parents=True)
    for path in SYSTEM:
        if Path(path).is_symlink():
            (root / path[1:]).symlink_to(Path(path).readlink())
        elif Path(path).is_dir():
            (root / path[1:]).mkdir()
    for name in ("proc", "etc", "dev/shm", "tmp", sys.base_prefix.lstrip("/"), sys.prefix.lstrip("/")):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in DEVICES:
        (root / "dev" / name).touch()
    (root / "dev" / "fd").symlink_to("/proc/self/fd")
    (root / "tmp").chmod(0o1777)
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
    (root / "etc" / "localtime").symlink_to("/usr/share/zoneinfo/UTC")  # for Orthanc
    (root / "etc" / "nsswitch.conf").write_text("hosts: files\n")
    return root


def _link_packages(image: Image, extras: str) -> None:
    """Link the packages that pyproject.toml declares with some extras, and pip's build backend, by their names."""
    site = image.root / "opt/llava-rad/lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    package, _ = declared(extras.split(","))
    for name in closure([*package, Requirement("hatchling")]):
        for file in metadata.files(name) or ():
            top, origin = file.parts[0], Path(sysconfig.get_path("purelib"), file.parts[0])
            if top != ".." and top != "__pycache__" and origin.exists() and not (site / top).exists():
                (site / top).symlink_to(origin)


def _mounts(root: Path, *, read_only: bool, tmpfs: Iterable[str], binds: Mapping[str, tuple[Path, bool]]) -> list[str]:
    """Lines of a shell that mount a container's file systems; ``binds`` are path -> (folder or file, writable)."""
    lines = ["mount --make-rprivate /", f"mount --bind {root} {root}"]

    def bind(source: str | Path, target: str, *, writable: bool = False) -> None:
        to = shlex.quote(f"{root}{target}")
        lines.append(f"mount --bind {shlex.quote(str(source))} {to}")
        if not writable:
            lines.append(f"mount -o remount,bind,ro {to}")

    for path in (*(p for p in SYSTEM if Path(p).is_dir() and not Path(p).is_symlink()), sys.base_prefix, sys.prefix):
        bind(path, path)
    for name in DEVICES:
        bind(f"/dev/{name}", f"/dev/{name}", writable=True)
    lines.append(f"mount -t proc proc {root}/proc")
    lines.append(f"mount -t tmpfs -o size={SHARED_MEMORY},mode=1777,noexec,nosuid,nodev shm {root}/dev/shm")
    lines += [f"mount -t tmpfs -o mode=1777,noexec,nosuid,nodev tmp {root}{path}" for path in tmpfs]
    for path, (source, writable) in binds.items():
        bind(source, path, writable=writable)
    if read_only:
        lines.append(f"mount -o remount,bind,ro {root}")
    return lines


def _inside(root: Path, env: Mapping[str, str], user: str, folder: str, command: Sequence[str]) -> list[str]:
    """Command that runs another in a root folder, without any capability unless as root."""
    uid, _, gid = user.partition(":")
    limits = ["--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"] if uid != "0" else []
    change = ["setpriv", f"--reuid={uid}", f"--regid={gid or uid}", "--clear-groups", *limits]
    variables = [f"{name}={value}" for name, value in env.items()]
    inner = ["env", "-i", "-C", folder, *variables, *command]
    return ["chroot", str(root), *change, *inner]


def _run(image: Image, command: Sequence[str], more: Mapping[str, str]) -> None:
    """Run a step of a build, as the image's user, in its writable root."""
    lines = _mounts(image.root, read_only=False, tmpfs=["/tmp"], binds={})
    last = shlex.join(_inside(image.root, image.env | more, image.user, "/", command))
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "sh", "-ec", "\n".join([*lines, last])],
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@dataclass
class Container:
    """A running container."""

    image: Image
    env: Mapping[str, str]
    check: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def first(self) -> int:
        """Process id, outside, of its process 1."""
        end = time.monotonic() + 600
        while not (found := Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()):
            assert time.monotonic() < end
            time.sleep(0.01)
        return int(found[0])

    def output(self) -> str:
        """All that it wrote so far."""
        return self.log.read_text(errors="replace")

    def healthy(self) -> bool:
        """Run the health check inside."""
        uid = self.image.user.partition(":")[0]
        enter = ["nsenter", f"--target={self.first}", "--mount", "--pid", "--net", "--root", "--wd"]
        inner = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "env", "-i"]
        variables = [f"{name}={value}" for name, value in self.env.items()]
        return subprocess.run([*enter, *inner, *variables, *self.check], capture_output=True).returncode == 0

    def until(self, reached: Callable[[], T], seconds: float = 1500) -> T:
        """Wait until something is true of a running container."""
        end = time.monotonic() + seconds
        while not (found := reached()):
            assert self.process.poll() is None and time.monotonic() < end, self.output()
            time.sleep(0.1)
        return found

    def stop(self, seconds: float = 600) -> int:
        """Send SIGTERM to process 1, as ``docker stop`` does, and return the exit code."""
        os.kill(self.first, signal.SIGTERM)
        return self.process.wait(seconds)


@contextmanager
def started(
    image: Image, service: Mapping[str, Any], volumes: Callable[[str], Path], log: Path,
    command: Sequence[str] | None = None, stdin: bytes = b"",
) -> Iterator[Container]:  # fmt: skip
    """Run a service of a compose file, or another command in its place.

    Args:
        image: that it runs.
        service: its part of the compose file.
        volumes: returns the folder or file of a volume by name or path.
        log: file for what it writes.
        command: in place of the service's own.
        stdin: standard input.
    """
    binds = {}
    for volume in service.get("volumes", ()):
        name, path, *mode = volume.split(":")
        binds[path] = (volumes(name), "ro" not in mode)
        target = image.root / path.lstrip("/")
        if volumes(name).is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
    lines = _mounts(
        image.root, read_only=service.get("read_only", False), tmpfs=service.get("tmpfs", ["/tmp"]), binds=binds
    )
    env = image.env | service.get("environment", {})
    full = [*service.get("entrypoint", image.entrypoint), *(command or service.get("command", image.command))]
    last = shlex.join(_inside(image.root, env, image.user, image.folder, full))
    check = service.get("healthcheck", {}).get("test", ["CMD", *image.check])[1:]
    shell = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", "\n".join([*lines, f"exec {last}"])]
    with log.open("wb") as written, tempfile.TemporaryFile() as typed:
        typed.write(stdin)
        typed.seek(0)
        process = subprocess.Popen(shell, stdin=typed, stdout=written, stderr=written)
    try:
        yield Container(image, env, check, log, process)
    finally:
        process.kill()
        process.wait()


def ran(
    image: Image, service: Mapping[str, Any], volumes: Callable[[str], Path], log: Path, *command: str,
    stdin: bytes = b"",
) -> tuple[int, str]:  # fmt: skip
    """Run a command to its end, as ``docker compose run`` does; return exit code and output."""
    with started(image, service, volumes, log, command, stdin) as container:
        code = container.process.wait(3000)
        return code, container.output()


@contextmanager
def network() -> Iterator[Callable[[Callable[[], T]], T]]:
    """Give a function that runs another in a thread of a network of its own, with a loopback device and no other."""

    def enter() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        with socket.socket() as one:
            fcntl.ioctl(one, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up and running

    with ThreadPoolExecutor(1, initializer=enter) as pool:
        yield lambda call: pool.submit(call).result()
