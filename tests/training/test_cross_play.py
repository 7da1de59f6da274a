"""What ``torchrl-alita cross-play`` prints."""

from __future__ import annotations

from torchrl_alita.training.cross_play import table

ROWS = [
    {"good": "run/a", "adversary": "random", "return_good": 1.0, "reach": 0.25},
    {"good": "b", "adversary": "random", "return_good": -20.5, "reach": 0.5},
]


def test_a_table_has_names_to_the_left_and_numbers_to_the_right():
    assert table(ROWS).splitlines() == [
        "good   adversary  return_good  reach",
        "run/a  random           1.000  0.250",
        "b      random         -20.500  0.500",
    ]


def test_columns_beyond_the_width_follow_below_with_the_names_again():
    assert table(ROWS, width=30).splitlines() == [
        "good   adversary  return_good",
        "run/a  random           1.000",
        "b      random         -20.500",
        "",
        "good   adversary  reach",
        "run/a  random     0.250",
        "b      random     0.500",
    ]
    assert table(ROWS, width=36) == table(ROWS)
    assert table(ROWS, width=35) == table(ROWS, width=30)


def test_a_column_that_no_width_holds_stands_alone():
    assert table(ROWS, width=1) == table(ROWS, width=30)
