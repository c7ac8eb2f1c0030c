"""Turns, medians, ratios and shares by hand; a contender that fails is a row; the table and its CSV say the same."""

import csv
import math

import pytest

from suite.benchmark.turns import UnavailableError, in_turns, line, reason
from suite.metrics.speeds import Speed, table, write_csv


def scripted(name, values, order):
    """A contender that gives these speeds (or raises them) one by one and writes down its turns."""
    left = iter(values)

    def run():
        order.append(name)
        value = next(left)
        if isinstance(value, Exception):
            raise value
        return value

    return run


def test_everyone_runs_once_a_round_and_the_first_round_does_not_count():
    order = []
    speeds = in_turns({"a": scripted("a", [9.0, 1.0, 2.0], order), "b": scripted("b", [8.0, 3.0, 4.0], order)}, rounds=2)
    assert order == ["a", "b"] * 3
    assert speeds == {"a": [1.0, 2.0], "b": [3.0, 4.0]}


def test_without_a_warm_up_every_round_counts():
    assert in_turns({"a": scripted("a", [9.0, 1.0], [])}, rounds=2, warm_up=False) == {"a": [9.0, 1.0]}


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_a_rival_that_fails_is_left_out_from_then_on_and_says_why(turn):
    order = []
    values = [1.0] * turn + [UnavailableError("no such units")]
    runs = {"ours": scripted("ours", [1.0] * 3, order), "rival": scripted("rival", values, order)}
    assert in_turns(runs, rounds=2) == {"ours": [1.0, 1.0], "rival": "no such units"}
    assert order.count("ours") == 3
    assert order.count("rival") == turn + 1


def test_failures_of_the_reference_are_raised():
    with pytest.raises(ZeroDivisionError):
        in_turns({"ours": scripted("ours", [ZeroDivisionError()], []), "rival": scripted("rival", [1.0], [])}, rounds=1)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(2)])
def test_the_user_can_stop_a_rival(stop):
    def stopped():
        raise stop

    with pytest.raises(type(stop)):
        in_turns({"ours": lambda: 1.0, "rival": stopped}, rounds=1)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UnavailableError("no bf16 units"), "no bf16 units"),
        (ValueError("first line\nsecond line"), "ValueError: first line"),
        (KeyError(), "KeyError"),
        (RuntimeError("x" * 500), "RuntimeError: " + "x" * 146),
    ],
)
def test_reasons_are_one_short_line(error, told):
    assert reason(error) == told


def test_ratios_and_shares_are_medians_over_rounds_not_of_medians():
    # Ratios of the rounds: 6/2 = 3, 1/2 = 0.5, 8/4 = 2, so the median is 2; the ratio of medians would be 6/2 = 3.
    # Shares: 2/4, 2/20, 4/5, so the median is 0.5; the ratio of medians would be 2/5.
    found = line("sampling", 8, "rival", [2.0, 2.0, 4.0], "tokens/s", reference=[6.0, 1.0, 8.0], limit=[4.0, 20.0, 5.0])
    assert found == Speed("sampling", 8, "rival", 2.0, 2.0, 4.0, "tokens/s", 2.0, 0.5)


def test_no_limit_is_no_share():
    for limit in (None, "no bf16 units"):
        found = line("sampling", 8, "ours", [2.0], "tokens/s", reference=[2.0], limit=limit)
        assert math.isnan(found.share)
        assert found.ratio == 1.0


@pytest.fixture
def lines():
    return [
        line("sampling", 8, "ours", [4000.0, 2000.0], "tokens/s", [4000.0, 2000.0], [8000.0, 8000.0], "how | it ran"),
        line("sampling", 8, "rival", "no bf16 units", "tokens/s", [4000.0, 2000.0], [8000.0, 8000.0]),
        line("PPO update", None, "stock", [6.0], "updates/min", [12.0]),
    ]


def test_the_table(lines):
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in table(lines).splitlines()]
    assert cells[0] == ["what", "n", "contender", "median", "ours is faster by", "of the limit", "note"]
    assert cells[2:] == [
        ["sampling", "8", "ours", "3000 tokens/s", "1.00", "38%", "how / it ran"],
        ["sampling", "8", "rival", "did not run", "", "", "no bf16 units"],
        ["PPO update", "", "stock", "6 updates/min", "2.00", "", ""],
    ]


def test_the_csv_is_tidy(lines, tmp_path):
    write_csv(lines, tmp_path / "speed.csv")
    with (tmp_path / "speed.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["contender"] for row in rows] == ["ours", "rival", "stock"]
    assert (rows[0]["median"], rows[0]["lowest"], rows[0]["highest"], rows[0]["note"]) == (
        "3000.0", "2000.0", "4000.0", "how | it ran",
    )  # fmt: skip
    numbers = ("median", "lowest", "highest", "ratio", "share")
    assert [rows[1][column] for column in numbers] == [""] * 5
    assert rows[1]["note"] == "no bf16 units"
    assert (rows[2]["n"], rows[2]["ratio"], rows[2]["share"]) == ("", "2.0", "")
