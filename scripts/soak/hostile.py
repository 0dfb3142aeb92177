"""Review with many users while some attack the server, and measure what the others notice.

    python -m scripts.soak.hostile [--users 50] [--hostile 5] [--minutes 10]

Starts ``llava-rad serve`` with an account for each, and waits for its model. Honest users arrive in the first fifth of
the time, log in, open an image, have its draft written, and then look and save in turns, a second apart. Each hostile
user repeats one attack: uploads that never end, images that are slow to decode or inflate, maps whose answers nobody
awaits, malformed requests, or failed logins on other names. Prints counts, seconds of login, ``/api/me`` and saving of
the honest users, and the server's memory at a fifth (minute 2 of 10) and at the end. Exits 1 if a save is lost, a 95th
percentile is 1 s or more, an answer is a server error, or memory grew by 10 % or more.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
from PIL import Image

from app.accounts import add_user
from app.store import Store
from scripts.soak.reports import resident
from scripts.soak.serving import Answer, Client, Served, await_status, picture, served

P = ParamSpec("P")
LIMIT_S, MOST_GROWTH = 1.0, 0.1
CALLS = ("login", "me", "save")
BROKEN = (OSError, http.client.HTTPException)


@dataclass
class Honest:
    """Measurements of the honest users.

    Attributes:
        seconds: of each call, by kind.
        saved: study -> texts whose saving was acknowledged.
        errors: answers that were none of those expected.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in CALLS})
    saved: dict[str, list[str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def timed(self, name: str, status: int, call: Callable[P, Answer], *args: P.args, **more: P.kwargs) -> Answer:
        """Time a call whose answer is to have a status."""
        start = time.monotonic()
        answer = call(*args, **more)
        self.seconds[name].append(time.monotonic() - start)
        if answer.status != status:
            self.errors.append(f"{name}: {answer.status} {answer.body[:200]!r}")
        return answer


def work(running: Served, number: int, arrival_s: float, ended: threading.Event, found: Honest) -> None:
    """Review as one honest user from ``arrival_s`` until the end; log in again every half minute."""
    client, name = running.client(), f"user{number}"
    if ended.wait(arrival_s):
        return
    found.timed("login", 303, client.login, name, f"password {number}")
    state = client.drafted(client.study(picture(number))["id"], timeout_s=900)
    texts = found.saved.setdefault(state["id"], [])
    while not ended.wait(1.0):
        found.timed("me", 200, client.call, "GET", "/api/me")
        text = f"{name} {len(texts)}"
        answer = found.timed("save", 200, client.act, state, "field", field="indication", text=text)
        if answer.status == 200:
            texts.append(text)
            state = answer.json()
        if len(texts) % 30 == 29:
            client = running.client()
            found.timed("login", 303, client.login, name, f"password {number}")


@dataclass
class Attacker:
    """One hostile user.

    Attributes:
        client: logged in.
        study: id of a study with a draft.
        seen: statuses of answers.
    """

    client: Client
    study: str
    seen: Counter[int]

    def head(self, line: str) -> bytes:
        """First line and headers of a request."""
        client = self.client
        cookie = f"Cookie: llava_rad_session={client.cookie}"
        return "\r\n".join((line, f"Host: 127.0.0.1:{client.port}", "x-llava-rad: 1", cookie, "", "")).encode("latin-1")

    def send(self, line: str, body: bytes = b"", *, wait: bool = True) -> None:
        """Send a request as it is, and read its status if ``wait``."""
        with socket.create_connection((self.client.host, self.client.port), timeout=30) as one:
            one.sendall(self.head(line) + body)
            if wait and (found := one.recv(1 << 16).split(b"\r\n")[0].split()):
                self.seen[int(found[1])] += 1

    def slow_uploads(self) -> None:
        """Forty uploads that grow by a byte a second."""
        sockets = [socket.create_connection((self.client.host, self.client.port)) for _ in range(40)]
        try:
            for one in sockets:
                one.sendall(self.head("POST /api/studies HTTP/1.1\r\nContent-Length: 100000000"))
            for _ in range(10):
                for one in sockets:
                    one.sendall(b"\x89")
                time.sleep(1.0)
        finally:
            for one in sockets:
                one.close()

    def bombs(self) -> None:
        """Images that inflate to gigabytes or are slow to decode."""
        for data in (bomb(30_000), large(4000), b"\x89PNG\r\n\x1a\n" + bytes(1 << 20)):
            self.seen[self.client.call("POST", "/api/studies", data).status] += 1

    def maps(self) -> None:
        """Fifty maps whose answers nobody awaits."""
        for _ in range(50):
            self.send(f"GET /api/studies/{self.study}/evidence?sentence=s1 HTTP/1.1", wait=False)
        time.sleep(1.0)

    def malformed(self) -> None:
        """Requests that are none."""
        for line in (
            "GET /api/me HTTP/9.9", "BREW / HTTP/1.1", "GET /api/studies?limit=1e99 HTTP/1.1", "nonsense",
            "GET /api/studies/../../etc/passwd HTTP/1.1", "GET /api/me HTTP/1.1\r\nOrigin: http://[::1",
        ):  # fmt: skip
            self.send(line)
        deep = b"[" * 100_000
        self.send(f"POST /api/studies/{self.study}/actions HTTP/1.1\r\nContent-Length: {len(deep)}", deep)
        number = b'{"revision": ' + b"9" * 5000 + b"}"
        self.send(f"POST /api/studies/{self.study}/actions HTTP/1.1\r\nContent-Length: {len(number)}", number)

    def logins(self) -> None:
        """Failed logins on names of nobody."""
        client = Client(self.client.host, self.client.port)
        for number in range(20):
            self.seen[client.login(f"nobody{number}", "wrong password").status] += 1


def bomb(side: int) -> bytes:
    """A PNG file of one colour that inflates to ``side`` x ``side`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))

    packed = zlib.compressobj(9)
    rows = b"".join(packed.compress(bytes(side + 1)) for _ in range(side)) + packed.flush()
    header = struct.pack("!IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def large(side: int) -> bytes:
    """A noisy progressive JPEG file."""
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (side, side), np.uint8)
    Image.fromarray(noise).save(stream, "JPEG", progressive=True, quality=90)
    return stream.getvalue()


ATTACKS = (Attacker.slow_uploads, Attacker.bombs, Attacker.maps, Attacker.malformed, Attacker.logins)


def attack(running: Served, number: int, ended: threading.Event, seen: Counter[int]) -> None:
    """Repeat one attack until the end."""
    client = running.client()
    assert client.login(f"hostile{number}", f"password {number}").status == 303
    study = client.drafted(client.study(picture(10_000 + number, 512))["id"], timeout_s=900)["id"]
    attacker = Attacker(client, study, seen)
    while not ended.is_set():
        try:
            ATTACKS[number % len(ATTACKS)](attacker)
        except BROKEN:
            seen[0] += 1


def lost(data: Path, saved: dict[str, list[str]]) -> int:
    """Count acknowledged texts that are not among the events of the store."""
    store, count = Store(data / "reviews.sqlite"), 0
    for study, texts in saved.items():
        owner = texts[0].split()[0] if texts else ""
        events = [one for one in store.events(owner, study) if one["action"] == "field"] if texts else []
        count += len(set(texts) - {json.loads(one["after"])["text"] for one in events})
    return count


def measure(users: int, hostile: int, minutes: float) -> dict[str, float]:
    """Run; counts, seconds and memory."""
    ended, seen, found, memory = threading.Event(), Counter[int](), Honest(), list[int]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(users):
            kind = "hostile" if number < hostile else "user"
            add_user(folder / "users", f"{kind}{number}", f"password {number}")
        with (
            served(folder, "--auth-file", str(folder / "users")) as running, ThreadPoolExecutor(users) as people,
        ):  # fmt: skip
            await_status(running, "/health/ready", 300)
            tasks = [
                people.submit(attack, running, number, ended, seen) if number < hostile
                else people.submit(work, running, number, number * 12 * minutes / users, ended, found)
                for number in range(users)
            ]  # fmt: skip
            for _ in range(50):
                ended.wait(60 * minutes / 50)
                memory.append(resident(running.process.pid))
            late = time.monotonic() + 600  # on a slow machine, until everyone has saved once
            while sum(map(bool, found.saved.values())) < users - hostile and time.monotonic() < late:
                if any(task.done() for task in tasks):
                    break
                ended.wait(0.2)
            alive = running.client().call("GET", "/health/live").status == 200
            ended.set()
            for task in tasks:
                task.result()
            log = running.log.read_text()
            faults = log.count("Traceback") + log.count(": unexpected ")
        missing = lost(folder / "data", found.saved)
    first, last = (statistics.median(part) for part in (memory[9:13], memory[-4:]))
    result: dict[str, Any] = {
        "users": users, "hostile": hostile, "minutes": minutes,
        "saves acknowledged": sum(map(len, found.saved.values())), "lost": missing, "unexpected": len(found.errors),
        "attacks answered": seen.total() - seen[0], "server errors": sum(n for s, n in seen.items() if s >= 500),
        "faults in the log": faults, "alive": int(alive),
    }  # fmt: skip
    for kind, seconds in found.seconds.items():
        if seconds:
            result |= {f"{kind}, median s": statistics.median(seconds), f"{kind}, 95 % s": at(seconds, 0.95)}
    result |= {"MiB at a fifth": first / 2**20, "MiB at the end": last / 2**20, "growth": last / first - 1}
    for text in found.errors[:5]:
        print(text, file=sys.stderr)
    return result


def at(values: Sequence[float], share: float) -> float:
    """A percentile."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--hostile", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=10)
    options = parser.parse_args(arguments)
    found = measure(options.users, options.hostile, options.minutes)
    for name, value in found.items():
        print(f"{name:24} {value:g}" if value == int(value) else f"{name:24} {value:.3f}")
    slow = max(value for name, value in found.items() if name.endswith("95 % s")) >= LIMIT_S
    bad = found["lost"] or found["unexpected"] or found["server errors"] or found["faults in the log"]
    return int(bool(bad or slow or not found["alive"] or found["growth"] >= MOST_GROWTH))


if __name__ == "__main__":
    sys.exit(main())
