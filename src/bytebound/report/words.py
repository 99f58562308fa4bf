"""The words every rendering shares: signs, months, percentages, intervals, and text that is safe to print."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import TYPE_CHECKING, Literal

from bytebound.units import show_capacity, show_rate, show_time, show_usd, significant

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bytebound.documents.audit import Fix, Starves, WorkloadAudit
    from bytebound.documents.estimate import Phase
    from bytebound.documents.values import Interval

State = Literal["starves", "soon", "risk", "fine", "unknown"]

SIGNS: dict[State, str] = {"starves": "✗", "soon": "!", "risk": "?", "fine": "✓", "unknown": "–"}
STATE_WORDS: dict[State, str] = {
    "starves": "starves now",
    "soon": "likely to starve",
    "risk": "may starve",
    "fine": "lasts the horizon",
    "unknown": "not audited",
}
FIX_SIGNS = {"recommended": "✓", "helps": "✓", "prove-first": "?", "little-effect": "–", "rejected": "✗"}
FIX_WORDS = {
    "recommended": "recommended", "helps": "helps", "prove-first": "prove first", "little-effect": "little effect",
    "rejected": "rejected",
}  # fmt: skip

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ASCII = str.maketrans(
    {
        "✗": "x", "✓": "v", "–": "-", "—": "-", "−": "-", "×": "x", "·": ".", "…" : ".", "→": ">", "µ": "u", "±": "~",
        "≥": ">", "≤": "<", "│": "|", "─": "-", "━": "=", "█": "#", "▏": "|", "◀": "<", "’": "'", "“": '"', "”": '"',
        "\u00a0": " ", "\u202f": " ", "\u2009": " ", "∞": "o", "⚠": "!", "•": "*", "▲": "^", "▼": "v", "░": ".",
    }
)  # fmt: skip


def clean(text: object) -> str:
    r"""Return ``text`` on one line without control, bidirectional or other invisible characters.

    Names and sources come from files other people wrote; a terminal must not obey them.

    Example:
        >>> clean("chat\x1b[31m\n70b")
        'chat[31m 70b'
    """
    spaced = " ".join(str(text).split())
    return "".join(char for char in spaced if char.isprintable())


def to_ascii(text: str) -> str:
    """Return ``text`` with one ASCII character for each character, so that columns stay in line.

    Example:
        >>> to_ascii("✗ 4 µs × 2 → ok")
        'x 4 us x 2 > ok'
    """
    folded = text.translate(_ASCII)
    return "".join(char if char.isascii() else _fold(char) for char in folded)


def _fold(char: str) -> str:
    base = unicodedata.normalize("NFKD", char)[0]
    return base if base.isascii() else "?"


def month_name(month: str) -> str:
    """Return ``2027-06`` as ``Jun 2027``; any other spelling as it is.

    Example:
        >>> month_name("2027-06"), month_name("m3")
        ('Jun 2027', 'm3')
    """
    year, _, number = month[:7].partition("-")
    if year.isdigit() and number.isdigit() and 1 <= int(number) <= 12:
        return f"{_MONTHS[int(number) - 1]} {year}"
    return clean(month)


def month_short(month: str) -> str:
    """Return ``2027-06`` as ``Jun ’27``, for narrow columns.

    Example:
        >>> month_short("2027-06")
        'Jun ’27'
    """
    name, _, year = month_name(month).partition(" ")
    return f"{name} ’{year[2:]}" if year else name


def month_at(months: Sequence[str], index: int | None, *, none: str = "later") -> str:
    """Return the name of month ``index``, ``now`` for the first, ``none`` where fewer draws than asked starve."""
    if index is None:
        return none
    return "now" if index == 0 else month_name(months[min(index, len(months) - 1)])


def horizon_words(months: Sequence[str]) -> str:
    """Return the horizon in words: how many months, from when to when."""
    if not months:
        return "no months"
    return f"{len(months)} months, {month_name(months[0])} to {month_name(months[-1])}"


def moment(when: str) -> str:
    """Return an ISO time to the minute, as people write it; any other spelling as it is.

    Example:
        >>> moment("2026-11-22T10:00:31+00:00"), moment("2026-11")
        ('2026-11-22 10:00 UTC', '2026-11')
    """
    shown = clean(when)
    if len(shown) > 16 and shown[10] == "T":
        zone = " UTC" if shown.endswith(("+00:00", "Z")) else ""
        return f"{shown[:10]} {shown[11:16]}{zone}"
    return shown


def glued(text: str) -> str:
    r"""Return ``text`` in which no line of a page can end between a number and its unit.

    Example:
        >>> glued("took 50.0 ms, 8 %")
        'took 50.0\xa0ms, 8\xa0%'
    """
    return re.sub(r"(?<=\d) (?=[%A-Za-zµ\d])", "\u00a0", text)


def drawable(*values: float) -> bool:
    """Return whether a logarithmic axis can hold every value.

    Example:
        >>> drawable(1e9, 0.2), drawable(0.0), drawable(math.nan), drawable(1e300)
        (True, False, False, False)
    """
    return all(1e-30 < value < 1e30 for value in values)


def percent(value: float, *, signed: bool = False) -> str:
    """Return a fraction as percent, as a multiple above +1000 %, with a real minus sign.

    Example:
        >>> percent(0.831), percent(-0.12, signed=True), percent(25.0, signed=True)
        ('83 %', '−12 %', '×26')
    """
    if not math.isfinite(value):
        return "–"
    if signed and value >= 10:
        return f"×{significant(value + 1, 2)}"
    rounded = round(100 * value)
    sign = "+" if signed and rounded > 0 else "−" if rounded < 0 else ""
    return f"{sign}{abs(rounded)} %"


def times(value: float | None) -> str:
    """Return a multiple, or a dash where it is unknown.

    Example:
        >>> times(1.523), times(None)
        ('×1.52', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    return f"×{value:.2f}" if value < 10 else f"×{significant(value)}"


def usd(value: float | None, *, signed: bool = False) -> str:
    """Return money, or a dash where no price is known; ``signed`` writes + before a cost.

    Example:
        >>> usd(None), usd(-118234, signed=True), usd(64000, signed=True)
        ('–', '−$118 k', '+$64.0 k')
    """
    if value is None or not math.isfinite(value):
        return "–"
    text = show_usd(value).replace("-", "−")
    return f"+{text}" if signed and value > 0 else text


def saving(change: float | None) -> str:
    """Return what a change of the monthly bill means, in words.

    Example:
        >>> saving(-2000.0), saving(500.0), saving(0.0), saving(None)
        ('saves $2 000/month', 'costs $500/month', 'costs nothing', 'price unknown')
    """
    if change is None or not math.isfinite(change):
        return "price unknown"
    if abs(change) < 0.5:
        return "costs nothing"
    verb = "saves" if change < 0 else "costs"
    return f"{verb} {show_usd(abs(change))}/month"


def interval(value: Interval | None, show: Callable[[float], str]) -> str:
    """Return ``value (low–high)`` printed by ``show``; a dash where there is none.

    Array intervals show their first element.
    """
    if value is None:
        return "–"
    middle, low, high = first(value.value), first(value.low), first(value.high)
    if not math.isfinite(middle):
        return "–"
    if low == high:
        return show(middle)
    return f"{show(middle)} ({_without_unit(show(low), show(high))}–{show(high)})"


def _without_unit(low: str, high: str) -> str:
    head, _, unit = low.rpartition(" ")
    return head if head and unit == high.rpartition(" ")[2] and not unit[:1].isdigit() else low


def first(value: object) -> float:
    """Return a number, or the first element of an array of numbers."""
    flat = getattr(value, "flat", None)
    return float(next(iter(flat))) if flat is not None else float(value)  # type: ignore[arg-type]


def first_text(value: object) -> str:
    """Return a text, or the first element of an array of texts."""
    flat = getattr(value, "flat", None)
    return clean(next(iter(flat))) if flat is not None else clean(value)


def state_of(workload: WorkloadAudit) -> State:
    """Return how urgent a workload is: starving now, in half of the draws, in a tenth of them, or not."""
    if not math.isfinite(workload.headroom_now) and workload.starves.month_p50 is None:
        return "fine" if workload.headroom_now == math.inf else "unknown"
    if workload.headroom_now < 0 or workload.starves.month_p50 == 0:
        return "starves"
    if workload.starves.month_p50 is not None:
        return "soon"
    return "risk" if workload.starves.month_p10 is not None else "fine"


def when(starves: Starves, months: Sequence[str]) -> str:
    """Return the median month a workload starves and the 10–90 % range around it."""
    if starves.month_p50 == 0:
        return "now"
    if starves.month_p10 is None:
        return f"not before {month_name(months[-1])}"
    middle = month_at(months, starves.month_p50, none=f"after {month_name(months[-1])}")
    return f"{middle} ({span(starves, months)})"


def span(starves: Starves, months: Sequence[str]) -> str:
    """Return the 10–90 % range of the starvation month."""
    low, high = month_at(months, starves.month_p10), month_at(months, starves.month_p90)
    return low if low == high else f"{low} – {high}"


def cheapest(workload: WorkloadAudit) -> Fix | None:
    """Return the fix to show first: the recommended ones before those that help, in the audit's own order."""
    ranked = [fix for status in ("recommended", "helps") for fix in workload.fixes if fix.status == status]
    return ranked[0] if ranked else None


def ridge(phase: Phase) -> float:
    """Return the FLOP per byte at which the phase's device turns compute-bound, as its own MFU and MBU imply it."""
    reached = first(phase.mfu) * (first(phase.weight_bytes) + first(phase.kv_bytes))
    return first(phase.flops) * first(phase.mbu) / reached if reached > 0 else math.nan


def tokens_rate(value: float) -> str:
    r"""Return tokens per second without a prefix below a million.

    Example:
        >>> tokens_rate(3400.0)
        '3 400 tok/s'
    """
    return show_rate(value, "tok/s") if value >= 1e6 else f"{significant(value)} tok/s"


METRICS: dict[str, tuple[str, Callable[[float], str]]] = {
    "ttft_s": ("TTFT", show_time),
    "tpot_s": ("TPOT", show_time),
    "request_s": ("request", show_time),
    "step_s": ("step", show_time),
    "tokens_per_s": ("throughput", tokens_rate),
    "mfu": ("MFU", percent),
    "mbu": ("MBU", percent),
}
"""How to name and print the metrics a workload reports."""


def metric(name: str, value: Interval) -> tuple[str, str]:
    """Return the label and the printed interval of one metric; unknown ones print their name and three digits."""
    label, show = METRICS.get(name, (clean(name), significant))
    return label, interval(value, show)


def bill(workload: WorkloadAudit) -> str:
    """Return what a workload costs a month, with its range."""
    if workload.usd_per_month is None:
        return "price unknown"
    value, _, band = interval(workload.usd_per_month, usd).partition(" (")
    return f"{value}/month ({band}" if band else f"{value}/month"


def quantity(value: float | None, unit: str) -> str:
    """Return an SI value as people read it: times in s to ns, sizes in binary units, rates with a decimal prefix.

    Example:
        >>> quantity(2.39e10, "B/s"), quantity(4.8e-6, "s"), quantity(2**34, "B"), quantity(None, "s")
        ('23.9 GB/s', '4.80 µs', '16.0 GiB', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if unit == "s":
        return show_time(value)
    return show_capacity(value) if unit == "B" else show_rate(value, clean(unit))


def span_of(low: float | None, high: float | None, unit: str) -> str:
    """Return ``low–high``, the unit once where both share it.

    Example:
        >>> span_of(2.2e10, 2.4e10, "B/s"), span_of(9e-4, 1.1e-3, "s")
        ('22.0–24.0 GB/s', '900 µs–1.10 ms')
    """
    first_end, last_end = quantity(low, unit), quantity(high, unit)
    return first_end if first_end == last_end else f"{_without_unit(first_end, last_end)}–{last_end}"


def matrix_unit(dtype: str) -> str:
    """Return the unit of matrix products of ``dtype``: integers are operations, not floating-point ones."""
    return "OP/s" if dtype.startswith("int") else "FLOP/s"


def matrix_rate(dtype: str, value: float) -> str:
    """Return the rate of matrix products of ``dtype`` in its unit.

    Example:
        >>> matrix_rate("bf16", 5.6e11), matrix_rate("int8", 1.1e12)
        ('560 GFLOP/s', '1.10 TOP/s')
    """
    return quantity(value, matrix_unit(dtype))
