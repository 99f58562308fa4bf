"""Parse and print quantities. Inside the project everything is bytes, seconds, FLOP, watts and US dollars.

Prefixed units live here and in ``report`` only. GB (10^9) and GiB (2^30) are different words, bits are ``b`` and bytes
are ``B``, and a bare ``80G`` is an error because the two readings differ by 7.4 %.
"""

from __future__ import annotations

import math
import re

from bytebound.errors import QuantityError, UnknownNameError

SECONDS_PER_HOUR = 3600.0
SECONDS_PER_MONTH = 730.0 * SECONDS_PER_HOUR  # 8,760 h / 12: the month cloud providers bill by
HOURS_PER_MONTH = SECONDS_PER_MONTH / SECONDS_PER_HOUR
GIB = 2**30

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}


def _scaled(suffix: str, factor: float = 1.0, *, binary: bool = False) -> dict[str, float]:
    prefixes = {**_DECIMAL, **_BINARY} if binary else _DECIMAL
    return {prefix + suffix: scale * factor for prefix, scale in prefixes.items()}


UNITS: dict[str, dict[str, float]] = {
    "bytes": {**_scaled("B", binary=True), **_scaled("b", 1 / 8)},
    "bytes per second": {
        **_scaled("B/s", binary=True),
        **_scaled("b/s", 1 / 8),
        **_scaled("bps", 1 / 8),
    },
    "FLOP per second": {**_scaled("FLOP/s"), **_scaled("FLOPS"), **_scaled("OP/s"), **_scaled("OPS")},
    "seconds": {
        "ns": 1e-9,
        "us": 1e-6,
        "µs": 1e-6,
        "ms": 1e-3,
        "s": 1.0,
        "min": 60.0,
        "h": SECONDS_PER_HOUR,
        "d": 86400.0,
    },
    "watts": {"mW": 1e-3, **_scaled("W")},
    "requests per second": {"/s": 1.0, "/min": 1 / 60, "/h": 1 / SECONDS_PER_HOUR, "/d": 1 / 86400},
    "US dollars per hour": {"$/h": 1.0, "USD/h": 1.0, "$/month": SECONDS_PER_HOUR / SECONDS_PER_MONTH},
    "US dollars": {"$": 1.0, "USD": 1.0, "$k": 1e3, "$M": 1e6},
    "fraction": {"%": 0.01, "": 1.0, "x": 1.0, "×": 1.0},
}
"""Dimension -> spelling -> factor to the SI value used inside."""

_AMBIGUOUS = {"K", "M", "G", "T", "P", "k", "Ki", "Mi", "Gi", "Ti"}
_NUMBER = re.compile(
    r"\s*\$?\s*([+-]?(?:\d[\d_,]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:nan|inf(?:inity)?))\s*(.*?)\s*", re.IGNORECASE
)


def parse(text: str | float, dimension: str, *, place: str = "") -> float:
    """Return ``text`` as a finite SI number of ``dimension``.

    Args:
        text: such as ``"80GiB"``, ``"3.35TB/s"``, ``"400Gb/s"`` (bits), ``"250ms"``, ``"$2.49/h"``. A bare number is
            taken as SI only where it cannot be misread: seconds, fractions, requests and dollars.
        dimension: a key of ``UNITS``.
        place: where the text stands, for the error.

    Raises:
        QuantityError: no number, an ambiguous or unknown unit, NaN or infinity.

    Example:
        >>> parse("80GiB", "bytes")
        85899345920.0
        >>> parse("400Gb/s", "bytes per second")
        50000000000.0
    """
    units = UNITS[dimension]
    if isinstance(text, int | float) and not isinstance(text, bool):
        return _finite(float(text), str(text), place)
    match = _NUMBER.fullmatch(str(text))
    if match is None:
        raise QuantityError(
            f"cannot read {text!r} as {dimension}", place=place, mend=f"write it as {_example(dimension)}"
        )
    value = _finite(float(match[1].replace("_", "").replace(",", "")), str(text), place)
    unit = match[2].replace(" ", "")
    if "$" in str(text) and not unit.startswith("$"):
        unit = "$" + unit
    if unit in _AMBIGUOUS and dimension in {"bytes", "bytes per second"}:
        prefix = unit.rstrip("i")
        raise QuantityError(
            f"ambiguous size {text!r}",
            place=place,
            mend=f"write {value:g}{prefix}iB (binary) or {value:g}{prefix}B (decimal): they differ by 7.4 % at G",
        )
    if not unit and dimension in {"bytes", "bytes per second", "FLOP per second", "watts"}:
        raise QuantityError(f"{text!r} has no unit", place=place, mend=f"write it as {_example(dimension)}")
    if not unit:
        return value
    if unit not in units:
        error = UnknownNameError(f"unit of {dimension}", unit, units, place=place)
        raise QuantityError(error.message, place=place, mend=f"write it as {_example(dimension)}")
    return _finite(value * units[unit], str(text), place)


def _finite(value: float, text: str, place: str) -> float:
    if not math.isfinite(value):
        raise QuantityError(f"{text!r} is not a finite number", place=place, mend="write a finite number")
    return value


def _example(dimension: str) -> str:
    return {
        "bytes": "80GiB or 80GB",
        "bytes per second": "3.35TB/s or 400Gb/s",
        "FLOP per second": "989TFLOP/s",
        "seconds": "250ms",
        "watts": "700W",
        "requests per second": "5/s",
        "US dollars per hour": "$2.49/h",
        "US dollars": "$30000 or $2.2M",
        "fraction": "25% or 0.25",
    }[dimension]


def _prefixed(value: float, unit: str, steps: tuple[tuple[float, str], ...], digits: int) -> str:
    for scale, prefix in steps:
        if abs(value) >= scale * (1 - 0.5 * 10**-digits):
            return f"{significant(value / scale, digits)} {prefix}{unit}"
    return f"{significant(value / steps[-1][0], digits)} {steps[-1][1]}{unit}"


_SI_STEPS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_BINARY_STEPS = ((2.0**50, "Pi"), (2.0**40, "Ti"), (2.0**30, "Gi"), (2.0**20, "Mi"), (2.0**10, "Ki"), (1.0, ""))
_TIME_STEPS = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


def significant(value: float, digits: int = 3) -> str:
    """Return ``value`` with ``digits`` significant digits and no exponent.

    Example:
        >>> significant(12345.6), significant(0.04567), significant(3.0)
        ('12 300', '0.0457', '3.00')
    """
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    text = f"{round(value, decimals):,.{max(decimals, 0)}f}"
    return text.replace(",", " ")


def show_capacity(value: float, digits: int = 3) -> str:
    """Print memory capacity in binary units, as drivers and engines log it.

    Example:
        >>> show_capacity(85899345920)
        '80.0 GiB'
    """
    return _prefixed(value, "B", _BINARY_STEPS, digits)


def show_bytes(value: float, digits: int = 3) -> str:
    """Print traffic in decimal units, as datasheets do.

    Example:
        >>> show_bytes(1.6e10)
        '16.0 GB'
    """
    return _prefixed(value, "B", _SI_STEPS, digits)


def show_rate(value: float, unit: str, digits: int = 3) -> str:
    """Print a rate with a decimal prefix.

    Example:
        >>> show_rate(3.35e12, "B/s"), show_rate(989e12, "FLOP/s")
        ('3.35 TB/s', '989 TFLOP/s')
    """
    return _prefixed(value, unit, _SI_STEPS, digits)


def show_time(value: float, digits: int = 3) -> str:
    """Print a duration in s, ms, µs or ns.

    Example:
        >>> show_time(0.00452)
        '4.52 ms'
    """
    return _prefixed(value, "s", _TIME_STEPS, digits)


def show_usd(value: float) -> str:
    """Print money: cents below 100, else thousands and millions.

    Example:
        >>> show_usd(0.524), show_usd(118234), show_usd(1310000)
        ('$0.524', '$118 k', '$1.31 M')
    """
    sign = "-" if value < 0 else ""
    size = abs(value)
    if size >= 1e6 * 0.9995:
        return f"{sign}${significant(size / 1e6)} M"
    if size >= 1e4:
        return f"{sign}${significant(size / 1e3)} k"
    return f"{sign}${significant(size)}"
