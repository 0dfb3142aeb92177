"""The peer of ``scripts.bench.service``: LitServe around the same engine, reader and batches.

    python -m scripts.bench.service_peer PORT BATCH_SIZE BATCH_TIMEOUT_S

A request is JSON with the ``image`` in base64, as in LitServe's documentation; the answer is the report as JSON. Images
are decoded by the same limited process, in LitServe's worker before each batch, which is where LitServe decodes.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Sequence
from typing import Any

import litserve

from encoder.reader.sandbox import Reader
from llava_rad.generation.options import GenerationOptions
from llava_rad.generation.report_writer import ReportWriter
from llava_rad.model.templates import FRONTAL_ONLY
from llava_rad.outputs.report import Report


class Reports(litserve.LitAPI):  # type: ignore[misc]
    """Reports of images, in batches that LitServe makes."""

    def setup(self, device: str) -> None:
        """Load the model, in the worker process."""
        self.writer = ReportWriter(GenerationOptions(batch_size=self.max_batch_size))
        self.writer.stop_reading()
        self.writer.warm_up()
        self.reader = Reader()

    def decode_request(self, request: dict[str, str]) -> Any:
        """Decode and prepare the image of a request."""
        return self.reader.prepare(base64.b64decode(request["image"]), self.writer.engine().recipe)

    def batch(self, inputs: Sequence[Any]) -> Sequence[Any]:
        """Keep images apart: the writer stacks them."""
        return list(inputs)

    def predict(self, images: Sequence[Any]) -> list[Report]:
        """Write the reports of a batch."""
        found = self.writer.stream_batch([(image, ()) for image in images], FRONTAL_ONLY)
        reports = {number: part for number, part in found if isinstance(part, Report)}
        return [reports[number] for number in range(len(images))]

    def unbatch(self, reports: list[Report]) -> list[Report]:
        """Return the reports of the single requests."""
        return reports

    def encode_response(self, report: Report) -> dict[str, Any]:
        """Return a report as JSON."""
        found: dict[str, Any] = json.loads(report.to_json())
        return found


def main() -> None:
    """Serve until terminated."""
    port, size, timeout_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    api = Reports(max_batch_size=size, batch_timeout=timeout_s)
    server = litserve.LitServer(api, accelerator="cpu", timeout=False)
    server.run(host="127.0.0.1", port=port, num_api_servers=1, generate_client_file=False, log_level="error")


if __name__ == "__main__":
    main()
