"""Roofline charts: intensity against the rate reached, under the roofs of devices or of one machine's memory levels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bytebound.report.vega import INK, MUTED, PALETTE, POWERS, Chart, Spec, brief, frame
from bytebound.report.words import clean, drawable, matrix_rate
from bytebound.units import show_rate, significant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bytebound.documents.audit import RooflinePoint

LABEL_GAP = 1.6
"""Roofs closer than this factor share one label."""
INTENSITY = "datum.value < 1 ? format(datum.value, '~g') : format(datum.value, '~s')"
COLUMNS = ("workload", "phase", "device", "FLOP per byte", "reached per device")


@dataclass(frozen=True, slots=True)
class Dot:
    """One thing on a roofline: what it is, how it is drawn (group: colour, shape), where it lies.

    ``roof`` is the rate its roof allows at its intensity [FLOP/s]; ``weight`` its share of the time, the dot's area;
    ``label`` is written beside it.
    """

    name: str
    group: str
    shape: str
    intensity: float
    flop_per_s: float
    roof: float
    weight: float = 1.0
    label: str = ""

    @property
    def drawable(self) -> bool:
        """Whether logarithmic axes can hold it."""
        return drawable(self.intensity, self.flop_per_s, self.roof)


def roofline_chart(points: Sequence[RooflinePoint], *, chart_id: str = "roofline") -> Chart:
    """Return every phase of every workload as a point under its device's roof, on logarithmic axes."""
    good = [p for p in points if min(p.intensity, p.flop_per_s, p.roof_bytes_per_s, p.roof_flop_per_s) > 0]
    turns = [p.intensity for p in good] + [p.roof_flop_per_s / p.roof_bytes_per_s for p in good]
    low, high = min(turns, default=1.0) / 3, max(turns, default=1e3) * 3
    roofs = sorted({(clean(p.device), p.roof_bytes_per_s, p.roof_flop_per_s) for p in good})
    many = {name for name, _, _ in roofs if sum(name == other for other, _, _ in roofs) > 1}
    lines, tops = [], {}
    for name, bytes_per_s, flop_per_s in sorted(roofs, key=lambda roof: -roof[2]):
        label = f"{name} at {show_rate(flop_per_s, 'FLOP/s')}" if name in many else name
        corners = ((low, low * bytes_per_s), (flop_per_s / bytes_per_s, flop_per_s), (high, flop_per_s))
        lines += [{"roof": label, "i": brief(x), "f": brief(y)} for x, y in corners]
        tops[label] = flop_per_s
    dots = [
        Dot(
            name=clean(p.device),
            group=clean(p.workload),
            shape=clean(p.phase),
            intensity=p.intensity,
            flop_per_s=p.flop_per_s,
            roof=min(p.roof_flop_per_s, p.intensity * p.roof_bytes_per_s),
        )
        for p in good
    ]
    x, y = _axes(low, high, "reached, FLOP/s per device")
    layers = [_lines(lines, x, y), _names(_merged(tops, at=high), x, y, align="right")]
    return Chart(
        id=chart_id,
        title="Roofline",
        description="Arithmetic intensity against the rate reached, with the roof of each device.",
        spec=frame(height=420, layer=[*layers, _dots(dots, x, y, titles=("workload", "phase", "device"))]),
        columns=COLUMNS,
        rows=tuple(
            (d.group, d.shape, d.name, significant(d.intensity), show_rate(d.flop_per_s, "FLOP/s")) for d in dots
        ),
    )


def machine_roofline(
    memory: Mapping[str, float],
    compute: Mapping[str, float],
    dots: Sequence[Dot] = (),
    *,
    titles: tuple[str, str, str] = ("group", "phase", "name"),
    chart_id: str = "roofline",
) -> Chart:
    """Return one machine's roofs and what was observed under them, on logarithmic axes.

    Args:
        memory: level -> read rate [B/s]; the slowest is drawn as the roof, the others as dashes above it.
        compute: dtype -> rate [FLOP/s].
        dots: what was observed.
        titles: what a dot's group, shape and name are called.
        chart_id: of the element that holds it.
    """
    good = [dot for dot in dots if dot.drawable]
    rates = {clean(name): rate for name, rate in memory.items() if drawable(rate)}
    roofs = {clean(name): rate for name, rate in compute.items() if drawable(rate)}
    slowest, fastest = min(rates.values(), default=1.0), max(rates.values(), default=1.0)
    top = max([*roofs.values(), *(dot.flop_per_s for dot in good)], default=100 * fastest)
    turns = [dot.intensity for dot in good] + [rate / slowest for rate in roofs.values()]
    low, high = min([*turns, top / fastest / 10]) / 3, max([*turns, top / slowest]) * 5
    lines: list[Spec] = []
    dashes: list[Spec] = []
    for name, rate in rates.items():
        ends = ((low, low * rate), (top / rate, top))
        chosen = lines if rate == slowest else dashes
        chosen += [{"roof": f"{name} {show_rate(rate, 'B/s')}", "i": brief(a), "f": brief(b)} for a, b in ends]
    for name, rate in roofs.items():
        ends = ((rate / fastest, rate), (high, rate))
        lines += [{"roof": f"{name} {matrix_rate(name, rate)}", "i": brief(a), "f": brief(b)} for a, b in ends]
    labels = {f"{name} {show_rate(rate, 'B/s')}": low * rate for name, rate in rates.items()}
    tops = {f"{name} {matrix_rate(name, rate)}": rate for name, rate in roofs.items()}
    x, y = _axes(low, high, "FLOP/s")
    floor = min([low * slowest, *(dot.flop_per_s for dot in good)]) / 2
    y["scale"] |= {"domain": [brief(floor), brief(top * 2)], "nice": False}
    layers = [
        _lines(dashes, x, y, dash=True),
        _lines(lines, x, y),
        *([_dots(good, x, y, titles=titles, weighted=True)] if good else []),
        _names(_merged(labels, at=low), x, y, align="left", halo=True),
        _names(_merged(labels, at=low), x, y, align="left"),
        _names(_merged(tops, at=high), x, y, align="right"),
        *_beside(good, x, y),
    ]
    return Chart(
        id=chart_id,
        title="Roofline of the machine" if not good else "Roofline with what was observed",
        description="Arithmetic intensity against the rate, under the roofs of each memory level and data type.",
        spec=frame(height=440, layer=layers),
        columns=(*titles, "FLOP per byte", "reached", "of its roof") if good else ("roof", "rate"),
        rows=tuple(
            (d.group, d.shape, d.name, significant(d.intensity), show_rate(d.flop_per_s, "FLOP/s"), _of(d))
            for d in good
        )
        if good
        else tuple(
            [(name, show_rate(rate, "B/s")) for name, rate in rates.items()]
            + [(name, matrix_rate(name, rate)) for name, rate in roofs.items()]
        ),
    )


def _of(dot: Dot) -> str:
    return f"{significant(100 * dot.flop_per_s / dot.roof, 2)} %"


def _axes(low: float, high: float, reached: str) -> tuple[Spec, Spec]:
    x: Spec = {
        "field": "i",
        "type": "quantitative",
        "scale": {"type": "log", "domain": [brief(low), brief(high)], "nice": False},
        "axis": {"title": "intensity, FLOP per byte", "values": POWERS, "labelExpr": INTENSITY},
    }
    y: Spec = {
        "field": "f",
        "type": "quantitative",
        "scale": {"type": "log"},
        "axis": {"title": reached, "values": POWERS, "format": "~s"},
    }
    return x, y


def _merged(values: Mapping[str, float], *, at: float) -> list[Spec]:
    """Return one label a roof, from the highest down; roofs too close to the last label join it."""
    ends: list[Spec] = []
    above = math.inf
    for name, value in sorted(values.items(), key=lambda item: -item[1]):
        if value < above / LABEL_GAP:
            above = value
            ends.append({"roof": name, "i": brief(at), "f": brief(value)})
        else:
            ends[-1]["roof"] = f"{name}, {ends[-1]['roof']}"
    return ends


def _lines(lines: list[Spec], x: Spec, y: Spec, *, dash: bool = False) -> Spec:
    look: Spec = {"strokeDash": [4, 3], "strokeWidth": 1.2} if dash else {"strokeWidth": 1.5}
    return {
        "data": {"values": lines},
        "mark": {"type": "line", "color": MUTED, **look},
        "encoding": {"x": x, "y": y, "detail": {"field": "roof"}, "tooltip": [{"field": "roof", "title": "roof"}]},
    }


def _names(ends: list[Spec], x: Spec, y: Spec, *, align: str, halo: bool = False) -> Spec:
    """Return labels above the right ends of flat roofs, or under the left ends of slopes, where the line leaves room."""
    edge: Spec = {"stroke": "var(--card)", "strokeWidth": 4} if halo else {}
    below: Spec = {"dy": 10, "dx": 4, "baseline": "middle"} if align == "left" else {"dy": -7}
    return {
        "data": {"values": ends},
        "mark": {"type": "text", "align": align, "color": MUTED, "fontSize": 11, **below, **edge},
        "encoding": {"x": x, "y": y, "text": {"field": "roof"}},
    }


def _beside(dots: Sequence[Dot], x: Spec, y: Spec) -> list[Spec]:
    rows = [{"t": d.label, "i": brief(d.intensity), "f": brief(d.flop_per_s)} for d in dots if d.label]
    look = {"type": "text", "align": "left", "dx": 12, "baseline": "middle", "fontWeight": "bold", "fontSize": 12}
    encoding = {"x": x, "y": y, "text": {"field": "t"}}
    halo = {**look, "stroke": "var(--card)", "strokeWidth": 4, "color": INK}
    if not rows:
        return []
    return [{"data": {"values": rows}, "mark": mark, "encoding": encoding} for mark in (halo, {**look, "color": INK})]


def _dots(dots: Sequence[Dot], x: Spec, y: Spec, *, titles: tuple[str, str, str], weighted: bool = False) -> Spec:
    rows = [
        {
            "w": d.group,
            "p": d.shape,
            "d": d.name,
            "i": brief(d.intensity),
            "f": brief(d.flop_per_s),
            "of": brief(d.flop_per_s / d.roof),
            **({"s": brief(d.weight)} if weighted else {}),
        }
        for d in dots
    ]
    groups = list(dict.fromkeys(row["w"] for row in rows))
    area: Spec = {"size": {"field": "s", "type": "quantitative", "scale": {"range": [45, 420]}, "legend": None}}
    first, second, third = titles
    return {
        "data": {"values": rows},
        "params": [{"name": "pick", "select": {"type": "point", "fields": ["w"]}, "bind": "legend"}],
        "mark": {"type": "point", "filled": True, "size": 110, "stroke": "var(--paper)", "strokeWidth": 1},
        "encoding": {
            "x": x,
            "y": y,
            "color": {
                "field": "w",
                "type": "nominal",
                "scale": {"domain": groups, "range": PALETTE},
                "legend": {"title": None, "orient": "bottom", "symbolType": "circle"},
            },
            "shape": {
                "field": "p",
                "type": "nominal",
                "legend": {"title": None, "orient": "top", "symbolFillColor": MUTED, "symbolStrokeColor": MUTED},
            },
            "opacity": {"condition": {"param": "pick", "value": 1}, "value": 0.1},
            **(area if weighted else {}),
            "tooltip": [
                {"field": "w", "title": first},
                {"field": "p", "title": second},
                {"field": "d", "title": third},
                {"field": "i", "title": "FLOP per byte", "format": ".3s"},
                {"field": "f", "title": "FLOP/s", "format": ".3s"},
                {"field": "of", "title": "of its roof", "format": ".0%"},
            ],
        },
    }
