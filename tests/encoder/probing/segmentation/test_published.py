"""The paper's table 3, as far as it can be checked against itself and against the code."""

from __future__ import annotations

from encoder.probing.heads import HEADS
from encoder.probing.published import DICE, PARAMETERS, TARGETS, WORST_GROUP


def test_every_row_is_whole_and_of_a_head_that_there_is() -> None:
    assert len(DICE) == 9
    for (_, head), columns in DICE.items():
        assert head in HEADS and tuple(columns) == TARGETS
        assert all(0 < value.mean < 100 and value.sd is not None for value in columns.values())
    assert set(PARAMETERS) == set(HEADS)


def test_the_u_net_is_the_upper_bound_and_rad_dino_the_best_encoder() -> None:
    for target in TARGETS:
        assert max(DICE, key=lambda row: DICE[row][target].mean)[0] == "EfficientNet-B6"
        linear = {encoder: columns[target].mean for (encoder, head), columns in DICE.items() if head == "linear"}
        assert max(linear, key=lambda encoder: linear[encoder]) == "RAD-DINO"


def test_the_mean_over_groups_is_the_mean_of_table_3() -> None:
    for encoder, columns in WORST_GROUP.items():
        for target, (mean, worst) in columns.items():
            assert worst < mean and abs(mean - DICE[encoder, "linear"][target].mean) <= 0.21  # 76.0 there, 76.2 here
