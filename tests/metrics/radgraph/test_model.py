"""Our RadGraph inference against the package's, on random weights in the published form."""

from __future__ import annotations

import io
import random
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metrics.base import WeightsError
from metrics.radgraph.archive import Kind, open_archive
from metrics.radgraph.model import RadGraphModel, pack, unpack, words
from metrics.radgraph.package import PackageRadGraph
from scripts.random_models import reports, write_bert

ODD = ["Normal", "effusion " * 150, "/. a /? b", 'no (effusion). 50% left\'s "x", 3.5/2, 2%', "Ünknown 漢字 wörds", "."]
KINDS: list[Kind] = ["radgraph", "radgraph-xl"]
Archives = Callable[[Kind], Path]


@pytest.mark.parametrize("kind", KINDS)
def test_annotations_equal_the_package(archives: dict[Kind, Path], bert: Path, kind: Kind) -> None:
    texts = [*reports(40, words=40), *ODD]
    expected = PackageRadGraph(archives[kind], model=kind, tokenizer=bert).annotate(texts)
    found = RadGraphModel.load(archives[kind], model=kind, tokenizer=bert).annotate(texts)
    assert [one for one, other in zip(found, expected, strict=True) if one != other] == []
    entities = [entity for one in found for entity in one["entities"].values()]
    assert len({entity["label"] for entity in entities}) >= 4, "the stand-in must use the labels"
    relations = Counter(relation[0] for entity in entities for relation in entity["relations"])
    assert len(relations) == 3 and relations.total() > 20, relations


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_and_order_change_nothing(archives: dict[Kind, Path], bert: Path, batch_size: int) -> None:
    texts = [*reports(12, words=20, seed=3), *ODD, "", " \n "]
    model = RadGraphModel.load(archives["radgraph"], tokenizer=bert)
    expected = dict(zip(texts, model.annotate(texts), strict=True))
    random.Random(1).shuffle(texts)
    assert model.annotate(texts, batch_size=batch_size) == [expected[text] for text in texts]
    assert expected[""]["entities"] == expected[" \n "]["entities"] == {}


@pytest.mark.parametrize("namespace", ["None", "radgraph-xl"])
def test_every_namespace_is_found(tmp_path: Path, archives: dict[Kind, Path], bert: Path, namespace: str) -> None:
    def renamed(state: dict[str, Any]) -> None:
        for name in list(state):
            state[name.replace("radgraph__", f"{namespace}__")] = state.pop(name)

    published = archives["radgraph"].with_name("radgraph-folder")
    folder = changed(published, tmp_path / "folder", renamed)
    for path in (folder / "vocabulary").glob("radgraph__*"):
        path.rename(path.with_name(path.name.replace("radgraph__", f"{namespace}__")))
    texts = ["No pleural effusion in the left lung."]
    found = RadGraphModel.load(folder, tokenizer=bert).annotate(texts)
    assert found[0]["text"] == "No pleural effusion in the left lung ."
    assert found == RadGraphModel.load(published, tokenizer=bert).annotate(texts)
    assert open_archive(folder).ner_labels == ["", "ANAT-DP", "OBS-DP", "OBS-DA", "OBS-U"]


def test_a_folder_is_the_same_as_its_archive_and_equal_texts_run_once(archives: dict[Kind, Path], bert: Path) -> None:
    archive = archives["radgraph"]
    folder = archive.with_name("radgraph-folder")
    texts = ["No effusion.", "Left effusion.", "No effusion."]
    model = RadGraphModel.load(folder, tokenizer=bert)
    assert model.annotate(texts) == RadGraphModel.load(archive, tokenizer=bert).annotate(texts)
    assert model.forwards == 2


# nltk 3.10 looks for words with another engine, to which fractions and the like are no letters; ours is that of the
# years in which the published numbers were made
@given(st.text(alphabet=st.characters(max_codepoint=0x24F, exclude_categories=["No", "Cs"]), max_size=60))
def test_words_are_the_packages(text: str) -> None:
    from radgraph.utils import preprocess_reports

    for kind in KINDS:
        assert words(text, kind) == preprocess_reports([text], kind)[0]["sentences"][0]


def test_a_packed_annotation_has_no_word_of_the_report(archives: dict[Kind, Path], bert: Path) -> None:
    texts = reports(5)
    found = RadGraphModel.load(archives["radgraph"], tokenizer=bert).annotate(texts)
    for text, one in zip(texts, found, strict=True):
        packed = pack(one)
        assert unpack(text, packed, "radgraph") == one
        assert not any("effusion" in str(part) for part in packed)


def changed(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of an unpacked archive with other weights."""
    shutil.copytree(source, target)
    state = torch.load(target / "weights.th", weights_only=True)
    change(state)
    torch.save(state, target / "weights.th")
    return target


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, archives: dict[Kind, Path], bert: Path) -> None:
    folder = archives["radgraph"].with_name("radgraph-folder")
    start = "_embedder.token_embedder_bert._matched_embedder.transformer_model."

    def load(name: str, change: Callable[[dict[str, Any]], None]) -> RadGraphModel:
        return RadGraphModel.load(changed(folder, tmp_path / name, change), tokenizer=bert)

    positions = {start + "embeddings.position_ids": torch.arange(512)[None]}
    assert load("positions", lambda state: state.update(positions)).annotate(["a b"])
    scorer = "_relation._relation_scorers.radgraph__relation_labels.bias"
    with pytest.raises(WeightsError, match=r"has no '_relation\._relation_scorers"):
        load("missing", lambda state: state.pop(scorer))
    with pytest.raises(WeightsError, match="does not fit its config"):
        load("labels", lambda state: state.update({scorer: torch.zeros(3), scorer[:-4] + "weight": torch.zeros(7, 40)}))
    with pytest.raises(WeightsError, match="extra, which does not belong there"):
        load("extra", lambda state: state.update(extra=torch.zeros(1)))
    with pytest.raises(WeightsError, match=r"do not fit .*embeddings\.LayerNorm\.bias"):
        load("bert", lambda state: state.pop(start + "embeddings.LayerNorm.bias"))
    wide = write_bert(tmp_path / "wide", size=64, layers=2, heads=2)
    with pytest.raises(WeightsError, match="differ in size") as error:
        RadGraphModel.load(folder, tokenizer=wide)
    assert "--radgraph-tokenizer" in str(error.value.hint)


def test_archives_that_are_none_are_refused(tmp_path: Path, archives: dict[Kind, Path]) -> None:
    path = tmp_path / "radgraph.tar.gz"
    path.write_bytes(archives["radgraph"].read_bytes()[:3000])
    with pytest.raises(WeightsError, match=r"radgraph\.tar\.gz cannot be read as a RadGraph archive"):
        open_archive(path)
    path.write_bytes(b"no archive")
    with pytest.raises(WeightsError, match="cannot be read as a RadGraph archive"):
        open_archive(path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(WeightsError, match=r"config\.json is missing"):
        open_archive(tmp_path / "folder")
    broken = tmp_path / "broken"
    shutil.copytree(archives["radgraph"].with_name("radgraph-folder"), broken)
    (broken / "weights.th").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(WeightsError, match=r"weights\.th cannot be read"):
        open_archive(broken)
    (broken / "config.json").write_text('{"dataset_reader": {}}')
    with pytest.raises(WeightsError, match="has no 'model'"):
        open_archive(broken)


@pytest.mark.parametrize("kind", ["link", "device", "outside"])
def test_an_archive_writes_nothing_but_what_is_wanted(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "radgraph.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("../../outside" if kind == "outside" else "weights.th")
        if kind == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        elif kind == "device":
            member.type = tarfile.CHRTYPE
        else:
            member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    with pytest.raises(WeightsError, match="is missing" if kind == "outside" else "is a link or too large"):
        open_archive(path)
    assert not (tmp_path.parent / "outside").exists()


def test_missing_files_are_named_with_their_cure(
    tmp_path: Path, archives: dict[Kind, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        WeightsError, match=r"StanfordAIMI/RRG_scorers:radgraph-xl\.tar\.gz is not in the cache"
    ) as error:
        RadGraphModel.load(model="radgraph-xl")
    assert "--radgraph-xl PATH" in str(error.value.hint)
    with pytest.raises(WeightsError, match=r"base model \(vocab\.txt\) not found: .* does not exist"):
        RadGraphModel.load(archives["radgraph"], tokenizer=tmp_path)


def test_a_vocabulary_of_another_model_is_noticed(tmp_path: Path, archives: dict[Kind, Path], bert: Path) -> None:
    other = write_bert(tmp_path, size=32, layers=2, heads=2)
    lines = (other / "vocab.txt").read_text().splitlines()
    (other / "vocab.txt").write_text(
        "\n".join(line if line.startswith("[") else f"ж{n}" for n, line in enumerate(lines))
    )
    model = RadGraphModel.load(archives["radgraph"], tokenizer=other)
    model.annotate(["No pleural effusion."])
    assert "check --radgraph-tokenizer" in model.warnings[0]
