"""One service with a tiny model, in this process, called by HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import uvicorn

from app.server import configured, listen
from app.service.application import Settings, application
from app.service.batcher import Batcher
from app.service.measures import Measures
from llava_rad.generation.options import GenerationOptions
from scripts.soak.serving import Client
from tests.llava_rad.conftest import chest, lateral, replica, run, tiny

__all__ = ["chest", "lateral", "replica", "run", "tiny"]


@dataclass
class Service:
    """A running service."""

    client: Client
    batcher: Batcher
    measures: Measures
    server: uvicorn.Server


@contextmanager
def serving(settings: Settings) -> Iterator[Service]:
    """Run a service in a thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    measures = Measures()
    batcher = Batcher(settings.options, measures, most=settings.queue, readers=1)
    listening = listen("127.0.0.1", 0)
    config = configured(application(settings, batcher, measures), timeout_graceful_shutdown=20)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    port = listening.getsockname()[1]
    while not server.started:
        time.sleep(0.01)
    try:
        yield Service(Client("127.0.0.1", port, headers={}), batcher, measures, server)
    finally:
        server.should_exit = True
        thread.join(30)
        batcher.close()
        listening.close()
        torch.set_num_threads(before)


@contextmanager
def waiting(batcher: Batcher, reports: int) -> Iterator[None]:
    """Hold the thread that writes until so many reports wait behind the one that it took."""
    batcher._gather_s = 0.0  # it takes the first one alone
    with batcher._busy:
        yield
        end = time.monotonic() + 60
        while len(batcher._jobs) < reports:
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.fixture(scope="package")
def service(tiny: Path) -> Iterator[Service]:
    with serving(Settings(options=GenerationOptions(model=tiny))) as running:
        yield running
