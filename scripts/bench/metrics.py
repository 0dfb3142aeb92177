"""How fast are the metrics? Against the packages that others use, on the same reports and weights, in turns.

    python -m scripts.bench.metrics

Weights are random, in the published forms and (but for --tiny) of the published sizes. Every comparison first asserts
that both sides give the same result. Quote the ratios, not the times.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from metrics.bleu import bleu_4
from metrics.bootstrap import Bootstrap
from metrics.cache import Cache
from metrics.f1 import label_f1
from metrics.rouge import rouge_l
from metrics.scores import mean_scores
from metrics.settings import Settings
from metrics.suite import Pairs, evaluate
from scripts.random_models import reports, write_bert, write_chexbert, write_radgraph

Sides = dict[str, Callable[[], Any]]


def in_turns(sides: Sides, rounds: int) -> dict[str, float]:
    """Median seconds of each side; in every round each runs once."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            begin = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begin)
    return {name: median(values) for name, values in times.items()}


def chexbert(folder: Path, bert: Path, count: int, rounds: int) -> dict[str, Any]:
    """Labels of reports: ours in float32 and bfloat16, and the package's loop."""
    import numpy as np

    from metrics.chexbert import CheXbert
    from scripts.bench.peers import F1CheXbert

    weights = write_chexbert(folder / "chexbert.pth", bert)
    texts = reports(count)
    ours, half = CheXbert(weights, vocabulary=bert), CheXbert(weights, vocabulary=bert, precision="bfloat16")
    peer = F1CheXbert(weights, bert)
    expected = np.array(peer.label(texts))
    differ = int((ours.label(texts) != expected).sum())
    assert differ == 0, f"{differ} labels differ"
    agreement = float((half.label(texts) == expected).mean())
    times = in_turns(
        {"f1chexbert": lambda: peer.label(texts), "ours": lambda: ours.label(texts), "bf16": lambda: half.label(texts)},
        rounds,
    )
    return {
        "reports": count,
        "seconds": times,
        "ratio float32 (aim 0.75)": times["ours"] / times["f1chexbert"],
        "ratio bfloat16 (aim 0.35)": times["bf16"] / times["f1chexbert"],
        "labels that differ, float32": differ,
        "labels that agree, bfloat16": agreement,
    }


def radgraph(folder: Path, bert: Path, count: int, rounds: int) -> dict[str, Any]:
    """Annotations of reports: ours, and the package's."""
    from metrics.radgraph.model import RadGraphModel
    from metrics.radgraph.package import PackageRadGraph

    archive = write_radgraph(folder / "radgraph.tar.gz", bert)
    texts = reports(count)
    ours, peer = RadGraphModel.load(archive, tokenizer=bert), PackageRadGraph(archive, tokenizer=bert)
    found, expected = ours.annotate(texts), peer.annotate(texts)
    differ = sum(one != other for one, other in zip(found, expected, strict=True))
    assert differ == 0, f"{differ} annotations differ"
    words = sum(len(one["text"].split()) for one in found)
    times = in_turns({"radgraph": lambda: peer.annotate(texts), "ours": lambda: ours.annotate(texts)}, rounds)
    return {
        "reports": count,
        "seconds": times,
        "ratio (aim 0.5)": times["ours"] / times["radgraph"],
        "annotations that differ": differ,
        "entities per word": sum(len(one["entities"]) for one in found) / words,
    }


def rouge(count: int, rounds: int) -> dict[str, Any]:
    """ROUGE-L of pairs: ours, and rouge_score's."""
    import numpy as np
    from rouge_score.rouge_scorer import RougeScorer

    candidates, references = reports(count, seed=1), reports(count, seed=2)
    scorer = RougeScorer(["rougeL"])

    def peer() -> list[float]:
        pairs = zip(candidates, references, strict=True)
        return [scorer.score(reference, candidate)["rougeL"].fmeasure for candidate, reference in pairs]

    difference = float(np.abs(rouge_l(candidates, references).per_sample["rouge_l"] - peer()).max())
    assert difference == 0
    times = in_turns({"rouge_score": peer, "ours": lambda: rouge_l(candidates, references)}, rounds)
    return {
        "pairs": count,
        "seconds": times,
        "times as fast (aim 5)": times["rouge_score"] / times["ours"],
        "largest difference": difference,
    }


def bootstrap(count: int, rounds: int) -> dict[str, Any]:
    """500 resamples of the paper's four metrics, drawing included, counting of n-grams not."""
    import numpy as np

    dice = np.random.default_rng(0)
    candidates, references = reports(count, seed=1), reports(count, seed=2)
    labels = dice.choice(4, (2, count, 14), p=[0.6, 0.2, 0.15, 0.05])
    scores = [
        rouge_l(candidates, references),
        bleu_4(candidates, references),
        label_f1(labels[0], labels[1]),
        mean_scores({"rg_er": dice.random(count)}, "random"),
    ]
    cpu = []
    for _ in range(rounds):
        begin = time.process_time()
        draw = Bootstrap()
        weights = draw.weights(count)
        for one in scores:
            draw.intervals(one, weights)
        cpu.append(time.process_time() - begin)
    return {"reports": count, "samples": 500, "CPU seconds (aim 0.5)": median(cpu)}


def second_time(folder: Path, bert: Path, count: int) -> dict[str, Any]:
    """Model forwards of two evaluations: other predictions against the same references."""
    from unittest import mock

    from metrics import chexbert
    from metrics.radgraph import model as radgraph_model

    weights, archive = folder / "chexbert.pth", folder / "radgraph.tar.gz"
    weights = weights if weights.is_file() else write_chexbert(weights, bert)
    archive = archive if archive.is_file() else write_radgraph(archive, bert)
    references = reports(count, seed=4)
    settings = Settings(
        metrics=("rg_er", "chexbert"), chexbert=weights, bert_vocab=bert, radgraph=archive, radgraph_tokenizer=bert
    )
    forwarded: list[str] = []
    label, annotate = chexbert.CheXbert._portion, radgraph_model.RadGraphModel._portion

    def watch(run: Any) -> Any:
        def portion(self: Any, texts: list[str], batch_size: int) -> Any:
            forwarded.extend(texts)
            return run(self, texts, batch_size)

        return portion

    numbers = {}
    with (
        mock.patch.object(chexbert.CheXbert, "_portion", watch(label)),
        mock.patch.object(radgraph_model.RadGraphModel, "_portion", watch(annotate)),
    ):
        for run, seed in (("first", 5), ("second", 6), ("second again", 6)):
            forwarded.clear()
            cache = Cache(folder / "cache.sqlite")
            pairs = Pairs([str(number) for number in range(count)], reports(count, seed=seed), references)
            evaluate({"model": pairs}, settings, cache=cache)
            cache.close()
            there = set(references)
            numbers[f"{run}: forwards of references"] = sum(text in there for text in forwarded)
            numbers[f"{run}: forwards of predictions"] = sum(text not in there for text in forwarded)
    assert numbers["second: forwards of references"] == 0
    return {"reports": count, "models": 2, **numbers}


def start(folder: Path, rounds: int) -> dict[str, Any]:
    """From the shell to the end of a small evaluation without models, and what it imported."""
    rows = [{"id": number, "text": text} for number, text in enumerate(reports(20))]
    for name in ("a.jsonl", "b.jsonl"):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["evaluate", str(folder / "a.jsonl"), str(folder / "b.jsonl"), "--metrics", "rouge_l,bleu_4"]
    command = [str(Path(sys.executable).with_name("llava-rad")), *arguments]
    times = in_turns({"llava-rad": lambda: subprocess.run(command, check=True, capture_output=True)}, rounds)
    code = (
        "import sys\nfrom llava_rad.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print(*sorted({'torch', 'transformers', 'evaluate', 'datasets', 'nltk'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    heavy = done.stderr.splitlines()[-1].split()
    assert heavy == [], heavy
    return {"seconds (aim 1)": times["llava-rad"], "heavy modules imported": heavy}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run and print; returns what was printed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="chexbert radgraph rouge bootstrap cache start")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="small models and few reports: does it run?")
    options = parser.parse_args(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    torch.set_num_threads(2)
    few, many = (12, 60) if options.tiny else (100, 3306)
    size = {"size": 32, "layers": 2, "heads": 2} if options.tiny else {"size": 768, "layers": 12, "heads": 12}
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top)
        bert = write_bert(folder / "bert", vocabulary=None if options.tiny else 30522, **size)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "chexbert": lambda: chexbert(folder, bert, 2 * few, options.rounds),
            "radgraph": lambda: radgraph(folder, bert, few, options.rounds),
            "rouge": lambda: rouge(many, options.rounds),
            "bootstrap": lambda: bootstrap(many, options.rounds),
            "cache": lambda: second_time(folder, bert, few // 4),
            "start": lambda: start(folder, options.rounds),
        }
        for name, run in parts.items():
            if not options.only or name in options.only:
                results[name] = run()
                print(json.dumps({name: results[name]}, indent=2), flush=True)
    return results


if __name__ == "__main__":
    main()
