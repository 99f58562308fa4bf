"""The device table against figures typed by hand from vendor pages, and how names are understood."""

import math

import pytest

from bytebound.errors import DocumentError, RequestError, UnknownNameError
from bytebound.facts.catalogue import built_in
from bytebound.facts.devices import aliases, devices, find_device
from bytebound.facts.rows import DeviceRow

# id: (bytes/s, {dtype: dense rate}, link bytes/s per direction or None, watts or None), from data sheets, typed by hand
PUBLISHED = {
    "h100-sxm": (3.35e12, {"bf16": 989e12, "fp8": 1979e12, "int8": 1979e12, "tf32": 494e12}, 450e9, 700),
    "h200-sxm": (4.8e12, {"bf16": 989e12, "fp8": 1979e12}, 450e9, 700),
    "a100-80gb-sxm": (2.039e12, {"bf16": 312e12, "int8": 624e12, "tf32": 156e12}, 300e9, 400),
    "b200-sxm": (7.7e12, {"bf16": 2250e12, "fp8": 4500e12, "fp4": 9000e12}, 900e9, 1000),
    "v100-sxm2-16gb": (900e9, {"fp16": 125e12}, 150e9, 300),
    "t4": (320e9, {"fp16": 65e12, "int8": 130e12}, None, 70),
    "l4": (300e9, {"bf16": 121e12, "fp8": 242e12}, None, 72),
    "l40s": (864e9, {"bf16": 362e12, "fp8": 733e12}, None, 350),
    "rtx-4090": (1008e9, {"bf16": 165e12}, None, 450),
    "rtx-3090": (936e9, {"bf16": 71e12}, None, 350),
    "mi300x": (5.3e12, {"bf16": 1307e12, "fp8": 2615e12}, 448e9, 750),
    "tpu-v5e": (819e9, {"bf16": 197e12, "int8": 394e12}, 200e9, None),
    "tpu-v5p": (2.765e12, {"bf16": 459e12}, 600e9, None),
    "m2-ultra": (800e9, {"fp16": 27.2e12}, None, None),
    "gaudi3": (3.7e12, {"bf16": 1678e12}, 525e9, 900),
}

DRIVER_MIB = {"h100-sxm": 81_559, "a100-80gb-sxm": 81_920, "b200-sxm": 183_359, "b300-sxm": 275_040, "gb300": 284_208}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures(name):
    bandwidth, rates, link, watts = PUBLISHED[name]
    device = find_device(name)

    assert device.memory_bytes_per_s.value == pytest.approx(bandwidth, rel=0.03)
    for dtype, rate in rates.items():
        assert device.flop_per_s[dtype].value == pytest.approx(rate, rel=0.01), dtype
    if link:
        assert device.scaleup_bytes_per_s.value == pytest.approx(link, rel=0.01)
    if watts:
        assert device.power_w.value == watts


@pytest.mark.parametrize("name", DRIVER_MIB)
def test_memory_is_what_the_driver_shows(name):
    assert find_device(name).memory_bytes.value == DRIVER_MIB[name] * 2**20


@pytest.mark.parametrize(
    ("name", "least", "most"), [("l40s", 44e9, 48.4e9), ("rtx-4090", 25.2e9, 25.8e9), ("t4", 15e9, 17.2e9)]
)
def test_memory_never_exceeds_the_marketed_binary_size(name, least, most):
    assert least <= find_device(name).memory_bytes.value <= most


def test_no_device_shows_more_memory_than_marketed_in_binary():
    for row in devices().values():
        if row.memory_bytes and row.memory_marketed:
            marketed = float(row.memory_marketed.split()[0]) * 2**30
            assert row.memory_bytes <= marketed * 1.02, row.id
            assert row.memory_bytes >= marketed * 0.9, row.id


def test_there_are_289_devices_and_every_figure_has_source_and_date():
    rows = devices()
    complete = [row for row in rows.values() if not row.missing]

    assert len(rows) == 289
    assert len(complete) > 230
    for row in complete:
        device = row.device()
        figures = [device.memory_bytes, device.memory_bytes_per_s, *device.flop_per_s.values()]
        assert all(figure.source and figure.when and math.isfinite(figure.value) for figure in figures)


def test_a_recalled_row_is_assumed_but_confirmed_fields_are_cited():
    row = devices()["h100-sxm"]

    assert "recalled" in row.source
    assert row.how == "assumed"
    assert row.how_of("memory_bytes_per_s") == "cited"
    assert row.how_of("bf16_flop_per_s") == "cited"
    assert row.how_of("fp64_flop_per_s") == "assumed"
    assert devices()["rtx-4090"].how_of("bf16_flop_per_s") == "derived"


def test_a_completed_rate_is_assumed_and_wide():
    rate = find_device("m4-max").flop_per_s["fp16"]

    assert rate.how == "assumed"
    assert rate.low < rate.value < rate.high


@pytest.mark.parametrize("name", ["H100-SXM", "NVIDIA H100 80GB HBM3", "h100_sxm", " h100-sxm "])
def test_ids_and_aliases_in_any_case(name):
    assert find_device(name).id == "h100-sxm"


def test_aliases_point_to_devices_and_shadow_none():
    assert set(aliases().values()) <= set(devices())
    assert not set(aliases()) & set(devices())


@pytest.mark.parametrize(
    "name", ["h100", "H 100", "a100", "h100-smx", "v100", "mi300", "l40z", "", "x" * 500, "h100-sxm;rm"]
)
def test_anything_else_is_an_error_with_the_nearest(name):
    with pytest.raises(UnknownNameError) as caught:
        find_device(name)
    if name in {"h100", "h100-smx"}:
        assert "h100-sxm" in caught.value.nearest
    assert "bytebound devices" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("mips-r10000", "memory capacity"),
        ("geforce-6800-ultra", "compute rate"),
        ("rubin-cpx", "memory bandwidth"),
        ("feynman", "compute rate"),
    ],
)
def test_a_historic_or_future_row_says_what_is_missing(name, missing):
    with pytest.raises(DocumentError) as caught:
        find_device(name)

    assert missing in str(caught.value)
    assert "base" in caught.value.mend
    assert isinstance(caught.value, RequestError)


def test_no_sparse_rate_slipped_in():
    assert find_device("h100-sxm").flop_per_s["bf16"].value < 1000e12
    assert find_device("gb200").flop_per_s["bf16"].value == 2500e12
    assert find_device("vr200").flop_per_s["fp4"].value == 35e15
    assert find_device("jetson-thor-t5000").flop_per_s["fp4"].value == pytest.approx(1035e12)


def test_links_are_per_device_and_direction():
    assert find_device("gb200").scaleup_bytes_per_s.value == 900e9
    assert find_device("gb200").scaleup_devices == 72
    assert find_device("vr200").scaleup_bytes_per_s.value == 1800e9
    assert find_device("mi300x").scaleup_bytes_per_s.value == 448e9


def test_rows_are_frozen_and_shared():
    assert built_in() is built_in()
    with pytest.raises(ValueError, match="frozen"):
        devices()["t4"].name = "x"
    assert isinstance(devices()["t4"], DeviceRow)
