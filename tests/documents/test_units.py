"""GB is not GiB, bits are not bytes, and nothing absurd gets in."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytebound import units
from bytebound.documents.work import Serve, Train
from bytebound.errors import ByteboundError, QuantityError, UnknownNameError


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("80GiB", "bytes", 80 * 2**30), ("80GB", "bytes", 80e9), ("3.35TB/s", "bytes per second", 3.35e12),
        ("400Gb/s", "bytes per second", 50e9), ("989TFLOP/s", "FLOP per second", 989e12), ("250ms", "seconds", 0.25),
        ("$2.49/h", "US dollars per hour", 2.49), ("$2.2M", "US dollars", 2.2e6), ("25%", "fraction", 0.25),
        ("90/min", "requests per second", 1.5), ("1.2kW", "watts", 1200.0), ("85_899_345_920B", "bytes", 80 * 2**30),
    ],
)  # fmt: skip
def test_parse(text, dimension, value):
    assert units.parse(text, dimension) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", ["80G", "80", "", "GB", "nanGB", "infGB", "80 GBB", "1e400GB", "--3GB"])
def test_what_cannot_be_read_is_an_error(text):
    with pytest.raises(QuantityError):
        units.parse(text, "bytes")


def test_a_bare_g_says_both_readings():
    with pytest.raises(QuantityError) as caught:
        units.parse("80G", "bytes", place="--memory")

    assert (
        str(caught.value)
        == "--memory: ambiguous size '80G'; write 80GiB (binary) or 80GB (decimal): they differ by 7.4 % at G"
    )


@given(st.text(max_size=30), st.sampled_from(sorted(units.UNITS)))
def test_any_text_is_a_number_or_our_error(text, dimension):
    with contextlib.suppress(QuantityError):
        assert math.isfinite(units.parse(text, dimension))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch", 0), ("batch", -1), ("prompt", float("nan")), ("prompt", 1e30), ("output", float("inf")), ("tp", 0), ("tp", 1.5),
        ("prefix_hit", 1.1), ("acceptance", -0.1), ("batch", "many"), ("draft_tokens", 1000), ("model_scale", 0),
    ],
)  # fmt: skip
def test_absurd_requests_name_their_field(field, value):
    with pytest.raises(QuantityError) as caught:
        Serve(**{field: value})

    assert field in str(caught.value)


def test_unknown_choices_name_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown optimizer 'adamww'; nearest: adamw"):
        Train(optimizer="adamww")
    with pytest.raises(UnknownNameError, match="unknown attention"):
        Serve(attention="fast")


def test_every_error_class_has_an_exit_code():
    def below(kind):
        return {kind, *(name for sub in kind.__subclasses__() for name in below(sub))}

    assert {kind.exit_code for kind in below(ByteboundError)} == {2, 3, 70}
