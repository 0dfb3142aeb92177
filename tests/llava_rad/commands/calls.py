"""A call of every command that succeeds on a good machine, and the commands that there are."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_rad.model.checkpoint import DEMO
from tests.encoder.pretraining import small_run
from tests.llava_rad import small_files, small_probes
from tests.llava_rad.conversion import replicas
from tests.llava_rad.training import small_pairs

OUTPUTS = "outputs"
"""Folder of a world that holds no inputs."""
ARCHIVE = "http://127.0.0.1:9/dicom-web"
"""Address of an archive that does not run."""


@dataclass(frozen=True)
class World:
    """Small inputs of all commands.

    Attributes:
        folder: below which the inputs are.
        image: a frontal chest radiograph, DICOM.
        model: checkpoint folder.
        encoder: encoder folder.
        labels: manifest with splits, labels and attributes.
        masks: manifest with masks.
        reports: table of pairs, as ``reports`` writes it.
        texts: table of ids and reports.
        pictures: folder of pictures for pre-training.
        published: folder of a published model.
        archive: address of a DICOMweb archive.
    """

    folder: Path
    image: Path
    model: Path
    encoder: Path
    labels: Path
    masks: Path
    reports: Path
    texts: Path
    pictures: Path
    published: Path
    archive: str = ARCHIVE

    @classmethod
    def made(cls, folder: Path, model: Path) -> World:
        """Write all inputs, and a copy of a model."""
        for name in ("encoders", "labels", "masks"):
            (folder / name).mkdir()
        with (folder / "texts.csv").open("w", newline="") as file:
            rows = [["id", "report"], ["1", "The heart is enlarged."], ["2", "The lungs are clear. No effusion."]]
            csv.writer(file).writerows(rows)
        studies = {"CXR1": {"key_image_path": "image.dcm", "image_path": ["image.dcm"], "section_findings": "Clear."}}
        (folder / "studies.json").write_text(json.dumps(studies))
        return cls(
            folder, small_files.dicom(folder / "image.dcm"), shutil.copytree(model, folder / "model"),
            small_probes.encoders(folder / "encoders")[0], small_probes.manifest(folder / "labels"),
            small_probes.masked(folder / "masks"),
            small_pairs.make(folder / "pairs", test=4), folder / "texts.csv",
            small_run.write_images(folder / "pictures"), replicas.llava_rad(folder / "published"),
        )  # fmt: skip


@dataclass(frozen=True)
class Call:
    """Call of a command.

    Attributes:
        command: as in the registry, ``probe linear``.
        words: returns the arguments behind it, for the inputs and an output; there is no output if it ignores that.
        before: writes what has to be at the output already.
        stdin: content of standard input; None closes it.
        writes: it writes the output.
        server: it runs until it is stopped.
        ending: of the output's name.
    """

    command: str
    words: Callable[[World, str], list[str | Path]]
    before: Callable[[Path], None] | None = None
    stdin: bytes | None = None
    writes: bool = True
    server: bool = False
    ending: str = ""

    def arguments(self, world: World, output: str) -> list[str]:
        """The command and its arguments."""
        return [*self.command.split(), *map(str, self.words(world, output))]


def _user(path: Path) -> None:
    from app.accounts import add_user

    add_user(path, "somebody", "a long password")


def _key(path: Path) -> None:
    from app.service.keys import add_key

    add_key(path, "somebody", per_minute=1, at_once=1, admin=False)


def _document(path: Path) -> None:
    small_files.dicom(path)


_PRETRAINING = [
    "model.hidden_size=24", "model.num_hidden_layers=2", "model.num_attention_heads=2", "model.image_size=28",
    "data.size=56", "data.workers=0", "crops.global_size=28", "crops.local_size=14", "crops.local_crops=2",
    "head.prototypes=32", "head.hidden_size=16", "head.bottleneck=8", "optimization.batch_size=4",
    "optimization.steps=2", "optimization.warmup_steps=1", "optimization.freeze_last_layer_steps=1",
    "engine.checkpoint_every=1", "engine.log_every=1",
]  # fmt: skip
_TRAINING = [
    "optimization.batch_size=4", "optimization.micro_batch_size=4", "optimization.epochs=1", "engine.log_every=1",
    "evaluation.samples=0", "data.max_length=512",
]  # fmt: skip
_SEGMENT = ["--no-augment", "--epochs", "1", "--batch-size", "6", "--device", "cpu", "--overlays", "0"]


def _probe(world: World, output: str, labels: Path, recipe: str = "rad-dino-28") -> list[str | Path]:
    return ["--data", labels, "--encoder", world.encoder, "--recipe", recipe, "-o", output]


CALLS = {
    "generate": Call("generate", lambda w, o: [w.image, "--model", w.model, "-f", "json", "-o", o]),
    "generate fhir": Call("generate", lambda w, o: [w.image, "--model", w.model, "-f", "fhir", "-o", o]),
    "generate jsonl": Call("generate", lambda w, o: [w.image, "--model", w.model, "-f", "jsonl", "-o", o]),
    "inspect": Call("inspect", lambda w, o: [w.image, "--save-image", o]),
    "doctor": Call("doctor", lambda w, o: ["--model", w.model], writes=False),
    "assemble": Call(
        "assemble",
        lambda w, o: [o, "--encoder", f"{DEMO}/encoder", "--language-model", f"{DEMO}/language_model"],
    ),
    "convert": Call("convert", lambda w, o: [w.published, o, "--from", "llava-rad"]),
    "manifest": Call("manifest", lambda w, o: ["folder", w.pictures, "-o", o]),
    "reports": Call("reports", lambda w, o: ["table", w.reports, "-o", o], ending=".csv"),
    "evaluate": Call("evaluate", lambda w, o: [w.texts, w.texts, "--metrics", "rouge_l,rules", "-o", o]),
    "benchmark": Call(
        "benchmark",
        lambda w, o: ["--dataset", "csv", "--data", w.reports, "--model", w.model, "--metrics", "rouge_l,rules",
                      "--bootstrap", "20", "-o", o],
    ),
    "rexrank infer": Call(
        "rexrank infer",
        lambda w, o: ["--input_json_file", f"{Path(w.texts).parent}/studies.json", "--img_root_dir",
                      Path(w.image).parent, "--save_json_file", o, "--model", w.model],
        ending=".json",
    ),
    "embed": Call("embed", lambda w, o: [w.image, "--encoder", w.encoder, "--recipe", "rad-dino-28", "-o", o],
                  ending=".npz"),
    "pretrain": Call("pretrain", lambda w, o: ["-c", "tiny", *_PRETRAINING, f"data.folder={w.pictures}", "-o", o]),
    "train": Call(
        "train",
        lambda w, o: ["-c", "tiny", *_TRAINING, f"data.pairs=[{w.reports}]", f"model.checkpoint={w.model}", "-o", o],
    ),
    "serve": Call("serve", lambda w, o: ["--port", "0", "--model", w.model, "--data-dir", o], server=True),
    "api": Call("api", lambda w, o: ["--port", "0", "--model", w.model], writes=False, server=True),
    "user add": Call("user add", lambda w, o: ["other", "--auth-file", o], before=_user, stdin=b"another password\n"),
    "user remove": Call("user remove", lambda w, o: ["somebody", "--auth-file", o], before=_user),
    "key add": Call("key add", lambda w, o: ["other", "--keys", o], before=_key),
    "key remove": Call("key remove", lambda w, o: ["somebody", "--keys", o], before=_key),
    "probe linear": Call("probe linear", lambda w, o: [*_probe(w, o, w.labels), "--protocol", "logistic"]),
    "probe demographics": Call("probe demographics", lambda w, o: [*_probe(w, o, w.labels), "--all-images"]),
    "probe segment": Call("probe segment", lambda w, o: [*_probe(w, o, w.masks, "rad-dino-84"), *_SEGMENT]),
    "probe nnunet": Call("probe nnunet", lambda w, o: ["--data", w.masks, "--recipe", "rad-dino-84", "-o", o],
                         ending="/Dataset501_Squares"),
    "maps attention": Call(
        "maps attention", lambda w, o: [w.image, "--encoder", w.encoder, "--recipe", "rad-dino-28", "-o", o],
        ending=".png",
    ),
    "maps match": Call(
        "maps match",
        lambda w, o: [w.image, w.image, "--at", "0.5,0.5", "--encoder", w.encoder, "--recipe", "rad-dino-28", "-o", o],
        ending=".png",
    ),
    "pacs pull": Call("pacs pull", lambda w, o: ["--url", w.archive, "-o", o]),
    "pacs push": Call("pacs push", lambda w, o: [o, "--url", w.archive], before=_document, writes=False, ending=".dcm"),
    "pacs watch": Call("pacs watch", lambda w, o: ["--once", "--url", w.archive, "--model", w.model, "-o", o]),
}  # fmt: skip
"""By name: the command, and a form of it where there are several."""


def commands() -> Iterator[str]:
    """The commands of the command line, by their words."""
    from typer.main import get_command

    from llava_rad.cli import app

    def below(command: Any, words: list[str]) -> Iterator[str]:
        if inner := getattr(command, "commands", None):
            for name, one in inner.items():
                yield from below(one, [*words, name])
        else:
            yield " ".join(words)

    return below(get_command(app), [])


def inputs(world: World) -> dict[str, bytes]:
    """Content of every input, by its path."""
    paths = [path for path in sorted(world.folder.rglob("*")) if path.is_file()]
    own = world.folder / OUTPUTS
    return {str(path): path.read_bytes() for path in paths if not path.is_relative_to(own)}
