"""Debian's Orthanc with its DICOMweb plugin, on loopback: a real archive for tests. Never a deployment."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
AET = "ARCHIVE"


@dataclass
class Archive:
    """A running Orthanc."""

    folder: Path
    port: int
    dicom_port: int
    password: str | None
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Address of its DICOMweb service."""
        return f"http://127.0.0.1:{self.port}/dicom-web"

    def ask(self, path: str, body: bytes | None = None) -> Any:
        """Call its own REST interface."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body)
        if self.password is not None:
            code = base64.b64encode(f"ann:{self.password}".encode()).decode()
            request.add_header("Authorization", f"Basic {code}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def delete(self, path: str) -> None:
        """Remove a resource of its REST interface."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method="DELETE")
        urllib.request.urlopen(request, timeout=30).close()

    def store(self, content: bytes) -> None:
        """Store a DICOM file."""
        self.ask("/instances", content)

    def instances(self) -> list[dict[str, Any]]:
        """Main attributes of all instances, with the modality of their series."""
        found = []
        for series in self.ask("/series?expand"):
            for one in self.ask(f"/series/{series['ID']}/instances"):
                found.append(
                    {"Modality": series["MainDicomTags"].get("Modality"), **one["MainDicomTags"], "ID": one["ID"]}
                )
        return found

    def file(self, instance: str) -> bytes:
        """Fetch the file of an instance of its REST interface."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/instances/{instance}/file", timeout=30) as answer:
            content: bytes = answer.read()
        return content

    def kill(self) -> None:
        """Kill the process, as a crash of the machine would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def start(self) -> None:
        """Start (again), and wait until it answers."""
        log = (self.folder / "orthanc.log").open("ab")
        self.process = subprocess.Popen(
            [_orthanc(), str(self.folder / "orthanc.json")], stdout=log, stderr=log, cwd=self.folder
        )
        end = time.monotonic() + 60
        while True:
            try:
                self.ask("/system")
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise AssertionError((self.folder / "orthanc.log").read_text()[-2000:]) from error
                time.sleep(0.05)


def available() -> bool:
    """Return True if Orthanc and its plugin are installed."""
    return _orthanc() != "" and PLUGIN.is_file()


@contextmanager
def orthanc(folder: Path, *, password: str | None = None) -> Iterator[Archive]:
    """A fresh archive in a folder, until the end of the context.

    Args:
        folder: for its files.
        password: of the user ann; without, everybody on this machine may do everything.
    """
    port, dicom_port = _free_ports(2)
    configuration = {
        "Name": "test", "StorageDirectory": str(folder / "storage"), "IndexDirectory": str(folder / "storage"),
        "HttpPort": port, "DicomPort": dicom_port, "DicomAet": AET, "RemoteAccessAllowed": False,
        "AuthenticationEnabled": password is not None, "RegisteredUsers": {"ann": password or ""},
        "Plugins": [str(PLUGIN)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}, "DicomAlwaysAllowStore": True,
        "OverwriteInstances": False, "DicomCheckCalledAet": False,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    archive = Archive(folder, port, dicom_port, password, None)  # type: ignore[arg-type]
    archive.start()
    try:
        yield archive
    finally:
        if archive.process.poll() is None:
            archive.process.terminate()
            try:
                archive.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                archive.kill()


def _orthanc() -> str:
    for path in (shutil.which("Orthanc"), "/usr/sbin/Orthanc"):
        if path and os.access(path, os.X_OK):
            return path
    return ""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
