"""One load on two servers whose times are known: the ratio comes out, and faults are one sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bytebound.documents.proof import Proof
from bytebound.documents.values import Interval, from_json, to_json
from bytebound.errors import QuantityError, RequestError, UnfinishedError
from bytebound.prove.endpoints import prove_endpoints
from bytebound.prove.trial import Forecast

pytest.importorskip("httpx", reason="it drives the servers")
sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))

from fake_server import Fake, good, serving

LOAD = {"prompt": 8, "output": 5, "requests": 2, "metrics": "off", "timeout_s": 5.0}


def test_a_server_of_half_the_step_shows_half():
    with serving(Fake(good(0.04, 0.08))) as slow, serving(Fake(good(0.04, 0.04))) as fast:
        proof = prove_endpoints(
            slow, fast, lever="fp8-weights", rounds=2, forecasts={"decode": Forecast(Interval(0.5, 0.4, 0.6), "scaled")}, **LOAD
        )  # fmt: skip
    found = {each.metric: each for each in proof.compared}
    assert set(found) == {"decode", "prefill", "request"}
    assert found["decode"].measured.value == pytest.approx(0.5, rel=0.2)
    assert found["request"].measured.value < 0.9
    assert (proof.effect, proof.lever, proof.engine) == ("helps", "fp8-weights", "vllm")
    assert from_json(Proof, to_json(proof)) == proof


def test_faults_are_said():
    with pytest.raises(RequestError, match="one address"):
        prove_endpoints("http://127.0.0.1:9", "http://127.0.0.1:9/", **LOAD)
    with pytest.raises(QuantityError, match="rounds is 1"):
        prove_endpoints("http://127.0.0.1:9", "http://127.0.0.1:10", rounds=1, **LOAD)
    with pytest.raises(UnfinishedError):
        prove_endpoints("http://127.0.0.1:9", "http://127.0.0.1:10", **LOAD)
