"""The harness of the benchmarks: turns, ratios with intervals, comparisons of results, rows and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.bench import harness
from scripts.bench.harness import Report, equal_rows, parser, ratio, require, seconds, take_turns


def test_ratio_is_that_of_medians() -> None:
    found = ratio([1.0, 3.0, 2.0], [4.0, 4.0, 4.0])
    assert found.value == 0.5
    assert (found.low, found.high) == (0.25, 0.75)  # 7/27 of the samples have median 1, as many 3


def test_ratio_pairs_rounds() -> None:
    slow = [1.0, 10.0, 5.0, 2.0]  # a busy machine that hurts both alike leaves no spread
    found = ratio(slow, [2 * value for value in slow])
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_sides_take_turns_and_the_first_one_changes() -> None:
    order: list[str] = []

    def side(name: str) -> dict[str, float]:
        order.append(name)
        return {"wall_s": float(len(order))}

    costs = take_turns({name: lambda name=name: side(name) for name in "ab"}, rounds=2, warmup=1)
    assert "".join(order) == "abbaab"
    assert {name: seconds(each) for name, each in costs.items()} == {"a": [4.0, 5.0], "b": [3.0, 6.0]}


def test_a_side_that_fails_drops_out() -> None:
    costs = take_turns({"a": lambda: {"error": "out of memory"}, "b": lambda: {"wall_s": 1.0}}, rounds=3)
    assert costs == {"a": [], "b": [{"wall_s": 1.0}] * 3}


def test_different_results_end_the_benchmark() -> None:
    assert equal_rows([[1], [2]], [[1], [3]]) == 1
    require(True, "never")
    with pytest.raises(SystemExit, match="labels differ"):
        require(False, "labels differ")


def test_rows_are_printed_as_they_come_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = parser("doc", rounds=3, quick="").parse_args(["--runs", "2", "--json", str(tmp_path / "a" / "out.json")])
    assert options.rounds == 2
    report = Report(options)
    report.table("times", {"s": ".2f", "x": ""}, "title")
    report.row("ours", {"s": 0.5, "x": ratio([1.0], [2.0]), "unseen": [1]})
    head, row = capsys.readouterr().out.strip().splitlines()
    assert head.split() == ["title", "s", "x"] and row.split() == ["ours", "0.50", "0.500", "(0.500", "to", "0.500)"]
    report.close()
    times = json.loads((tmp_path / "a" / "out.json").read_text())["times"]
    assert times["ours"] == {"s": 0.5, "x": {"value": 0.5, "low": 0.5, "high": 0.5}, "unseen": [1]}


def test_json_alone_is_printed_in_that_format(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(parser("doc", quick="").parse_args(["--format", "json"]))
    report.table("times", {"s": ".2f"})
    report.row("ours", {"s": 0.5})
    report.close()
    assert json.loads(capsys.readouterr().out)["times"] == {"ours": {"s": 0.5}}


def test_a_race_gives_ratios_to_its_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {"plain": [{"wall_s": 4.0, "cpu_s": 3.0}] * 2, "ours": [{"wall_s": 1.0, "cpu_s": 1.0}] * 2}
    monkeypatch.setattr(harness, "time_calls", lambda *_, **__: costs)
    report = Report(parser("doc", quick="").parse_args([]))
    report.table("race", {"x speed": ""})
    report.race({}, 2, "plain", count=2, facts={"ours": {"equal": 7}}, prefix="case: ")
    plain, ours = report.data["race"]["case: plain"], report.data["race"]["case: ours"]
    assert (plain["s"], plain["CPU s"], plain["per s"]) == (2.0, 1.5, 0.5) and "x speed" not in plain
    assert (ours["x speed"].value, ours["x time"].value, ours["x CPU speed"].value, ours["equal"]) == (4, 0.25, 3, 7)
