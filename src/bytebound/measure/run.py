"""A measurement from start to end: the parts in order, canaries between them, and the machine that comes out."""

from __future__ import annotations

import secrets
import signal
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bytebound.documents.measurement import Measured, Missing, Reading, System
from bytebound.errors import ByteboundError, QuantityError, RequestError, UnfinishedError, UnknownNameError
from bytebound.measure.compute import beside_theory, peak_per_cycle
from bytebound.measure.here import cpu_device, cpu_name, device_id, dram_read
from bytebound.measure.levels import cache_levels, last_core, steady
from bytebound.measure.limits import Files
from bytebound.measure.parts import ACCELERATOR, PARTS, Context, Part, Watch, start_watch, thread_count
from bytebound.measure.system import Cpu, physical_cores, read_cpu, read_system

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    from bytebound.documents.device import Device
    from bytebound.measure.gpu import Accelerator

INTERRUPTED = "interrupted"
"""Why a part is missing that Ctrl-C ended or kept from starting."""
LIMIT_S = {True: 27.0, False: 280.0}
"""Seconds after which no further part starts: quick runs end under 30 s, full ones under 5 minutes."""


@dataclass(frozen=True, slots=True)
class Step:
    """Where a measurement is: the part, what it does now, and the share of the planned time that lies behind."""

    part: str
    detail: str
    share: float


def measure(
    *,
    quick: bool = False,
    device: str = "auto",
    parts: Sequence[str] = (),
    threads: int | None = None,
    on_progress: Callable[[Step], None] | None = None,
) -> Device:
    """Measure this machine and return it as a device whose ceilings are the readings in its ``measured``.

    Ctrl-C ends the measurement, not the program: what was finished is returned, with ``complete`` False and the rest
    listed as missing because interrupted.

    Args:
        quick: under 30 seconds instead of under 5 minutes.
        device: ``auto`` (an accelerator where there is one, else the processor), ``cpu``, or a kind of accelerator.
        parts: names of ``PARTS`` to measure; none: all.
        threads: threads to measure with; None: as many processors as may be used.
        on_progress: told where the measurement is.

    Raises:
        UnknownNameError: no such part.
        QuantityError: a thread count this machine does not have.
        RequestError: numba is not installed.
        UnfinishedError: nothing could be measured.
        KeyboardInterrupt: Ctrl-C before anything was measured.
    """
    system = read_system()
    check_threads(threads, system)
    check_parts(parts)
    accelerators, absent = look_for(device) if not parts or ACCELERATOR.name in parts else ((), ())
    every = (ACCELERATOR, *PARTS) if accelerators else PARTS
    chosen = tuple(part for part in every if not parts or part.name in parts)
    run = _Run(system, chosen, on_progress or (lambda _: None), threads=thread_count(system, threads), quick=quick)
    run.context = replace(run.context, accelerators=accelerators)
    run.missing += absent
    run.complete = len(chosen) == len(every)
    return run.device()


def check_parts(names: Sequence[str]) -> None:
    """Refuse a part that does not exist."""
    known = [part.name for part in (ACCELERATOR, *PARTS)]
    for name in names:
        if name not in known:
            raise UnknownNameError("part", name, known, place="--only", mend=f"the parts are {', '.join(known)}")


def look_for(device: str) -> tuple[tuple[Accelerator, ...], tuple[Missing, ...]]:
    """Return the accelerators to measure, and why there is none where ``auto`` finds none.

    Raises:
        UnfinishedError: the kind that was asked for is not there.
    """
    if device == "cpu":
        return (), ()
    from bytebound.measure.gpu import find_accelerators  # noqa: PLC0415 - imports PyTorch

    found, missing = find_accelerators(device)
    if not found and device != "auto":
        why = "; ".join(each.why for each in missing) or f"no {device} device was found"
        raise UnfinishedError(why, place="--device", mend="measure the processor with --device cpu")
    return found, missing


def check_threads(threads: int | None, system: System) -> None:
    """Refuse a thread count that this machine does not have."""
    if threads is not None and not 1 <= threads <= system.cores_online:
        raise QuantityError(
            f"{threads} threads on {system.cores_online} processors", place="--threads",
            mend=f"write a number from 1 to {system.cores_online}",
        )  # fmt: skip


@contextmanager
def heard() -> Iterator[Callable[[], None]]:
    """Give a function that raises KeyboardInterrupt once Ctrl-C was pressed.

    Ctrl-C raises at once as always, but not while a kernel is compiled (under a second): in a callback of the compiler
    the exception would be printed and lost. A second Ctrl-C always raises.
    """
    pressed: list[int] = []

    def press(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        if len(pressed) > 1 or not compiling(frame):
            raise KeyboardInterrupt

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check  # signals go to the main thread
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


def compiling(frame: FrameType | None) -> bool:
    """Return whether ``frame`` runs inside the compiler."""
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] in ("numba", "llvmlite"):
            return True
        frame = frame.f_back
    return False


class _Run:
    """The state of one measurement: what was read and what is missing so far."""

    def __init__(
        self, system: System, parts: Sequence[Part], tell: Callable[[Step], None], *, threads: int, quick: bool
    ) -> None:
        self.parts, self.tell = parts, tell
        self.began, self.when = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
        self.context = Context(system, threads, quick, Watch(), self._detail)
        self.readings: list[Reading] = []
        self.apart: list[Reading] = []  # of the accelerator
        self.missing: list[Missing] = []
        self.notes: list[str] = []
        self.now = parts[0]
        self.complete = True
        self.stable = True

    def _detail(self, text: str) -> None:
        planned = [part.quick_s if self.context.quick else part.full_s for part in self.parts]
        self.context.watch.check()
        share = (time.perf_counter() - self.began) / (sum(planned) + 4.0)
        self.tell(Step(self.now.name, text, min(share, 1.0)))

    def device(self) -> Device:
        with ExitStack() as stack:
            self.context.watch.check = stack.enter_context(heard())
            self.tell(Step("start", "compiling kernels, finding the fastest", 0.0))
            start_watch(self.context, stack)
            for number, part in enumerate(self.parts):
                try:
                    self._part(part)
                except KeyboardInterrupt:
                    self._interrupt(self.parts[number:])
                    break
            else:
                self._end()
        return self._document()

    def _part(self, part: Part) -> None:
        self.now = part
        if time.perf_counter() - self.began > LIMIT_S[self.context.quick]:
            self.missing.append(Missing(probe=part.name, why="the time of this measurement was used up before it"))
            self.complete = False
            return
        self._detail(part.what)
        try:
            for outcome in part.run(self.context, part.quick_s if self.context.quick else part.full_s):
                if isinstance(outcome, Missing):
                    self.missing.append(outcome)
                else:
                    (self.apart if part is ACCELERATOR else self.readings).append(outcome)
                self.context.watch.check()
        except RequestError:
            raise  # something to install: not a matter of this part alone
        except (ByteboundError, MemoryError, OSError, RuntimeError) as error:
            self.missing.append(Missing(probe=part.name, why=f"failed: {str(error) or type(error).__name__}"[:2000]))
            self.complete = False

    def _interrupt(self, parts: Sequence[Part]) -> None:
        if not self.readings and not self.apart:
            raise KeyboardInterrupt
        self.complete = False
        self.missing += [Missing(probe=part.name, why=INTERRUPTED) for part in parts]

    def _end(self) -> None:
        """Read memory once more: a ceiling that moved says that the machine did."""
        from bytebound.measure.ladder import again  # noqa: PLC0415 - needs numba

        first = dram_read([each for each in self.readings if each.name == "memory.read"])
        if first is None:
            return
        self.tell(Step("again", "DRAM read once more", 0.98))
        try:
            last = again(first, budget_s=1.0 if self.context.quick else 3.0)
        except UnfinishedError as error:
            self.notes.append(f"memory could not be read again at the end: {error.message}")
            return
        except KeyboardInterrupt:
            self.notes.append("interrupted before memory was read again at the end")
            return
        self.stable, said = steady(first, last)
        self.notes.append(said)

    def _document(self) -> Device:
        watch, system = self.context.watch, self.context.system
        files = Files(Path("/"))
        cpu = read_cpu(files.text("proc/cpuinfo"))
        name = cpu_name(system, cpu.code_name)
        readings = [*self._with_theory(cpu, physical_cores(files, system.cores_online)), *watch.readings()]
        levels = cache_levels(readings)
        if any(each.name == "memory.read" for each in readings):
            self.notes.append(last_core(readings))
        disturbed = watch.disturbed_s / watch.seconds if watch.seconds else 0.0
        if disturbed > 0.05:
            self.notes.append(f"others used the processor during {disturbed:.0%} of the time: figures may be too low")
        self.notes += [f"{r.name}: {r.note}" for r in readings if r.note.startswith("above what theory allows")]
        moment = datetime.fromisoformat(self.when)
        measured = Measured(
            id=f"{device_id(name, system.cores_usable)}-{moment:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}",
            when=self.when,
            seconds=time.perf_counter() - self.began,
            ladder="quick" if self.context.quick else "full",
            complete=self.complete,
            stable=self.stable,
            disturbed=min(disturbed, 1.0),
            system=system,
            readings=(*self.apart, *readings),
            caches=levels,
            missing=tuple(self.missing),
            notes=tuple(dict.fromkeys([*system.limits, *self.notes])),
        )  # fmt: skip
        return self._accelerator(measured) or cpu_device(measured, name)

    def _accelerator(self, measured: Measured) -> Device | None:
        """Return the accelerator as the device, with the host's readings beside its own; None where there is none."""
        if not self.apart:
            return None
        from bytebound.measure.gpu_run import device_of  # noqa: PLC0415 - needs PyTorch

        device = device_of(self.context.accelerators, self.apart, source=f"bytebound measure {measured.id}")
        return device and device.model_copy(update={"measured": measured})

    def _with_theory(self, cpu: Cpu, cores: int) -> list[Reading]:
        """Lay each matrix rate beside what theory allows at the highest clock that was seen."""
        clock = self.context.watch.best("canary.clock")
        used = min(self.context.threads, cores)
        found: list[Reading] = []
        peaks: dict[str, Reading] = {}
        for each in self.readings:
            dtype = each.name.removeprefix("matrix.")
            if dtype == each.name:
                found.append(each)
                continue
            allowed = peak_per_cycle(dtype, cpu.vendor, cpu.family, self.context.system.instructions)
            judged, peak = beside_theory(each, cores=used, clock_hz=clock, per_cycle=allowed)
            found.append(judged)
            if peak is not None:
                peaks[dtype] = peak
        return [*found, *peaks.values()]
