"""Numbers in files do not depend on the processor's last digits."""

import math

from hypothesis import given
from hypothesis import strategies as st

from suite.metrics.rows import Row, read_rows, write_rows
from suite.runtime.files import rounded


@given(st.floats(min_value=1, max_value=9.9), st.integers(-12, 12))
def test_what_is_kept_is_within_half_a_unit_of_the_tenth_digit(mantissa, exponent):
    value = mantissa * 10.0**exponent
    assert math.isclose(rounded(value), value, rel_tol=5e-10)


def test_lists_and_mappings_are_reached_and_other_things_left():
    told = {"a": [1 / 3, "1/3", None, 7, True], "b": {"c": (2 / 3, math.inf)}}
    assert rounded(told) == {"a": [0.3333333333, "1/3", None, 7, True], "b": {"c": [0.6666666667, math.inf]}}


def test_files_of_numbers_that_differ_by_rounding_are_the_same(tmp_path):
    files = []
    for k, noise in enumerate((0.0, 1e-15, -3e-15)):
        rows = [Row("ppo", 0, 3, 1, "gold", x * (1 + noise), x - 1, x + 1) for x in (0.1, math.pi, 12345.678)]
        write_rows(rows, tmp_path / f"{k}.csv")
        files.append((tmp_path / f"{k}.csv").read_bytes())
    assert files[0] == files[1] == files[2]
    assert [row.value for row in read_rows(tmp_path / "0.csv")] == [0.1, 3.141592654, 12345.678]
