"""Accelerators as PyTorch sees them: which there are, what they say of themselves, and how time is taken on them.

The same paths serve CUDA, ROCm, Metal and Intel GPUs; the processor stands in for them in tests. Nothing here needs
PyTorch to be imported: every function imports it when it is called.
"""

from __future__ import annotations

import shutil
import subprocess
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bytebound.documents.measurement import Missing
from bytebound.errors import UnfinishedError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable

Kind = Literal["cuda", "rocm", "mps", "xpu", "cpu"]
KINDS = ("auto", "cuda", "rocm", "mps", "xpu", "cpu-for-tests")
INSTALL = "install the build of your platform, e.g. `pip install torch`"


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One device PyTorch can run on.

    Args:
        kind: which part of PyTorch drives it; ``cpu`` is the processor standing in for one in tests.
        index: among the devices of its kind.
        name: as the driver reports it.
        memory_bytes: the driver's total.
        cache_bytes: the last-level cache the driver reports; 0: it reports none.
        cores: multiprocessors or compute units (1 where unknown).
        architecture: such as ``sm_90`` or ``gfx942``; empty where unknown.
    """

    kind: Kind
    index: int
    name: str
    memory_bytes: float
    cache_bytes: float = 0.0
    cores: int = 1
    architecture: str = ""

    @property
    def device(self) -> str:
        """What PyTorch calls it."""
        return {"cpu": "cpu", "mps": "mps", "xpu": f"xpu:{self.index}"}.get(self.kind, f"cuda:{self.index}")

    @property
    def has_events(self) -> bool:
        """Whether time is taken by the device itself (CUDA and HIP events), and CUDA graphs exist."""
        return self.kind in ("cuda", "rocm")

    @property
    def capability(self) -> float:
        """CUDA compute capability such as 9.0; 0 on anything else."""
        digits = self.architecture.removeprefix("sm_")
        return int(digits) / 10 if self.kind == "cuda" and digits.isdigit() else 0.0

    def sync(self) -> None:
        """Wait until the device has done everything asked of it."""
        import torch  # noqa: PLC0415 - optional

        if self.has_events:
            torch.cuda.synchronize(self.index)
        elif self.kind == "xpu":
            torch.xpu.synchronize(self.index)
        elif self.kind == "mps":
            torch.mps.synchronize()

    def seconds(self, work: Callable[[], object], *, patience_s: float = 60.0) -> float:
        """Run ``work`` and return how long the device took, from first to last kernel; elsewhere, the clock until idle.

        Raises:
            UnfinishedError: a CUDA or HIP device had not finished after ``patience_s``: nothing can stop a kernel.
        """
        import torch  # noqa: PLC0415 - optional

        if not self.has_events:
            self.sync()
            began = time.perf_counter()
            work()
            self.sync()
            return max(time.perf_counter() - began, 1e-9)
        with torch.cuda.device(self.index):
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            work()
            last.record()
            limit = time.perf_counter() + patience_s
            while not last.query():  # polled, so that an interrupt is heard and a hang is seen
                if time.perf_counter() > limit:
                    raise UnfinishedError(f"{self.name} had not finished a probe after {patience_s:.0f} s")
                time.sleep(1e-4)
            return max(float(first.elapsed_time(last)) / 1e3, 1e-9)  # events count milliseconds

    def free_bytes(self) -> float:
        """Memory an allocation could still get, after what PyTorch hoards is given back."""
        import torch  # noqa: PLC0415 - optional

        if self.has_events:
            torch.cuda.empty_cache()
            return float(torch.cuda.mem_get_info(self.index)[0])
        if self.kind == "mps":
            torch.mps.empty_cache()
            return float(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
        if self.kind == "xpu":
            torch.xpu.empty_cache()
            return float(torch.xpu.mem_get_info(self.index)[0])
        return self.memory_bytes


def find_accelerators(kind: str = "auto") -> tuple[tuple[Accelerator, ...], tuple[Missing, ...]]:
    """Return the accelerators of ``kind`` and, where there are none, why, in a sentence.

    Args:
        kind: one of ``KINDS``; ``auto`` takes the first kind that is there, ``cpu-for-tests`` the processor.

    Raises:
        UnknownNameError: no such kind.
    """
    if kind not in KINDS:
        raise UnknownNameError("kind of accelerator", kind, KINDS, place="--device")
    try:
        import torch  # noqa: PLC0415 - optional
    except ImportError:
        cards = listed_cards()
        seen = f"{', '.join(cards)} found, but " if cards else ""
        return (), (Missing(probe="gpu", why=f"{seen}PyTorch is not installed; {INSTALL}"),)
    if kind == "cpu-for-tests":
        return (Accelerator("cpu", 0, "this processor", 2.0**30),), ()
    finders: dict[str, Callable[[Any], tuple[Accelerator, ...]]] = {
        "cuda": _cuda,
        "rocm": _cuda,
        "xpu": _xpu,
        "mps": _mps,
    }
    wanted = finders if kind == "auto" else {kind: finders[kind]}
    said: list[str] = []
    for finder in dict.fromkeys(wanted.values()):
        with warnings.catch_warnings(record=True) as caught:  # an old driver is told in a warning
            warnings.simplefilter("always")
            try:
                found = tuple(item for item in finder(torch) if item.kind in wanted)
            except (RuntimeError, AssertionError) as error:
                found, said = (), [*said, first_line(error)]
        if found:
            return found, ()
        said += [first_line(item.message) for item in caught]
    return (), (Missing(probe="gpu", why=_why_none(torch, kind, said)),)


def _cuda(torch: Any) -> tuple[Accelerator, ...]:
    if not torch.cuda.is_available():
        return ()
    return tuple(_cuda_device(torch, index) for index in range(torch.cuda.device_count()))


def _cuda_device(torch: Any, index: int) -> Accelerator:
    """Describe one CUDA or HIP device (PyTorch gives both the same interface)."""
    says = torch.cuda.get_device_properties(index)
    hip = torch.version.hip is not None
    return Accelerator(
        kind="rocm" if hip else "cuda",
        index=index,
        name=says.name,
        memory_bytes=float(says.total_memory),
        cache_bytes=float(getattr(says, "L2_cache_size", 0)),
        cores=says.multi_processor_count,
        architecture=says.gcnArchName.split(":")[0] if hip else f"sm_{says.major}{says.minor}",
    )


def _xpu(torch: Any) -> tuple[Accelerator, ...]:
    if not (hasattr(torch, "xpu") and torch.xpu.is_available()):
        return ()
    says = [torch.xpu.get_device_properties(index) for index in range(torch.xpu.device_count())]
    return tuple(Accelerator("xpu", i, item.name, float(item.total_memory)) for i, item in enumerate(says))


def _mps(torch: Any) -> tuple[Accelerator, ...]:
    if not torch.backends.mps.is_available():
        return ()
    total = float(torch.mps.recommended_max_memory())  # what Metal lets one process have of the shared memory
    return (Accelerator("mps", 0, _apple_chip(), total),)


def _apple_chip() -> str:
    try:
        said = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "Apple GPU"
    return said.stdout.strip() or "Apple GPU"


def listed_cards() -> tuple[str, ...]:
    """Names of the NVIDIA cards the driver lists, whatever PyTorch thinks of them; empty without ``nvidia-smi``."""
    rows = ask_nvidia("name")
    return tuple(row[0] for row in rows)


def ask_nvidia(*fields: str, card: str = "") -> tuple[tuple[str, ...], ...]:
    """Return what ``nvidia-smi`` says of ``fields``, a row per card; empty where it is missing, slow or unhappy."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    asked = [tool, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits", *(["-i", card] if card else [])]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603 - a fixed tool
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [tuple(cell.strip() for cell in line.split(",")) for line in said.stdout.splitlines() if line.strip()]
    return tuple(row for row in rows if len(row) == len(fields))


def _why_none(torch: Any, kind: str, said: list[str]) -> str:
    """One sentence for a machine on which PyTorch sees no accelerator."""
    build = f"PyTorch {torch.__version__}"
    cards = listed_cards()
    if cards and kind in ("auto", "cuda"):
        if torch.version.cuda is None:
            return f"the driver lists {', '.join(cards)}, but {build} is built without CUDA; {INSTALL} with CUDA"
        heard = f" ({said[0]})" if said else ""
        return f"the driver lists {', '.join(cards)}, but {build} for CUDA {torch.version.cuda} cannot use it{heard}"
    if Path("/dev/kfd").exists() and kind in ("auto", "rocm") and torch.version.hip is None:
        return f"an AMD GPU's driver is loaded (/dev/kfd), but {build} is built without ROCm; {INSTALL} with ROCm"
    what = "GPU" if kind == "auto" else f"{kind} device"
    return f"{build} sees no {what} on this machine{f' ({said[0]})' if said else ''}"


def first_line(error: object) -> str:
    """Return the first line of an error's text, without a final full stop, or its type's name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".")
