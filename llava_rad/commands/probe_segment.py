"""``llava-rad probe segment`` and ``probe nnunet``: segmentation on frozen features, and what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from encoder.errors import LlavaRadError
from llava_rad.commands import options as opt
from llava_rad.commands.console import bar, note
from llava_rad.commands.probe import (
    Data,
    MaxUnreadable,
    Output,
    Overwrite,
    RecipeName,
    Validate,
    check_rate,
    choose_device,
    finish,
    names,
    report_sizes,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

    from encoder.backbones.base import FrozenEncoder, Sizes
    from encoder.datasets.manifest import Row
    from encoder.preprocessing import Recipe
    from encoder.probing.vectors import Unreadable
    from llava_rad.probes.probing import Sets

Structures = Annotated[str, typer.Option(help="Comma-separated names of masks. Default: all.", metavar="NAMES")]
Absent = Annotated[bool, typer.Option("--absent", help="Treat a structure without a mask as absent (CANDID-PTX).")]
_RECIPE = "rad-dino"  # of what has no encoder


@dataclass
class _Images:
    """The images of a manifest, prepared by one recipe at a time."""

    parts: tuple[list[Row], list[Row], list[Row]]
    structures: list[str]
    absent: bool
    unreadable: Unreadable
    show: Callable[[str, int], Callable[[int], None]]
    tell: Callable[[str], None]

    def __post_init__(self) -> None:
        self._read: dict[str, Sets] = {}

    def __call__(self, recipe: Recipe) -> Sets:
        from encoder.probing.segmentation.data import read_segmentation_set
        from llava_rad.probes.probing import Sets

        if recipe.name not in self._read:
            self._read.clear()
            self._read[recipe.name] = Sets(
                *(
                    read_segmentation_set(
                        part,
                        recipe,
                        self.structures,
                        missing="empty" if self.absent else "unknown",
                        progress=self.show(f"images ({name})", len(part)),
                        unreadable=self.unreadable,
                    )
                    for name, part in zip(("train", "val", "test"), self.parts, strict=True)
                )
            )
            _check_masks(self._read[recipe.name], self.tell)
        return self._read[recipe.name]


@dataclass(frozen=True)
class _Processes:
    """Role of this process among several: all compute, only the first writes files and messages."""

    accelerator: Accelerator | None

    @property
    def first(self) -> bool:
        from llava_rad.probes.probing import first_of

        return first_of(self.accelerator)

    def tell(self, message: str) -> None:
        if self.first:
            note(message)

    def show(self, what: str, total: int) -> Callable[[int], None]:
        return bar(what, total) if self.first else lambda done: None

    def once(self, compute: Callable[[], Any]) -> Any:
        """Compute a value in the first process for all."""
        from llava_rad.probes.probing import agreed

        return agreed(self.accelerator, compute() if self.first else None)


def segment(
    context: typer.Context,
    data: Data,
    output: Output,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            help="Repeatable; see below. The head unet needs none.", metavar="[NAME=]ENCODER", show_default=False
        ),
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(help="linear, vitdet, upernet, unet (end to end, without encoder); repeatable.", metavar="HEAD"),
    ] = None,
    unet_weights: Annotated[
        Path | None,
        typer.Option(
            help="ImageNet weights that the U-Net starts from: model.safetensors of smp-hub/efficientnet-b6.imagenet.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    nnunet: Annotated[
        list[Path] | None,
        typer.Option(
            help="Predictions of nnU-Net for a data set of 'llava-rad probe nnunet', a row of its own; repeatable.",
            metavar="DIR",
            show_default=False,
        ),
    ] = None,
    structures: Structures = "",
    absent: Absent = False,
    target: Annotated[
        str | None,
        typer.Option(
            help="Structure whose published numbers are shown: lungs, lung zones, pneumothorax, chest tubes, ribs.",
            show_default=False,
        ),
    ] = None,
    strata: Annotated[
        str, typer.Option(help="Comma-separated attributes of patients to group by.", metavar="NAMES")
    ] = "",
    min_group: Annotated[
        int, typer.Option(min=1, help="Images from which on a group of --strata can be the worst one.")
    ] = 30,
    few_shot: Annotated[
        str, typer.Option(help="Numbers of training images of the few-shot curve, e.g. 1,5,20.", metavar="NUMBERS")
    ] = "",
    epochs: Annotated[int, typer.Option(min=1, help="Training epochs.")] = 100,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per training step.")] = 80,
    micro_batch: Annotated[
        str,
        typer.Option(
            help="Images that go through the head at a time, on each process; the gradient is that of the whole batch. "
            "auto: as many as fit into memory.",
            metavar="N|auto",
        ),
    ] = "auto",
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that augment images, for each training process; 0 for none.")
    ] = 0,
    learning_rate: Annotated[float, typer.Option(help="Initial learning rate of Adam.")] = 5e-4,
    augment: Annotated[
        bool,
        typer.Option("--augment/--no-augment", help="Without augmentation features are computed once: much faster."),
    ] = True,
    channels: Annotated[
        int | None,
        typer.Option(min=1, help="Channels of the head's layers. Default: as in the paper.", show_default=False),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Precision of the head's products; bf16 is faster.", metavar="float32|bf16")
    ] = "float32",
    overlays: Annotated[int, typer.Option(min=0, help="Number of test images drawn with their masks.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training.")] = 0,
    recipe: RecipeName = None,
    device: opt.Device = "auto",
    offline: opt.Offline = False,
    max_unreadable: MaxUnreadable = 0.01,
    validate: Validate = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a segmentation head on frozen features; print Dice of each structure.

    Under torchrun, processes share each batch: torchrun --nproc-per-node 8 --no-python llava-rad probe segment ...
    """
    from encoder.datasets.splits import disjoint_contents
    from encoder.files import DIGESTS, Digests, sha256_of
    from encoder.preprocessing import recipe_named
    from encoder.probing.heads import HEADS, WEIGHTS, UNet
    from encoder.probing.published import TARGETS
    from encoder.probing.segmentation.data import by_split
    from encoder.probing.segmentation.model import SegmentationConfig
    from encoder.probing.segmentation.train import Options
    from encoder.probing.vectors import Unreadable
    from llava_rad.outputs.files import held_folder
    from llava_rad.probes import probing
    from llava_rad.probes.folder import ProbeFolder, bars, image_notes, segmentation_bars, segmentation_table

    check_rate(learning_rate)
    heads = head or ([] if nnunet and not encoder else ["linear"])
    if odd := [name for name in heads if name not in HEADS]:
        raise typer.BadParameter(f"there is no {odd[0]!r}; choose from {', '.join(HEADS)}", param_hint="--head")
    if target is not None and target not in TARGETS:
        raise typer.BadParameter(f"choose from {', '.join(TARGETS)}", param_hint="--target")
    if not encoder and set(heads) - {"unet"}:
        raise typer.BadParameter("a head other than unet needs an encoder", param_hint="--encoder")
    if unet_weights is not None and "unet" not in heads:
        raise typer.BadParameter("these are for --head unet", param_hint="--unet-weights")
    if unet_weights is not None and not unet_weights.is_file():
        raise LlavaRadError("the file of the U-Net's weights does not exist", hint=WEIGHTS)
    numbers, at_a_time = _numbers(few_shot), _micro(micro_batch)
    if "unet" in heads and at_a_time is not None and at_a_time < min(batch_size, UNet.together):
        raise typer.BadParameter(
            f"the U-Net's batch statistics are of {UNet.together} images, which go through it together",
            param_hint="--micro-batch",
        )
    rows = probing.read_rows(data)
    parts = by_split(rows, seed=seed)
    wanted = names(structures) or sorted({name for row in rows for name in row.masks})
    for name in names(strata):
        if not any(name in row.attributes for row in rows):
            raise LlavaRadError(f"no image of the manifest has the attribute {name!r}")
    base = SegmentationConfig(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed, channels=channels,
        precision=precision,  # type: ignore[arg-type]
    )  # fmt: skip
    base = base if augment else replace(base, augmentation=None)
    configs = {name: replace(base, head=name) for name in heads}
    image_net = "" if unet_weights is None else sha256_of(unet_weights)
    if image_net:
        configs["unet"] = replace(configs["unet"], image_net=image_net)
    settings = {
        "probe": "segment", "config": base.to_dict() | {"head": None}, "structures": wanted,
        "absent": absent, "strata": names(strata), "min_group": min_group, "few_shot": numbers,
        "images": probing.digest_of(rows), "recipe": recipe, "details": probing.details_of(rows),
    }  # fmt: skip
    bare = recipe_named(recipe or _RECIPE)
    used = [row for part in parts for row in part]
    together = _Processes(None if validate else probing.processes())
    device = choose_device(device) if together.accelerator is None else str(together.accelerator.device)

    def step(which: str, width: int, side: int, way: Recipe) -> tuple[int, str]:
        return probing.micro_batch(
            configs[which], width, side, way, len(wanted), device, at_a_time, together.accelerator
        )

    if validate:
        lines = [f"images      {len(parts[0]):,} train, {len(parts[1]):,} val, {len(parts[2]):,} test"]
        lines.append(f"structures  {', '.join(wanted)}")
        lines.append(probing.check_masks(used, wanted, bare))
        if "unet" in heads:
            lines.append(f"memory      unet: {step('unet', 0, 0, bare)[1]}")

        def describe(found: Sizes, way: Recipe) -> Iterator[str]:
            for which in heads:
                if which != "unet":
                    side = way.size // found.patch_size
                    yield f"memory      {which}: {step(which, found.config['hidden_size'], side, way)[1]}"

        report_sizes(lines, used, encoder or [], recipe, max_unreadable, offline=offline, describe=describe)
        return
    digests = Digests(output / DIGESTS)
    contents = probing.contents_of(used, digests, together.show, wanted)
    disjoint_contents(used, digests.of([row.path for row in used]))
    folder = ProbeFolder(output, settings | {"contents": contents})
    if together.first:
        context.with_resource(held_folder(output))
    together.once(lambda: folder.open(overwrite=overwrite))
    left_out = Unreadable(len(used), max_unreadable)
    images = _Images(parts, wanted, absent, left_out, together.show, together.tell)
    found: dict[str, Any] = {}

    def keep(called: str, weights: str, compute: Callable[[], dict[str, Any]], way: Recipe) -> None:
        kept = together.once(lambda: folder.known(called, weights))
        # earlier results name a worst group of any size
        if kept is None or any("minimum" not in groups for groups in kept["groups"].values()):
            sets = images(way)
            together.once(digests.save)
            facts = compute() | {
                "sizes": [len(sets.train), len(sets.val), len(sets.test)],
                "unreadable": left_out.lines(), "doubtful": left_out.findings(),
            }  # fmt: skip
            kept = together.once(lambda: folder.keep(called, weights, facts))
        found[called] = kept

    def judged(name: str, which: str, model: FrozenEncoder | None, way: Recipe, weights: str) -> None:
        called = f"{name}, {which}"

        def train() -> dict[str, Any]:
            width, side = (0, 0) if model is None else (model.width, way.size // model.patch_size)
            chosen, text = step(which, width, side, way)
            together.tell(f"memory of a step ({called}): {text}")
            return probing.segmentation(
                images(way), model, way, wanted, configs[which],
                folder=together.once(lambda: folder.work(called, weights)), device=device, attributes=names(strata),
                minimum=min_group, few_shot=numbers, overlays=overlays, progress=together.show,
                options=Options(
                    micro_batch=chosen, workers=workers, accelerator=together.accelerator,
                    image_net=unet_weights if which == "unet" else None,
                ),
            )  # fmt: skip

        keep(called, weights, train, way)

    for name, model, way, weights in probing.load_encoders(encoder or [], recipe, offline=offline):
        for which in heads:
            if which != "unet":
                judged(name, which, model, way, weights)
    if "unet" in heads:
        start = "not ImageNet-initialised" if unet_weights is None else f"from {unet_weights.stem}"
        judged(f"U-Net {start}", "unet", None, bare, f"unet {recipe} {image_net} statistics of groups")
    if nnunet:
        weights = f"nnunet {recipe} {probing.digest_of_predictions(nnunet)}"
        keep(
            "nnU-Net, external", weights,
            lambda: probing.external(images(bare), nnunet, wanted, names(strata), min_group), bare,
        )  # fmt: skip
    if together.first:
        sizes = tuple(next(iter(found.values())).get("sizes") or map(len, parts))
        result = segmentation_table(found, sizes, target)
        finish(folder, digests, result, bars(segmentation_bars(found), axis="Dice x 100"), image_notes(found))


def nnunet_dataset(
    context: typer.Context,
    data: Data,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder DatasetNNN_NAME of nnU-Net.", metavar="DIR", show_default=False),
    ],
    structures: Structures = "",
    absent: Absent = False,
    seed: Annotated[int, typer.Option(min=0, help="As for 'probe segment': draws a missing validation split.")] = 0,
    recipe: RecipeName = None,
    max_unreadable: MaxUnreadable = 0.01,
) -> None:
    """Write prepared images and masks as a data set of nnU-Net v2, with the splits of 'probe segment'."""
    from encoder.preprocessing import recipe_named
    from encoder.probing.segmentation.data import by_split
    from encoder.probing.segmentation.nnunet import check_folder, write_dataset
    from encoder.probing.vectors import Unreadable
    from llava_rad.outputs.files import held_folder
    from llava_rad.probes import probing

    context.with_resource(held_folder(output))
    check_folder(output)
    rows = probing.read_rows(data)
    parts = by_split(rows, seed=seed)
    wanted = names(structures) or sorted({name for row in rows for name in row.masks})
    unreadable = Unreadable(sum(map(len, parts)), max_unreadable)
    sets = _Images(parts, wanted, absent, unreadable, bar, note)(recipe_named(recipe or _RECIPE))
    written = write_dataset(sets.train, sets.val, sets.test, output)
    number = int(output.name[7:10])
    note(", ".join(f"{count:,} {what}" for what, count in written.items()) + f": {output}")
    note(
        f"then: nnUNetv2_plan_and_preprocess -d {number} -c 2d; copy splits_final.json to nnUNet_preprocessed/"
        f"{output.name}; nnUNetv2_train {number} 2d 0; nnUNetv2_predict -d {number} -c 2d -f 0 -i "
        f"{output.name}/imagesTs -o PREDICTIONS; llava-rad probe segment ... --nnunet PREDICTIONS"
    )


def _check_masks(sets: Sets, tell: Callable[[str], None]) -> None:
    """Say before the training which structures have no pixel in a split.

    Raises:
        LlavaRadError: if no test image has a pixel of any structure.
    """
    for split, part in (("training", sets.train), ("validation", sets.val), ("test", sets.test)):
        empty = part.empty()
        if part is sets.test and len(empty) == len(part.structures):
            raise LlavaRadError(
                f"all masks of the {len(part):,} test images are empty: there would be nothing to score",
                hint="look at the masks of the split test, or divide the images anew",
            )
        if empty:
            tell(f"warning: all masks of the {split} images are empty for {', '.join(empty)}")


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in names(text)]
    except ValueError:
        numbers = [0]
    if any(number < 1 for number in numbers):
        raise typer.BadParameter("comma-separated numbers of images", param_hint="--few-shot")
    return numbers


def _micro(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or not int(text):
        raise typer.BadParameter("a number of images, or auto", param_hint="--micro-batch")
    return int(text)
