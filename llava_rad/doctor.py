"""Checks of the installation and, for a checkpoint, of memory: each has a result and, if it failed, a fix."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from encoder.errors import LlavaRadError
from llava_rad.commands.console import explained
from llava_rad.memory import Need, in_words, memory_of_machine, need_of, need_of_vision_language

if TYPE_CHECKING:
    from llava_rad.generation.profiles import Profile

Status = Literal["ok", "warning", "missing"]
# Needed at run time; pip checks the versions at installation.
PACKAGES = (
    "llava-rad", "torch", "transformers", "peft", "safetensors", "tokenizers", "numpy", "pillow", "pydicom",
    "pydicom-data", "imagecodecs", "pyjpegls", "pylibjpeg-openjpeg", "pydantic", "httpx2", "typer",
)  # fmt: skip
# Packages that must not be installed in this environment, and the reason.
UNWANTED = {
    "python-gdcm": "it crashes on damaged files, and pydicom uses it if it is installed",
    "pylibjpeg-libjpeg": "it is under the GPL-3",
}


class Check(BaseModel):
    """Result of one check; ``fix`` is a command or advice if the status is not ok."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    status: Status
    detail: str
    fix: str | None = None


class Diagnosis(BaseModel):
    """Results of all checks, schema ``llava-rad.doctor/1``."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, serialize_by_alias=True)

    schema_id: Literal["llava-rad.doctor/1"] = Field(default="llava-rad.doctor/1", alias="schema")
    ok: bool
    checks: list[Check]

    def to_text(self) -> str:
        """Format one line per check, and its fix below it."""
        width = max(len(check.name) for check in self.checks)
        lines = []
        for check in self.checks:
            lines.append(f"{check.status:<8} {check.name:<{width}}  {check.detail}")
            if check.fix:
                lines.append(f"{'':<8} {'':<{width}}  -> {check.fix}")
        return "\n".join([*lines, "", "everything needed is here" if self.ok else "something needed is missing", ""])


def diagnose(model: str | None = None) -> Diagnosis:
    """Run every check.

    Args:
        model: checkpoint whose memory is estimated and compared with that of each device.
    """
    checks = [
        *_system(), *_packages(), *_unwanted(), *_decoders(), *_guarded("device", _device), *_cache(),
        *_guarded("embedded model", _embedded_model), *_guarded("reader", _reader), *_published_models(), *_profiles(),
        *_encoders(), *_data_sets(), *_guarded("metrics", _metrics),
        *(_guarded("model", lambda: _model(model)) if model is not None else ()),
    ]  # fmt: skip
    return Diagnosis(ok=all(check.status != "missing" for check in checks), checks=checks)


def _guarded(name: str, check: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """Run a check; a broken package, or a machine without places for files, fails it and does not stop the others."""
    try:
        yield from check()
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        if place := explained(error):
            yield Check(name=name, status="missing", detail=str(place), fix=place.hint)
            return
        yield Check(name=name, status="missing", detail=f"fails with {type(error).__name__}", fix=_reinstall())


def _reinstall() -> str:
    return "pip install --force-reinstall llava-rad"


def _system() -> Iterator[Check]:
    detail = f"{platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} processors"
    old = sys.version_info < (3, 11)
    yield Check(
        name="Python", status="missing" if old else "ok", detail=detail, fix="install Python 3.11" if old else None
    )


def _packages() -> Iterator[Check]:
    for name in PACKAGES:
        try:
            yield Check(name=name, status="ok", detail=version(name))
        except PackageNotFoundError:
            yield Check(name=name, status="missing", detail="not installed", fix=f"pip install {name}")


def _unwanted() -> Iterator[Check]:
    for name, why in UNWANTED.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        yield Check(name=name, status="warning", detail=f"{found} is installed: {why}", fix=f"pip uninstall {name}")


def _decoders() -> Iterator[Check]:
    """Check for each transfer syntax that the package that decodes it can be imported."""
    try:
        from encoder.reader import decoders
    except ImportError as error:
        yield Check(name="decoders", status="missing", detail=f"fails with {type(error).__name__}", fix=_reinstall())
        return
    groups: list[tuple[dict[str, str], str, str, str | None]] = [
        (decoders.NATIVE, "numpy", "numpy", None),
        (decoders.RLE, "imagecodecs", "imagecodecs", "DICOMRLE"),
        (decoders.JPEG, "imagecodecs", "imagecodecs", "JPEG8"),
        (decoders.JPEG_LS, "jpeg_ls", "pyjpegls", None),
        (decoders.JPEG_2000, "imagecodecs", "imagecodecs", "JPEG2K"),
        (decoders.HTJ2K, "openjpeg", "pylibjpeg-openjpeg", None),
    ]
    for syntaxes, module, package, codec in groups:
        found = find_spec(module) is not None
        if found and codec is not None:
            import imagecodecs

            found = bool(getattr(imagecodecs, codec).available)
        for uid, name in syntaxes.items():
            yield Check(
                name=f"decoder .{uid.removeprefix('1.2.840.10008.1.')}",
                status="ok" if found else "missing",
                detail=f"{name}: {package}" if found else f"{name} cannot be read",
                fix=None if found else f"pip install {package}",
            )


def _device() -> Iterator[Check]:
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            memory = f"{properties.total_memory / 2**30:.0f} GiB"
            yield Check(name=f"device cuda:{index}", status="ok", detail=f"{properties.name}, {memory}")
    mps = torch.backends.mps.is_available()
    if mps:
        yield Check(name="device mps", status="ok", detail="Apple GPU")
    from encoder.runs.processor import SLOW, bfloat16_slowdown

    times = bfloat16_slowdown()
    slow = f", bfloat16 {times:.0f} times slower than float32" if times > SLOW else ""
    yield Check(name="device cpu", status="ok", detail=f"{torch.get_num_threads()} threads{slow}")
    if not torch.cuda.is_available() and not mps:
        detail = "none: the embedded model runs on the CPU, a 7B model slowly"
        yield Check(name="device cuda", status="warning", detail=detail)


def _cache() -> Iterator[Check]:
    """Show the hub's cache folder and access; a token is never shown."""
    home = os.environ.get("HF_HOME") or os.environ.get("HF_HUB_CACHE") or "~/.cache/huggingface"
    try:
        folder = Path(home).expanduser()
    except RuntimeError:  # an unknown user without HOME
        fix = "set HOME, or HF_HOME and XDG_CACHE_HOME, to a folder that can be written to"
        yield Check(name="hub cache", status="warning", detail="the home directory is unknown", fix=fix)
        return
    parent = next((path for path in (folder, *folder.parents) if path.is_dir()), Path("/"))
    writable = os.access(parent, os.W_OK)
    statistics = os.statvfs(parent)
    free = f"{statistics.f_bavail * statistics.f_frsize / 2**30:.0f} GiB free"
    state = ("" if folder.is_dir() else ", not created yet") + ("" if writable else ", not writable")
    yield Check(
        name="hub cache",
        status="ok" if writable else "warning",
        detail=f"{home}, {free}{state}",
        fix=None if writable else "set HF_HOME to a folder that can be written to",
    )
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    token = "a token is set" if os.environ.get("HF_TOKEN") else "no token in HF_TOKEN"
    yield Check(
        name="hub", status="ok", detail=f"{'switched off by HF_HUB_OFFLINE' if offline else 'allowed'}, {token}"
    )


def _embedded_model() -> Iterator[Check]:
    from encoder.files import sha256_of
    from llava_rad.model.checkpoint import load_checked, locate

    try:
        folder = locate(None)
        name = load_checked(folder).name
    except LlavaRadError as error:
        yield Check(name="embedded model", status="missing", detail=str(error), fix=_reinstall())
        return
    digest = sha256_of(folder / "config.json")
    yield Check(name="embedded model", status="ok", detail=f"{name}, every file as its SHA-256 says, {digest[:12]}")


def _published_models() -> Iterator[Check]:
    """Published report models that can be named by their repository, and whether they are converted already."""
    from llava_rad.conversion.published import MODELS, converted_folder

    for kind, model in MODELS.items():
        try:
            converted = (converted_folder(model) / "config.json").is_file()
        except RuntimeError:  # the home directory is unknown, see _cache
            converted = False
        detail = f"{model.repository}, {'converted' if converted else 'converted on first use'}"
        yield Check(name=f"published {kind}", status="ok", detail=detail)


def _encoders() -> Iterator[Check]:
    """Encoders that can be named, by family."""
    from encoder.backbones.registry import ENCODERS, FAMILIES

    for family in FAMILIES:
        names = ", ".join(entry.name for entry in ENCODERS.values() if entry.family == family)
        yield Check(name=f"encoders {family}", status="ok", detail=names)


def _data_sets() -> Iterator[Check]:
    """Data sets whose public layouts are known."""
    from encoder.datasets import registry as images
    from llava_rad.reports import registry as pairs

    yield Check(name="data sets of images", status="ok", detail=", ".join(images.DATASETS))
    yield Check(name="data sets of reports", status="ok", detail=", ".join(pairs.DATASETS))


def _metrics() -> Iterator[Check]:
    """Registered metrics, and whether the hub cache has the weights that they need."""
    from metrics.registry import METRICS, load

    for name in METRICS:
        metric = load(name)
        missing = [file for file in metric.weights if not file.cached]
        yield Check(
            name=f"metric {name}",
            status="warning" if missing else "ok",
            detail=f"{missing[0].what}: not in the hub cache" if missing else metric.summary,
            fix=missing[0].cure if missing else None,
        )


def _model(source: str) -> Iterator[Check]:
    """Compare the memory that a checkpoint takes with that of each device. Nothing is fetched or converted."""
    import torch

    from llava_rad.conversion.published import converted_folder, of_repository
    from llava_rad.generation.chat_server import PREFIX
    from llava_rad.generation.checkpoint_model import FoundCheckpoint
    from llava_rad.generation.found import find
    from llava_rad.generation.options import GenerationOptions

    if source.startswith(PREFIX):
        yield from _server(source)
        return
    published = of_repository(source)
    if published is not None and not (converted_folder(published) / "config.json").is_file():
        fix = f"llava-rad convert --from {published.kind} {source} DEST"
        yield Check(name="model", status="missing", detail=f"{source} is not converted yet", fix=fix)
        return
    try:
        found = find(GenerationOptions(model=source, offline=True))
        if isinstance(found, FoundCheckpoint):
            need = need_of(found.folder)
        else:
            need = yield from _vision_language(found)
    except LlavaRadError as error:
        fix = error.hint or "name the folder of a checkpoint, see docs/checkpoint-format.md"
        yield Check(name="model", status="missing", detail=str(error), fix=fix)
        return
    sizes = ", ".join(f"{in_words(need.bytes(name))} in {name}" for name in ("float32", "bfloat16", "8bit", "4bit"))
    base = "" if need.whole else " without the base of its adapter"
    yield Check(
        name="model", status="ok", detail=f"{need.parameters:,} parameters{base}: {sizes}, one report at a time"
    )
    devices = {"memory": (memory_of_machine(), "float32")}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        devices[f"memory cuda:{index}"] = (torch.cuda.get_device_properties(index).total_memory, "bfloat16")
    for name, (available, dtype) in devices.items():
        if available is None:
            continue
        enough = need.bytes(dtype) < available
        yield Check(
            name=name,
            status="ok" if enough else "warning",
            detail=f"{available / 2**30:.1f} GiB, {'enough' if enough else 'too little'} for {dtype}",
            fix=None if enough else "use another device, or --dtype bfloat16, 8bit or 4bit",
        )


def _server(source: str) -> Iterator[Check]:
    """Ask the server of a model which models it has; no image and no prompt is sent."""
    from llava_rad.generation.chat_server import ChatServer
    from llava_rad.generation.options import GenerationOptions
    from llava_rad.generation.server_model import FoundServer

    try:
        options = GenerationOptions(model=source, allow_remote=True, server_timeout=30)
        found = FoundServer(options)
        yield Check(name="profile", status="ok", detail=f"{found.config.name}: {_facts(found.config)}")
        with closing(ChatServer(found.address, seconds=options.server_timeout)) as server:
            found.check_server(server, tries=1)
    except LlavaRadError as error:
        yield Check(name="model", status="missing", detail=str(error), fix=error.hint)
        return
    where = "this machine" if found.address.local else "another machine: reports need --allow-remote"
    yield Check(name="model", status="ok", detail=f"{found.name} on {where}; its memory is the server's")


def _vision_language(found: Any) -> Generator[Check, None, Need]:
    """State profile and licence of a model of transformers' image-text-to-text class; return its memory."""
    from llava_rad.generation.vision_language_files import check_files, completed

    profile = found.config
    yield Check(name="profile", status="ok", detail=f"{profile.name}: {_facts(profile)}; {', '.join(profile.source)}")
    folder, what = found.folder(), f"the model {found.name}"
    return need_of_vision_language(check_files(folder, what), completed(folder, what), profile)


def _profiles() -> Iterator[Check]:
    """Profiles of models that others trained, with the licence of their weights."""
    from llava_rad.generation.profiles import shipped

    for profile in shipped():
        models = ", ".join(profile.repositories) or "any model of transformers' image-text-to-text class"
        yield Check(name=f"profile {profile.name}", status="ok", detail=f"{models}: {_facts(profile)}")


def _facts(profile: Profile) -> str:
    return profile.licence if profile.tried else f"{profile.licence}; never run here with its real weights"


def _reader() -> Iterator[Check]:
    """Read the example image in the sandboxed process, as generate does."""
    import time

    from encoder.preprocessing import RECIPES
    from encoder.reader.sandbox import Reader
    from llava_rad.generation.sources import example

    try:
        path = example()
    except LlavaRadError as error:
        yield Check(name="reader", status="missing", detail=str(error), fix=error.hint)
        return
    try:
        with Reader() as reader:
            reader.prepare(path, RECIPES["rad-dino"])
            started = time.perf_counter()
            reader.prepare(path, RECIPES["rad-dino"])
            milliseconds = 1000 * (time.perf_counter() - started)
    except LlavaRadError as error:
        yield Check(name="reader", status="missing", detail=str(error), fix=error.hint or _reinstall())
        return
    detail = f"reads the example in its own process in {milliseconds:.0f} ms"
    yield Check(name="reader", status="ok", detail=detail)
