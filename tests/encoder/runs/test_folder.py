"""The run folder: edited data is noticed, and a start that failed leaves nothing in the way of the next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import BaseModel

from encoder.datasets.manifest import Row
from encoder.errors import ConfigError
from encoder.runs.folder import data_digest, own_cache, prepare


class Settings(BaseModel):
    lr: float = 1.0


def start(folder: Path, *, data: str = "a", lr: float = 1.0, begun: bool = True, restart: bool = False) -> bool:
    return prepare(
        folder, Settings(lr=lr), load=lambda name: Settings(lr=1.0), begun=lambda: begun, may_change={},
        results=("out",), restart=restart, data=data, data_key="data.pairs",
    )  # fmt: skip


def test_edited_data_is_refused_where_there_is_a_checkpoint(tmp_path: Path) -> None:
    assert start(tmp_path, begun=False)
    assert not start(tmp_path)
    with pytest.raises(ConfigError, match=r"the table of data\.pairs has changed since") as caught:
        start(tmp_path, data="b")
    assert "--restart" in str(caught.value.hint)
    (tmp_path / "out").mkdir()
    assert start(tmp_path, data="b", restart=True) and not (tmp_path / "out").exists()
    assert not start(tmp_path, data="b")


def test_a_run_of_an_earlier_version_has_no_hash_and_gets_one(tmp_path: Path) -> None:
    start(tmp_path)
    (tmp_path / "data.sha256").unlink()
    assert not start(tmp_path, data="c")
    with pytest.raises(ConfigError, match="has changed"):
        start(tmp_path)


@pytest.mark.parametrize("change", [{"lr": 2.0}, {"data": "b"}])
def test_a_start_without_a_checkpoint_is_no_obstacle(tmp_path: Path, change: dict[str, object]) -> None:
    assert start(tmp_path, begun=False)
    assert not start(tmp_path, begun=False)
    assert start(tmp_path, begun=False, **change)  # type: ignore[arg-type]


def rows(*names: str, folder: str = "/data", subject: str = "s", split: str = "train") -> Sequence[Row]:
    return [Row(Path(folder) / f"{name}.png", image=name, subject=subject, split=split) for name in names]


def test_the_hash_knows_order_texts_subjects_and_splits_but_no_folder() -> None:
    usual = data_digest(rows("a", "b"), ["one", "two"])
    assert usual == data_digest(rows("a", "b", folder="/moved"), ["one", "two"])
    others = [
        data_digest(rows("b", "a"), ["one", "two"]),
        data_digest(rows("a"), ["one", "two"]),
        data_digest(rows("a", "b"), ["one", "two."]),
        data_digest(rows("a", "b"), ["two", "one"]),
        data_digest(rows("a", "b", subject="t"), ["one", "two"]),
        data_digest(rows("a", "b", split="val"), ["one", "two"]),
    ]
    assert len({usual, *others}) == 7


def test_the_runs_own_cache_of_other_images_is_replaced_before_the_first_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "cache"

    def build() -> str:
        if folder.exists():
            raise ConfigError("the pixel cache in data.cache holds other images")
        return "built"

    folder.mkdir()
    with pytest.raises(ConfigError, match="holds other images"):
        own_cache(build, folder, replace=False)
    assert own_cache(build, folder, replace=True) == "built"
