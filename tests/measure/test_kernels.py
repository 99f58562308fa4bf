"""The kernels do what they say: numpy computes the same, nothing beyond the part is touched, and threads keep apart."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading

import numpy as np
import pytest

pytest.importorskip("numba", reason="the kernels are compiled by numba")

from bytebound.errors import RequestError
from bytebound.measure import crew as crews
from bytebound.measure.crew import Crew, numa_nodes, usable_cpus
from bytebound.measure.kernels import ARRAYS, CHAIN_LOOP, FMA_LOOP, GRAIN, kernel, lanes, vector_bytes, ways

PART = 6 * GRAIN
EVERY = [(kind, name) for kind in ARRAYS for name in ways(kind)]


@pytest.fixture
def memory():
    """Doubles on a 64-byte boundary, twice a part, none of them 0."""
    block = np.random.default_rng(7).random(2 * PART // 8 + 8) + 0.5
    start = -block.ctypes.data % 64 // 8
    return block[start : start + 2 * PART // 8]


@pytest.mark.parametrize("name", list(ways("read")))
@pytest.mark.parametrize("passes", [1, 3])
def test_reading_adds_up_every_byte_of_the_part_once_per_pass(memory, name, passes):
    before = memory.copy()
    total = kernel(name)(memory.ctypes.data, PART, passes)
    assert total == pytest.approx(passes * before[: PART // 8].sum(), rel=1e-12)
    assert (memory == before).all()


@pytest.mark.parametrize("name", list(ways("read")))
def test_reading_misses_no_single_double(memory, name):
    memory[:] = 0.0
    for place in range(0, PART // 8, 37):
        memory[place] = 1.0
    assert kernel(name)(memory.ctypes.data, PART, 1) == len(range(0, PART // 8, 37))


@pytest.mark.parametrize("name", list(ways("write")))
def test_writing_fills_the_part_and_nothing_else(memory, name):
    before = memory.copy()
    kernel(name)(memory.ctypes.data, PART, 3)
    assert (memory[: PART // 8] == 3.0).all()
    assert (memory[PART // 8 :] == before[PART // 8 :]).all()


@pytest.mark.parametrize("name", list(ways("copy")))
def test_copying_fills_the_second_half_from_the_first(memory, name):
    before, half = memory.copy(), PART // 16
    kernel(name)(memory.ctypes.data, PART, 2)
    assert (memory[:half] == before[:half]).all()
    assert (memory[half : 2 * half] == before[:half]).all()
    assert (memory[2 * half :] == before[2 * half :]).all()


@pytest.mark.parametrize("name", list(ways("triad")))
def test_the_triad_scales_and_adds(memory, name):
    before, third, passes = memory.copy(), PART // 24, 2
    kernel(name)(memory.ctypes.data, PART, passes)
    expected = before[third : 2 * third] + (passes + 2) * before[2 * third : 3 * third]
    np.testing.assert_allclose(memory[:third], expected, rtol=1e-15)
    assert (memory[third:] == before[third:]).all()


def test_the_chase_follows_the_chain(memory):
    words = memory.view(np.int64)
    way = [0, 512, 64, 320, 128]
    for here, there in zip(way, way[1:] + way[:1], strict=True):
        words[here // 8] = there
    chase = kernel("chase")
    assert [chase(memory.ctypes.data, 0, loads) for loads in range(7)] == [0, 512, 64, 320, 128, 0, 512]
    assert chase(memory.ctypes.data, 64, 1) == 320


def test_the_chain_depends_on_every_link():
    def walked(base: int, part: int, passes: int) -> int:
        value = passes
        for _ in range(passes * CHAIN_LOOP // 2):
            value = ((value + base) & (2**64 - 1)) ^ part
        return value - 2**64 if value >= 2**63 else value

    for given in [(3, 5, 1), (12345, 6789, 4), (2**40 + 1, 2**33 - 1, 3)]:
        assert kernel("chain")(*given) == float(walked(*given))


def test_the_multiply_adds_are_all_done():
    """X ← x·f + f, for each accumulator from its own start, in single precision."""
    passes = 2
    factor = np.float32(1 / (passes + 2))
    values = np.arange(lanes(), dtype=np.float32)
    for _ in range(passes * FMA_LOOP):
        values = values * factor + factor
    expected = float(values.sum()) * vector_bytes() / 4
    assert kernel("fma")(0, 0, passes) == pytest.approx(expected, rel=1e-5)


def test_wide_vectors_and_streaming_stores_reach_the_machine_code():
    features = kernel("fma").inspect_asm()
    code = "\n".join(features.values())
    if vector_bytes() == 64:
        assert "zmm" in code
        assert "vfmadd" in code
    if platform.machine() != "x86_64":
        pytest.skip("the names of instructions below are x86-64's")
    streaming = next(name for name in ways("write") if "streaming" in name)
    assert "movnt" in "\n".join(kernel(streaming).inspect_asm().values())
    ahead = next(name for name in ways("copy") if "prefetched" in name)
    assert "prefetch" in "\n".join(kernel(ahead).inspect_asm().values())


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_thread_works_on_its_own_room(threads):
    with Crew(threads, PART) as crew:
        rooms = crew.rooms().reshape(threads, -1)
        for number in range(threads):
            rooms[number] = number + 1
        name = next(iter(ways("read")))
        assert crew.run(name, PART, 2) == 2 * PART / 8 * sum(range(1, threads + 1))
        assert crew.run(name, PART, 2, threads=1) == 2 * PART / 8
        seen = {pool.submit(threading.get_ident).result() for pool in crew._pools}
        assert len(seen) == threads


def test_a_part_that_does_not_fit_is_refused():
    with Crew(1, PART) as crew:
        for part in (0, GRAIN + 8, crew.room_bytes + GRAIN):
            with pytest.raises(ValueError, match="does not fit"):
                crew.run(next(iter(ways("read"))), part, 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no threads to processors")
def test_bound_threads_stay_where_they_are_put():
    last = usable_cpus()[-1]
    with Crew(2, PART, [(last,), (last,)]) as crew:
        assert [pool.submit(os.sched_getaffinity, 0).result() for pool in crew._pools] == [{last}, {last}]
    assert set(usable_cpus()) == os.sched_getaffinity(0), "the measuring process itself stays free"


def test_nodes_without_usable_processors_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(crews, "usable_cpus", lambda: (0, 1, 2, 9))
    for number, listed in {0: "0-1,8", 1: "2-3", 10: "9", 2: "4-7", 3: ""}.items():
        (tmp_path / f"node{number}").mkdir()
        (tmp_path / f"node{number}" / "cpulist").write_text(f"{listed}\n")
    assert numa_nodes(tmp_path) == ((0, 1), (2,), (9,))
    assert numa_nodes(tmp_path / "nothing") == ((0, 1, 2, 9),)


def test_without_numba_the_error_names_the_extra():
    code = """
import sys
sys.modules["llvmlite"] = None
from bytebound.errors import RequestError
try:
    import bytebound.measure.kernels
except RequestError as error:
    print(error, error.exit_code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)  # noqa: S603
    assert done.stdout.strip() == (
        'measuring memory needs numba, which is not installed; run: pip install "bytebound[measure]" 2'
    )
    assert RequestError.exit_code == 2
