"""A cluster in small: machines in network namespaces of this one, joined by a cable, and a stand-in for Slurm."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT

NODES = ("node-a", "node-b")
RANKS = 2
"""Processes on each machine."""
LIMIT = 900

_SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do case $1 in *=*) shift;; *) shift 2;; esac; done
for machine in $CLUSTER; do nsenter -t $machine -n -u -m --wd="$PWD" -- "$@" & all="$all $!"; done
code=0; for one in $all; do wait $one || code=$?; done; exit $code
"""
_SCONTROL = "#!/bin/bash\n[[ $1 == show && $2 == hostnames ]] && tr , '\\n' <<< \"$3\"\n"


class Cluster:
    """Two machines with names and addresses of their own, and one disk.

    Args:
        folder: for the stand-ins and the output of the machines.
        machines: a process in the namespaces of each.
    """

    def __init__(self, folder: Path, machines: Sequence[subprocess.Popen[str]]) -> None:
        self.folder, self.machines = folder, machines
        for name, text in (("srun", _SRUN), ("scontrol", _SCONTROL)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = {
            **os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
            "CLUSTER": " ".join(str(machine.pid) for machine in machines), "SLURM_JOB_NODELIST": ",".join(NODES),
            "SLURM_JOB_NUM_NODES": str(len(NODES)), "SLURM_GPUS_ON_NODE": str(RANKS), "SLURM_JOB_ID": "77",
            "NODES": str(len(NODES)), "GPUS": str(RANKS), "HOST": NODES[0],
        }  # fmt: skip

    def start(self, launcher: str, arguments: Sequence[str | Path]) -> list[subprocess.Popen[bytes]]:
        """Start ``llava-rad`` by ``slurm.sh``, or by ``torchrun.sh`` on each machine."""
        command = ["bash", f"scripts/cluster/{launcher}.sh", *map(str, arguments)]
        if launcher == "slurm":
            return [self._popen(command, "slurm")]
        return [
            self._popen(["nsenter", "-t", str(machine.pid), "-n", "-u", "-m", f"--wd={ROOT}", "--", *command], name)
            for machine, name in zip(self.machines, NODES, strict=True)
        ]

    def _popen(self, command: list[str], name: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def log(self) -> str:
        """Return the logs of all machines, joined."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def run(self, launcher: str, arguments: Sequence[str | Path]) -> None:
        """Run to the end, which must be a good one."""
        for process in self.start(launcher, arguments):
            assert process.wait(LIMIT) == 0, self.log()[-5000:]

    def lose_one(self, launcher: str, arguments: Sequence[str | Path], when: Path) -> None:
        """Kill -9 all of the second machine as soon as a file is there; the first must end by itself."""
        processes = self.start(launcher, arguments)
        deadline = time.monotonic() + LIMIT
        while not when.exists():
            assert all(process.poll() is None for process in processes), self.log()[-5000:]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for pid in self._processes(self.machines[1]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert [process.wait(LIMIT) for process in processes] != [0] * len(processes)
        assert not self._processes(self.machines[0]), "nothing is left"

    @staticmethod
    def _processes(machine: subprocess.Popen[str]) -> list[int]:
        """Processes in the network of a machine, but for the one that keeps it."""

        def network(pid: int) -> str:
            with contextlib.suppress(OSError):
                return str(Path(f"/proc/{pid}/ns/net").readlink())
            return ""

        listed = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [pid for pid in listed if pid != machine.pid and network(pid) == network(machine.pid)]


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Make the machines; a test is skipped where that is not possible."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("network namespaces need Linux and root")
    if missing := [name for name in ("unshare", "nsenter", "ip") if shutil.which(name) is None]:
        pytest.skip(f"needs {', '.join(missing)}")
    addresses = [f"10.77.0.{number}" for number in range(1, len(NODES) + 1)]
    hosts = folder / "hosts"
    named = zip(addresses, NODES, strict=True)
    hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for address, name in named))
    with contextlib.ExitStack() as stack:
        machines = []
        for name in NODES:
            setup = (
                f"hostname {name} && mount --bind {hosts} /etc/hosts && ip link set lo up && echo up && exec sleep 7200"
            )
            command = ["unshare", "--net", "--uts", "--mount", "sh", "-c", setup]
            machine = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            stack.callback(machine.wait)
            stack.callback(machine.kill)
            assert machine.stdout is not None
            if (said := machine.stdout.readline()) != "up\n":
                pytest.skip(f"no namespaces here: {said.strip()}")
            machines.append(machine)
        cable = ["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(machines[1].pid)]
        for machine, *commands in (
            (machines[0], cable),
            *(
                (one, ["ip", "address", "add", f"{address}/24", "dev", "eth0"], ["ip", "link", "set", "eth0", "up"])
                for one, address in zip(machines, addresses, strict=True)
            ),
        ):
            for command in commands:
                done = subprocess.run(
                    ["nsenter", "-t", str(machine.pid), "-n", *command], capture_output=True, text=True
                )
                if done.returncode:
                    pytest.skip(f"no virtual network here: {done.stderr.strip()}")
        made = Cluster(folder, machines)
        try:
            yield made
        finally:
            for machine in machines:
                for pid in made._processes(machine):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
