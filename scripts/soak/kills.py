"""Kill the application while it saves, and count acknowledged decisions that are lost.

    python -m scripts.soak.kills [--rounds 40] [--writers 2]

In each round ``llava-rad serve`` is started on the same data folder, writers save decisions as fast as they can, and
the process is killed (SIGKILL) after a random time. Then every acknowledged decision must be among the events of the
store, and SQLite's check must find no error. Prints counts; exits 1 if a decision is lost.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.store import Store
from scripts.soak.serving import Client, Served, picture, served

LOCAL = "local"


def save_until_killed(client: Client, state: dict[str, Any], writer: str, acknowledged: list[str]) -> None:
    """Save fields of one study until the server is gone; append acknowledged texts to ``acknowledged``."""
    for number in range(100_000):
        text = f"{writer} {number}"
        try:
            answer = client.act(state, "field", field="indication", text=text)
        except (OSError, http.client.HTTPException):
            return
        if answer.status == 200:
            acknowledged.append(text)
            state = answer.json()
        elif answer.status == 409:
            state = answer.json()["state"]


def kill_once(running: Served, round_: int, writers: int, seconds: float) -> list[tuple[str, list[str]]]:
    """Run the writers, kill the server; returns study and acknowledged texts of each writer."""
    jobs = []
    for number in range(writers):
        client = running.client()
        state = client.study(picture(1000 * round_ + number))
        acknowledged: list[str] = []
        thread = threading.Thread(
            target=save_until_killed, args=(client, state, f"round {round_}, writer {number},", acknowledged)
        )
        jobs.append((thread, state["id"], acknowledged))
    for thread, *_ in jobs:
        thread.start()
    time.sleep(seconds)
    running.kill()
    for thread, *_ in jobs:
        thread.join()
    return [(study, acknowledged) for _, study, acknowledged in jobs]


def count(rounds: int, writers: int, seed: int = 0) -> dict[str, int]:
    """Run all rounds; counts of kills, acknowledged and lost decisions, and faults of the file."""
    draw = random.Random(seed)
    total = lost = faults = 0
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(rounds):
            with served(Path(folder), "--no-example") as running:
                written = kill_once(running, round_, writers, draw.uniform(0.05, 1.0))
            store = Store(Path(folder) / "data" / "reviews.sqlite")
            faults += len(store.check())
            for study, acknowledged in written:
                kept = {
                    json.loads(one["after"])["text"] for one in store.events(LOCAL, study) if one["action"] == "field"
                }
                total += len(acknowledged)
                lost += len(set(acknowledged) - kept)
    return {"kills": rounds, "acknowledged": total, "lost": lost, "faults of the file": faults}


def main(arguments: Sequence[str] | None = None) -> int:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--writers", type=int, default=2)
    options = parser.parse_args(arguments)
    found = count(options.rounds, options.writers)
    for name, value in found.items():
        print(f"{name:20} {value:,}")
    return int(bool(found["lost"] or found["faults of the file"]))


if __name__ == "__main__":
    sys.exit(main())
