"""The commands in the image of scripts/deploy: an unknown user, a read-only root, 64 MB of shared memory, process 1."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import llava_rad
from llava_rad.generation.sources import example
from scripts.soak.serving import Client
from tests.scripts.deploy.container import Image, network, ran, started

pytestmark = [pytest.mark.nightly, pytest.mark.acceptance(row=31)]
Volumes = Callable[[str], Path]


def test_the_container_is_what_docker_makes(
    image: Image, services: dict[str, Any], volumes: Volumes, tmp_path: Path
) -> None:
    """The rehearsal itself: without these limits it would show nothing."""
    service = {**services["admin"], "entrypoint": ["sh", "-c"]}
    script = (
        "id -u; id -un 2>&1; for place in / /opt /usr /etc /models /dev; do touch $place/x 2>&1; done; "
        "touch /tmp/x /data/x /config/x; df --output=size /dev/shm | tail -1; "  # in the container
        "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status; echo $$"
    )
    code, output = ran(image, service, volumes, tmp_path / "log", script)
    lines = output.split("\n")
    assert code == 0 and lines[0] == "65532", output
    assert "cannot find name for user ID 65532" in output
    assert output.count("cannot touch") == 6 and output.count("Read-only file system") >= 4, output
    assert str(64 << 10) in output
    assert output.count("0000000000000000") == 2 and "NoNewPrivs:\t1" in output
    assert lines[-2] == "1"


def test_doctor_and_the_example(image: Image, services: dict[str, Any], volumes: Volumes, tmp_path: Path) -> None:
    code, output = ran(image, services["admin"], volumes, tmp_path / "log")
    assert code == 0 and "Traceback" not in output, output
    code, output = ran(
        image, services["admin"], volumes, tmp_path / "log", "generate", "--example", "-o", "/data/a.txt"
    )
    assert code == 0, output
    (report,) = llava_rad.generate(example())
    assert (volumes("exchange") / "a.txt").read_text() == report.to_text()


def test_the_service_comes_up_writes_a_report_and_ends(
    image: Image, services: dict[str, Any], volumes: Volumes, tmp_path: Path
) -> None:
    code, key = ran(
        image, services["admin"], volumes, tmp_path / "key.log", "key", "add", "viewer", "--keys", "/config/keys"
    )
    assert code == 0, key
    (report,) = llava_rad.generate(example())

    def scenario() -> None:
        with started(image, services["api"], volumes, tmp_path / "api.log") as container:
            container.until(container.healthy)
            client = Client("127.0.0.1", 8000, headers={"authorization": f"Bearer {key.strip()}"})
            container.until(lambda: client.call("GET", "/health/ready").status == 200)
            answer = client.call("POST", "/v1/reports", example().read_bytes())
            assert (answer.status, answer.body.decode()) == (200, report.to_json())
            answer = Client("127.0.0.1", 8000, headers={}).call("POST", "/v1/reports", b"")
            assert answer.status == 401
            assert container.stop() == 0, container.output()
            assert "Traceback" not in container.output()

    with network() as inside:
        inside(scenario)


def test_the_review_application_comes_up_writes_a_draft_and_ends(
    image: Image, services: dict[str, Any], volumes: Volumes, tmp_path: Path
) -> None:
    code, output = ran(
        image, services["admin"], volumes, tmp_path / "user.log", "user", "add", "ann", "--auth-file", "/config/users",
        stdin=b"a long password\n",
    )  # fmt: skip
    assert code == 0, output
    (report,) = llava_rad.generate(example())

    def scenario() -> None:
        with started(image, services["review"], volumes, tmp_path / "review.log") as container:
            container.until(container.healthy)
            client = Client("127.0.0.1", 7860)
            client.headers["host"] = "review.example.org"
            container.until(lambda: client.call("GET", "/health/ready").status == 200)
            assert client.login("ann", "a long password").status == 303
            study = client.study(example().read_bytes())
            state = client.drafted(study["id"])
            assert " ".join(one["text"] for one in state["sentences"]) == report.text
            assert client.call("GET", "/").status == 200
            assert container.stop() == 0, container.output()
            assert "Traceback" not in container.output()

    with network() as inside:
        inside(scenario)


def test_process_1_ends_at_sigterm_and_keeps_what_is_written(
    image: Image, services: dict[str, Any], volumes: Volumes, tmp_path: Path
) -> None:
    """Signals without a handler do not reach process 1: a command that sets none could only be killed."""
    data = volumes("exchange")
    (data / "images").mkdir()
    for number in range(500):
        (data / "images" / f"{number}.dcm").symlink_to("one.dcm")
    (data / "images" / "one.dcm").write_bytes(example().read_bytes())
    words = ["generate", "/data/images", "-f", "jsonl", "-o", "/data/a.jsonl"]
    with started(image, services["admin"], volumes, tmp_path / "log", words) as container:
        container.until(lambda: (data / "a.jsonl").exists() and b"\n" in (data / "a.jsonl").read_bytes())
        assert container.stop() == 130, container.output()
    assert "Traceback" not in container.output()
    lines = (data / "a.jsonl").read_text().splitlines()
    assert 1 <= len(lines) < 501 and all(json.loads(line)["report"]["findings"] for line in lines)


def test_a_watch_as_process_1_ends_at_sigterm(
    image: Image, services: dict[str, Any], volumes: Volumes, tmp_path: Path
) -> None:
    def scenario() -> None:  # without an archive
        with started(image, services["watch"], volumes, tmp_path / "log") as container:
            container.until(lambda: "next search in 60 s" in container.output())
            assert container.stop() == 130, container.output()
            assert "Traceback" not in container.output()

    with network() as inside:
        inside(scenario)
