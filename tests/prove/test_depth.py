"""What shallow models foretell of a deeper one: exact where a step is a sum of layers, and bytes as files have them."""

from __future__ import annotations

import json
from contextlib import contextmanager

import numpy as np
import pytest

from bytebound.engines.model_making import random_folder
from bytebound.measure.sampling import Sample
from bytebound.models import read_model
from bytebound.prove import depth
from bytebound.prove.depth import Probe, by_depth, extrapolated, stored_bytes
from bytebound.prove.remote import Turn
from bytebound.prove.trial import Bench, Side, Timed

TINY = {"layers": 4, "width": 64, "feed_forward": 96, "heads": 4, "kv_heads": 2, "head_dim": 16, "vocabulary": 320}
TIMED = (Timed("decode", "step", {"depth": 3}, {"depth": 3}, prepare={"depth": 3}),)


class Layered:
    """An engine whose step is its ends and a layer so many times, on a clock without noise."""

    def __init__(self, settings):
        self.settings, self.prepared = settings, 0

    def ask(self, what, **given):
        """Answer as the protocol does."""
        if what == "memory":
            return {"resident": self.settings["resident"]}
        self.prepared = given["depth"]
        return None

    def time(self, what, given, *, skip, times):
        """Take as long as the settings say."""
        assert (what, given, skip, times) == ("step", {"depth": self.prepared}, 1, 3)
        seconds = self.settings["ends"] + self.settings["each"] * self.settings["layers"]
        return Turn((seconds,) * times, Sample(seconds, 0.0, 0.0))


def side(layers, ends, each, resident):
    return Side("layered", {"layers": layers, "ends": ends, "each": each, "resident": resident}, {})


def test_a_step_that_is_a_sum_of_layers_is_foretold_exactly(tmp_path, monkeypatch):
    @contextmanager
    def opened(_adapter, settings, **_options):
        yield Layered(settings), "1"

    monkeypatch.setattr(depth, "open_engine", opened)
    bench = Bench(tmp_path, None, 1, say=lambda _text: None)
    probes = tuple(
        Probe(n, side(n, 0.010, 0.002, 50 + 100 * n), side(n, 0.004, 0.003, 40 + 30 * n), (100.0 * n, 30.0 * n))
        for n in (2, 5)
    )
    told = by_depth(bench, probes, TIMED, layers=30, stored=(3000.0, 900.0), engine="toy")
    found = told["decode"]
    assert found.ratio.value == pytest.approx((0.004 + 30 * 0.003) / (0.010 + 30 * 0.002))
    assert found.ratio.low == pytest.approx(found.ratio.high)
    assert (found.how, "2 and 5 layers" in found.provenance[0].source) == ("calibrated", True)
    assert told["memory"].ratio.value == pytest.approx(940 / 3050)


def test_noise_in_probes_widens_what_they_foretell():
    steps = np.array([[[0.02], [0.01]], [[0.05], [0.025]]])

    def width(share):
        noisy = steps * np.random.default_rng(0).uniform(1 - share, 1 + share, (2, 2, 40))
        found = extrapolated(noisy, (2, 8), 32)
        assert found.low <= found.value <= found.high
        return found.high - found.low

    assert 0 < 5 * width(0.01) < width(0.1)


def test_formats_take_what_files_do(tmp_path):
    safetensors = pytest.importorskip("safetensors", reason="it writes the model whose bytes are counted")
    random_folder(tmp_path / "m", **TINY)
    with safetensors.safe_open(tmp_path / "m" / "model.safetensors", "numpy") as file:
        sizes = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    architecture = read_model(str(tmp_path / "m"))
    whole = sum(tensor.nbytes for tensor in sizes.values())
    assert stored_bytes(architecture, "fp32", embedding="fp32") == whole
    assert stored_bytes(architecture, "bf16", embedding="bf16", vectors="bf16") == whole / 2
    embedding = sizes["model.embed_tokens.weight"].nbytes
    assert stored_bytes(architecture, "fp32", embedding="fp32", head="fp32") == whole + embedding
    rows = sum(t.shape[0] * (t.shape[1] + 4) for n, t in sizes.items() if t.ndim == 2 and "layers" in n)
    vectors = sum(tensor.nbytes for tensor in sizes.values() if tensor.ndim == 1)
    assert stored_bytes(architecture, "int8", embedding="fp32") == rows + vectors + embedding
    assert len({t.tobytes() for t in sizes.values()}) == len(sizes), "engines merge equal tensors"
    assert json.loads((tmp_path / "m" / "config.json").read_text())["num_hidden_layers"] == TINY["layers"]
