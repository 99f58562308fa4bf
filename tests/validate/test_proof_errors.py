"""Errors of proofs: hidden ones are left out, the rest counted by engine and metric."""

from __future__ import annotations

import pytest

from bytebound import cli
from bytebound.documents.observation import Spread
from bytebound.documents.proof import Compared, Proof
from bytebound.documents.values import Interval
from bytebound.validate.proofs import proof_errors

SPREAD = Spread(1.0, 1.0, 1.0, 1.0, 3)


def proof(verdict, *ratios, engine="llama.cpp"):
    """A proof whose decode came out as the pairs (measured, predicted)."""
    compared = tuple(
        Compared("decode", SPREAD, SPREAD, Interval(m, m * 0.9, m * 1.1), Interval(p, p * 0.9, p * 1.1), "calibrated", p / m - 1, abs(p / m - 1) <= 0.15)
        for m, p in ratios
    )  # fmt: skip
    return Proof(
        id="p", when="2026-11-21T12:00:00+00:00", lever="q8_0-weights", title="", engine=engine, engine_version="1", model="m", machine="here",
        before={}, after={}, compared=compared, verdict=verdict, effect="helps", sentence="", rounds=3, disturbed=0.0, seconds=1.0, real_weights=False,
    )  # fmt: skip


def test_errors_are_counted_by_engine_and_metric_and_noise_is_left_out():
    found = proof_errors(
        [
            proof("confirmed", (1.0, 1.05)),
            proof("refuted", (1.0, 1.30), (1.0, 1.10)),
            proof("inconclusive", (1.0, 9.0)),
            proof("confirmed", (0.5, 0.5), engine="x"),
        ]
    )
    assert (found.proofs, found.left_out) == (3, 1)
    first, second = found.rows
    assert (first.engine, first.compared, second.engine) == ("llama.cpp", 3, "x")
    assert first.median_error == pytest.approx(0.10)
    assert first.within == pytest.approx(2 / 3)
    assert first.coverage == pytest.approx(2 / 3)  # 1.05 ± 10 % and 1.10 ± 10 % hold 1.0, 1.30 does not


def test_without_proofs_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BYTEBOUND_DATA", str(tmp_path))
    monkeypatch.delenv("BYTEBOUND_DB", raising=False)
    assert cli.run(["validate", "--proofs"]) == 2
    assert "no conclusive proof is kept" in capsys.readouterr().err
    assert cli.run(["validate", "--proofs", "--training"]) == 2
