"""Shares, floors and engine reserves: measured values, pooling that says so, and the capacity oracle."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytebound.errors import UnknownNameError
from bytebound.facts.devices import devices
from bytebound.facts.efficiency import OPERATORS, efficiency, families
from bytebound.facts.engines import engines, find_engine


@pytest.mark.parametrize(
    ("family", "operator", "quantity", "value"),
    [
        ("nvidia-ampere-dc", "gemm", "compute_share", 0.787),
        ("nvidia-ampere-dc", "gemm", "bandwidth_share", 1.52 / 2.04),
        ("nvidia-hopper", "gemm", "compute_share", 787 / 989),
        ("nvidia-hopper", "gemm", "bandwidth_share", (2.95 / 3.35 + 3.97 / 4.8) / 2),
        ("nvidia-hopper", "attention-decode", "bandwidth_share", 0.83),
        ("nvidia-hopper", "attention-prefill", "compute_share", 0.646),
        ("nvidia-hopper", "collective", "floor_s", 4.7e-6),
        ("nvidia-blackwell-dc", "collective", "link_share", 722 / 900),
        ("nvidia-ada-pcie", "gemm", "compute_share", 223 / 362),
        ("amd-cdna3", "gemm", "compute_share", (668.4 / 1307 + 784.9 / 1307) / 2),
        ("amd-cdna4", "gemm", "compute_share", 1565 / 2516.6),
    ],
)
def test_measured_ceilings(family, operator, quantity, value):
    share = efficiency(family).of(operator, quantity)

    assert share.value == pytest.approx(value, rel=0.03)
    assert share.low <= share.value <= share.high
    assert (share.how, share.level, share.origin) == ("cited", "family", family)
    assert share.source


def test_the_least_time_of_a_kernel():
    """Medians of the families' kernels in validation/kernels.md; a family without its own takes its pool's."""
    for family, gemm, decode in (("nvidia-ampere-dc", 6.02e-6, 17.6e-6), ("nvidia-hopper", 3.55e-6, 12.2e-6)):
        for operator, seconds in (("gemm", gemm), ("attention-decode", decode)):
            floor = efficiency(family).of(operator, "floor_s")
            assert floor.value == pytest.approx(seconds, rel=0.05)
            assert floor.level == "family"
    assert efficiency("nvidia-ada-pcie").of("attention-decode", "floor_s").level == "kind"


def test_pooling_is_never_silent():
    known, pooled, unknown = efficiency("nvidia-hopper"), efficiency("nvidia-rubin"), efficiency("never-seen")

    assert known.of("gemm", "compute_share").level == "family"
    origins = {"kind": "pool:datacentre-gpu", "generic": "generic"}
    assert all(share.origin == origins[share.level] for share in pooled.shares.values())
    assert {share.level for (operator, _), share in pooled.shares.items() if operator == "gemm"} == {"kind"}
    assert {share.level for share in unknown.shares.values()} == {"generic"}
    assert unknown.level == "generic"
    assert efficiency("never-seen", "cpu").level == "kind"
    assert all(share.how == "assumed" for share in pooled.shares.values())


def test_what_is_less_known_is_wider():
    def width(name, kind=""):
        share = efficiency(name, kind).of("gemm", "compute_share")
        return share.high / share.low

    assert width("nvidia-hopper") < width("nvidia-rubin") < width("never-seen")


@settings(deadline=None)  # the machine may be busy
@given(st.sampled_from(sorted(devices())))
def test_every_device_has_every_share(name):
    row = devices()[name]
    found = efficiency(row.family, row.kind)

    assert row.family in families()
    assert set(found.shares) == {(operator, quantity) for operator, names in OPERATORS.items() for quantity in names}
    for (_, quantity), share in found.shares.items():
        assert 0 < share.low <= share.value <= share.high
        assert share.high <= 1 if quantity.endswith("_share") else share.high < 1e-3


def test_an_unknown_operator():
    with pytest.raises(UnknownNameError):
        efficiency("nvidia-hopper").of("gem", "compute_share")


def test_engines():
    assert list(engines())[:6] == ["vllm", "sglang", "tensorrt-llm", "llama.cpp", "transformers", "mlx"]
    assert find_engine("TRTLLM").name == "tensorrt-llm"
    for engine in engines().values():
        assert 0 < engine.memory_share <= 1
        assert engine.reserve.low <= engine.reserve_bytes <= engine.reserve.high
        assert 0 < engine.host_s_per_step < 0.1
        assert engine.source
    with pytest.raises(UnknownNameError) as caught:
        find_engine("vlm", place="engine")
    assert "vllm" in caught.value.nearest
