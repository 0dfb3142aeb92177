"""Kill the application while it saves, and count acknowledged decisions that are lost.

    python -m scripts.soak.kills [--rounds 40] [--writers 2]

In each round ``llava-rad serve`` is started on the same data folder, writers save decisions as fast as they can, and
the process is killed (SIGKILL) after a random time. Then the last decision, whose answer was lost, is sent again.
Every decision must be among the events of the store exactly once, and SQLite's check must find no error. Prints counts;
exits 1 if a decision is lost or was applied twice.
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
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.store import Store
from scripts.soak.serving import Client, Served, picture, served

LOCAL = "local"


@dataclass
class Writer:
    """Decisions on one study: acknowledged ones, and the one whose answer was lost."""

    study: str
    acknowledged: list[str] = field(default_factory=list)
    unanswered: dict[str, Any] = field(default_factory=dict)


def save_until_killed(client: Client, state: dict[str, Any], name: str, writer: Writer) -> None:
    """Save fields of one study until the server is gone."""
    for number in range(100_000):
        text = f"{name} {number}"
        step = {"field": "indication", "text": text, "step": str(uuid.uuid4())}
        try:
            answer = client.act(state, "field", **step)
        except (OSError, http.client.HTTPException):
            writer.unanswered = {"action": "field", "revision": state["revision"], **step}
            return
        if answer.status == 200:
            writer.acknowledged.append(text)
            state = answer.json()
        elif answer.status == 409:
            state = answer.json()["state"]


def kill_once(running: Served, round_: int, writers: int, seconds: float) -> list[Writer]:
    """Run the writers, and kill the server."""
    found, threads = [], []
    for number in range(writers):
        client = running.client()
        state = client.study(picture(1000 * round_ + number))
        found.append(Writer(state["id"]))
        name = f"round {round_}, writer {number},"
        threads.append(threading.Thread(target=save_until_killed, args=(client, state, name, found[-1])))
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    running.kill()
    for thread in threads:
        thread.join()
    return found


def count(rounds: int, writers: int, seed: int = 0) -> dict[str, int]:
    """Run all rounds; counts of kills, of decisions that were acknowledged, lost or applied twice, and of faults."""
    draw = random.Random(seed)
    total = lost = twice = faults = 0
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(rounds):
            with served(Path(folder), "--no-example") as running:
                written = kill_once(running, round_, writers, draw.uniform(0.05, 1.0))
            store = Store(Path(folder) / "data" / "reviews.sqlite")
            faults += len(store.check())
            for writer in written:
                sent = list(writer.acknowledged)
                if again := writer.unanswered:
                    store.act(LOCAL, writer.study, again["revision"], again, user=LOCAL)
                    sent.append(again["text"])
                events = [one for one in store.events(LOCAL, writer.study) if one["action"] == "field"]
                kept = [json.loads(one["after"])["text"] for one in events]
                total += len(writer.acknowledged)
                lost += len(set(sent) - set(kept))
                twice += len(kept) - len(set(kept))
    return {"kills": rounds, "acknowledged": total, "lost": lost, "applied twice": twice, "faults of the file": faults}


def main(arguments: Sequence[str] | None = None) -> int:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--writers", type=int, default=2)
    options = parser.parse_args(arguments)
    found = count(options.rounds, options.writers)
    for name, value in found.items():
        print(f"{name:20} {value:,}")
    return int(bool(found["lost"] or found["applied twice"] or found["faults of the file"]))


if __name__ == "__main__":
    sys.exit(main())
