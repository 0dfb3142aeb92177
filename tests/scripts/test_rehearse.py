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


@pytest.mark.nightly
def test_studies_of_three_images_are_drawn_and_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert rehearse.main(["--tiny", "--images", "3", "--dtypes", "float32,4bit", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for dtype in ("float32", "4bit"):
        one, pooled, whole = (row for form, row in found[dtype].items() if form != "drawn_seconds")
        # 4 x 4 patches an image, 2 x 2 of further ones that are pooled; the texts are the same
        assert whole["prompt_tokens"] - pooled["prompt_tokens"] == 2 * (16 - 4)
        assert one["prompt_tokens"] + 2 * 4 < pooled["prompt_tokens"]  # and the lines of lateral, prior and its report
        assert one["peak_bytes"] <= pooled["peak_bytes"] <= whole["peak_bytes"]
        assert {row["tokens"] for row in (one, pooled, whole)} == {rehearse.TINY.tokens}
    rehearse.show_studies(found)
    assert "| 4bit | 3 images, all tokens |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"), [(["--tokens", "1"], "at least 2"), (["--dtypes", "4bit,5bit"], "--dtypes: 5bit")]
)
def test_usage_errors(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        rehearse.main(["--images", "3", *words])
    assert message in capsys.readouterr().err
