"""The results folder of a probe: one file for each encoder as it is done, tables and a plot of all of them."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llava_rad.outputs.files import OutputError, write_whole
from metrics.tables import Cells, aligned, latex, markdown

NOTICE: Final = "What features of image encoders are worth. Research use only. Not for clinical use."


@dataclass(frozen=True)
class ProbeTable:
    """A table with what is to be said below it."""

    heading: str
    cells: Cells
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """In columns of spaces."""
        return "\n".join([self.heading, aligned(self.cells), *self.notes]) + "\n"


@dataclass(frozen=True)
class ProbeFolder:
    """Where results go. The same command again computes only what is not there.

    Attributes:
        path: of the folder.
        settings: what the numbers depend on, but for the encoder.
    """

    path: Path
    settings: Mapping[str, Any]

    def open(self, *, overwrite: bool) -> None:
        """Make the folder, or make sure that it is of the same settings.

        Raises:
            OutputError: it holds something else.
        """
        run = self.path / "run.json"
        if self.path.exists() and (self.path.is_symlink() or not self.path.is_dir()):
            raise OutputError("the results folder is a file or a link")
        if self.path.is_dir() and any(self.path.iterdir()):
            try:
                before = json.loads(run.read_bytes())
            except (OSError, ValueError):
                raise OutputError("the folder is not empty and holds no results of a probe") from None
            if before != json.loads(json.dumps(self.settings)):
                if not overwrite:
                    raise OutputError(
                        "the results folder holds a probe with other data or settings",
                        hint="name another, or --overwrite to replace it",
                    )
                for name in ("encoders", "work"):
                    shutil.rmtree(self.path / name, ignore_errors=True)
        self._write("run.json", _json(self.settings))

    def known(self, encoder: str, identity: str) -> dict[str, Any] | None:
        """What was found for an encoder, where it is of the same weights."""
        try:
            found: dict[str, Any] = json.loads((self.path / "encoders" / f"{_slug(encoder)}.json").read_bytes())
        except (OSError, ValueError):
            return None
        return found if (found.get("encoder"), found.get("weights")) == (encoder, identity) else None

    def keep(self, encoder: str, identity: str, found: Mapping[str, Any]) -> dict[str, Any]:
        """Write what was found for an encoder."""
        content = {"notice": NOTICE, "encoder": encoder, "weights": identity, **found}
        self._write(f"encoders/{_slug(encoder)}.json", _json(content))
        return content

    def work(self, encoder: str, identity: str) -> Path:
        """Where the training of an encoder's head keeps its checkpoints and pictures."""
        folder = self.path / "work" / f"{_slug(encoder)}-{identity[:8]}"
        _make(folder)
        return folder

    def finish(self, table: ProbeTable, figure: bytes | None) -> None:
        """Write the tables, the plot and the environment."""
        notes = "".join(f"\n- {note}" for note in table.notes)
        self._write("table.md", f"# {table.heading}\n\n*{NOTICE}*\n\n{markdown(table.cells)}\n{notes}\n".encode())
        comments = "".join(f"% {note}\n" for note in (NOTICE, table.heading, *table.notes))
        self._write("table.tex", f"{comments}{latex(table.cells)}\n".encode())
        if figure is not None:
            self._write("figure.svg", figure)
        self._write("environment.json", _json(_environment()))

    def _write(self, name: str, data: bytes) -> None:
        target = self.path / name
        _make(target.parent)
        write_whole(target, data, overwrite=True)


def bars(values: Mapping[str, Mapping[str, tuple[float, float]]], *, axis: str) -> bytes | None:
    """A plot as SVG: for each row of bars its encoders' mean and standard deviation; None without matplotlib.

    Args:
        values: encoder -> row -> (mean, standard deviation), times 100.
        axis: what is plotted.
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


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the results folder cannot be made ({os.strerror(error.errno or 0)})") from None


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:80] or "encoder"


def _environment() -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "command": ["llava-rad", *sys.argv[1:]],
        "packages": {name: version(name) for name in ("llava-rad", "torch", "numpy")},
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
    }
