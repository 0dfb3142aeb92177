"""The rehearsal runs every command on small networks and reports consistent numbers."""

from __future__ import annotations

import json

import pytest

from scripts import rehearse


@pytest.mark.slow
def test_small_networks_go_through(capsys: pytest.CaptureFixture[str]) -> None:
    assert rehearse.main(["--tiny", "--dtypes", "float32,4bit", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [line.split()[1] for line in found["doctor"]["output"]] == ["model", "memory"]
    for name in ("float32", "4bit"):
        # 56 pixels in patches of 14 make 16 image tokens; the rest is text, a piece a letter
        assert found[name]["tokens"] == rehearse.TINY.tokens and found[name]["prompt_tokens"] > 16
        assert 0 < found[name]["first_token_seconds"] < found[name]["report_seconds"]
        assert found[name]["cuda_bytes"] is None and found[name]["peak_bytes"] > 1e8
    rehearse.show(found)
    assert "| 4bit |" in capsys.readouterr().out
