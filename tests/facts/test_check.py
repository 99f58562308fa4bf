"""Our tables pass their own check, and the check sees what it is meant to see."""

import re
import subprocess
import sys

import pytest

from bytebound.facts.check import check_facts, device_problems, tables
from bytebound.facts.devices import devices
from bytebound.facts.tables import read_table


def test_no_problem_is_known():
    assert check_facts() == []


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"fp8_flop_per_s": 989.4e12 * 8}, "sparse"),
        ({"memory_bytes_per_s": 3.35e9}, "bandwidth of HBM3"),
        ({"memory_bytes_per_s": 3.35e15}, "bandwidth of HBM3"),
        ({"scaleup_bytes_per_s": 900e9}, "both directions"),
        ({"bf16_flop_per_s": 989e18}, "operations per byte"),
        ({"memory_type": "cheese"}, "unknown memory type"),
        ({"family": "nvidia-hoper"}, "unknown family"),
        ({"memory_how": None}, "how it was read"),
        ({"cited_fields": "int4_op_per_s"}, "has no value"),
    ],
)
def test_a_wrong_unit_or_direction_is_seen(changes, word):
    row = devices()["h100-sxm"].model_copy(update=changes)

    assert any(word in problem for problem in device_problems(row))


def test_the_tables_name_no_machine_and_no_private_file():
    for name in tables():
        for line, cells in read_table(name):
            text = " ".join(cells.values())
            assert not re.search(r"/home/|/tmp/|/root/|file id|hardware\.csv|gh:\d", text), f"{name}:{line}"


def test_importing_the_facts_is_light():
    code = "import sys; import bytebound.facts.machines, bytebound.facts.efficiency, bytebound.facts.engines; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    loaded = run.stdout.split()

    assert not {"numpy", "rich", "cyclopts", "pandas", "jinja2"} & set(loaded)
