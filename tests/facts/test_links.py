"""Link and memory generations against the published ones."""

import pytest

from bytebound.errors import UnknownNameError
from bytebound.facts.links import find_link, memory_standards


@pytest.mark.parametrize(
    ("name", "rate"),
    [("PCIe 4.0", 31.5e9), ("PCIe 5.0", 63e9), ("NVLink 3", 300e9), ("NVLink 4", 450e9), ("NVLink 5", 900e9), ("NVLink 6", 1800e9)],
)  # fmt: skip
def test_links_count_one_direction(name, rate):
    assert find_link(name).bytes_per_s == rate


@pytest.mark.parametrize(
    ("name", "pins", "gbit"),
    [("HBM2", 1024, 2), ("HBM3", 1024, 6.4), ("HBM4", 2048, 8), ("GDDR6", 32, 16), ("DDR5-4800", 64, 4.8)],
)
def test_a_memory_moves_pins_times_rate(name, pins, gbit):
    assert memory_standards()[name].bytes_per_s == pytest.approx(pins * gbit * 1e9 / 8, rel=0.002)


def test_an_unknown_link():
    with pytest.raises(UnknownNameError) as caught:
        find_link("NVLink 44")
    assert "NVLink 4" in caught.value.nearest
