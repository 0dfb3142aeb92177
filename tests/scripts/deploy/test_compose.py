"""The commands of the compose file against Debian's Orthanc: images in, drafts back, a review, its report back."""

from __future__ import annotations

import base64
import io
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest

from scripts.soak.serving import Client
from tests.llava_rad import small_files
from tests.llava_rad.pacs.orthanc import available
from tests.scripts.deploy.conftest import VALUES
from tests.scripts.deploy.container import PATH, Image, network, ran, skeleton, started

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.pacs,
    pytest.mark.skipif(not available(), reason="orthanc is not installed (Debian: apt-get install orthanc-dicomweb)"),
    pytest.mark.acceptance(row=31),
]
STUDIES = 3


def ask(path: str) -> Any:
    """Call Orthanc's own interface; JSON, or a file."""
    code = base64.b64encode(f"llava-rad:{VALUES['ORTHANC_PASSWORD']}".encode()).decode()
    request = urllib.request.Request(f"http://127.0.0.1:8042{path}", headers={"Authorization": f"Basic {code}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        content = answer.read()
    return content if path.endswith("/file") else json.loads(content)


def answers() -> bool:
    try:
        return bool(ask("/system"))
    except (urllib.error.URLError, ConnectionError):
        return False


def reports() -> list[pydicom.Dataset]:
    """Structured reports in the archive."""
    files = [pydicom.dcmread(io.BytesIO(ask(f"/instances/{one}/file"))) for one in ask("/instances")]
    return [one for one in files if one.Modality == "SR"]


def test_images_become_drafts_and_a_signed_report_in_the_archive(
    image: Image, services: dict[str, Any], volumes: Callable[[str], Path], tmp_path: Path
) -> None:
    exchange, number = volumes("exchange"), iter(range(99))
    archive = Image(skeleton(tmp_path / "orthanc"), {"PATH": PATH})

    def admin(*command: str, stdin: bytes = b"") -> str:
        """Docker compose run --rm admin COMMAND."""
        code, output = ran(
            image, services["admin"], volumes, tmp_path / f"{next(number)}.log", *command, stdin=stdin
        )  # fmt: skip
        assert code == 0, output
        return output

    def put(name: str, content: bytes) -> None:
        (exchange / name).write_bytes(content)
        (exchange / name).chmod(0o644)

    def reviewed() -> None:
        """Review the first pulled image in the browser's stead, and keep its report."""
        with started(image, services["review"], volumes, tmp_path / "review.log") as review:
            review.until(review.healthy)
            client = Client("127.0.0.1", 7860)
            client.headers["host"] = VALUES["REVIEW_HOST"]
            assert client.login("ann", "a long password").status == 303
            first = min((exchange / "images").glob("*.dcm"))
            state = client.signed(client.drafted(client.study(first.read_bytes())["id"]))
            put("signed.dcm", client.call("GET", f"/api/studies/{state['id']}/report.dcm").body)
            assert review.stop() == 0

    def scenario() -> None:
        with started(archive, services["orthanc"], volumes, tmp_path / "orthanc.log") as orthanc:
            orthanc.until(answers)
            for study in range(STUDIES):
                uids = {f"{kind}InstanceUID": f"1.2.3.{study}.{n}" for n, kind in enumerate(("Study", "Series", "SOP"))}
                path = small_files.dicom(tmp_path / "image.dcm", seed=study, PatientID=f"P-{study}", **uids)
                put(f"{study}.dcm", path.read_bytes())
            files = [f"/data/{study}.dcm" for study in range(STUDIES)]
            admin("pacs", "push", *files, "--to", "ARCHIVE@orthanc:4242")
            with started(image, services["watch"], volumes, tmp_path / "watch.log") as watch:
                watch.until(lambda: f"{STUDIES} drafts written" in watch.output())
                assert watch.stop() == 130
            assert len(list((volumes("drafts") / "drafts").glob("*.json"))) == STUDIES
            drafts = reports()
            assert len(drafts) == 2 * STUDIES and {one.VerificationFlag for one in drafts} == {"UNVERIFIED"}
            admin("pacs", "pull", "-o", "/data/images")
            assert len(list((exchange / "images").glob("*.dcm"))) == STUDIES
            admin("user", "add", "ann", "--auth-file", "/config/users", stdin=b"a long password\n")
            reviewed()
            admin("pacs", "push", "/data/signed.dcm")
            (signed,) = [one for one in reports() if one.VerificationFlag == "VERIFIED"]
            original = pydicom.dcmread(min((exchange / "images").glob("*.dcm")))
            assert (signed.StudyInstanceUID, signed.PatientID) == (original.StudyInstanceUID, original.PatientID)
            assert len(reports()) == 2 * STUDIES + 1
            for log in tmp_path.glob("*.log"):
                if log.name != "orthanc.log":
                    text = log.read_text()
                    assert "Traceback" not in text and "P-" not in text and "Doe" not in text, text

    with network() as inside:
        inside(scenario)
