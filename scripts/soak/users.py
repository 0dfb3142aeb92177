"""Review with many users at once, and count lost, mixed up and exposed reviews.

    python -m scripts.soak.users [--users 50] [--at-once 16]

Starts ``llava-rad serve`` with an account for each; everyone logs in, opens an image of their own, has the draft
written, makes five decisions, signs, and tries to open the study of the one before. Then every signed report is read
back. Prints counts; exits 1 if one is lost, mixed up or seen by another.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from app.accounts import add_user
from scripts.soak.serving import Client, Served, picture, served

DECISIONS = 5


@dataclass(frozen=True)
class Work:
    """Work of one user.

    Attributes:
        client: logged in.
        study: id of the user's study.
        text: the signed text.
        seconds: until each decision was acknowledged.
    """

    client: Client
    study: str
    text: str
    seconds: tuple[float, ...]


def review(running: Served, number: int) -> Work:
    """Review as one user, from login to signature."""
    client = running.client()
    assert client.login(f"user{number}", f"password {number}").status == 303
    state = client.drafted(client.study(picture(number))["id"], timeout_s=900)
    waited: list[float] = []
    texts: list[str] = []
    for at in range(DECISIONS):
        text = f"User {number} wrote sentence {at}."
        start = time.monotonic()
        answer = client.act(state, "add", text=text, after=None)
        waited.append(time.monotonic() - start)
        assert answer.status == 200, answer.body
        state, texts = answer.json(), [*texts, text]
    for sentence in [one for one in state["sentences"] if one["state"] == "undecided"]:
        state = client.act(state, "reject", sentence=sentence["id"]).json()
    assert client.act(state, "sign").status == 200
    return Work(client, state["id"], " ".join(texts), tuple(waited))


def count(users: int, at_once: int) -> dict[str, float]:
    """Run; counts of signed, lost, mixed up and exposed reviews, and seconds a decision."""
    with tempfile.TemporaryDirectory() as folder:
        auth = Path(folder) / "users"
        for number in range(users):
            add_user(auth, f"user{number}", f"password {number}")
        with served(Path(folder), "--auth-file", str(auth)) as running, ThreadPoolExecutor(at_once) as people:
            works = list(people.map(lambda number: review(running, number), range(users)))
            lost = mixed = seen = 0
            for number, work in enumerate(works):
                state = work.client.call("GET", f"/api/studies/{work.study}").json()
                kept = [one["text"] for one in state["signed"]]
                lost += work.text not in kept
                mixed += any(text != work.text for text in kept)
                seen += work.client.call("GET", f"/api/studies/{works[number - 1].study}").status != 404 and users > 1
            seconds = sorted(second for work in works for second in work.seconds)
    return {
        "users": users, "signed": len(works), "lost": lost, "mixed up": mixed, "seen by others": seen,
        "seconds a decision, median": statistics.median(seconds), "longest": seconds[-1],
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--at-once", type=int, default=16)
    options = parser.parse_args(arguments)
    found = count(options.users, options.at_once)
    for name, value in found.items():
        print(f"{name:28} {value:g}" if value == int(value) else f"{name:28} {value:.3f}")
    return int(bool(found["lost"] or found["mixed up"] or found["seen by others"]))


if __name__ == "__main__":
    sys.exit(main())
