"""What one measured point is worth: error and interval coverage of a deployment's other points, before and after it.

    python validation/one_run.py TRUTH.csv [...] [--silicon] [--metrics tpot_s,ttft_s] [--write-prior FILE]

Reads our own truth layout or the public corpus layout; --silicon adds the end-to-end sample of the installed
aiconfigurator-core. The prior is refitted without the device type it is then tried on, so no row helps to predict itself
but the one point that is given. --write-prior fits on everything and writes the table a release ships.
"""

from __future__ import annotations

import argparse
import csv
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from bytebound.fitting.posterior import Prior, shipped_prior
from bytebound.fitting.prior_fit import fit_prior
from bytebound.fitting.trial import Deployment, Trial, deployments, held_to, trial
from bytebound.predict.parts import EFFECTS, LOADED
from bytebound.truth import read_any

HEAD = (
    "slice",
    "deployments",
    "points",
    "before",
    "median",
    "after",
    "median",
    "one factor",
    "held before",
    "held after",
)

UNTOLD, LEAST_TOLD, LOADED_NOISE = "stated before any fit: no deployment tells of it", 0.02, 0.4


def main() -> None:
    """Parse, try, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--silicon", action="store_true")
    parser.add_argument("--metrics", default="tpot_s")
    parser.add_argument("--sources", default="", help="only these publications, comma-separated")
    parser.add_argument("--models", default="", help="only models whose name holds one of these, comma-separated")
    parser.add_argument("--write-prior", type=Path)
    asked = parser.parse_args()
    rows = [row for file in asked.files for row in read_any(file).rows]
    if asked.silicon:
        from bytebound.truth.silicon import read_silicon  # noqa: PLC0415 - needs the validate extra

        rows += read_silicon().rows
    wanted, models = set(filter(None, asked.sources.split(","))), list(filter(None, asked.models.lower().split(",")))
    rows = [
        r
        for r in rows
        if (not wanted or r.source in wanted) and (not models or any(m in r.model.lower() for m in models))
    ]
    found = deployments(rows, asked.metrics.split(","))
    if not found:
        raise SystemExit("no deployment has two points of these metrics")
    print(f"{len(rows):,} rows, {len(found)} deployments of two points or more")
    print(" | ".join(HEAD))
    for metric in sorted({each.metric for each in found}):
        _table(tuple(each for each in found if each.metric == metric), metric)
    if asked.write_prior:
        _write(asked.write_prior, found, sorted({row.source for row in rows}))


def _table(found: tuple[Deployment, ...], metric: str) -> None:
    """Print one metric: dense and MoE apart, then by device type."""
    devices = sorted({each.device for each in found})
    left_out = {device: _without(found, device) for device in devices}
    slices = {"dense": [d for d in found if d.dense], "MoE": [d for d in found if not d.dense]}
    slices |= {
        f"{kind} {each}": [d for d in slices[kind] if d.device == each] for kind in ("dense", "MoE") for each in devices
    }
    for name, members in slices.items():
        if members:
            print(_line(f"{metric} {name}, shipped prior", members, _tried(members, None)))
            print(_line(f"{metric} {name}, prior without its device", members, _tried(members, left_out)))


def stated() -> Prior:
    """Return the prior as stated before any fit: what effects that no deployment tells of fall back on."""
    sds = {"scale": 0.15, "prefill": 0.3, "overhead": 0.6, "request": 0.6, "waiting": 1.0}
    links = dict.fromkeys(("scale-up-link", "scale-out-link", "host-link"), 0.35)
    drifts = {name: 0.05 for name in EFFECTS if name.endswith("-drift")}
    known = {
        "weight-bandwidth": 0.15,
        "activation-bandwidth": 0.15,
        "kv-bandwidth": 0.2,
        "compute": 0.2,
        **sds,
        **links,
        **drifts,
    }
    return Prior(np.array([known[name] for name in EFFECTS]), 0.04, LOADED_NOISE)


def _without(found: tuple[Deployment, ...], device: str) -> Prior:
    others = [each for each in found if each.device != device]
    return held_to(others, fit_prior([each.group for each in others], stated())) if len(others) > 2 else stated()


def _tried(members: list[Deployment], left_out: dict[str, Prior] | None) -> Trial:
    parts = [
        trial(
            [d for d in members if d.device == device],
            shipped_prior() if left_out is None else left_out[device],
            widen=left_out is None,
        )
        for device in sorted({d.device for d in members})
    ]
    return Trial(*(np.concatenate([getattr(part, name) for part in parts]) for name in Trial.__dataclass_fields__))


def _line(name: str, members: list[Deployment], t: Trial) -> str:
    def error(values: np.ndarray) -> tuple[str, str]:
        return f"{100 * np.abs(values).mean():.1f} %", f"{100 * np.median(np.abs(values)):.1f} %"

    cells = [name, str(len(members)), str(len(t.before)), *error(t.before), *error(t.after), error(t.ratio)[0]]
    return " | ".join([*cells, f"{100 * t.held_before.mean():.0f} %", f"{100 * t.held_after.mean():.0f} %"])


def _write(path: Path, found: tuple[Deployment, ...], sources: list[str]) -> None:
    """Write the prior fitted to every deployment; an effect that none tells of keeps its stated width.

    First tokens at a busy replica are fitted apart: they tell of waiting and of their own, larger noise.
    """
    steps, waits = [d for d in found if d.metric != LOADED], [d for d in found if d.metric == LOADED]
    start = stated()
    fitted = fit_prior([each.group for each in steps], start)
    held = held_to(steps, fitted)
    told = dict(zip(EFFECTS, np.abs(fitted.log_sd / start.log_sd - 1) > LEAST_TOLD, strict=True))
    value = {**dict(zip(EFFECTS, held.log_sd, strict=True)), "noise": held.noise, "noise-loaded": LOADED_NOISE}
    source = dict.fromkeys(value, _source(steps, sources))
    told |= {"noise": True, "noise-loaded": bool(waits)}
    if waits:
        busy = fit_prior([each.group for each in waits], start)
        value |= {"waiting": busy.log_sd[EFFECTS.index("waiting")], "noise-loaded": busy.noise}
        source |= dict.fromkeys(("waiting", "noise-loaded"), _source(waits, sources))
        told["waiting"] = True
    stated_sd = {**dict(zip(EFFECTS, start.log_sd, strict=True)), "noise-loaded": LOADED_NOISE}
    today = datetime.now(UTC).date().isoformat()
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["effect", "log_sd_ratio", "how", "confidence", "source", "date"])
        for name, each in value.items():
            row = (
                (each, "derived", "medium", source[name]) if told[name] else (stated_sd[name], "assumed", "low", UNTOLD)
            )
            table.writerow([name, f"{row[0]:.4g}", *row[1:], today])
    print(f"wrote {path}")


def _source(found: list[Deployment], sources: list[str]) -> str:
    points = sum(len(each.group.measured_s) for each in found)
    metrics = ", ".join(sorted({each.metric for each in found}))
    scaled = "" if metrics == LOADED else "; scaled until 80 % intervals hold 80 % of the points not given"
    return f"random effects fitted by validation/one_run.py to {metrics} of {len(found)} deployments ({points} points) of {', '.join(sources)}{scaled}"


if __name__ == "__main__":
    main()
