"""Probes of frozen encoders on a manifest, which the subcommands of ``llava-rad probe`` run for each encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from encoder.errors import LlavaRadError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from accelerate import Accelerator

    from encoder.backbones.base import FrozenEncoder
    from encoder.datasets.manifest import Row
    from encoder.files import Digests
    from encoder.preprocessing import Recipe
    from encoder.probing.segmentation.data import SegmentationSet
    from encoder.probing.segmentation.model import SegmentationConfig
    from encoder.probing.segmentation.train import Options
    from encoder.probing.vectors import Unreadable

Protocol = Literal["paper", "cached", "logistic"]
_CHECKED = 64  # as many as of images
_LISTED = 5
Progress = Callable[[str, int], Callable[[int], None]]


def load_encoders(
    named: list[str], recipe: str | None, *, offline: bool
) -> Iterator[tuple[str, FrozenEncoder, Recipe, str]]:
    """Load encoders one after the other; yield name, encoder, recipe and what identifies encoder and recipe."""
    from encoder.backbones.loading import load_encoder
    from encoder.preprocessing import recipe_named
    from encoder.probing.vectors import model_key
    from llava_rad.probes.folder import ProbeFolder

    seen: set[str] = set()  # names of files, which are those of results, predictions and heads
    for argument in named:
        name, equals, source = argument.partition("=")
        if not equals or "/" in name:
            name, source = (argument if "/" not in argument else Path(argument).name), argument
        if (slug := ProbeFolder.slug(name)) in seen:
            raise LlavaRadError(
                f"two encoders are called {name!r}, or alike in names of files",
                hint="name them: --encoder NAME=ENCODER",
            )
        seen.add(slug)
        model = load_encoder(source, offline=offline)
        yield name, model, recipe_named(recipe or model.recipe), model_key(model) + (recipe or model.recipe)


def read_rows(files: list[Path]) -> list[Row]:
    """Read manifests.

    Raises:
        LlavaRadError: if an image is in two of them, or a subject in two splits.
    """
    from encoder.datasets.manifest import read_manifest
    from encoder.datasets.splits import disjoint

    rows: list[Row] = []
    places: dict[Path, tuple[int, int]] = {}
    for file, found in enumerate(map(read_manifest, files), 1):
        for row in found:
            first, number = places.setdefault(row.path, (file, row.number))
            if first != file:
                raise LlavaRadError(
                    f"row {number} of manifest {first} and row {row.number} of manifest {file} are the same image",
                    hint="name each manifest once, and leave one of the rows out",
                )
        rows += found
    disjoint(rows)
    return rows


def dataset_of(rows: list[Row]) -> str:
    names = {row.dataset for row in rows}
    return names.pop() if len(names) == 1 else ""


def digest_of(rows: list[Row]) -> str:
    lines = (f"{row.dataset}/{row.image or row.path.name}/{row.split}/{dict(row.labels)}" for row in rows)
    return _hashed(lines)


def details_of(rows: list[Row]) -> str:
    """SHA-256 of what else results depend on: file names, subjects, attributes and masks. Folders may move."""
    masks = ([(name, path.name) for name, path in row.masks.items()] for row in rows)
    return _hashed(
        f"{row.path.name}/{row.subject}/{dict(row.attributes)}/{named}{_changed(row)}"
        for row, named in zip(rows, masks, strict=True)
    )


def _changed(row: Row) -> str:
    return f"/{row.changes}" if row.changes else ""


def contents_of(rows: Sequence[Row], digests: Digests, progress: Progress, structures: Sequence[str] = ()) -> str:
    """SHA-256 of the contents of the image files, and of the files of the masks of some structures."""
    wanted = [[row.path, *(row.masks[name] for name in structures if name in row.masks)] for row in rows]
    paths = [path for some in wanted for path in some]
    return _hashed(digests.of(paths, progress("files", len(paths))))


def check_masks(rows: Sequence[Row], structures: Sequence[str], recipe: Recipe) -> str:
    """Read some of the images that have masks, spread evenly, with these masks; describe the result in a line.

    Args:
        rows: of the manifest.
        structures: names of masks.
        recipe: of the images.

    Raises:
        LlavaRadError: if no row has a mask of a structure.
    """
    from encoder.probing.segmentation.data import read_segmentation_set
    from encoder.probing.vectors import Unreadable

    masked = [row for row in rows if any(name in row.masks for name in structures)]
    count = min(len(masked), _CHECKED)
    spread = [masked[number * len(masked) // count] for number in range(count)]
    firsts = {name: row for row in reversed(masked) for name in row.masks}
    some = list({row.path: row for row in (*spread, *(firsts[name] for name in structures if name in firsts))}.values())
    left_out = Unreadable(len(some), 1.0)
    read_segmentation_set(some, recipe, structures, unreadable=left_out)
    bad = left_out.lines()
    line = f"masks       {len(some) - len(bad):,} of {len(some):,} images were read with their masks"
    return f"{line}; not {'; '.join(bad[:_LISTED])}{'; ...' if len(bad) > _LISTED else ''}" if bad else line


def _hashed(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


@dataclass(frozen=True)
class Vectors:
    """Computation of image vectors.

    Attributes:
        cache: folder for vectors and prepared images.
        batch_size: images of the encoder at a time.
        device: of the encoder.
        dtype: of the encoder.
        unreadable: collects images that cannot be read.
        digests: of the image files.
    """

    cache: Path
    batch_size: int
    device: str
    dtype: torch.dtype
    unreadable: Unreadable
    digests: Digests

    def __call__(
        self, encoder: FrozenEncoder, rows: Sequence[Row], recipe: Recipe, progress: Callable[[int], None]
    ) -> npt.NDArray[np.float32]:
        """Compute the vectors [N, D] of N images, or take them from the cache; NaN for those that cannot be read."""
        from encoder.probing.vectors import vectors

        return vectors(
            encoder, rows, recipe, cache=self.cache, batch_size=self.batch_size, device=self.device, dtype=self.dtype,
            progress=progress, unreadable=self.unreadable, digests=self.digests,
        )  # fmt: skip


def demographics(
    encoder: FrozenEncoder,
    rows: Sequence[Row],
    recipe: Recipe,
    vectors: Vectors,
    variables: Sequence[str],
    seed: int,
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """Predict attributes of the patients; variable -> facts of its DemographicsResult."""
    from encoder.probing.demographics import demographics as accuracy

    found = vectors(encoder, rows, recipe, progress("vectors", len(rows)))
    found = found[[row.path not in vectors.unreadable.reasons for row in rows]]
    rows = [row for row in rows if row.path not in vectors.unreadable.reasons]
    return {one: asdict(accuracy(rows, found, one, seed=seed)) for one in variables}


def processes() -> Accelerator | None:
    """Join the processes that torchrun or ``accelerate launch`` has started; None where there is one."""
    import os

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    from encoder.runs.distributed import start

    return start(bf16=False)


def first_of(accelerator: Accelerator | None) -> bool:
    """Tell whether this is the process that writes."""
    return accelerator is None or bool(accelerator.is_main_process)


def agreed(accelerator: Accelerator | None, value: Any) -> Any:
    """Return the first process's value on every process."""
    if accelerator is None:
        return value
    from accelerate.utils import broadcast_object_list

    found: list[Any] = broadcast_object_list([value])
    return found[0]


def micro_batch(
    config: SegmentationConfig, width: int, side: int, recipe: Recipe, kinds: int, device: str,
    asked: int | None = None, accelerator: Accelerator | None = None,
) -> tuple[int, str]:  # fmt: skip
    """Choose the images that go through a head at a time.

    Args:
        config: of the training.
        width: D, of the encoder's features.
        side: patches per side.
        recipe: of the images.
        kinds: number of structures.
        device: of the head.
        asked: number of images; None chooses as many as fit.
        accelerator: of several processes, which share the batch.

    Returns:
        The number, and a description of the step's memory with a warning if it does not fit.
    """
    import os

    from encoder.probing.segmentation.memory import step_memory
    from encoder.runs.preflight import available_memory
    from encoder.units import gigabytes

    memory = step_memory(config, width, side, recipe.size, kinds)
    batch, free = config.batch_size, float(available_memory(device))
    if accelerator is not None:
        from accelerate.utils import gather_object

        batch = -(-batch // accelerator.num_processes)
        free = min(gather_object([free]))
        free /= 1 if device.startswith("cuda") else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    chosen = asked if asked and not memory.together else memory.largest(free, batch)
    text = memory.text(chosen, batch)
    if memory.needed(chosen, batch) > free:
        text += f"; {gigabytes(free)} are free"
    return asked or chosen, text


@dataclass(frozen=True)
class Sets:
    """Images and masks of different subjects, prepared by one recipe."""

    train: SegmentationSet
    val: SegmentationSet
    test: SegmentationSet


def digest_of_predictions(folders: Sequence[Path]) -> str:
    """SHA-256 of the files of nnU-Net's predictions."""
    from encoder.files import sha256_of

    files = [file for folder in folders for file in sorted(folder.glob("*.png")) + sorted(folder.glob("dataset.json"))]
    return _hashed(f"{file.name} {sha256_of(file)}" for file in files)


def external(
    sets: Sets, folders: Sequence[Path], structures: Sequence[str], attributes: Sequence[str], minimum: int
) -> dict[str, Any]:
    """Score predictions of nnU-Net on the test images.

    Args:
        sets: images, prepared as those that nnU-Net got.
        folders: of predictions, of different structures.
        structures: names of masks.
        attributes: of patients, to group by.
        minimum: images from which on a group can be the worst.

    Raises:
        LlavaRadError: if the predictions are not of these structures, images and splits.
    """
    import numpy as np

    from encoder.probing.segmentation.evaluate import score
    from encoder.probing.segmentation.nnunet import read_predictions

    found: dict[str, npt.NDArray[np.bool_]] = {}
    for folder in folders:
        named, masks = read_predictions(folder, sets.train, sets.val, sets.test)
        if odd := [name for name in named if name in found]:
            raise LlavaRadError(f"two folders of nnU-Net's predictions have {odd[0]!r}")
        found |= {name: masks[:, number] for number, name in enumerate(named)}
    if missing := [name for name in structures if name not in found]:
        raise LlavaRadError(f"nnU-Net's predictions lack {missing[0]!r}")
    masks = np.stack([found[name] for name in structures], axis=1)
    test = sets.test.select(structures)
    return score(test, lambda numbers: masks[numbers], attributes=attributes, minimum=minimum).to_dict()


def segmentation(
    sets: Sets,
    encoder: FrozenEncoder | None,
    recipe: Recipe,
    structures: Sequence[str],
    config: SegmentationConfig,
    *,
    folder: Path,
    attributes: Sequence[str],
    minimum: int,
    few_shot: Sequence[int],
    overlays: int,
    device: str,
    progress: Progress,
    options: Options,
) -> dict[str, Any]:
    """Train one head on one encoder and evaluate it; of several processes, each gets the result, the first one draws.

    Args:
        sets: images.
        encoder: frozen; None for the U-Net.
        recipe: of the images.
        structures: names of masks.
        config: of the training.
        folder: for checkpoints, the head and overlays.
        attributes: of patients, to group by.
        minimum: images from which on a group can be the worst.
        few_shot: numbers of training images of the few-shot curve; empty for none.
        overlays: number of test images that are drawn.
        device: of encoder and head.
        progress: function from a task's name and number of steps to a function that is called with completed steps.
        options: how the training is computed.
    """
    from encoder.probing.segmentation.evaluate import evaluate
    from encoder.probing.segmentation.evaluate import few_shot as curve
    from encoder.probing.segmentation.model import keep_inputs, predict
    from encoder.probing.segmentation.overlays import overlay_sheet, write_png
    from encoder.probing.segmentation.train import head_layers, train_segmentation

    kept = None
    if encoder is not None and config.augmentation is None:  # then one pass of the encoder serves everything below
        parts = [part.images for part in (sets.train, sets.val, sets.test)]
        kept = keep_inputs(parts, encoder.to(device), recipe, head_layers(config), device, gib=config.cache_gib)
    epochs = progress(f"epochs ({config.head})", config.epochs)
    segmenter = train_segmentation(
        sets.train, sets.val, encoder, recipe, structures, config, lambda epoch: epochs(1),
        folder=folder, device=device, inputs=None if kept is None else (kept[0], kept[1]), options=options,
    )  # fmt: skip
    judged = None if kept is None else kept[2]
    found = evaluate(
        segmenter, encoder, sets.test, attributes=attributes, minimum=minimum, device=device, inputs=judged
    ).to_dict()
    if overlays and first_of(options.accelerator):
        import numpy as np

        chosen = np.arange(min(overlays, len(sets.test)))
        masks = predict(
            segmenter,
            encoder,
            sets.test.images[chosen],
            device=device,
            inputs=None if judged is None else judged.subset(chosen),
        )
        write_png(overlay_sheet(sets.test.images[chosen], sets.test.masks(chosen), masks), folder / "overlays.png")
    if few_shot:
        told = progress("few-shot runs", 3 * (1 + sum(number < len(sets.train) for number in few_shot)))
        points = curve(
            sets.train, sets.val, sets.test, encoder, recipe, structures, config, numbers=few_shot, device=device,
            progress=lambda point: told(1), inputs=kept, options=options,
        )  # fmt: skip
        found["few_shot"] = [point.to_dict() for point in points]
    return found
