"""Draft many reports in one process, and measure growth of memory, open files and files left behind.

    python -m scripts.soak.reports [--reports 500] [--warm-up 50]

Uploads an image, has its draft written and a map of evidence made, again and again, and reads the server's resident
memory and open files from /proc. The growth is that from the median of the tenth of the reports after the warm-up to
the median of the last tenth; of open files the fewest count, as thumbnails have some for a moment. Each thread has a
connection to the database; SQLite keeps the files of closed ones for the next thread, so that their number rises to
that of the most threads at a time. Exits 1 if memory grows by 5 % or more, if other open files grow, if there are more
connections than threads may be, or if an upload is left.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scripts.soak.serving import picture, served

MOST_GROWTH = 0.05
MOST_CONNECTIONS = 48
"""Threads with a connection: 40 of the server's requests, and those of drafts, batches, thumbnails and maps."""


def resident(process: int) -> int:
    """Resident memory of a process in bytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    raise ValueError("no VmRSS")


def open_files(process: int) -> list[str]:
    """Targets of the open files of a process; of those that are closed meanwhile none."""
    found = []
    for link in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(link.readlink()))
    return found


def measure(reports: int, warm_up: int) -> dict[str, float]:
    """Run; memory at both ends, its growth, open files and files left behind."""
    memory: list[int] = []
    files: list[int] = []
    connections: list[int] = []
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), "--no-example") as running:
        client, process = running.client(), running.process.pid
        for number in range(warm_up + reports):
            state = client.drafted(client.study(picture(number, 512))["id"])
            if state["sentences"]:
                sentence = state["sentences"][0]["id"]
                assert client.call("GET", f"/api/studies/{state['id']}/evidence?sentence={sentence}").status == 200
            memory.append(resident(process))
            names = open_files(process)
            files.append(sum("reviews.sqlite" not in name for name in names))
            connections.append(sum(name.endswith("reviews.sqlite") for name in names))
        left = [*(running.data / "incoming").iterdir(), *(running.data / "gradio").rglob("*")]
    tenth = max(reports // 10, 1)
    first, last = (statistics.median(part) for part in (memory[warm_up : warm_up + tenth], memory[-tenth:]))
    return {
        "reports": reports, "MiB after the warm-up": first / 2**20, "MiB at the end": last / 2**20,
        "growth": last / first - 1, "open files after the warm-up": min(files[warm_up : warm_up + tenth]),
        "open files at the end": min(files[-tenth:]), "connections to the database, most": max(connections),
        "files left behind": len(left),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=500)
    parser.add_argument("--warm-up", type=int, default=50)
    options = parser.parse_args(arguments)
    found = measure(options.reports, options.warm_up)
    for name, value in found.items():
        print(f"{name:30} {value:.1%}" if name == "growth" else f"{name:30} {value:.0f}")
    grown = found["open files at the end"] > found["open files after the warm-up"]
    many = found["connections to the database, most"] > MOST_CONNECTIONS
    return int(found["growth"] >= MOST_GROWTH or grown or many or found["files left behind"] > 0)


if __name__ == "__main__":
    sys.exit(main())
