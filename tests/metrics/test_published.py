"""RadCliQ with its parts, SembScore, RaTEScore and RadGraph-XL, against RadEval's values on the same random weights."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metrics import registry
from metrics.annotations import lines, read
from metrics.base import InputError, Settings, WeightsError
from metrics.bleu import sentence_bleu_2
from metrics.bootstrap import Bootstrap
from metrics.cache import Cache
from metrics.chexbert import CheXbert
from metrics.radcliq import PARTS, radcliq
from metrics.radgraph.model import RadGraphModel
from metrics.radgraph.rewards import radgraph_combined
from metrics.ratescore import AFFINITY, OPPOSITE, TYPES, Finder, sentences, similarity, spans
from metrics.sembscore import SembScore
from metrics.suite import Evaluation, Pairs, evaluate
from scripts import radeval_standins
from scripts.radeval_standins import Standins
from tests.metrics.conftest import Lexical

RADEVAL: dict[str, Any] = json.loads(Path(__file__).with_name("radeval.json").read_text())
ROWS = ("radcliq", "sembscore", "ratescore", "rg_er_xl", "radgraph_combined", "bertscore_radcliq", "chexbert")
OURS = {
    "radcliq_v1": ("radcliq", "radcliq_v1"),
    "radcliq_radgraph": ("radgraph_combined", "radgraph_combined"),
    "radcliq_bertscore": ("bertscore_radcliq", "bertscore_radcliq"),
    "radcliq_semb_score": ("sembscore", "sembscore"),
    "radgraph_simple": ("rg_er_xl", "rg_xl_e"),
    "radgraph_partial": ("rg_er_xl", "rg_xl_er"),
    "radgraph_complete": ("rg_er_xl", "rg_xl_er_bar"),
    "ratescore": ("ratescore", "ratescore"),
}


@pytest.fixture(scope="module")
def standins(tmp_path_factory: pytest.TempPathFactory) -> Standins:
    return radeval_standins.write(tmp_path_factory.mktemp("standins") / "weights")


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    candidates, references = radeval_standins.pairs(RADEVAL["reports"], words=RADEVAL["words"])
    return Pairs([str(number) for number in range(len(references))], candidates, references)


class Seen:
    """Texts that went through a model."""

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {"chexbert": [], "radgraph": [], "radgraph-xl": [], "entities": []}

    def watch(self, patch: pytest.MonkeyPatch) -> Seen:
        label, annotate, find = CheXbert._portion, RadGraphModel._portion, Finder._spans

        def labelled(model: CheXbert, texts: Sequence[str], size: int) -> Any:
            self.texts["chexbert"] += texts
            return label(model, texts, size)

        def annotated(model: RadGraphModel, texts: Sequence[str], size: int) -> Any:
            self.texts[model.model] += texts
            return annotate(model, texts, size)

        def found(model: Finder, texts: Sequence[str], size: int) -> Any:
            self.texts["entities"] += texts
            return find(model, texts, size)

        patch.setattr(CheXbert, "_portion", labelled)
        patch.setattr(RadGraphModel, "_portion", annotated)
        patch.setattr(Finder, "_spans", found)
        return self


@pytest.fixture(scope="module")
def evaluated(standins: Standins, pairs: Pairs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Seen]:
    """All rows, twice with one cache; the second time is returned with what both ran."""
    settings, path = Settings(ROWS, options=standins.options), tmp_path_factory.mktemp("cache") / "a.sqlite"
    with pytest.MonkeyPatch.context() as patch:
        seen = Seen().watch(patch)
        first = evaluate({"m": pairs}, settings, bootstrap=Bootstrap(5), cache=Cache(path))
        ran = {name: len(texts) for name, texts in seen.texts.items()}
        second = evaluate({"m": pairs}, settings, bootstrap=Bootstrap(5), cache=Cache(path))
    assert {name: len(texts) for name, texts in seen.texts.items()} == ran, "the cache knows every text"
    assert [one.point() for one in first.models[0].scores.values()] == [
        one.point() for one in second.models[0].scores.values()
    ]
    kept = path.read_bytes().lower()
    assert not [word for word in (b"effusion", b"pneumothorax", b"opacity", b"lungs") if word in kept]
    return second, seen


@pytest.mark.parametrize("name", OURS)
def test_values_of_single_reports_equal_radevals(evaluated: tuple[Evaluation, Seen], name: str) -> None:
    row, score = OURS[name]
    found = evaluated[0].models[0].scores[row].per_sample[score]
    assert found.tolist() == pytest.approx(RADEVAL["values"][name], abs=1e-5)
    assert np.ptp(found) > 0.01, "the stand-in must tell reports apart"


def test_the_inverse_is_that_of_the_mean(evaluated: tuple[Evaluation, Seen]) -> None:
    scores = evaluated[0].models[0].scores["radcliq"]
    assert scores["radcliq_v1_inverse"] == pytest.approx(1 / np.mean(RADEVAL["values"]["radcliq_v1"]), rel=1e-4)
    assert set(evaluated[0].models[0].intervals) >= {"radcliq_v1_inverse", "sembscore", "ratescore", "rg_xl_er"}


def test_no_text_goes_through_a_model_twice(evaluated: tuple[Evaluation, Seen], pairs: Pairs) -> None:
    """CheXbert serves labels, SembScore and RadCliQ; RadGraph serves its own F1 and RadCliQ."""
    texts = sorted({*pairs.candidates, *pairs.references})
    seen = evaluated[1].texts
    assert sorted(seen["chexbert"]) == sorted(seen["radgraph"]) == sorted(seen["radgraph-xl"]) == texts
    assert len(set(seen["entities"])) == len(seen["entities"])


def test_annotations_of_a_file_take_the_place_of_weights(
    evaluated: tuple[Evaluation, Seen], pairs: Pairs, standins: Standins
) -> None:
    found, count = evaluated[0], len(pairs.ids)
    given: dict[str, dict[tuple[str, str], Any]] = {}
    for side, part in (("prediction", slice(count)), ("reference", slice(count, None))):
        written = lines(pairs.ids, {kind: values[part] for kind, values in found.annotations.items()})
        for kind, values in read(map(json.loads, written), pairs.ids, name="a.jsonl").items():
            given.setdefault(kind, {}).update({(side, key): value for key, value in values.items()})
    rows = ("sembscore", "radgraph_combined", "rg_er_xl", "ratescore")
    options = {name: standins.options[name] for name in ("ratescore_encoder",)}  # entities are words, not vectors
    settings = Settings(rows, options=options | {"chexbert": Path("none"), "radgraph": Path("none")})
    again = evaluate({"m": pairs}, settings, bootstrap=Bootstrap(5), given=given)
    assert not again.not_computed
    for row in rows:
        assert again.models[0].scores[row].point() == pytest.approx(found.models[0].scores[row].point())


def test_empty_texts_score_nothing(standins: Standins) -> None:
    pairs = Pairs(["1", "2"], ["", "No effusion."], ["No effusion.", " . "])
    found = evaluate({"m": pairs}, Settings(ROWS, options=standins.options), bootstrap=Bootstrap(2)).models[0].scores
    for row in ("sembscore", "ratescore", "rg_er_xl", "radgraph_combined", "bertscore_radcliq"):
        assert set(found[row].point().values()) == {0.0}, row
    assert found["radcliq"].per_sample["radcliq_v1"].tolist() == pytest.approx(
        radcliq({name: np.zeros(2) for name in PARTS}).tolist()
    )


def test_radcliq_is_a_standard_scaler_and_a_linear_model() -> None:
    from sklearn.linear_model import LinearRegression
    from sklearn.preprocessing import StandardScaler

    # https://github.com/rajpurkarlab/CXR-Report-Metric, radcliq-v1.pkl, in the order of its columns
    scaler, model = StandardScaler(), LinearRegression()
    scaler.mean_ = np.array([0.53792312, 0.61757256, 0.76479421, 0.44738335])
    scaler.scale_ = np.array([0.30282584, 0.22430938, 0.25394391, 0.29892717])
    scaler.n_features_in_ = 4
    model.coef_ = np.array([-3.77083683e-01, -3.70300100e-01, -2.52616218e-01, 4.31504841e-12])
    model.intercept_ = 2.46655256e-10
    values = np.random.default_rng(0).random((20, 4))
    columns = dict(
        zip(("radgraph_combined", "bertscore_radcliq", "sembscore", "bleu_2_sentence"), values.T, strict=True)
    )
    assert radcliq(columns).tolist() == pytest.approx(model.predict(scaler.transform(values)).tolist(), abs=1e-12)


@pytest.mark.parametrize("row", [name for name in ROWS if name != "chexbert"])
def test_without_weights_a_metric_is_not_computed_and_says_what_to_give(
    row: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    pairs = Pairs(["1"], ["No effusion."], ["No effusion."])
    (why,) = evaluate({"m": pairs}, Settings((row,)), bootstrap=Bootstrap(2)).not_computed.values()
    files = registry.load(row).weights
    assert any(file.repository in why.reason and file.option.split()[0] in str(why.cure) for file in files), why
    assert "downloading is off" in why.reason


def test_weights_of_another_model_are_refused(standins: Standins, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((standins.entities / name).read_bytes())
    weights = load_file(standins.entities / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"classifier\.weight is missing"):
        Finder(Settings(options={"ratescore_entities": str(tmp_path)}))
    config = json.loads((standins.entities / "config.json").read_text())
    config["id2label"]["0"] = "B-ORGAN"
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((standins.entities / "model.safetensors").read_bytes())
    with pytest.raises(WeightsError, match="has the label B-ORGAN"):
        Finder(Settings(options={"ratescore_entities": str(tmp_path)}))


def test_bleu_2_of_sentences_equals_nltk(lexical: Lexical) -> None:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    rng = random.Random(0)
    words = ["no", "effusion.", "Heart", "is", "large.", "the", "lungs  clear."]
    candidates = [*lexical.candidates, *(" ".join(rng.choices(words, k=rng.randint(1, 9))) for _ in range(60))]
    references = [*lexical.references, *(" ".join(rng.choices(words, k=rng.randint(1, 9))) for _ in range(60))]
    split = [[t for t in one.lower().replace(".", " .").split(" ") if t] for one in (*candidates, *references)]
    smooth = SmoothingFunction().method1
    expected = [
        sentence_bleu([there], found, weights=(0.5, 0.5), smoothing_function=smooth) if found and there else 0.0
        for found, there in zip(split[: len(candidates)], split[len(candidates) :], strict=True)
    ]
    found = sentence_bleu_2(candidates, references)
    assert found.per_sample["bleu_2_sentence"].tolist() == pytest.approx(expected, abs=1e-12)
    assert found["bleu_2_sentence"] == pytest.approx(np.mean(expected))


def test_radgraph_combined_of_golden_graphs(golden: dict[str, Any]) -> None:
    for name, case in golden["radgraph"].items():
        found = radgraph_combined([case["hyp"]], [case["ref"]]).point()
        assert found["radgraph_combined"] == pytest.approx(case["yu"], abs=1e-9), name
    with pytest.raises(InputError, match="annotation number 1"):
        radgraph_combined([{"entities": {"1": {"tokens": "a", "label": "b", "relations": [["modify", "9"]]}}}], [{}])


def test_malformed_states_are_refused() -> None:
    for value in ("no base64!", "AAA=", 7):
        with pytest.raises(InputError, match=r"^t, row 1: chexbert_state must be float32"):
            SembScore.from_row({"chexbert_state": value}, "t, row 1")
    metric = SembScore("sembscore", Settings(options={"chexbert": Path("none")}), {})
    with pytest.raises(InputError, match="of different models"):
        metric.of_annotations(["AACAPw==", "AACAPwAAgD8="], ["AACAPw==", "AACAPw=="])
    same = metric.of_annotations(["AACAPwAAgD8="], ["AACAPwAAAAA="])  # (1, 1) and (1, 0)
    assert same["sembscore"] == pytest.approx(0.5**0.5)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("O B-DISEASE O O", [(1, 1, "DISEASE")]),
        ("O B-ANATOMY I-ANATOMY O O", [(1, 2, "ANATOMY")]),
        ("O B-ANATOMY I-ANATOMY I-ANATOMY O", [(1, 3, "ANATOMY")]),
        ("O B-ANATOMY B-DISEASE O O", [(1, 1, "ANATOMY"), (2, 2, "DISEASE")]),
        ("O I-ANATOMY O O", []),
        ("O B-ANATOMY I-ANATOMY I-ANATOMY I-ANATOMY", [(1, 3, "ANATOMY")]),
        # the last token of an entity that another follows begins one of its own, which the other's beginning replaces
        ("O B-ANATOMY I-DISEASE B-ANATOMY O O", [(1, 2, "ANATOMY"), (3, 3, "ANATOMY")]),
        ("O I-DISEASE B-ANATOMY O O", [(2, 2, "ANATOMY")]),
        # an end that is left from before hides that of the last entity
        ("O B-ANATOMY B-DISEASE I-DISEASE I-DISEASE", [(1, 1, "ANATOMY")]),
        ("O O", []),
    ],
)
def test_entities_of_labels(labels: str, expected: list[tuple[int, int, str]]) -> None:
    assert spans(labels.split()) == expected


@pytest.mark.parametrize(
    "expected",  # medspaCy 1.3.1 with PyRuSH 1.0.8 on the sentences joined by the first element
    [
        ("\n", "Heart size normal", "Lungs clear", "No effusion"),
        ("\n", "IMPRESSION:", "1. Clear lungs.", "2. No edema."),
        (" ", "Stable cardiomegaly.", "2. No effusion."),
        (" ", "Seen by Dr. Smith.", "Clear lungs."),
        (" ", "Is there an effusion?", "No.", "Clear!"),
        (" ", "Normal T12.", "AP view.", "The spine"),
        ("\n\n", "FINDINGS: The heart is large.", "no effusion"),
        ("\n", "- Clear lungs", "- No effusion"),
        (" ", "the heart is large . the lungs are clear . no effusion ."),
        (" ", "Compared to ___.", "The lungs"),
        (" ", "There is (see above).", "The lungs are clear."),
        (" ", "Nodule in RUL.", "Effusion."),
        (" ", "No acute cardiopulmonary process. ."),
        (" ",),
    ],
)
def test_sentences(expected: tuple[str, ...]) -> None:
    glue, *parts = expected
    assert sentences(glue.join(parts)) == parts
    assert sentences("  " + glue.join(parts).replace(" ", "   ") + "\n") == parts, "white space is one space"


def test_the_number_of_a_list_at_the_beginning_is_no_sentence() -> None:
    assert sentences("1. Stable cardiomegaly. 2. No effusion.") == ["Stable cardiomegaly.", "2. No effusion."]


def test_similarity_of_entities_by_hand() -> None:
    import torch

    vectors = {
        "effusion": torch.tensor([1.0, 0.0]),
        "fluid": torch.tensor([3.0, 4.0]),
        "lung": torch.tensor([0.0, 2.0]),
    }
    there = [("fluid", "NON-DISEASE"), ("lung", "ANATOMY")]
    disease, absent, anatomy = (TYPES.index(kind) for kind in ("DISEASE", "NON-DISEASE", "ANATOMY"))
    precision = 0.6 * OPPOSITE  # the nearest is "fluid", at a cosine of 0.6; one weight cancels
    first, second = AFFINITY[absent][disease], AFFINITY[anatomy][disease]
    recall = (0.6 * OPPOSITE * first + 0.0 * second) / (first + second)
    expected = 2 * precision * recall / (precision + recall)
    assert similarity([("effusion", "DISEASE")], there, vectors) == pytest.approx(expected, abs=1e-6)
