"""The roofline chart: intensity against the rate reached, under the roof of each device."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bytebound.report.vega import MUTED, PALETTE, POWERS, Chart, brief, frame
from bytebound.report.words import clean
from bytebound.units import show_rate, significant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bytebound.documents.audit import RooflinePoint

LABEL_GAP = 1.6
"""Roofs closer than this factor share one label."""


def roofline_chart(points: Sequence[RooflinePoint], *, chart_id: str = "roofline") -> Chart:
    """Return every phase of every workload as a point under its device's roof, on logarithmic axes."""
    good = [p for p in points if min(p.intensity, p.flop_per_s, p.roof_bytes_per_s, p.roof_flop_per_s) > 0]
    low = min([p.intensity for p in good] + [p.roof_flop_per_s / p.roof_bytes_per_s for p in good], default=1.0) / 3
    high = max([p.intensity for p in good] + [p.roof_flop_per_s / p.roof_bytes_per_s for p in good], default=1e3) * 3
    roofs = sorted({(clean(p.device), p.roof_bytes_per_s, p.roof_flop_per_s) for p in good})
    many = {name for name, _, _ in roofs if sum(name == other for other, _, _ in roofs) > 1}
    lines, ends = [], []
    above = math.inf
    for name, bytes_per_s, flop_per_s in sorted(roofs, key=lambda roof: -roof[2]):
        label = f"{name} at {show_rate(flop_per_s, 'FLOP/s')}" if name in many else name
        corners = ((low, low * bytes_per_s), (flop_per_s / bytes_per_s, flop_per_s), (high, flop_per_s))
        lines += [{"roof": label, "i": brief(x), "f": brief(y)} for x, y in corners]
        if flop_per_s < above / LABEL_GAP:
            above = flop_per_s
            ends.append({"roof": label, "i": brief(high), "f": brief(flop_per_s)})
        else:
            ends[-1]["roof"] = f"{label}, {ends[-1]['roof']}"
    dots = [
        {
            "w": clean(p.workload),
            "p": clean(p.phase),
            "d": clean(p.device),
            "i": brief(p.intensity),
            "f": brief(p.flop_per_s),
            "of": brief(p.flop_per_s / min(p.roof_flop_per_s, p.intensity * p.roof_bytes_per_s)),
        }
        for p in good
    ]
    x = {
        "field": "i",
        "type": "quantitative",
        "scale": {"type": "log", "domain": [brief(low), brief(high)], "nice": False},
        "axis": {"title": "intensity, FLOP per byte", "values": POWERS, "format": "~s"},
    }
    y = {
        "field": "f",
        "type": "quantitative",
        "scale": {"type": "log"},
        "axis": {"title": "reached, FLOP/s per device", "values": POWERS, "format": "~s"},
    }
    names = list(dict.fromkeys(dot["w"] for dot in dots))
    dim = {"condition": {"param": "pick", "value": 1}, "value": 0.1}
    spec = frame(
        height=420,
        layer=[
            {
                "data": {"values": lines},
                "mark": {"type": "line", "color": MUTED, "strokeWidth": 1.5},
                "encoding": {
                    "x": x,
                    "y": y,
                    "detail": {"field": "roof"},
                    "tooltip": [{"field": "roof", "title": "roof"}],
                },
            },
            {
                "data": {"values": ends},
                "mark": {"type": "text", "align": "right", "dy": -7, "color": MUTED, "fontSize": 11},
                "encoding": {"x": x, "y": y, "text": {"field": "roof"}},
            },
            {
                "data": {"values": dots},
                "params": [{"name": "pick", "select": {"type": "point", "fields": ["w"]}, "bind": "legend"}],
                "mark": {"type": "point", "filled": True, "size": 110, "stroke": "var(--paper)", "strokeWidth": 1},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": {
                        "field": "w",
                        "type": "nominal",
                        "scale": {"domain": names, "range": PALETTE},
                        "legend": {"title": None, "orient": "bottom", "symbolType": "circle"},
                    },
                    "shape": {
                        "field": "p",
                        "type": "nominal",
                        "legend": {
                            "title": None,
                            "orient": "top",
                            "symbolFillColor": MUTED,
                            "symbolStrokeColor": MUTED,
                        },
                    },
                    "opacity": dim,
                    "tooltip": [
                        {"field": "w", "title": "workload"},
                        {"field": "p", "title": "phase"},
                        {"field": "d", "title": "device"},
                        {"field": "i", "title": "FLOP per byte", "format": ".3s"},
                        {"field": "f", "title": "FLOP/s", "format": ".3s"},
                        {"field": "of", "title": "of its roof", "format": ".0%"},
                    ],
                },
            },
        ],
    )
    rows = tuple(
        (
            clean(p.workload),
            clean(p.phase),
            clean(p.device),
            significant(p.intensity),
            show_rate(p.flop_per_s, "FLOP/s"),
        )
        for p in good
    )
    return Chart(
        id=chart_id,
        title="Roofline",
        description="Arithmetic intensity against the rate reached, with the roof of each device.",
        spec=spec,
        columns=("workload", "phase", "device", "FLOP per byte", "reached per device"),
        rows=rows,
    )
