"""Server of the review application: HTTP routes, static files and the Gradio page behind one guard."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.accounts import is_loopback, read_users
from encoder.errors import ConfigError, LlavaRadError
from encoder.locks import locked

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

    from app.accounts import Accounts
    from app.imported import ImportedDrafts
    from app.routes import Services
    from llava_rad.generation.options import GenerationOptions

LOCAL_USER = "local"
"""Name of the only user if there are no accounts; the server then accepts connections from this machine only."""
MIN_FREE = 256 << 20
"""Free bytes of the data folder's disk below which the server is not ready: one image at most."""
STATIC = Path(__file__).parent / "static"


@dataclass(frozen=True)
class Settings:
    """Settings of the server.

    Attributes:
        host: address to listen on.
        port: to listen on; 0 selects a free one.
        data: folder of studies and reviews, created with mode 0700 if missing.
        auth_file: user accounts; required for every address that other machines can reach.
        names: host names by which browsers may address the server, in addition to ``host``.
        https: a proxy on this machine serves HTTPS: the session cookie is sent over HTTPS only, and client addresses
            are taken from X-Forwarded-For.
        trusted_proxies: addresses or networks of proxies on other machines, whose X-Forwarded-For and
            X-Forwarded-Proto are believed.
        options: model and decoding of the drafts; None uses the embedded model and its defaults.
        keep_names: name studies after their files; file names may identify a patient.
        identifiers: keep patient and study identifiers, for structured reports and FHIR.
        example: add the example radiograph to an empty worklist.
        microphone: the page may use the browser's microphone, for dictation.
        model: False: no model is loaded, and reports begin empty.
        drafts: ``FILE`` or ``NAME=FILE``, drafts of others, which are reviewed without a model.
        worklist: folder or zip file of images to read into the local user's worklist at the start.
        archive: DICOMweb service whose studies users open by StudyInstanceUID.
        viewer: address of studies in a viewer, with ``{uid}`` in the place of the StudyInstanceUID.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    data: Path = Path("review")
    auth_file: Path | None = None
    names: tuple[str, ...] = ()
    https: bool = False
    trusted_proxies: tuple[str, ...] = ()
    options: GenerationOptions | None = None
    keep_names: bool = False
    identifiers: bool = False
    example: bool = True
    microphone: bool = False
    model: bool = True
    drafts: str | None = None
    worklist: Path | None = None
    archive: str | None = None
    viewer: str | None = None

    def check(self) -> None:
        """Check that the settings agree, and that other machines can reach the server only if there are accounts.

        Raises:
            ConfigError: if they could without accounts, the auth file is missing, a trusted proxy is no address, or the
                viewer's address is not usable.
        """
        for proxy in self.trusted_proxies:
            try:
                ip_network(proxy)
            except ValueError:
                raise ConfigError("a trusted proxy is an IP address or a network such as 10.0.0.0/24") from None
        if self.viewer is not None:
            if not re.fullmatch(r"https?://[!-~]+", self.viewer) or self.viewer.count("{uid}") != 1:
                raise ConfigError(
                    "the viewer's address is a URL with {uid} in the place of the StudyInstanceUID",
                    hint="--viewer-url 'https://HOST/viewer?StudyInstanceUIDs={uid}'",
                )
            if not self.identifiers:
                raise ConfigError("a link to the viewer names the study", hint="--identifiers keeps its UID")
        if self.auth_file is not None and not self.auth_file.is_file():
            raise ConfigError("there is no such auth file", hint="llava-rad user add NAME --auth-file FILE makes one")
        if self.auth_file is None and not is_loopback(self.host):
            raise ConfigError(
                "without accounts the application is served to this machine only",
                hint="--host 127.0.0.1, or --auth-file FILE",
            )


@contextmanager
def services(settings: Settings) -> Iterator[Services]:
    """Open the store and start reader and drafting; all stop when the block ends.

    Raises:
        LlavaRadError: if another server uses the data folder, or it cannot be written.
        InputError: if the drafts of others cannot be read.
    """
    from app.drafting import Drafting
    from app.grouping import Grouping
    from app.images import ImageFolder
    from app.readers import Readers
    from app.routes import Services
    from app.store import Store
    from app.uploads import Uploads
    from app.without_model import WithoutModel

    drafts = _drafts(settings)
    with ExitStack() as stack:
        stack.enter_context(_locked(settings.data))
        store = Store(settings.data / "reviews.sqlite")
        images, grouping = ImageFolder(settings.data / "images"), Grouping(settings.data / "key")
        if store.has_other_key(grouping):
            said = "the data folder's key is not the one of its studies: earlier studies of a patient are not found"
            _tell(f"warning: {said}; put back the key of the same backup")
        readers = stack.enter_context(Readers(each=1))
        drafting: Drafting | WithoutModel
        if settings.model and drafts is None:
            drafting = Drafting(store, images.prepared, settings.options)
        else:
            drafting = WithoutModel(store, drafts)
        stack.callback(drafting.close)
        uploads = Uploads(
            settings.data / "incoming", settings.data / "batches", store, images, readers,
            grouping, drafting.wake, takes=drafting.takes, drafts=drafts,
            on_read=lambda: _tell(drafting.summary()) if isinstance(drafting, WithoutModel) else None,
            keep_names=settings.keep_names, identifiers=settings.identifiers,
        )  # fmt: skip
        stack.callback(uploads.close)
        fetching = None
        if settings.archive is not None:
            from app.fetching import Fetching

            fetching = Fetching(settings.archive, store, uploads, readers, grouping)
        uploads.resume()
        file = settings.auth_file
        yield Services(
            store, images, uploads, drafting, file is not None, settings.keep_names,
            list if file is None else lambda: sorted(read_users(file)), fetching, settings.viewer,
        )  # fmt: skip


def _drafts(settings: Settings) -> ImportedDrafts | None:
    """Read the drafts of others, and find those that the names of the worklist's files fit."""
    if settings.drafts is None:
        return None
    from app import archives
    from app.imported import ImportedDrafts

    drafts = ImportedDrafts.load(settings.drafts)
    if settings.worklist is not None:
        root = settings.worklist if settings.worklist.is_dir() else None
        drafts.place(archives.names(settings.worklist), root)
    return drafts


def _tell(line: str) -> None:
    if line:
        sys.stderr.write(f"llava-rad: {line}\n")
        sys.stderr.flush()


def application(settings: Settings, services: Services, accounts: Accounts | None) -> ASGIApp:
    """Build the ASGI application: routes, login, static files and page behind the guard."""
    _confine_gradio(settings.data / "gradio")
    import gradio
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse
    from fastapi.staticfiles import StaticFiles

    from app import page, requests, routes
    from app.lanes import Lane
    from app.security import Guard, error, login_router
    from app.without_model import STATES as WITHOUT_MODEL
    from llava_rad.outputs.compose import software_version

    served = FastAPI(title="LLaVA-Rad review", openapi_url=None, docs_url=None, redoc_url=None)
    requests.add_error_handlers(served)

    @served.get("/health/live")
    def live() -> dict[str, str]:
        return {"status": "ok", "version": software_version()}

    @served.get("/health/ready")
    def ready() -> Any:
        model, room = services.drafting.status()["state"], shutil.disk_usage(settings.data).free >= MIN_FREE
        good = model in ("ready", *WITHOUT_MODEL) and room
        status = "ok" if good else "loading" if room and model == "loading" else "failed"
        return JSONResponse({"status": status, "model": model, "disk": "ok" if room else "full"}, 200 if good else 503)

    @served.get("/health")
    def health() -> Any:
        if services.drafting.status()["state"] == "failed":
            return JSONResponse({"status": "failed", "model": "failed"}, 503)
        return JSONResponse({"status": "ok", "version": software_version()})

    served.include_router(routes.router(services))
    if accounts is not None:
        served.include_router(login_router(accounts, Lane("login", 4), https=settings.https))
    served.mount("/ui", StaticFiles(directory=STATIC))
    served.add_exception_handler(500, lambda request, raised: error(500, "something went wrong on the server"))

    def name(request: Request) -> str | None:
        found: str | None = request.state.user
        return found

    gradio.mount_gradio_app(
        served, page.build(), "/", auth_dependency=name, show_error=False, footer_links=[], run_history=False,
        enable_monitoring=False, mcp_server=False, ssr_mode=False, pwa=False,
        css_paths=[STATIC / name for name in page.STYLES], theme=page.theme(), allowed_paths=[],
        blocked_paths=[str(settings.data)],
    )  # fmt: skip
    hosts = {settings.host, *settings.names} | (
        {"127.0.0.1", "localhost", "::1"} if is_loopback(settings.host) else set()
    )
    any_host = settings.host in ("0.0.0.0", "::") and not settings.names
    return Guard(
        served, hosts=set() if any_host else {name.lower() for name in hosts},
        user_of=accounts.user_of if accounts is not None else lambda token: LOCAL_USER,
        logins=accounts is not None, https=settings.https, microphone=settings.microphone,
    )  # fmt: skip


def run(settings: Settings) -> None:
    """Serve until interrupted.

    Args:
        settings: of the server.

    Raises:
        LlavaRadError: if the port or the data folder is in use, a library is missing, or a setting is invalid.
    """
    settings.check()
    try:
        import gradio  # noqa: F401
        import uvicorn
    except ImportError:
        raise LlavaRadError(
            "the review application needs gradio", hint="pip install 'llava-rad[app]' (or '.[app]')"
        ) from None
    from app.accounts import Accounts

    sys.setswitchinterval(0.0005)  # threads that draft and draw maps otherwise hold up each step of a request by 5 ms
    with services(settings) as parts:
        accounts = None
        if settings.auth_file is not None:
            known = settings.https or bool(settings.trusted_proxies)
            accounts = Accounts(settings.auth_file, settings.data / "sessions.sqlite", by_address=known)
        else:
            _first_studies(parts, settings)
        listening = listen(settings.host, settings.port)
        config = configured(
            application(settings, parts, accounts), timeout_graceful_shutdown=2,
            proxy_headers=settings.https or bool(settings.trusted_proxies),
            forwarded_allow_ips=[*settings.trusted_proxies, *(["127.0.0.1", "::1"] if settings.https else [])],
        )  # fmt: skip
        with nullcontext() if accounts is None else _saving(accounts):
            run_until_stopped(uvicorn.Server(config), listening, settings.host, "review application")


def _first_studies(parts: Services, settings: Settings) -> None:
    from llava_rad.generation.sources import example

    worklist = settings.worklist
    if worklist is not None:
        if parts.store.batches.unfinished(LOCAL_USER, worklist.absolute()):
            return  # it continues
        if worklist.is_file():
            parts.uploads.unpack(LOCAL_USER, worklist, received=False)
        else:
            parts.uploads.folder(LOCAL_USER, worklist)
    elif settings.example and settings.drafts is None and not parts.store.worklist(LOCAL_USER)["studies"]:
        try:
            study = parts.uploads.study(LOCAL_USER, example(), name="Example radiograph").study
        except LlavaRadError:  # the package with the example is not installed
            return
        if settings.model:
            parts.drafting.queue(LOCAL_USER, study)


@contextmanager
def _saving(accounts: Accounts) -> Iterator[None]:
    """Write what is not saved of sessions every minute, and at the end."""
    ended = threading.Event()

    def save() -> None:
        while not ended.wait(60.0):
            with suppress(sqlite3.Error):  # the disk is full or the file locked: the next minute tries again
                accounts.save()

    thread = threading.Thread(target=save, name="sessions", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(sqlite3.Error):
            accounts.save()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a data folder: two servers on one store would write every draft twice."""
    busy = "another review application is using the data folder: stop it, or use another --data-dir"
    with ExitStack() as stack:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            stack.enter_context(locked(folder / "lock", busy=busy))
        except OSError as error:
            raise LlavaRadError(f"the data folder cannot be used: {error.strerror}", hint="--data-dir DIR") from None
        yield


def configured(served: ASGIApp, **more: Any) -> uvicorn.Config:
    """Return the configuration that both servers share.

    h11 takes 64 KiB of a request's first line and headers; httptools, which uvicorn would prefer where it is installed,
    takes any number and keeps them in memory, before any login.
    """
    import uvicorn

    from app.log import UVICORN

    return uvicorn.Config(
        served, http="h11", ws="none", lifespan="on", log_config=UVICORN, log_level="error", access_log=False,
        server_header=False, date_header=False, **more,
    )  # fmt: skip


def run_until_stopped(server: uvicorn.Server, listening: socket.socket, host: str, name: str) -> None:
    """Serve until SIGTERM, which is the regular end of a server, or until Ctrl-C; standard error tells the address.

    Args:
        server: to be run.
        listening: its socket.
        host: that it listens on.
        name: of the server, for people.

    Raises:
        KeyboardInterrupt: at Ctrl-C.
    """
    # uvicorn ends gracefully and then raises the signal again: the exit code is to be 0
    signal.signal(signal.SIGTERM, lambda number, frame: setattr(server, "should_exit", True))
    address = f"[{host}]" if ":" in host else host
    sys.stderr.write(f"llava-rad: the {name} is at http://{address}:{listening.getsockname()[1]}\n")
    sys.stderr.flush()
    server.run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """Open the socket of a server.

    Raises:
        LlavaRadError: if the address or port cannot be used.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise LlavaRadError(
            f"the application cannot listen on that address and port: {error.strerror}", hint="--host, --port"
        ) from None
    return listening


def _confine_gradio(folder: Path) -> None:
    """Disable Gradio's telemetry and downloads, and give it an empty folder of its own to serve files from."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ.update(
        GRADIO_ANALYTICS_ENABLED="False",
        GRADIO_TEMP_DIR=str(folder),
        GRADIO_SHARE="False",
        HF_HUB_DISABLE_TELEMETRY="1",
    )
