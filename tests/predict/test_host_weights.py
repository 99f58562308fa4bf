"""Weights that stay in host memory cross the host link in every pass, and free device memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytebound.documents.work import Serve
from bytebound.errors import QuantityError
from bytebound.predict.estimate import settle

H100_PCIE_BYTES_PER_S = 64e9
LLAMA_8B_LAYERS = 8_030_261_248 - 2 * 128_256 * 4096 - (2 * 32 + 1) * 4096
"""Matrix parameters of Llama-3.1-8B's layers: all of them without embedding, head and norms."""

SETTINGS = {
    name: settle(name, "8x h100-sxm", "vllm")
    for name in ("meta-llama/Llama-3.1-8B", "Qwen/Qwen3-30B-A3B", "deepseek-ai/DeepSeek-V2-Lite")
}


def test_a_token_waits_for_its_weights():
    """All layers in host memory: at least their 2 bytes a parameter over the link per token, and one layer's bytes resident."""
    setting = SETTINGS["meta-llama/Llama-3.1-8B"]
    here, there = (setting.answer(Serve(batch=1, prompt=64, host_weights=share)) for share in (0.0, 1.0))
    crossing = 2 * LLAMA_8B_LAYERS

    assert setting.machine.device.host_bytes_per_s.value == H100_PCIE_BYTES_PER_S
    assert there["decode.network_bytes"][0] == crossing
    assert there["decode.seconds"][0] >= here["decode.seconds"][0] + crossing / H100_PCIE_BYTES_PER_S
    assert here["weights_bytes"][0] - there["weights_bytes"][0] == pytest.approx(crossing * 31 / 32)
    assert there["verdict"][0] == pytest.approx(6)  # the host link


@given(
    st.sampled_from(sorted(SETTINGS)).map(SETTINGS.__getitem__), st.integers(1, 512), st.integers(1, 40_000),
    st.sampled_from([(1, 1), (2, 1), (4, 2)]), st.lists(st.floats(0, 1), min_size=2, max_size=6).map(sorted),
)  # fmt: skip
def test_more_in_host_memory_is_smaller_and_slower(setting, batch, prompt, degrees, shares):
    """Bytes on the device fall, room for the cache and times rise, with the share; no step is under its crossing."""
    work = Serve(batch=batch, prompt=prompt, tp=degrees[0], pp=degrees[1])
    here, named = setting.answer(work), setting.answer(replace(work, host_weights=np.array(shares)))
    link = setting.ceilings.host_bytes_per_s
    assert np.all(np.diff(named["weights_bytes"]) <= 0)
    assert np.all(np.diff(named["max_kv_tokens"]) >= 0)
    for phase in ("decode", "prefill"):
        assert np.all(np.diff(named[f"{phase}.seconds"]) >= -1e-12)
        crossing = named[f"{phase}.network_bytes"] - here[f"{phase}.network_bytes"]
        assert np.all(named[f"{phase}.seconds"] >= crossing / link * (1 - 1e-9))


def test_none_in_host_memory_changes_nothing():
    """A grid with 0 among other shares answers 0 as if nobody had asked for the others."""
    setting = SETTINGS["Qwen/Qwen3-30B-A3B"]
    work = Serve(batch=16, tp=2, prompt=900, disaggregated=True)
    alone, together = setting.answer(work), setting.answer(replace(work, host_weights=np.array([0.0, 0.5])))
    for name, value in alone.items():
        assert together[name][0] == pytest.approx(value[0], rel=1e-12, nan_ok=True), name


def test_only_experts_hit_cross():
    """At batch 1 a mixture of experts streams its active share; a long prompt streams nearly all of it."""
    setting = SETTINGS["Qwen/Qwen3-30B-A3B"]
    named = setting.answer(Serve(batch=1, prompt=4096, host_weights=1.0))
    ends = 2 * 151_936 * 2048
    assert named["decode.network_bytes"][0] / 2 == pytest.approx(
        setting.architecture.active_parameters - ends, rel=1e-3
    )
    assert named["prefill.network_bytes"][0] / 2 == pytest.approx(setting.architecture.parameters - ends, rel=1e-3)


def test_unified_memory_has_no_other_side():
    """A device without a host link refuses in one sentence."""
    setting = settle("meta-llama/Llama-3.1-8B", "m3-max-30", "llama.cpp")
    with pytest.raises(QuantityError, match="states no host link"):
        setting.answer(Serve(host_weights=0.5))
