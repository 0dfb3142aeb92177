"""Time the metrics against the packages that others use, on the same reports and weights, in turns.

    python -m scripts.bench.metrics [--only chexbert rouge] [--peer-python PEER/bin/python]

Weights are random, in the published forms and (but for --quick) of the published sizes. Every comparison first requires
that both sides give the same result. Quote the ratios, not the times. Aims, of the package's time: CheXbert 0.75 (0.35
in bfloat16), RadGraph 0.5, ROUGE-L 0.2, the published set 0.5; findings 2 CPU ms a report, bootstrap 0.5 CPU s, start 1
s.

The published set is RadCliQ, RadGraph-XL, CheXbert and BERTScore together, as RadEval 2.2.1 computes them; PEER is an
environment of its own that has it. Both sides have their models in memory and get new reports in each round.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import count as count_from
from pathlib import Path
from typing import Any

from metrics.bleu import bleu_4
from metrics.bootstrap import Bootstrap
from metrics.labels import label_f1
from metrics.rouge import rouge_l
from metrics.scores import mean_scores
from scripts.bench.harness import Report, equal_rows, median, parser, ratio, require, seconds, take_turns
from scripts.bench.worker import Worker, measured
from scripts.random_models import F1CheXbert, reports, write_bert, write_chexbert, write_radgraph

COLUMNS = {"s": ".3f", "CPU s": ".3f", "x time": "", "result": ""}
Call = Callable[[], object]
STATEMENTS = (
    "The heart is mildly enlarged and the aorta is tortuous.",
    "There is a small left pleural effusion with adjacent atelectasis, unchanged.",
    "Patchy opacity in the right lower lobe may represent pneumonia or aspiration.",
    "No pneumothorax, focal consolidation or pulmonary edema is seen.",
    "The lungs are clear and the cardiomediastinal silhouette is within normal limits.",
    "A right PICC terminates in the lower superior vena cava.",
    "There is an 8 mm nodule in the left upper lobe.",
    "Mild degenerative changes of the thoracic spine.",
    "Endotracheal tube tip is 4 cm above the carina.",
    "Interval improvement of bilateral interstitial opacities.",
    "Osseous structures are intact without acute fracture.",
    "Pulmonary vasculature is normal and the trachea is midline.",
)


class Bench:
    """All comparisons.

    Args:
        report: takes the rows.
        folder: temporary.
        rounds: of each comparison.
        tiny: small models and few reports.
        pairs: number of pairs of the published set.
        peer: interpreter of the environment that has RadEval; None leaves that comparison out.
    """

    def __init__(
        self, report: Report, folder: Path, rounds: int, tiny: bool, pairs: int = 40, peer: str | None = None
    ) -> None:
        self.report, self.folder, self.rounds, self.tiny = report, folder, rounds, tiny
        self.peer, self.pairs = peer, pairs
        self.few, self.many = (12, 60) if tiny else (100, 3306)
        size = {"size": 32, "layers": 2, "heads": 2} if tiny else {"size": 768, "layers": 12, "heads": 12}
        self.bert = write_bert(folder / "bert", vocabulary=None if tiny else 30522, **size)

    def _race(
        self, name: str, ours: Callable[[], Any], peer: Callable[[], Any] | None = None, result: str = ""
    ) -> None:
        """Time ours, against the package that others use where there is one."""
        calls = {"ours": ours} | ({"package": peer} if peer else {})
        baseline = "package" if peer else ""
        self.report.race(calls, self.rounds, baseline, facts={"ours": {"result": result}}, prefix=f"{name}: ")

    def chexbert(self) -> None:
        """Labels of reports: ours in float32 and bfloat16, and the loop of ``f1chexbert``."""
        import numpy as np

        from metrics.chexbert import CheXbert

        weights, texts = write_chexbert(self.folder / "chexbert.pth", self.bert), reports(2 * self.few)
        ours = CheXbert(weights, vocabulary=self.bert)
        half = CheXbert(weights, vocabulary=self.bert, precision="bfloat16")
        peer = F1CheXbert(weights, self.bert)
        expected = np.array(peer.label(texts))
        differ = int((ours.label(texts) != expected).sum())
        require(differ == 0, f"{differ} labels differ")
        agree = float((half.label(texts) == expected).mean())
        package = partial(peer.label, texts)
        self._race("CheXbert, float32", partial(ours.label, texts), package, "all labels equal")
        self._race("CheXbert, bfloat16", partial(half.label, texts), package, f"{agree:.2%} of labels equal")

    def radgraph(self) -> None:
        """Annotations of reports: ours, and those of ``radgraph``."""
        from metrics.radgraph.model import RadGraphModel
        from metrics.radgraph.package import PackageRadGraph

        archive, texts = write_radgraph(self.folder / "radgraph.tar.gz", self.bert), reports(self.few)
        ours = RadGraphModel.load(archive, tokenizer=self.bert)
        peer = PackageRadGraph(archive, tokenizer=self.bert)
        found, expected = ours.annotate(texts), peer.annotate(texts)
        differ = len(found) - equal_rows(found, expected)
        require(differ == 0, f"{differ} annotations differ")
        density = sum(len(one["entities"]) for one in found) / sum(len(one["text"].split()) for one in found)
        result = f"all equal, {density:.2f} entities a word"
        self._race("RadGraph", partial(ours.annotate, texts), partial(peer.annotate, texts), result)

    def published(self) -> None:
        """RadCliQ, RadGraph-XL, CheXbert and BERTScore of pairs: ours, and RadEval's."""
        import numpy as np

        from metrics.base import Settings
        from metrics.combined import CombinedMetric
        from metrics.registry import load
        from scripts import radeval_standins

        if self.peer is None:
            self.report.say("published set: not timed without --peer-python")
            return
        standins = radeval_standins.write(self.folder / "published", full=not self.tiny)
        package = find_spec("bert_score")
        assert package is not None and package.origin is not None
        baseline = Path(package.origin).with_name("rescale_baseline") / "en" / "distilbert-base-uncased.tsv"
        options = standins.options | {
            "bertscore_model": str(standins.distilbert), "bertscore_layers": 5, "bertscore_baseline": baseline,
            "uncertain": "positive",
        }  # fmt: skip
        settings = Settings(options=options)
        radcliq = load("radcliq")("radcliq", settings)
        assert isinstance(radcliq, CombinedMetric)
        rows = (*radcliq.parts, "rg_er_xl", "chexbert", "bertscore")
        metrics = {row: load(row)(row, settings) for row in rows}
        count, turn = self.pairs, count_from(1)

        def scored(seed: int) -> dict[str, Any]:
            texts = radeval_standins.pairs(count, seed=seed)
            found = {row: metric.scores(*texts) for row, metric in metrics.items()}
            return {**found, "radcliq": radcliq.combine(found)}

        os.environ |= standins.environment
        order = {"metrics": ["radcliq", "radgraph", "f1chexbert", "bertscore"], "reports": count, "words": 50}
        text = json.dumps({**order, "device": "cpu", "threads": 2})
        with Worker(self.peer, "scripts.bench.metrics_peer", [text], 2) as worker:
            found, expected = scored(0), worker.ask("scores")
            columns = {
                "radcliq_v1": ("radcliq", "radcliq_v1"), "radgraph_simple": ("rg_er_xl", "rg_xl_e"),
                "radgraph_partial": ("rg_er_xl", "rg_xl_er"), "radgraph_complete": ("rg_er_xl", "rg_xl_er_bar"),
                "bertscore": ("bertscore", "bertscore_f1"),
            }  # fmt: skip
            for theirs, (row, ours) in columns.items():
                differ = float(np.abs(found[row].per_sample[ours] - np.array(expected[theirs])).max())
                require(differ <= 1e-5, f"{theirs} differs by {differ:.1e}")
            sides = {"ours": partial(measured, lambda: scored(next(turn))), "RadEval": partial(worker.ask, "step")}
            costs = take_turns(sides, self.rounds)
        for name, each in costs.items():
            cells: dict[str, Any] = {"s": median(each), "CPU s": median(each, "cpu_s")}
            if name == "ours":
                cells["x time"] = ratio(seconds(each), seconds(costs["RadEval"]))
                cpu = ratio(seconds(each, "cpu_s"), seconds(costs["RadEval"], "cpu_s"))
                cells["result"] = f"equal to 1e-5; CPU x {cpu}"
            self.report.row(f"published set, {count} pairs: {name}", cells)

    def rouge(self) -> None:
        """ROUGE-L of pairs: ours, and that of ``rouge_score``."""
        from rouge_score.rouge_scorer import RougeScorer

        candidates, references = reports(self.many, seed=1), reports(self.many, seed=2)
        scorer = RougeScorer(["rougeL"])

        def peer() -> list[float]:
            pairs = zip(candidates, references, strict=True)
            return [scorer.score(reference, candidate)["rougeL"].fmeasure for candidate, reference in pairs]

        require(rouge_l(candidates, references).per_sample["rouge_l"].tolist() == peer(), "ROUGE-L differs")
        self._race("ROUGE-L", partial(rouge_l, candidates, references), peer, "all equal")

    def findings(self) -> None:
        """Findings of pairs of reports, read and compared."""
        from metrics.findings import compare, parse, sentence

        rng = random.Random(0)
        texts = [" ".join(rng.sample(STATEMENTS, 6)) for _ in range(2 * self.few)]

        def ours() -> None:
            sentence.read.cache_clear()
            for first, second in zip(texts[::2], texts[1::2], strict=True):
                compare.compare(parse.parse(first), parse.parse(second))

        self._race("findings", ours, result=f"{len(texts):,} reports of {len(texts[0].split())} words, nothing cached")

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

        self._race("bootstrap", draw)

    def start(self) -> None:
        """From the shell to the end of a small evaluation without models."""
        rows = [{"id": number, "text": text} for number, text in enumerate(reports(20))]
        file = self.folder / "reports.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = [str(Path(sys.executable).with_name("llava-rad")), "evaluate", str(file), str(file)]
        command += ["--metrics", "rouge_l,bleu_4"]
        self._race("start", partial(subprocess.run, command, check=True, capture_output=True))


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run and print; returns the rows."""
    names = ("chexbert", "radgraph", "published", "rouge", "findings", "bootstrap", "start")
    made = parser(__doc__, rounds=3, quick="small models and few reports")
    made.add_argument("--only", nargs="*", choices=names, default=names)
    made.add_argument("--pairs", type=int, default=40, help="of the published set; default: 40")
    made.add_argument("--peer-python", help="interpreter of the environment that has RadEval")
    options = made.parse_args(argv)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    torch.set_num_threads(2)
    report = Report(options)
    report.table("metrics", COLUMNS, "ratios to the package")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(report, Path(folder), options.rounds, options.quick, options.pairs, options.peer_python)
        for name in options.only:
            getattr(bench, name)()
    report.close()
    rows: dict[str, Any] = report.data["metrics"]
    return rows


if __name__ == "__main__":
    main()
