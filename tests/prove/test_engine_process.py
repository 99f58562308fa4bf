"""Engines in child processes: answers, every way to fail as one sentence, nothing waited for and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bytebound.errors import DocumentError, QuantityError, RequestError, UnfinishedError
from bytebound.prove.remote import open_engine

PATH = {"PYTHONPATH": str(Path(__file__).parent)}
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")


def opened(settings=None, **options):
    return open_engine("toy_engine", {"seconds": 0.01, **(settings or {})}, environment=PATH, **options)


def gone(process):
    """Return whether the process has been waited for."""
    return process.returncode is not None


def test_answers_times_and_what_it_prints():
    with opened({"seconds": 0.02}) as (engine, version):
        assert version == "toy 1"
        assert engine.ask("echo", value=[1.5, "ä", None]) == [1.5, "ä", None]
        engine.ask("prepare", depth=7)
        turn = engine.time("step", {"depth": 7}, skip=1, times=4)
        assert len(turn.seconds) == 4
        assert turn.seconds == pytest.approx([0.02] * 4)
        assert turn.whole.seconds == pytest.approx(0.08)
        engine.ask("shout")  # standard output is not the pipe
        assert engine.ask("echo", value="still here") == "still here"
    assert gone(engine.process)


@POSIX
def test_every_failure_is_one_sentence():
    with opened(memory_bytes=600e6) as (engine, _):
        with pytest.raises(QuantityError) as told:
            engine.ask("refuse", how="sentence")
        assert (told.value.message, told.value.place, told.value.mend) == ("too deep", "depth", "less")
        with pytest.raises(UnfinishedError, match=r"the engine failed: ZeroDivisionError: a bug x+$") as told:
            engine.ask("refuse", how="bug")
        assert len(str(told.value)) < 700
        for how in ("memory", "hold"):  # 8 TiB, and 8 GiB under a limit
            with pytest.raises(UnfinishedError, match=r"out of memory in the engine's process.*smaller model"):
                engine.ask("refuse", how=how)
        for name in ("nothing", "__init__", "_private", "settings"):
            with pytest.raises((RequestError, UnfinishedError)):
                engine.ask(name)
        assert engine.ask("echo", value=1) == 1
    with pytest.raises(DocumentError, match="toys are not installed"), opened({"missing": 1}):
        pass
    with pytest.raises(UnfinishedError, match="ModuleNotFoundError"), open_engine("no_such_adapter", {}):
        pass


@POSIX
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("kill", r"ended by signal 9 \(SIGKILL\); it likely ran out of memory"),
        ("abort", r"ended by signal 6 \(SIGABRT\): terminate called: std::bad_alloc; it likely ran out"),
        ("sleep", "said nothing for 1 s and was ended"),
    ],
)
def test_a_dead_or_silent_child_is_told_and_ended(how, said):
    started = time.perf_counter()
    with opened() as (patient, _):
        engine = replace(patient, wait_s=1.0) if how == "sleep" else patient
        with pytest.raises(UnfinishedError, match=said):
            engine.ask("refuse", how=how)
        assert gone(engine.process)
        with pytest.raises(UnfinishedError):
            engine.ask("echo", value=1)
    assert time.perf_counter() - started < 20


@POSIX
def test_ctrl_c_ends_the_child():
    with pytest.raises(KeyboardInterrupt), opened() as (engine, _):
        raise KeyboardInterrupt
    assert gone(engine.process)


@POSIX
def test_no_child_outlives_its_parent():
    code = (
        "import os\nfrom bytebound.prove.remote import open_engine\n"
        "with open_engine('toy_engine', {'seconds': 0}) as (engine, _):\n"
        "    print(engine.process.pid, flush=True)\n    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **PATH}, check=False
    )
    child = Path("/proc") / done.stdout.strip()
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    for _ in range(100):
        if not child.exists() or "Z" in child.joinpath("stat").read_text().rpartition(")")[2].split()[:1]:
            return
        time.sleep(0.05)
    pytest.fail("the child still runs")
