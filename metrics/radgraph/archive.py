"""RadGraph's published archives: configuration, label vocabularies and weights, read as untrusted input.

``radgraph.tar.gz`` and ``radgraph-xl.tar.gz`` of the hub repository StanfordAIMI/RRG_scorers are AllenNLP archives of
DyGIE++ models (Wadden et al. 2019; Jain et al. 2021).
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Literal

from metrics.base import HubFile, WeightsError, sha256_of
from metrics.model_files import read_object

if TYPE_CHECKING:
    import torch

Kind = Literal["radgraph", "radgraph-xl"]
ARCHIVES: Final[Mapping[str, HubFile]] = {
    kind: HubFile(
        "StanfordAIMI/RRG_scorers",
        f"{kind}.tar.gz",
        what,
        option,
        f"or take {row} out of --metrics",
    )
    for kind, what, option, row in (
        ("radgraph", "RadGraph weights", "--radgraph PATH (the archive or its folder)", "rg_er"),
        ("radgraph-xl", "RadGraph-XL weights", "--radgraph-xl PATH (the archive or its folder)", "rg_er_xl"),
    )
}
_LARGEST_SIZE: Final = 4096
LAYOUT: Final = "config.json, weights.th, vocabulary/*__ner_labels.txt and vocabulary/*__relation_labels.txt"
_SMALL, _LARGE = 1 << 22, 8 << 30
_NOT_USED = ("_coref.", "_events.")


@dataclass(frozen=True)
class Archive:
    """The content of an archive that inference needs.

    Attributes:
        base_model: hub repository of the BERT whose configuration and tokenizer the archive uses.
        max_pieces: word pieces at a time, including the two special ones; longer reports are folded.
        max_span: number of words of the longest span that can be an entity.
        spans_per_word: number of spans per word that are considered for relations.
        layers: number of layers of every feed-forward network.
        ner_labels: entity labels by index; the first is no entity.
        relation_labels: relation labels by index.
        transformer: state of the BERT.
        heads: all other tensors, by the published name without the namespace.
        sha256: hash of the archive, or of the folder's weights.
    """

    base_model: str
    max_pieces: int
    max_span: int
    spans_per_word: float
    layers: int
    ner_labels: list[str]
    relation_labels: list[str]
    transformer: dict[str, torch.Tensor]
    heads: dict[str, torch.Tensor]
    sha256: str


def open_archive(path: Path) -> Archive:
    """Read an archive (``.tar.gz``), or the folder that it unpacks to.

    Raises:
        WeightsError: if it is no such archive, damaged, or a DyGIE++ model of another kind.
    """
    if path.is_dir():
        return _read(path, path.name, sha256_of(path / "weights.th") if (path / "weights.th").is_file() else "")
    with tempfile.TemporaryDirectory(prefix="llava-rad-") as folder:
        unpack(path, Path(folder))
        return _read(Path(folder), path.name, sha256_of(path))


def unpack(path: Path, folder: Path) -> None:
    """Write the needed files of an archive into a folder, and nothing else anywhere.

    Raises:
        WeightsError: if it is no tar archive, damaged, or a needed file is a link or too large.
    """
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                label = len(name.parts) == 2 and name.parts[0] == "vocabulary" and name.suffix == ".txt"
                if not label and str(name) not in {"config.json", "weights.th"}:
                    continue
                if not member.isreg() or member.size > (_LARGE if name.name == "weights.th" else _SMALL):
                    raise WeightsError(f"{path.name}: {name} is a link or too large", hint=f"expected: {LAYOUT}")
                target = folder / name
                target.parent.mkdir(exist_ok=True)
                source = archive.extractfile(member)
                assert source is not None  # it is a regular file
                with target.open("xb") as file:
                    shutil.copyfileobj(source, file)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path.name} cannot be read as a RadGraph archive ({type(error).__name__})", hint=f"expected: {LAYOUT}"
        ) from error


def _read(folder: Path, shown: str, sha256: str) -> Archive:
    def fault(what: str) -> WeightsError:
        return WeightsError(f"{shown} is not a RadGraph archive: {what}", hint=f"expected: {LAYOUT}")

    for name in ("config.json", "weights.th", "vocabulary"):
        if not (folder / name).exists():
            raise fault(f"{name} is missing")
    try:
        config = read_object(folder / "config.json")
        reader, model = config["dataset_reader"], config["model"]
        pieces = reader["token_indexers"]["bert"]
        modules = model["modules"]
        if modules.get("coref", {}).get("coref_prop", 0):
            raise fault("it passes states along coreference, which RadGraph's do not")
        facts: dict[str, Any] = {
            "base_model": str(pieces["model_name"]),
            "max_pieces": int(pieces["max_length"]),
            "max_span": int(reader["max_span_width"]),
            "spans_per_word": float(modules["relation"]["spans_per_word"]),
            "layers": int(model["feedforward_params"]["num_layers"]),
        }
        if any(not 1 <= facts[name] <= _LARGEST_SIZE for name in ("max_pieces", "max_span", "layers")):
            raise fault("a size in its config.json is out of range")
    except (OSError, ValueError, OverflowError, KeyError, TypeError, AttributeError) as error:
        raise fault(f"its config.json has no {error}" if isinstance(error, KeyError) else "config.json") from error

    namespaces = sorted(
        path.name.removesuffix("__ner_labels.txt") for path in folder.glob("vocabulary/*__ner_labels.txt")
    )
    if len(namespaces) != 1:
        raise fault(f"vocabulary/ has {len(namespaces)} files *__ner_labels.txt")
    try:
        ner, relations = (_labels(folder, f"{namespaces[0]}__{kind}_labels") for kind in ("ner", "relation"))
    except (OSError, ValueError) as error:
        raise fault("vocabulary/ cannot be read") from error
    if not ner or ner[0]:
        raise fault("its first entity label is not the empty one")

    import torch

    try:
        saved = torch.load(folder / "weights.th", map_location="cpu", weights_only=True)
        state = {str(name): value for name, value in saved.items() if isinstance(value, torch.Tensor)}
    except Exception as error:  # torch raises anything on a damaged file
        raise fault(f"weights.th cannot be read ({type(error).__name__})") from error
    transformer: dict[str, torch.Tensor] = {}
    heads: dict[str, torch.Tensor] = {}
    start = "_embedder.token_embedder_bert._matched_embedder.transformer_model."
    for name, value in state.items():
        if name.startswith(start):
            if ".pooler." not in name and not name.endswith(".position_ids"):
                transformer[name.removeprefix(start)] = value
        elif not name.startswith(_NOT_USED):
            heads[name.replace(f".{namespaces[0]}__", ".")] = value
    return Archive(
        **facts, ner_labels=ner, relation_labels=relations, transformer=transformer, heads=heads, sha256=sha256
    )


def _labels(folder: Path, namespace: str) -> list[str]:
    """Read one label a line; AllenNLP puts a padding label before those of a padded namespace."""
    patterns = (folder / "vocabulary" / "non_padded_namespaces.txt").read_text(encoding="utf-8").split()
    text = (folder / "vocabulary" / f"{namespace}.txt").read_text(encoding="utf-8")
    lines = text.replace("\r\n", "\n").split("\n")
    lines = lines[:-1] if lines[-1] == "" and len(lines) > 1 else lines
    padded = not any(
        namespace.endswith(pattern[1:]) if pattern.startswith("*") else namespace == pattern for pattern in patterns
    )
    return ["@@PADDING@@", *lines] if padded else lines
