"""Pictures made of characters: curves lie where their numbers say, on any size, in braille and in ASCII."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytebound.report.plot import Curve, Mark, axis, plot, sparkline

POSITIVE = st.floats(1e-9, 1e18)
ANY = st.floats(allow_nan=True, allow_infinity=True)


def field(lines):
    """The cells right of the y axis of each row of a picture, without its two lines of x axis."""
    return [line.plain[line.plain.index("|" if "|" in line.plain else "+") + 1 :] for line in lines[:-2]]


def test_a_falling_line_falls_from_corner_to_corner():
    """Four decades over four decades: the first point is top left, the last bottom right, the middle in the middle."""
    x = axis((1, 1e4), "{:g}".format)
    rows = field(plot([Curve("", ((1, 1e4), (1e4, 1)))], x=x, y=x, columns=40, rows=9, plain=True))
    width = len(rows[0].rstrip("\n"))

    assert rows[0].startswith("*")
    assert rows[-1].rstrip().endswith("*")
    assert abs(rows[4].index("*") - width / 2) < width / 8


def test_a_mark_is_drawn_over_the_curve_and_beside_another_mark():
    """Two marks at one point are both seen."""
    x = axis((1, 100), "{:g}".format)
    marks = [Mark("a", 10, 10), Mark("b", 10, 10), Mark("z", math.nan, 1)]
    text = "\n".join(field(plot([Curve("", ((1, 10), (100, 10)))], marks, x=x, y=x, columns=40, rows=7, plain=True)))

    assert "ab" in text
    assert "z" not in text


def test_names_of_curves_and_stretches_are_written():
    """Curves are named at their ends, stretches of the axis above the field."""
    x = axis((1, 1000), "{:g} B".format)
    lines = plot(
        [Curve("upper", ((1, 900), (1000, 900))), Curve("lower", ((1, 2), (1000, 2)))],
        x=x, y=x, columns=70, rows=8, spans=[(1, 30, "near"), (30, 1000, "far")],
    )  # fmt: skip
    text = [line.plain for line in lines]

    assert text[0].split() == ["near", "│", "far"]
    assert text[1].rstrip().endswith("upper")
    assert any(line.rstrip().endswith("lower") for line in text)
    assert "100 B" in text[-1]


@given(
    points=st.lists(st.tuples(ANY, ANY), max_size=8),
    columns=st.integers(40, 200),
    rows=st.integers(3, 20),
    plain=st.booleans(),
)
def test_any_numbers_make_a_picture_that_fits(points, columns, rows, plain):
    """NaN, infinity, zero and negative numbers are left out; the picture keeps its size and its characters."""
    x, y = axis((a for a, _ in points), "{:.3g}".format), axis((b for _, b in points), "{:.3g}".format)
    marks = [Mark("m", a, b) for a, b in points]
    lines = [
        line.plain
        for line in plot([Curve("c", tuple(points))], marks, x=x, y=y, columns=columns, rows=rows, plain=plain)
    ]

    assert len(lines) == rows + 2
    assert max(map(len, lines)) <= columns
    assert all(line.isascii() for line in lines) or not plain


@given(st.lists(POSITIVE, min_size=1, max_size=20), st.sampled_from([2, 10]))
def test_an_axis_holds_its_values_and_its_ticks_are_round(values, base):
    """Every value lies between the ends, every tick too; powers of two tick a binary axis."""
    found = axis(values, "{:g}".format, base=base)

    assert found.low <= min(values) <= max(values) <= found.high
    assert all(found.low * 0.99 <= tick <= found.high * 1.01 for tick, _ in found.ticks[0])
    if base == 2:
        assert all(math.log2(tick).is_integer() for tick, _ in found.ticks[0])


@pytest.mark.parametrize(("values", "expected"), [([], ""), ([5.0], "▁"), ([1, math.nan, 2], "▁█")])
def test_sparkline_of_little(values, expected):
    assert sparkline(values, most=10) == expected


@given(st.lists(ANY, max_size=50), st.integers(1, 20))
def test_sparkline_is_never_longer_than_asked(values, most):
    assert len(sparkline(values, most=most)) <= most
    assert sparkline(values, most=most, plain=True).isascii()
