"""Intervals from residuals: they hold the stated share on deployments that the terms were not fitted on."""

from __future__ import annotations

import numpy as np
import pytest

from bytebound.facts.intervals import NARROWEST, WIDEST, half_width, terms
from bytebound.fitting.intervals import KINDS, crossed, fit_terms, half_widths, widen


def made(seed: int, rows: int = 4000):
    """Residuals whose spread depends on the engine, 0.1 or 0.4, over many deployments."""
    rng = np.random.default_rng(seed)
    engine = np.where(rng.random(rows) < 0.5, "quiet", "noisy")
    columns = {kind: np.full(rows, "x") for kind in KINDS} | {"engine": engine}
    deployment = rng.integers(0, 200, rows)
    residual = rng.normal(0, np.where(engine == "quiet", 0.1, 0.4))
    return np.full(rows, "decode"), columns, residual, deployment


def test_intervals_hold_what_they_state_in_every_group():
    clocks, columns, residual, deployment = made(1)
    inside = np.abs(residual) <= crossed(clocks, columns, residual, deployment)
    assert inside.mean() == pytest.approx(0.8, abs=0.03)
    for engine in ("quiet", "noisy"):
        assert inside[columns["engine"] == engine].mean() == pytest.approx(0.8, abs=0.06)


def test_the_noisier_engine_is_wider_by_about_its_noise():
    clocks, columns, residual, deployment = made(2)
    found = {key: value for key, (value, _) in fit_terms(clocks, columns, residual, deployment).items()}
    wide, narrow = (
        half_width("decode", engine=name, family="x", kind="x", regime="x", fitted=found) for name in ("noisy", "quiet")
    )
    assert wide / narrow == pytest.approx(4.0, rel=0.2)
    assert narrow == pytest.approx(1.2816 * 0.1, rel=0.15)  # the normal quantile of 80 %


def test_what_was_not_seen_is_wider_never_narrower():
    rng = np.random.default_rng(3)
    near, far = rng.normal(0, 0.1, 500), rng.normal(0, 0.3, 500)
    clocks = np.full(500, "decode")
    assert widen(clocks, near, far, "device")["decode", "unseen", "device"][0] == pytest.approx(np.log(3), rel=0.15)
    assert widen(clocks, far, near, "device")["decode", "unseen", "device"][0] == 0


def test_an_unknown_name_has_the_width_of_all():
    clocks, columns, residual, deployment = made(4)
    found = fit_terms(clocks, columns, residual, deployment)
    plain = {key: value for key, (value, _) in found.items()}
    unknown = half_width("decode", engine="never seen", family="x", kind="x", regime="x", fitted=plain)
    known = half_widths(found, clocks, columns)
    assert known.min() < unknown < known.max()


def test_shipped_terms_are_physical():
    assert terms()
    for clock in ("decode", "first", "prefill", "run"):
        near = half_width(clock, engine="vllm", family="nvidia-hopper", kind="dense", regime="closed-loop")
        far = half_width(
            clock,
            engine="vllm",
            family="nvidia-hopper",
            kind="dense",
            regime="closed-loop",
            unseen=("device", "engine"),
        )
        assert NARROWEST <= near <= far <= WIDEST
