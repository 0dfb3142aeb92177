"""Files of API keys that several processes change."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from app.service.keys import add_key, read_keys, remove_key


def test_keys_changed_at_the_same_time_are_all_kept_and_none_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    add_key(file, "gone", per_minute=1, at_once=1, admin=True)
    with ThreadPoolExecutor(6) as threads:
        changes = [threads.submit(add_key, file, f"key{n}", per_minute=1, at_once=1, admin=False) for n in range(12)]
        changes.insert(6, threads.submit(remove_key, file, "gone"))
        for one in changes:
            one.result()
    assert sorted(read_keys(file)) == sorted(f"key{n}" for n in range(12))
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]
