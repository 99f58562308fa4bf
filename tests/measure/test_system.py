"""What the system says, read from trees of fake system files: quotas, limits, garbage, no permission."""

from __future__ import annotations

import os
import random
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytebound.documents.measurement import System
from bytebound.measure.limits import Files, Groups, fields, number, read_groups
from bytebound.measure.system import physical_cores, read_caches, read_cpu, read_memory, read_system

GIB = 2**30
GENOA = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC 9654 96-Core Processor
flags\t\t: fpu avx2 fma avx512f avx512_bf16 avx512_vnni hypervisor

processor\t: 1
vendor_id\t: AuthenticAMD
"""
GRAVITON = """processor\t: 0
Features\t: fp asimd asimddp sve i8mm bf16
CPU implementer\t: 0x41
CPU part\t: 0xd40
"""
MEMINFO = "MemTotal: 16777216 kB\nMemFree: 1048576 kB\nMemAvailable: 8388608 kB\nSwapTotal: 2097152 kB\n"


def tree(root: Path, **files: str) -> Path:
    """Write system files; ``__`` in a name is a slash."""
    base = {"proc/cpuinfo": GENOA, "proc/meminfo": MEMINFO, "sys/devices/system/cpu/online": "0-7\n"}
    for name, text in {**base, **files}.items():
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return root


def test_a_plain_machine(tmp_path):
    """Eight processors, sixteen gigabytes, no limits: nothing is invented."""
    for cpu in range(8):
        cache = f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        tree(tmp_path, **{cache: f"{cpu % 4},{cpu % 4 + 4}\n"})
    index = "sys/devices/system/cpu/cpu0/cache/index{}/{}"
    for number_, (level, kind, size, shared) in enumerate(
        [
            ("1", "Data", "32K", "0,4"),
            ("1", "Instruction", "32K", "0,4"),
            ("2", "Unified", "1M", "0,4"),
            ("3", "Unified", "32768K", "0-7"),
        ]
    ):
        for name, text in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", shared)):
            tree(tmp_path, **{index.format(number_, name): text + "\n"})
    (tmp_path / "sys/devices/system/node/node0").mkdir(parents=True)
    (tmp_path / "sys/devices/system/node/node1").mkdir()

    found = read_system(tmp_path)

    assert (found.vendor, found.cores_online, found.cores_usable, found.numa_nodes) == ("AMD", 8, 8, 2)
    assert found.reported_caches == {"l1d": 4 * 32 * 2**10, "l2": 4 * 2**20, "l3": 32 * 2**20}
    assert found.instructions == ("avx2", "fma", "avx512f", "avx512-vnni", "avx512-bf16")
    assert (found.memory_total_bytes, found.memory_free_bytes, found.swap_bytes) == (16 * GIB, 8 * GIB, 2 * GIB)
    assert found.memory_usable_bytes == 16 * GIB
    assert found.virtual
    assert found.limits == ()
    assert physical_cores(Files(tmp_path), 8) == 4


def test_an_arm_processor():
    """No model name: implementer and part say what it is."""
    cpu = read_cpu(GRAVITON)

    assert (cpu.vendor, cpu.model) == ("Arm", "Neoverse V1")
    assert {"sve", "asimddp", "i8mm"} <= cpu.flags


@pytest.mark.parametrize(
    ("family", "model", "vendor", "name"),
    [
        (25, 17, "AuthenticAMD", "Genoa"),
        (25, 1, "AuthenticAMD", "Milan"),
        (6, 143, "GenuineIntel", "Sapphire Rapids"),
        (6, 1, "GenuineIntel", ""),
    ],
)
def test_code_names(family, model, vendor, name):
    assert read_cpu(f"vendor_id: {vendor}\ncpu family: {family}\nmodel: {model}\n").code_name == name


def test_a_quota_of_control_groups_v2(tmp_path):
    """A container sees its own group as the root of the tree; 1.5 processors' worth is a quota."""
    tree(
        tmp_path, **{
            "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n", "sys/fs/cgroup/memory.max": f"{4 * GIB}\n",
            "sys/fs/cgroup/memory.current": f"{3 * GIB}\n", "sys/fs/cgroup/memory.stat": f"anon 1\ninactive_file {GIB}\n",
        }
    )  # fmt: skip

    found = read_system(tmp_path)

    assert found.cores_usable == 1.5
    assert (found.memory_usable_bytes, found.memory_free_bytes) == (4 * GIB, 2 * GIB)
    assert any("1.5 processors' worth" in each for each in found.limits)
    assert any("4.00 GiB of 16.0 GiB" in each and "2.00 GiB is left" in each for each in found.limits)
    assert any("fewer than two processors" in each for each in found.limits)


def test_quotas_of_control_groups_v1_and_of_parents(tmp_path):
    """The tightest limit from the process's group up to the root counts; 2^63 less a page means none."""
    tree(
        tmp_path, **{
            "proc/self/cgroup": "5:cpu,cpuacct:/a/b\n4:memory:/a/b\n0::/\n",
            "sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "300000\n", "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/a/memory.limit_in_bytes": f"{2 * GIB}\n", "sys/fs/cgroup/memory/a/memory.usage_in_bytes": f"{GIB}\n",
        }
    )  # fmt: skip

    assert read_groups(Files(tmp_path)) == Groups(3.0, 2 * GIB, GIB)


def test_a_container_without_its_hosts_names(tmp_path):
    """v1 names a path of the host that the container does not see; the root of the mount is its own."""
    tree(
        tmp_path,
        **{"proc/self/cgroup": "4:memory:/docker/0123\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n"},
    )

    assert read_groups(Files(tmp_path)).memory_bytes == GIB


def test_groups_stay_inside_their_tree(tmp_path):
    """A hostile name of a group leads nowhere else."""
    tree(tmp_path / "root", **{"proc/self/cgroup": "0::/../../secret\n"})
    tree(tmp_path / "secret", **{"memory.max": f"{GIB}\n"})

    assert read_groups(Files(tmp_path / "root")) == Groups()


def test_no_permission_is_a_sentence(tmp_path, monkeypatch):
    """A file that may not be read is said; the machine is described by what is left."""
    tree(tmp_path)
    true_open = Path.open

    def refuse(self, *arguments, **named):
        if self.name == "meminfo":
            raise PermissionError(13, "Permission denied")
        return true_open(self, *arguments, **named)

    monkeypatch.setattr(Path, "open", refuse)

    found = read_system(tmp_path)

    assert any(each.startswith("/proc/meminfo may not be read") for each in found.limits)
    assert found.memory_total_bytes > 0


def test_an_empty_tree(tmp_path):
    """Nothing to read: what is not known is left open, and nothing is raised."""
    found = read_system(tmp_path)

    assert found.cores_online >= 1
    assert found.reported_caches == {}


def test_this_machine():
    """What we say of this machine is what Python says of it."""
    found = read_system()

    assert found.cores_online == os.cpu_count() or found.cores_usable <= (os.cpu_count() or 1)
    assert 0 < found.memory_free_bytes <= found.memory_total_bytes
    assert System.model_validate_json(found.model_dump_json()) == found


def test_numbers_and_fields():
    assert [number(text) for text in ("12\n", "max", "", "-5", "nan", "1e999", "7 8")] == [
        12,
        None,
        None,
        None,
        None,
        None,
        7,
    ]
    assert fields("A: 2 kB\nB 3\nC: x kB\nD 1 2 3 4\n: \n") == {"A": 2048, "B": 3}


NAMES = (
    "proc/cpuinfo", "proc/meminfo", "proc/self/cgroup", "sys/devices/system/cpu/online", "sys/fs/cgroup/cpu.max", "sys/fs/cgroup/memory.max",
    "sys/fs/cgroup/memory.current", "sys/fs/cgroup/memory.stat", "sys/devices/system/cpu/cpu0/cache/index0/size",
    "sys/devices/system/cpu/cpu0/cache/index0/level", "sys/devices/system/cpu/cpu0/cache/index0/shared_cpu_list", "etc/os-release",
)  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_garbled_files(tmp_path, seed):
    """Random bytes, cut files, huge and negative numbers: a System comes out that holds its own rules."""
    pick = random.Random(seed)  # noqa: S311 - not a secret
    words = [
        "-1",
        "1e400",
        "99999999999999999999999",
        "0-",
        "0-99999999999",
        "nan",
        "max",
        "32K",
        "٣",
        "0::/",
        "\0",
        "MemTotal: 5 kB",
        "é",
        GENOA[:77],
    ]
    tree(tmp_path)
    for name in NAMES:
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        text = " ".join(
            pick.choice([*words, pick.choice(string.printable)]) + pick.choice(" :\n\t")
            for _ in range(pick.randint(0, 30))
        )
        place.write_bytes(text.encode() + (pick.randbytes(pick.randint(0, 50)) if pick.random() < 0.3 else b""))

    found = read_system(tmp_path)

    assert found.cores_usable <= found.cores_online <= 2**16
    assert found.memory_free_bytes <= found.memory_total_bytes
    assert System.model_validate_json(found.model_dump_json()) == found


@given(st.text(max_size=200))
def test_parsers_take_any_text(text):
    """No text breaks a parser."""
    cpu = read_cpu(text)
    assert cpu.processors >= 0
    assert all(value >= 0 for value in fields(text).values())


def test_caches_of_nothing(tmp_path):
    assert read_caches(Files(tmp_path), 4) == {}
    assert read_memory(Files(tmp_path)) == {}
