"""Words: signs, months, money and text that is safe to print."""

from __future__ import annotations

import math
from dataclasses import replace

import fabricated
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytebound.documents.audit import Starves
from bytebound.documents.values import Interval
from bytebound.report import words
from bytebound.units import show_time


@given(st.text())
def test_clean_text_holds_nothing_a_terminal_obeys(text):
    """No control, bidirectional or line character survives, whatever a name holds."""
    shown = words.clean(text)

    assert shown.isprintable()
    assert "\n" not in shown


@given(st.text())
def test_ascii_keeps_the_length(text):
    """One character for one character, so columns stay in line."""
    shown = words.to_ascii(text)

    assert shown.isascii()
    assert len(shown) == len(text)


@pytest.mark.parametrize(
    ("starves", "headroom", "expected"),
    [
        (Starves(1.0, 0, 0, 0, "compute"), 0.1, "starves"),
        (fabricated.NEVER, -0.01, "starves"),
        (Starves(0.6, 2, 9, None, "compute"), 0.4, "soon"),
        (Starves(0.2, 12, None, None, "compute"), 0.4, "risk"),
        (Starves(0.05, None, None, None, "compute"), 0.4, "fine"),
        (fabricated.NEVER, math.nan, "unknown"),
        (fabricated.NEVER, math.inf, "fine"),
    ],
)
def test_state_follows_the_median_then_the_tenth(starves, headroom, expected):
    """Now, in half of the draws, in a tenth of them, or not."""
    workload = fabricated.workload("w", starves=starves, headroom_now=headroom)

    assert words.state_of(workload) == expected


def test_every_state_has_a_sign_of_its_own():
    """Meaning is never colour alone."""
    assert len(set(words.SIGNS.values())) == len(words.SIGNS) == len(words.STATE_WORDS)


@pytest.mark.parametrize(
    ("starves", "expected"),
    [
        (Starves(1.0, 0, 0, 0, "x"), "now"),
        (Starves(0.8, 4, 7, 12, "x"), "Jun 2027 (Mar 2027 – Nov 2027)"),
        (Starves(0.6, 4, 7, None, "x"), "Jun 2027 (Mar 2027 – later)"),
        (Starves(0.3, 11, None, None, "x"), "after Apr 2028 (Oct 2027 – later)"),
        (fabricated.NEVER, "not before Apr 2028"),
    ],
)
def test_when_names_months(starves, expected):
    """The median month with its 10–90 % range, in names of months."""
    assert words.when(starves, fabricated.MONTHS) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Interval(0.25, 0.2, 0.3), "250 ms (200–300 ms)"),
        (Interval(0.9, 0.5, 1.5), "900 ms (500 ms–1.50 s)"),
        (Interval(1.0, 1.0, 1.0), "1.00 s"),
        (Interval(np.array([0.25, 9.0]), np.array([0.2, 9.0]), np.array([0.3, 9.0])), "250 ms (200–300 ms)"),
        (Interval(math.nan, math.nan, math.nan), "–"),
        (None, "–"),
    ],
)
def test_interval_shares_its_unit(value, expected):
    """A range repeats its unit only where the two ends differ; what is unknown is a dash."""
    assert words.interval(value, show_time) == expected


def test_cheapest_prefers_what_the_audit_recommends():
    """A recommended fix comes before one that merely helps, in the audit's order."""
    helps, best = fabricated.FIXES[1], fabricated.FIXES[0]
    workload = fabricated.workload("w", fixes=(helps, best))

    assert words.cheapest(workload) is best
    assert words.cheapest(replace(workload, fixes=(helps,))) is helps
    assert words.cheapest(replace(workload, fixes=fabricated.FIXES[2:])) is None


def test_ridge_is_where_the_two_ceilings_meet():
    """100 FLOP on 10 bytes at half of each ceiling turns compute-bound at 10 FLOP per byte."""
    phase = replace(fabricated.estimate().decode, flops=100.0, weight_bytes=6.0, kv_bytes=4.0, mbu=0.5, mfu=0.5)

    assert words.ridge(phase) == 10.0
    assert math.isnan(words.ridge(replace(phase, mfu=0.0)))
