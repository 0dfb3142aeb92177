"""Time the metrics against the packages that others use, on the same reports and weights, in turns.

    python -m scripts.bench.metrics [--only chexbert rouge]

Weights are random, in the published forms and (but for --quick) of the published sizes. Every comparison first requires
that both sides give the same result. Quote the ratios, not the times.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from metrics.base import Settings
from metrics.bleu import bleu_4
from metrics.bootstrap import Bootstrap
from metrics.cache import Cache
from metrics.labels import label_f1
from metrics.rouge import rouge_l
from metrics.scores import mean_scores
from metrics.suite import Pairs, evaluate
from scripts.bench.harness import Report, equal_rows, median, parser, ratio, require, seconds, time_calls
from scripts.random_models import F1CheXbert, reports, write_bert, write_chexbert, write_radgraph

COLUMNS = {"s": ".3f", "CPU s": ".3f", "ours / this": "", "aim": "5s", "result": ""}


class Bench:
    """All comparisons.

    Args:
        report: takes the rows.
        folder: temporary.
        rounds: of each comparison.
        tiny: small models and few reports.
    """

    def __init__(self, report: Report, folder: Path, rounds: int, tiny: bool) -> None:
        self.report, self.folder, self.rounds = report, folder, rounds
        self.few, self.many = (12, 60) if tiny else (100, 3306)
        size = {"size": 32, "layers": 2, "heads": 2} if tiny else {"size": 768, "layers": 12, "heads": 12}
        self.bert = write_bert(folder / "bert", vocabulary=None if tiny else 30522, **size)

    def _time(self, name: str, calls: Mapping[str, Callable[[], Any]], ours: str, aim: str, result: str) -> None:
        """Time the sides; ``aim`` is that of ours over each of the others."""
        times = time_calls(calls, self.rounds, warmup=0)
        for side, costs in times.items():
            row: dict[str, Any] = {"s": median(costs), "CPU s": median(costs, "cpu_s"), "rounds": costs}
            if side == ours:
                row["result"] = result
            elif ours:
                row |= {"ours / this": ratio(seconds(times[ours]), seconds(costs)), "aim": aim}
            self.report.row(f"{name}: {side}", row)

    def _weights(self) -> Path:
        return write_chexbert(self.folder / "chexbert.pth", self.bert)

    def _archive(self) -> Path:
        return write_radgraph(self.folder / "radgraph.tar.gz", self.bert)

    def chexbert(self) -> None:
        """Labels of reports: ours in float32 and bfloat16, and the package's loop."""
        import numpy as np

        from metrics.chexbert import CheXbert

        weights, texts = self._weights(), reports(2 * self.few)
        ours = CheXbert(weights, vocabulary=self.bert)
        half = CheXbert(weights, vocabulary=self.bert, precision="bfloat16")
        peer = F1CheXbert(weights, self.bert)
        expected = np.array(peer.label(texts))
        differ = int((ours.label(texts) != expected).sum())
        require(differ == 0, f"{differ} labels differ")
        agree = float((half.label(texts) == expected).mean())
        package = {"f1chexbert": lambda: peer.label(texts)}
        for name, model, aim, result in (
            ("float32", ours, "0.75", "all labels equal"), ("bfloat16", half, "0.35", f"{agree:.2%} of labels equal"),
        ):  # fmt: skip
            self._time(f"CheXbert, {name}", package | {"ours": partial(model.label, texts)}, "ours", aim, result)

    def radgraph(self) -> None:
        """Annotations of reports: ours, and the package's."""
        from metrics.radgraph.model import RadGraphModel
        from metrics.radgraph.package import PackageRadGraph

        archive, texts = self._archive(), reports(self.few)
        ours = RadGraphModel.load(archive, tokenizer=self.bert)
        peer = PackageRadGraph(archive, tokenizer=self.bert)
        found, expected = ours.annotate(texts), peer.annotate(texts)
        differ = len(found) - equal_rows(found, expected)
        require(differ == 0, f"{differ} annotations differ")
        density = sum(len(one["entities"]) for one in found) / sum(len(one["text"].split()) for one in found)
        calls = {"radgraph": lambda: peer.annotate(texts), "ours": lambda: ours.annotate(texts)}
        self._time("RadGraph", calls, "ours", "0.5", f"all equal, {density:.2f} entities a word")

    def rouge(self) -> None:
        """ROUGE-L of pairs: ours, and rouge_score's."""
        from rouge_score.rouge_scorer import RougeScorer

        candidates, references = reports(self.many, seed=1), reports(self.many, seed=2)
        scorer = RougeScorer(["rougeL"])

        def peer() -> list[float]:
            pairs = zip(candidates, references, strict=True)
            return [scorer.score(reference, candidate)["rougeL"].fmeasure for candidate, reference in pairs]

        require(rouge_l(candidates, references).per_sample["rouge_l"].tolist() == peer(), "ROUGE-L differs")
        calls = {"rouge_score": peer, "ours": lambda: rouge_l(candidates, references)}
        self._time("ROUGE-L", calls, "ours", "0.2", "all equal")

    def bootstrap(self) -> None:
        """500 resamples of the paper's four metrics, drawing included, counting of n-grams not."""
        import numpy as np

        rng = np.random.default_rng(0)
        candidates, references = reports(self.many, seed=1), reports(self.many, seed=2)
        labels = rng.choice(4, (2, self.many, 14), p=[0.6, 0.2, 0.15, 0.05])
        scores = [
            rouge_l(candidates, references), bleu_4(candidates, references), label_f1(labels[0], labels[1]),
            mean_scores({"rg_er": rng.random(self.many)}, "random"),
        ]  # fmt: skip

        def draw() -> None:
            drawn = Bootstrap()
            weights = drawn.weights(self.many)
            for one in scores:
                drawn.intervals(one, weights)

        self._time("bootstrap", {"ours (aim 0.5 CPU s)": draw}, "", "", "")

    def cache(self) -> None:
        """Model forwards of a second evaluation: other predictions against the same references."""
        from metrics import chexbert
        from metrics.radgraph import model as radgraph_model

        count = self.few // 4
        references = reports(count, seed=4)
        settings = Settings(
            metrics=("rg_er", "chexbert"),
            options={
                "chexbert": self._weights(),
                "bert_vocab": self.bert,
                "radgraph": self._archive(),
                "radgraph_tokenizer": self.bert,
            },
        )
        forwarded: list[str] = []

        def watch(run: Any) -> Any:
            def portion(self: Any, texts: list[str], batch_size: int) -> Any:
                forwarded.extend(texts)
                return run(self, texts, batch_size)

            return portion

        classes = (chexbert.CheXbert, radgraph_model.RadGraphModel)
        first, second = (mock.patch.object(cls, "_portion", watch(cls._portion)) for cls in classes)
        with first, second:
            for run, seed in (("first", 5), ("second", 6), ("second again", 6)):
                forwarded.clear()
                cache = Cache(self.folder / "cache.sqlite")
                pairs = Pairs([str(number) for number in range(count)], reports(count, seed=seed), references)
                evaluate({"model": pairs}, settings, cache=cache)
                cache.close()
                known = sum(text in references for text in forwarded)
                require(run == "first" or known == 0, "references are computed again")
                forwards = f"forwards: {known} + {len(forwarded) - known}"
                self.report.row(f"cache: {run}", {"result": forwards})

    def start(self) -> None:
        """From the shell to the end of a small evaluation without models; it must import nothing heavy."""
        rows = [{"id": number, "text": text} for number, text in enumerate(reports(20))]
        files = [self.folder / name for name in ("a.jsonl", "b.jsonl")]
        for file in files:
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        arguments = ["evaluate", *map(str, files), "--metrics", "rouge_l,bleu_4"]
        code = (
            "import sys\nfrom llava_rad.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
            "heavy = {'torch', 'transformers', 'evaluate', 'datasets', 'nltk'}\n"
            "print(*sorted(heavy & set(sys.modules)), file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
        heavy = done.stderr.splitlines()[-1].split()
        require(heavy == [], f"heavy modules are imported: {heavy}")
        command = [str(Path(sys.executable).with_name("llava-rad")), *arguments]
        call = partial(subprocess.run, command, check=True, capture_output=True)
        self._time("start", {"llava-rad evaluate (aim 1 s)": call}, "", "", "")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run and print; returns the rows."""
    names = ("chexbert", "radgraph", "rouge", "bootstrap", "cache", "start")
    made = parser(__doc__, rounds=3, quick="small models and few reports")
    made.add_argument("--only", nargs="*", choices=names, default=names)
    options = made.parse_args(argv)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    torch.set_num_threads(2)
    report = Report(options)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(report, Path(folder), options.rounds, options.quick)
        report.table("metrics", COLUMNS)
        for name in options.only:
            getattr(bench, name)()
    report.close()
    rows: dict[str, Any] = report.data["metrics"]
    return rows


if __name__ == "__main__":
    main()
