"""Real processes that start quickly: forked from one server that has imported the large libraries."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

_started: list[object] = []


def context(*modules: str) -> ForkServerContext:
    """Return the context of a server that has imported modules, with the environment of now.

    A server of other modules or of other settings of the hub, which are read at import, ends first.
    """
    found = multiprocessing.get_context("forkserver")
    wanted = [modules, {name: value for name, value in os.environ.items() if name.startswith(("HF_", "TRANSFORMERS_"))}]
    if _started != wanted:
        if _started:
            forkserver._forkserver._stop()  # type: ignore[attr-defined]
        _started[:] = wanted
        found.set_forkserver_preload(list(modules))
    return found


def ranks(count: int) -> list[dict[str, str]]:
    """Return the variables that torchrun sets for each of several processes on this machine."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


class Command:
    """``llava-rad`` in one or several forked processes, with the methods of Popen that tests use.

    Args:
        arguments: of the command.
        processes: more than one work together, as torchrun would start them.
        preload: modules that the server imports once.
    """

    def __init__(self, arguments: Sequence[str | Path], processes: int, preload: Sequence[str]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._logs = [Path(self._folder.name) / name for name in ("out", "err")]
        for log in self._logs:
            log.touch()
        words = [str(argument) for argument in arguments]
        variables = ranks(processes) if processes > 1 else [{}]
        self._processes = [
            context(*preload).Process(target=_main, args=(words, str(Path.cwd()), *map(str, self._logs), one))
            for one in variables
        ]
        for process in self._processes:
            process.start()

    def poll(self) -> int | None:
        """Return the exit code, of several processes the first that is not 0; None while one runs."""
        codes = [process.exitcode for process in self._processes]
        return None if None in codes else next((code for code in codes if code), 0)

    def communicate(self, timeout: float | None = None) -> tuple[bytes, bytes]:
        """Wait, and return what was written on standard output and standard error."""
        end = None if timeout is None else time.monotonic() + timeout
        for process in self._processes:
            process.join(None if end is None else max(0, end - time.monotonic()))
        if self.poll() is None:
            self.kill()
            raise subprocess.TimeoutExpired("llava-rad", timeout or 0, stderr=self._logs[1].read_bytes())
        out, err = (log.read_bytes() for log in self._logs)
        return out, err

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def send_signal(self, number: int) -> None:
        for process in self._processes:
            if process.exitcode is None:
                os.kill(process.pid or 0, number)

    def kill(self) -> None:
        """Kill all processes and those that they started."""
        for process in self._processes:
            for number in (*children(process.pid or 0), process.pid or 0):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
        for process in self._processes:
            process.join()


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that they have."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()
    return [number for child in map(int, listed) for number in (*children(child), child)]


def _main(words: list[str], folder: str, out: str, err: str, variables: dict[str, str]) -> None:
    os.chdir(folder)
    for number, name in ((1, out), (2, err)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    os.environ |= {"OMP_NUM_THREADS": "1"} | variables
    from llava_rad.cli import main

    sys.argv = ["llava-rad", *words]
    main()
