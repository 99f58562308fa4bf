"""What the operating system says of the machine: processor, caches, memory, accelerators, and the limits we are under."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bytebound.documents.measurement import System
from bytebound.measure.gpu import listed_cards
from bytebound.measure.limits import Files, address_space_left, affinity, fields, read_groups
from bytebound.units import parse, show_capacity

if TYPE_CHECKING:
    from collections.abc import Mapping

VENDORS = {
    "GenuineIntel": "Intel", "AuthenticAMD": "AMD", "HygonGenuine": "Hygon", "CentaurHauls": "Zhaoxin",
    "0x41": "Arm", "0x4e": "NVIDIA", "0x46": "Fujitsu", "0x48": "HiSilicon", "0x51": "Qualcomm", "0x61": "Apple", "0xc0": "Ampere",
}  # fmt: skip
"""Vendor as x86 processors name it, or implementer code of Arm's MIDR_EL1, as /proc/cpuinfo gives them."""

CODE_NAMES = (
    ("Intel", 6, (79,), "Broadwell"), ("Intel", 6, (85,), "Skylake or Cascade Lake"), ("Intel", 6, (106, 108), "Ice Lake"),
    ("Intel", 6, (143,), "Sapphire Rapids"), ("Intel", 6, (207,), "Emerald Rapids"), ("Intel", 6, (173, 174), "Granite Rapids"),
    ("AMD", 23, range(0x10), "Naples"), ("AMD", 23, range(0x30, 0x40), "Rome"), ("AMD", 25, range(0x10), "Milan"),
    ("AMD", 25, range(0x10, 0x20), "Genoa"), ("AMD", 25, range(0xA0, 0xB0), "Bergamo"), ("AMD", 26, range(0x20), "Turin"),
)  # fmt: skip
"""Server processors by (vendor, family, models), as the Linux kernel's intel-family.h and AMD's revision guides list them."""

ARM_CORES = {
    "0xd08": "Cortex-A72", "0xd0b": "Cortex-A76", "0xd0c": "Neoverse N1", "0xd40": "Neoverse V1", "0xd49": "Neoverse N2", "0xd4f": "Neoverse V2",
}  # fmt: skip
"""Arm's own cores by part number (MIDR_EL1)."""

INSTRUCTIONS = {
    "avx2": "avx2", "fma": "fma", "avx512f": "avx512f", "avx512_vnni": "avx512-vnni", "avx_vnni": "avx-vnni", "avx512_bf16": "avx512-bf16",
    "avx512_fp16": "avx512-fp16", "amx_tile": "amx", "amx_bf16": "amx-bf16", "amx_int8": "amx-int8", "asimd": "neon", "asimddp": "dotprod",
    "i8mm": "i8mm", "bf16": "bf16", "asimdhp": "fp16", "sve": "sve", "sve2": "sve2", "sme": "sme",
}  # fmt: skip
"""Processor flag of Linux -> how we write the instruction set; only those that decide matrix and dequantising rates."""

PACKAGES = ("bytebound", "numpy", "numba", "torch", "psutil")
_VIRTUAL = (
    "kvm",
    "qemu",
    "vmware",
    "virtualbox",
    "xen",
    "bochs",
    "hyper-v",
    "virtual machine",
    "amazon ec2",
    "google compute",
    "firecracker",
)


class Cpu(NamedTuple):
    """One processor as ``/proc/cpuinfo`` describes it; empty and zero where it does not say."""

    model: str = ""
    vendor: str = ""
    family: int = 0
    number: int = 0
    flags: frozenset[str] = frozenset()
    processors: int = 0

    @property
    def code_name(self) -> str:
        """What the vendor calls this generation, or nothing."""
        return next((n for v, f, m, n in CODE_NAMES if (v, f) == (self.vendor, self.family) and self.number in m), "")


def read_system(root: Path = Path("/")) -> System:
    """Return what the system says of itself, read under ``root``; what it does not tell is left at its default.

    Bytes are bytes, caches are added up over all processors, ``cores_usable`` may be a fraction under a container's quota.
    """
    files = Files(root)
    cpu = read_cpu(files.text("proc/cpuinfo"))
    online = _listed(files.text("sys/devices/system/cpu/online")) or cpu.processors or os.cpu_count() or 1
    allowed = affinity() if root == Path("/") else None
    groups = read_groups(files)
    limits = []
    usable = float(min(online, allowed or online))
    if usable < online:
        limits.append(f"this process may run on {usable:.0f} of {online} processors (affinity)")
    if groups.processors is not None and groups.processors < usable:
        usable = groups.processors
        limits.append(f"a control group allows {usable:.3g} processors' worth of time (quota)")
    if usable < 2:
        limits.append(
            "fewer than two processors can be used: the bandwidth found is what one core reaches, which may be less than the memory gives"
        )
    memory = read_memory(files)
    total = memory.get("MemTotal") or _page_bytes("SC_PHYS_PAGES") or _psutil_bytes("total") or 1.0
    free = memory.get("MemAvailable", memory.get("MemFree")) or _psutil_bytes("available") or total / 2
    left, usable_bytes = min(free, total), total
    if groups.memory_bytes is not None and groups.memory_bytes < total:
        usable_bytes, left = groups.memory_bytes, min(left, groups.memory_left_bytes or 0.0)
        limits.append(
            f"a control group allows {show_capacity(usable_bytes)} of {show_capacity(total)} of memory; {show_capacity(left)} is left"
        )
    space = address_space_left(files) if root == Path("/") else None
    if space is not None and space < left:
        left = space
        limits.append(f"this process may map {show_capacity(space)} more (ulimit -v)")
    return System(
        cpu=(cpu.model or _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine() or "unknown")[:200],
        vendor=cpu.vendor,
        architecture=platform.machine(),
        cores_online=online,
        cores_usable=usable,
        numa_nodes=max(len(files.folders("sys/devices/system/node", "node[0-9]*")), 1),
        reported_caches=dict(read_caches(files, online)),
        instructions=tuple(name for flag, name in INSTRUCTIONS.items() if flag in cpu.flags),
        memory_total_bytes=total,
        memory_usable_bytes=usable_bytes,
        memory_free_bytes=left,
        swap_bytes=memory.get("SwapTotal", 0.0),
        virtual="hypervisor" in cpu.flags or _is_virtual(files),
        accelerators=listed_cards() if root == Path("/") else (),
        os=_os_name(files),
        software=_software(),
        limits=(*limits, *dict.fromkeys(files.problems)),
    )  # fmt: skip


def read_cpu(text: str) -> Cpu:
    """Return the first processor of the text of ``/proc/cpuinfo``, and how many there are."""
    found: dict[str, str] = {}
    processors = 0
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            processors += key.strip() == "processor"
            found.setdefault(key.strip(), value.strip())
    vendor = VENDORS.get(found.get("vendor_id") or found.get("CPU implementer", ""), found.get("vendor_id", ""))[:100]
    part = ARM_CORES.get(found.get("CPU part", "")) if vendor == "Arm" else None
    model = found.get("model name") or part or found.get("Model") or found.get("cpu model") or ""
    flags = found.get("flags") or found.get("Features") or ""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        vendor, flags = vendor or "Apple", flags or "asimd asimddp asimdhp"
    return Cpu(
        model, vendor, _int(found.get("cpu family")), _int(found.get("model")), frozenset(flags.split()), processors
    )


def read_memory(files: Files) -> Mapping[str, float]:
    """Return the positive lines of ``/proc/meminfo`` [bytes]."""
    return {name: value for name, value in fields(files.text("proc/meminfo")).items() if 0 < value < 2**60}


def read_caches(files: Files, online: int) -> Mapping[str, float]:
    """Return the caches the system reports, such as ``l1d``, ``l2``, ``l3`` [bytes], added up over all processors.

    Virtual machines often report the host's cache or a guess: where it matters the edge is measured.
    """
    found: dict[str, float] = {}
    for folder in files.folders("sys/devices/system/cpu/cpu0/cache", "index[0-9]*"):
        level, kind = files.number(f"{folder}/level"), files.text(f"{folder}/type").strip()
        each = _size(files.text(f"{folder}/size"))
        if level is None or not 1 <= level <= 9 or each is None or kind == "Instruction":
            continue
        shared = _listed(files.text(f"{folder}/shared_cpu_list")) or 1
        name = f"l{level:.0f}{'d' if kind == 'Data' else ''}"
        found[name] = each * max(math.ceil(online / shared), 1)
    return found


def physical_cores(files: Files, online: int) -> int:
    """Return how many cores the ``online`` processors are, counting hyper-threads of one core once."""
    siblings = {
        files.text(f"{folder}/topology/thread_siblings_list").strip()
        for folder in files.folders("sys/devices/system/cpu", "cpu[0-9]*")
    } - {""}
    return min(len(siblings) or online, online)


def _size(text: str) -> float | None:
    """Return a size such as ``32K`` [bytes], or None."""
    text = text.strip()
    if not text[:-1].isascii() or not text[:-1].isdigit() or text[-1] not in "KMG" or len(text) > 12:
        return None
    return parse(f"{text}iB", "bytes") or None


def _listed(text: str) -> int:
    """Return how many numbers a list such as ``0-3,8`` names; 0 where it cannot be read."""
    count = 0
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        last = last or first
        if not (first.isascii() and first.isdigit() and last.isascii() and last.isdigit() and len(first + last) < 14):
            return 0
        count += max(int(last) - int(first) + 1, 0)
    return count if count <= 2**16 else 0


def _int(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 8 else 0


def _is_virtual(files: Files) -> bool:
    told = " ".join(files.text(f"sys/class/dmi/id/{name}").lower() for name in ("product_name", "sys_vendor"))
    return any(word in told for word in _VIRTUAL) or bool(files.text("sys/hypervisor/type"))


def _os_name(files: Files) -> str:
    lines = (line.partition("=") for line in files.text("etc/os-release").splitlines())
    pretty = next((value.strip().strip('"') for key, _, value in lines if key == "PRETTY_NAME"), "")
    return f"{platform.system()} {platform.release()}" + (f" ({pretty[:100]})" if pretty else "")


def _software() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _sysctl(name: str) -> str:
    return _output(["sysctl", "-n", name]).strip() if platform.system() == "Darwin" else ""


def _output(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _page_bytes(name: str) -> float | None:
    try:
        return float(os.sysconf(name) * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return None


def _psutil_bytes(name: str) -> float | None:
    try:
        from psutil import virtual_memory  # noqa: PLC0415 - optional
    except ImportError:
        return None
    return float(getattr(virtual_memory(), name))
