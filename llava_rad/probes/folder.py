"""The results folder of a probe: one file per completed encoder, and tables and a plot of all encoders."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from encoder.errors import LlavaRadError
from encoder.files import DIGESTS, check_writable
from encoder.json_files import read_json
from encoder.probing.published import ACCURACY, DICE, WORST_GROUP, Columns
from encoder.reader.information import summary
from llava_rad.outputs.files import OutputError, write_whole
from metrics.tables import Cells, aligned, latex, markdown

MACRO: Final = "macro"
_LISTED = 5
NOTICE: Final = "Probes of image encoders' features. Research use only. Not for clinical use."


@dataclass(frozen=True)
class ProbeTable:
    """A table with a heading and notes, and another one that follows it."""

    heading: str
    cells: Cells
    notes: tuple[str, ...] = ()
    then: ProbeTable | None = None

    def text(self) -> str:
        """Format the table in columns of spaces."""
        text = "\n".join([self.heading, aligned(self.cells), *self.notes]) + "\n"
        return text if self.then is None else f"{text}\n{self.then.text()}"

    def markdown(self) -> str:
        """Format the table in Markdown."""
        notes = "".join(f"\n- {note}" for note in self.notes)
        text = f"# {self.heading}\n\n*{NOTICE}*\n\n{markdown(self.cells)}\n{notes}\n"
        return text if self.then is None else f"{text}\n{self.then.markdown()}"

    def latex(self) -> str:
        """Format the table in LaTeX."""
        comments = "".join(f"% {note}\n" for note in (NOTICE, self.heading, *self.notes))
        text = f"{comments}{latex(self.cells)}\n"
        return text if self.then is None else f"{text}\n{self.then.latex()}"


@dataclass(frozen=True)
class ProbeFolder:
    """The results folder. The same command again computes only missing results.

    Attributes:
        path: of the folder.
        settings: everything that the numbers depend on, except the encoder.
    """

    path: Path
    settings: Mapping[str, Any]

    def open(self, *, overwrite: bool) -> None:
        """Check that the folder is free or has the same settings; nothing is written before there is something to keep.

        What a start with other settings has left is removed if it ended without a result. Settings that an earlier
        version did not keep are not compared; :meth:`known` passes over its results, which may be of other files.

        Raises:
            OutputError: if it holds something else, or cannot be written to.
        """
        if self.path.exists() and (self.path.is_symlink() or not self.path.is_dir()):
            raise OutputError("the results folder is a file or a link")
        try:
            check_writable(self.path)
        except LlavaRadError as error:
            raise OutputError(str(error)) from None
        names = {path.name for path in self.path.iterdir()} if self.path.is_dir() else set()
        if names <= {"vectors", DIGESTS}:
            return
        try:
            before = read_json(self.path / "run.json")
        except (OSError, ValueError):
            raise OutputError("the folder is not empty and holds no results of a probe") from None
        now = json.loads(json.dumps(self.settings))
        if not isinstance(before, dict) or before != {key: now[key] for key in now if key in before}:
            if not overwrite and any((self.path / "encoders").glob("*.json")):
                old = before if isinstance(before, dict) else {}
                changed = [key for key in now if old.get(key) != now[key]] == ["contents"]
                raise OutputError(
                    "the results folder holds a probe of image files that have changed since"
                    if changed
                    else "the results folder holds a probe with other data or settings",
                    hint="name another, or --overwrite to replace it",
                )
            for name in ("encoders", "work", "predictions", "heads"):
                shutil.rmtree(self.path / name, ignore_errors=True)

    def known(self, encoder: str, identity: str | None) -> dict[str, Any] | None:
        """Read the result of an encoder; None if there is none for the same encoder and the same contents of files.

        Args:
            encoder: name.
            identity: of weights, configuration and recipe; None accepts every one.
        """
        try:
            found: dict[str, Any] = read_json(self.path / "encoders" / f"{self.slug(encoder)}.json")
        except (OSError, ValueError):
            return None
        key = self._key(encoder, found.get("weights", "") if identity is None else identity)
        return found if found.items() >= key.items() else None

    def keep(self, encoder: str, identity: str, found: Mapping[str, Any]) -> dict[str, Any]:
        """Write the result of an encoder."""
        content = {"notice": NOTICE, **self._key(encoder, identity), **found}
        self.write("run.json", _json(self.settings))
        self.write(f"encoders/{self.slug(encoder)}.json", _json(content))
        return content

    @staticmethod
    def slug(name: str) -> str:
        """Turn a name into that of a file."""
        return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:80] or "encoder"

    def _key(self, encoder: str, identity: str) -> dict[str, Any]:
        return {"encoder": encoder, "weights": identity, "contents": self.settings["contents"]}

    def work(self, encoder: str, identity: str) -> Path:
        """Create the folder for checkpoints and pictures of an encoder's head."""
        folder = self.path / "work" / f"{self.slug(encoder)}-{identity[:8]}"
        self.write("run.json", _json(self.settings))
        _make(folder)
        return folder

    def finish(self, table: ProbeTable, figure: bytes | None) -> None:
        """Write the tables, the plot and the environment."""
        self.write("run.json", _json(self.settings))
        self.write("table.md", table.markdown().encode())
        self.write("table.tex", table.latex().encode())
        if figure is not None:
            self.write("figure.svg", figure)
        self.write("environment.json", _json(_environment()))

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the folder."""
        target = self.path / name
        _make(target.parent)
        write_whole(target, data, overwrite=True)


def bars(values: Mapping[str, Mapping[str, tuple[float, float]]], *, axis: str) -> bytes | None:
    """Plot mean and standard deviation of each row and encoder as bars, in SVG; None without matplotlib.

    Args:
        values: encoder -> row -> (mean, standard deviation), times 100.
        axis: label of the axis.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        return None
    import io

    rows = list(next(iter(values.values())))
    with matplotlib.rc_context({"svg.hashsalt": "llava-rad", "font.size": 9, "svg.fonttype": "none"}):
        figure = Figure(figsize=(7.5, 1.2 + 0.22 * len(rows) * (len(values) + 1)), layout="constrained")
        FigureCanvasSVG(figure)
        axes: Any = figure.subplots()
        height = 0.8 / len(values)
        for number, (encoder, found) in enumerate(values.items()):
            places = [row + (number - (len(values) - 1) / 2) * height for row in range(len(rows))]
            means, spreads = ([found[row][part] for row in rows] for part in (0, 1))
            axes.barh(places, means, height * 0.95, xerr=spreads, label=encoder, color=f"C{number}", alpha=0.8)
        axes.set_yticks(range(len(rows)), rows)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel(axis)
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def image_notes(found: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Say how many images were left out because they cannot be read, and how many are doubtful.

    Args:
        found: encoder -> facts with ``unreadable`` and ``doubtful``.
    """
    doubtful: list[Any] = next((one["doubtful"] for one in found.values() if one.get("doubtful")), [])
    return tuple(filter(None, (_unreadable_note(found), summary(one["finding"] for one in doubtful))))


def _unreadable_note(found: Mapping[str, Mapping[str, Any]]) -> str:
    lines: list[str] = next((one["unreadable"] for one in found.values() if one.get("unreadable")), [])
    shown = "; ".join(lines[:_LISTED]) + ("; ..." if len(lines) > _LISTED else "")
    return f"Left out, since they cannot be read: {len(lines):,} images ({shown})." if lines else ""


def linear_bars(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, tuple[float, float]]]:
    """AUROC of each label and encoder, for :func:`bars`."""
    return {
        name: {label: _moments(values) for label, values in {**one["auroc"], MACRO: one["macro"]["auroc"]}.items()}
        for name, one in found.items()
    }


def demographics_table(found: Mapping[str, Mapping[str, Any]], *, all_images: bool, images: str) -> ProbeTable:
    """Tabulate accuracy as mean (standard deviation over folds) for each variable and encoder.

    Args:
        found: encoder -> {"variables": {variable -> facts of a DemographicsResult}}.
        all_images: images with findings are included.
        images: numbers of images and patients by split.
    """
    cells = [["variable", "images", "subjects", "most frequent class", *found, "paper: RAD-DINO", "paper: BiomedCLIP"]]
    first = next(iter(found.values()))["variables"]
    for variable, one in first.items():
        numbers = [mean_sd(other["variables"][variable]["accuracy"]) for other in found.values()]
        papers = [
            f"{row[variable].mean:.1f} ({row[variable].sd:.1f})"
            for row in (ACCURACY["RAD-DINO"], ACCURACY["BiomedCLIP"])
        ]
        counts = [f"{one['images']:,}", f"{one['subjects']:,}"]
        cells.append([variable, *counts, mean_sd(one["most_frequent"]), *numbers, *papers])
    which = "all images" if all_images else "images without findings"
    notes = (
        f"Accuracy x 100 on {which}, mean (standard deviation) of 5 folds that divide no subject; scikit-learn's "
        "LogisticRegression, at most 100 iterations (paper, E.3.4).",
        f"Images: {images}.",
        "The paper's numbers are of 60.1 thousand MIMIC-CXR images without findings.",
    )
    return ProbeTable("Demographics from image vectors", cells, notes)


def demographics_bars(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, tuple[float, float]]]:
    """Accuracy of each variable and encoder, for :func:`bars`."""
    return {
        name: {
            variable: (100 * statistics.mean(result["accuracy"]), 100 * statistics.stdev(result["accuracy"]))
            for variable, result in one["variables"].items()
        }
        for name, one in found.items()
    }


def segmentation_table(
    found: Mapping[str, Mapping[str, Any]], sizes: tuple[int, ...], target: str | None
) -> ProbeTable:
    """Tabulate Dice as mean (standard deviation) over images for each structure, head and encoder.

    Args:
        found: "encoder, head" -> facts of :func:`~llava_rad.probes.probing.segmentation`.
        sizes: training, validation and test images.
        target: structure of the paper's table 3 (``lungs``, ...) whose numbers are shown, or None.
    """
    cells = [["", "n", *found]]
    first = next(iter(found.values()))
    for structure in first["structures"]:
        scores = [one["structures"][structure] for one in found.values()]
        cells.append([structure, f"{scores[0]['images']:,}", *map(_dice_sd, scores)])
    cells.append(
        [
            "mean of each image",
            f"{first['together']['images']:,}",
            *(_dice_sd(one["together"]) for one in found.values()),
        ]
    )
    for attribute, groups in first["groups"].items():
        for name in groups["groups"]:
            scores = [one["groups"][attribute]["groups"][name] for one in found.values()]
            cells.append([f"{attribute} {name}", f"{scores[0]['images']:,}", *map(_dice_sd, scores)])
        worst = [one["groups"][attribute] for one in found.values()]
        cells.append([f"worst {attribute}", "", *map(_worst, worst)])
    parameters = (one["parameters"] for one in found.values())
    cells.append(["trainable parameters", "", *("" if number is None else f"{number:,}" for number in parameters)])
    for row in first.get("few_shot", ()):
        if row["seed"] == first["few_shot"][0]["seed"]:
            cells.append(
                [f"{row['images']:,} training images", "", *(_few_shot(one, row["images"]) for one in found.values())]
            )
    notes = [
        f"Dice x 100, mean (standard deviation) over test images that have the structure; {sizes[0]:,} training, "
        f"{sizes[1]:,} validation and {sizes[2]:,} test images of different subjects.",
    ]
    if first.get("few_shot"):
        notes.append("Few-shot rows: mean of each image's mean, lowest to highest of three draws.")
    if first["groups"]:
        minimum = next(iter(first["groups"].values()))["minimum"]
        notes.append(f"Worst group: among those of at least {minimum} images, if there are two.")
    if target is not None:
        notes.append(f"Paper (table 3), {target}: {_paper_dice(target)}.")
    return ProbeTable("Segmentation on frozen features", cells, tuple(notes))


def segmentation_bars(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, tuple[float, float]]]:
    """Dice of each structure, head and encoder, for :func:`bars`."""
    return {
        name: {structure: (100 * score["mean"], 100 * score["sd"]) for structure, score in one["structures"].items()}
        for name, one in found.items()
    }


def _moments(values: Sequence[float]) -> tuple[float, float]:
    return 100 * statistics.mean(values), 100 * (statistics.stdev(values) if len(values) > 1 else 0.0)


def mean_sd(values: Sequence[float]) -> str:
    """Format mean (standard deviation), times 100."""
    mean, sd = _moments(values)
    return f"{mean:.1f} ({sd:.1f})" if len(values) > 1 else f"{mean:.1f}"


def paper_value(published: Columns, label: str) -> str:
    """Format the paper's value of a label, in whatever case; "" if there is none."""
    value = next((value for name, value in published.items() if name.lower() == label.lower()), None)
    if value is None:
        return ""
    return f"{value.mean:.1f}" + ("" if value.sd is None else f" ({value.sd:.1f})")


def _paper_dice(target: str) -> str:
    rows = [
        f"{name} {head} {values[target].mean:.1f} ({values[target].sd:.1f})" for (name, head), values in DICE.items()
    ]
    worst = WORST_GROUP["RAD-DINO"].get(target)
    return "; ".join(rows) + (f"; RAD-DINO linear, worst group by ethnicity {worst[1]:.1f}" if worst else "")


def _dice_sd(score: Mapping[str, Any]) -> str:
    if score["mean"] is None:
        return "none"
    return f"{100 * score['mean']:.1f}" + ("" if score["sd"] is None else f" ({100 * score['sd']:.1f})")


def _worst(groups: Mapping[str, Any]) -> str:
    name = groups["worst_group"]
    return (
        "none" if name is None else f"{name} {_dice_sd(groups['groups'][name])}, n {groups['groups'][name]['images']:,}"
    )


def _few_shot(one: Mapping[str, Any], images: int) -> str:
    means = [100 * row["dice"]["mean"] for row in one.get("few_shot", ()) if row["images"] == images]
    if not means:
        return ""  # of predictions from elsewhere
    return f"{sum(means) / len(means):.1f} ({min(means):.1f} to {max(means):.1f})"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the results folder cannot be made ({os.strerror(error.errno or 0)})") from None


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _environment() -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "command": ["llava-rad", *sys.argv[1:]],
        "packages": {name: version(name) for name in ("llava-rad", "torch", "numpy")},
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
    }
