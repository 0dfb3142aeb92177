"""Saved predictions of linear probes: a CSV file for each encoder, from which probes are compared later."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from encoder.errors import LlavaRadError
from encoder.json_files import read_json
from llava_rad.probes.folder import ProbeFolder

if TYPE_CHECKING:
    from encoder.probing.allocation import Allocation
    from llava_rad.probes.comparison import Floats, Predictions

_COLUMNS = ("image", "row", "run", "label", "truth", "log_odds", "probability")
_NAME = 16  # letters of an image's SHA-256


def predictions_file(allocation: Allocation, odds: Sequence[Floats], digests: Sequence[str]) -> bytes:
    """Return predictions as CSV: a row for each run, image and label; images are named by the SHA-256 of their files.

    Args:
        allocation: images of the runs.
        odds: log-odds [J, L] of each run; NaN for images that it does not judge.
        digests: SHA-256 of the J files.
    """
    truth, out = allocation.truth(), io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for run, values in enumerate(odds):
        for place in np.flatnonzero(~np.isnan(values[:, 0])).tolist():
            image = (digests[place][:_NAME], allocation.judged[place].number, run)
            for at, label in enumerate(allocation.labels):
                value, known = float(values[place, at]), truth[place, at]
                share = f"{np.exp(-np.logaddexp(0.0, -value)):.6g}"
                writer.writerow((*image, label, "" if np.isnan(known) else int(known), repr(value), share))
    return out.getvalue().encode()


def read_predictions(
    data: bytes, allocation: Allocation, digests: Sequence[str], averaged: Sequence[str]
) -> Predictions:
    """Read a file of :func:`predictions_file`.

    Args:
        data: of the file.
        allocation: images of the runs; those that are not in the file were not readable.
        digests: SHA-256 of the J files.
        averaged: labels of the macro average.

    Raises:
        LlavaRadError: if it is of other images, or damaged.
    """
    from llava_rad.probes.comparison import Predictions

    places: dict[tuple[str, int], int] = {}
    seen: Counter[str] = Counter()
    for place, digest in enumerate(digests):
        places[digest[:_NAME], seen[digest[:_NAME]]] = place
        seen[digest[:_NAME]] += 1
    found: list[Floats] = []
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode()), strict=True))
        labels = tuple(dict.fromkeys(row["label"] for row in rows))
        if not rows or len(rows) % len(labels):
            raise ValueError("rows are missing")
        for start in range(0, len(rows), len(labels)):
            some = rows[start : start + len(labels)]
            run, image = int(some[0]["run"]), some[0]["image"]
            if run == len(found):
                found.append(np.full((len(digests), len(labels)), np.nan))
                times: Counter[str] = Counter()
            if run != len(found) - 1 or tuple(row["label"] for row in some) != labels:
                raise ValueError("rows are out of order")
            found[run][places[image, times[image]]] = [float(row["log_odds"]) for row in some]
            times[image] += 1
    except (UnicodeDecodeError, csv.Error, KeyError, ValueError):
        raise LlavaRadError("predictions of a linear probe are damaged or of other images") from None
    from encoder.probing.allocation import truth_of

    return Predictions(labels, truth_of(allocation.judged, labels), found, tuple(averaged))


def known(folder: ProbeFolder, name: str, weights: str | None) -> tuple[dict[str, Any], bytes] | None:
    """Read the scores and the file of predictions of an encoder; None if one is missing or was changed.

    Args:
        folder: of the results.
        name: of the encoder.
        weights: key of encoder and recipe; None accepts every one.
    """
    facts = folder.known(name, weights)
    try:
        table = (folder.path / "predictions" / f"{folder.slug(name)}.csv").read_bytes()
    except OSError:
        return None
    return (facts, table) if facts and facts.get("predictions") == hashlib.sha256(table).hexdigest() else None


def earlier(
    folder: Path, settings: Mapping[str, Any], allocation: Allocation, digests: Sequence[str], averaged: Sequence[str]
) -> dict[str, Predictions]:
    """Read the predictions of an earlier run on the same images, with the same labels and protocol.

    Args:
        folder: results folder of the earlier run.
        settings: of this run; recipe and type of the computation may differ.
        allocation: images of the runs.
        digests: SHA-256 of the J judged files.
        averaged: labels of the macro average.

    Raises:
        LlavaRadError: if there are none, or they are of other images, labels or settings.
    """
    try:
        before = read_json(folder / "run.json")
        files = sorted((folder / "encoders").glob("*.json"))
        names = [str(read_json(file)["encoder"]) for file in files]
    except (OSError, ValueError, KeyError, TypeError):
        names = []
    if not names:
        raise LlavaRadError("the folder of --against holds no results of a linear probe")
    now = json.loads(json.dumps(settings))
    if odd := [key for key in now if key not in ("recipe", "dtype") and before.get(key) != now[key]]:
        raise LlavaRadError(
            f"the results of --against are of another probe: {', '.join(odd)} differ",
            hint="give the same images, labels, protocol, allocation and seeds",
        )
    found = {}
    for name in names:
        one = known(ProbeFolder(folder, before), name, None)
        if one is None:
            raise LlavaRadError(f"the predictions of {name!r} in the folder of --against are missing or damaged")
        found[f"{folder.name}/{name}"] = read_predictions(one[1], allocation, digests, averaged)
    return found
