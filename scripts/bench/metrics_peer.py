"""The peer of ``scripts.bench.metrics``: RadEval 2.2.1 with local weights, in an environment of its own.

Three things keep it from running on Linux without a GPU, and are mended here: its RadGraph imports the package under a
name in other letters, its CheXbert wants CUDA unless told otherwise, and counts with a function for sparse matrices,
where scikit-learn 1.9 gives dense ones.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from scripts.bench.worker import Order, Side, peak_bytes, work
from scripts.radeval_standins import pairs


class Peer(Side):
    """RadEval with some metrics.

    Args:
        order: ``metrics`` by RadEval's names; ``reports`` and ``words``, number and length of the texts.
    """

    def __init__(self, order: Order) -> None:
        import numpy as np
        import torch

        radeval: Any = import_module("radeval")
        F1CheXbert: Any = import_module("radeval.metrics.f1chexbert.f1chexbert").F1CheXbert
        labels: Any = import_module("radeval.metrics._chexbert_base")
        labels.count_nonzero = lambda found, axis: np.count_nonzero(
            found.toarray() if hasattr(found, "toarray") else found, axis=axis
        )
        sys.modules["RadEval"] = radeval
        assert F1CheXbert.__init__.__kwdefaults__ is not None
        F1CheXbert.__init__.__kwdefaults__["device"] = "cpu"
        torch.set_num_threads(order["threads"])
        self.base = peak_bytes("cpu")
        self._order, self._round = order, 0
        self._scorer: Any = radeval.RadEval(metrics=order["metrics"], per_sample=True, show_progress=False)

    def scores(self) -> dict[str, list[float]]:
        """Values of single reports by RadEval's names."""
        candidates, references = self._texts()
        return _plain(self._scorer(refs=references, hyps=candidates))

    def parts(self) -> dict[str, list[float]]:
        """Values of single reports of RadCliQ's parts."""
        candidates, references = self._texts()
        return _plain(self._scorer.radcliq_scorer._compute_sub_metrics(references, candidates))

    def train(self) -> None:
        """Score new reports: what a step is here."""
        self._round += 1
        self.scores()

    def _texts(self) -> tuple[list[str], list[str]]:
        return pairs(self._order["reports"], words=self._order["words"], seed=self._round)


def _plain(found: dict[str, Any]) -> dict[str, list[float]]:
    return {name: [float(value) for value in values] for name, values in found.items()}


if __name__ == "__main__":
    work(Peer)
