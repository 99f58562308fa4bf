"""A small fleet whose sweep takes a second: two open workloads and one of stated devices in a pool, and one on the edge."""

from __future__ import annotations

import pytest

FLEET = """
name = "small"
start = "2026-12"
months = 12
[[pool]]
name = "p"
device = "h100-sxm"
count = 24
price = "$2/h"
[[pool]]
name = "phones"
device = "sd-8-elite"
count = 1
node = 1
[[roadmap]]
pool = "p"
when = "2027-03"
add = 8
slip_months = 2
chance = 0.8
[[workload]]
name = "chat"
model = "meta-llama/Llama-3.1-8B"
pool = "p"
[workload.demand]
requests = "40/s"
prompt = 1000
output = 300
growth = 3.0
growth_sigma = 0.3
context_growth = 1.4
context_growth_sigma = 0.2
[workload.objective]
tpot = "40ms"
[[workload]]
name = "agents"
model = "Qwen/Qwen2.5-7B-Instruct"
pool = "p"
[workload.demand]
requests = "10/s"
prompt = 4000
output = 200
growth = 2.0
growth_sigma = 0.2
[workload.objective]
ttft = "3s"
[[workload]]
name = "fixed"
model = "Qwen/Qwen2.5-7B-Instruct"
pool = "p"
devices = 2
[workload.demand]
requests = "4/s"
growth = 2.0
[workload.objective]
tpot = "40ms"
[[workload]]
name = "phone"
kind = "edge"
model = "meta-llama/Llama-3.2-3B-Instruct"
pool = "phones"
[workload.deployment]
engine = "llama.cpp"
weights = "q4_k_m"
[workload.demand]
prompt = 800
output = 200
context_growth = 1.5
context_growth_sigma = 0.2
[workload.objective]
ttft = "6s"
"""


@pytest.fixture(scope="session")
def fleet_text():
    """The fleet."""
    return FLEET


@pytest.fixture(scope="session")
def fleet_file(tmp_path_factory):
    """The fleet as a file."""
    path = tmp_path_factory.mktemp("fleet") / "fleet.toml"
    path.write_text(FLEET, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def parts_of():
    """A function that returns every part's bytes by name."""
    return lambda folder: {path.name: path.read_bytes() for path in sorted(folder.glob("part-*.parquet"))}
