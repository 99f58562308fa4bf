"""The ladder keeps within memory, counts what it touches, keeps what is finished, and finds caches in the curve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba", reason="the kernels are compiled by numba")

from bytebound.documents.measurement import Reading
from bytebound.measure import ladder
from bytebound.measure.crew import Crew
from bytebound.measure.kernels import ARRAYS, GRAIN, ways
from bytebound.measure.levels import cache_levels, last_core, steady
from bytebound.measure.sampling import Probe

KIB, MIB, GIB = 2**10, 2**20, 2**30


def read_at(size, rate, *, threads=2.0, node="all"):
    """Return a reading of ``rate`` B/s over ``size`` bytes."""
    return Reading(
        name="memory.read", unit="B/s", best=rate, median=rate, p10=rate, p90=rate, low=rate, high=rate, samples=1,
        where={"bytes": float(size), "threads": threads, "node": node, "kernel": "read, 2 × 256 bit"}, how="made up",
    )  # fmt: skip


@given(
    st.integers(1, 512),
    st.floats(0, 2 * GIB),
    st.floats(1 * MIB, 4096 * GIB),
    st.booleans(),
)
def test_sizes_rise_fit_a_third_of_memory_and_divide_among_threads(threads, cache, usable, quick):
    found = ladder.sizes(threads, cache, usable, quick=quick)
    assert list(found.bytes) == sorted(set(found.bytes))
    assert all(size % (threads * GRAIN * 6) == 0 for size in found.bytes)
    assert found.bytes[-1] <= max(usable / 3, threads * ladder.FIRST_BYTES)
    if usable / 3 >= max(512 * MIB, 8 * cache) + threads * 8 * KIB:
        assert found.bytes[-1] >= max(4 * cache, 500 * MIB)
        assert not found.cut
    if cache > 128 * MIB and usable / 3 < 4 * cache:
        assert "a third of the usable memory" in found.cut


def test_thread_counts_are_powers_of_two_and_all():
    assert [ladder.thread_counts(n) for n in (1, 2, 6, 8)] == [(1,), (1, 2), (1, 2, 4, 6), (1, 2, 4, 8)]


@pytest.fixture
def small(monkeypatch):
    """A ladder of half a MiB."""
    monkeypatch.setattr(ladder, "LEAST_DRAM_BYTES", 512 * KIB)
    return {"threads": 2, "last_cache_bytes": 0.0, "usable_bytes": 256.0 * MIB}


def test_a_whole_small_ladder_is_measured(small):
    parts = list(ladder.climb(**small, budget_s=1.0))
    readings = [each for part in parts for each in part.readings]
    assert {each.name for each in readings} == {f"memory.{kind}" for kind in (*ARRAYS, "latency")}
    for each in readings:
        assert each.when
        assert each.low <= each.best <= each.high or each.unit == "s"
        if each.unit == "B/s":
            assert 0.3e9 / 10 < each.best < 1e14
            assert each.where["kernel"] in ways(each.name.removeprefix("memory."))
        else:
            assert 1e-10 < each.best < 1e-5
    first = parts[0].readings
    assert [each.name for each in first] == [f"memory.{kind}" for kind in ARRAYS]
    assert all(each.where["bytes"] == pytest.approx(512 * KIB, rel=0.05) for each in first), "DRAM comes first"
    assert {each.where["threads"] for each in readings} == {1.0, 2.0}
    assert "2 threads" in last_core(readings)


def test_every_way_has_its_turn_at_the_dram_size_and_the_fastest_is_kept(small, monkeypatch):
    real, tried = ladder.interleave, []
    monkeypatch.setattr(ladder, "interleave", lambda probes, **rest: tried.append(probes) or real(probes, **rest))
    part = next(ladder.climb(**small, budget_s=0.5, quick=True))
    assert sorted(probe.where["kernel"] for probe in tried[-1]) == sorted(
        name for kind in ARRAYS for name in ways(kind)
    )
    assert [each.name for each in part.readings] == [f"memory.{kind}" for kind in ARRAYS]


def test_what_is_finished_stays_when_the_rest_is_interrupted(small, monkeypatch):
    real, calls = ladder.interleave, []

    def interrupted(probes, **rest):
        calls.append(probes)
        if sum(each[0].unit == "B/s" for each in calls) == 3:
            raise KeyboardInterrupt
        return real(probes, **rest)

    monkeypatch.setattr(ladder, "interleave", interrupted)
    monkeypatch.setattr(ladder, "fastest", lambda crew, kind, part, trial_s: next(iter(ways(kind))))
    kept, parts = [], ladder.climb(**small, budget_s=0.5, quick=True)

    def keep_all():
        for part in parts:
            kept.append(part)  # noqa: PERF402 - one by one, as a caller would keep them

    with pytest.raises(KeyboardInterrupt):
        keep_all()
    assert len(kept) == 4
    assert kept[0].readings[0].name == "memory.read"


def test_canaries_take_turns_but_not_where_they_would_empty_the_caches(small):
    calls = {"light": 0, "heavy": 0}

    def called(name):
        calls[name] += 1

    beside = [
        Probe("light", "s", 1.0, lambda: called("light"), "counts"),
        Probe("heavy", "s", 1.0, lambda: called("heavy"), "counts", {"bytes": 1e9}),
    ]
    told, seen = [], []
    parts = list(
        ladder.climb(
            **small, quick=True, budget_s=0.5, beside=beside, progress=told.append,
            on_sample=lambda probe, sample: seen.append(probe.name),
        )
    )  # fmt: skip
    assert len(told) == len(parts)
    assert 0 < calls["heavy"] < calls["light"]
    assert seen.count("light") == calls["light"] - len(parts), "all but the warm-up of each part"


@pytest.mark.parametrize("kind", list(ARRAYS))
def test_probes_move_the_bytes_they_claim(kind, monkeypatch):
    """The work of a probe, done on paper: bytes of the part × threads × passes."""
    done = []
    with Crew(2, 96 * KIB) as crew:
        real = crew.run
        monkeypatch.setattr(
            crew, "run", lambda name, part, passes, *more: done.append((part, passes)) or real(name, part, passes)
        )
        step = ladder._Step(192 * KIB, (kind,))
        plan = ladder._Plan(2, "all", None, (step,))
        (probe,) = ladder._probes(crew, step, plan, 0.1, least_s=0.001, every=False)
        done.clear()
        probe.work()
    ((part, passes),) = done
    assert probe.amount == 2 * part * passes
    assert part % (ARRAYS[kind] * GRAIN) == 0
    assert 0 <= 96 * KIB - part < 3 * GRAIN


@given(st.integers(2, 400))
def test_a_chain_visits_every_line_once(lines):
    room = np.zeros(lines * 8 + 16)
    ladder.chain_lines(room, lines * 64)
    words, place, seen = room.view(np.int64), 0, set()
    for _ in range(lines):
        seen.add(place)
        place = int(words[place // 8])
    assert place == 0
    assert seen == set(range(0, lines * 64, 64))


CACHES = st.lists(st.tuples(st.integers(3, 7), st.floats(1.4, 4.0), st.integers(0, 3)), max_size=3)


@settings(max_examples=100)
@given(CACHES, st.integers(3, 6), st.integers(0, 2**32 - 1))
def test_cache_edges_are_found_in_a_curve(caches, dram, seed):
    """Levels of 3 to 7 half-octaves, each 1.4 to 4 times slower, 3 % noise; 0 to 3 sizes lie on the way down, if steep."""
    noise, rate, size = np.random.default_rng(seed), 400e9, 32.0 * KIB
    readings, edges = [], []
    for count, drop, way in [*caches, (dram, 1.0, 0)]:
        for _ in range(count):
            readings.append(read_at(size, rate * np.exp(0.03 * np.clip(noise.normal(), -2, 2))))
            size *= np.sqrt(2)
        edge, on_way = size / np.sqrt(2), way if drop > 1.6 ** (way + 1) else 0
        for step in range(1, on_way + 1):
            readings.append(read_at(size, rate * drop ** -(step / (on_way + 1))))
            size *= np.sqrt(2)
        edges.append((edge, size, rate))
        rate /= drop
    found = cache_levels(readings)
    assert [level.name for level in found] == [f"L{n}" for n in range(1, len(caches) + 1)]
    for level, (edge, after, speed) in zip(found, edges, strict=False):
        assert edge * 0.999 <= level.bytes < after * 0.999
        assert level.read_bytes_per_s == pytest.approx(speed, rel=0.15)


def test_cache_edges_are_found_in_a_real_curve_of_a_machine_with_two_memory_speeds():
    """Zen 4, two cores with 32 KiB and 1 MiB each and 32 MiB of shared L3; its DRAM gave 37 GB/s, then 67. Measured 2026-11-21."""
    kib = [24, 36, 60, 84, 120, 180, 252, 360, 504, 720, 1020, 1446, 2040, 2886, 4092, 5790, 8184, 11580, 16380, 23166]
    gbs = [438, 437, 438, 239, 236, 234, 234, 233, 233, 230, 228, 223, 199, 191, 195, 197, 198, 196, 191, 148]
    kib += [32760, 46338, 65532, 92682, 131064, 185358, 262140, 370728, 524286]
    gbs += [115, 80.3, 57.7, 46.8, 43.5, 38.6, 37.2, 36.9, 67.3]
    found = cache_levels([read_at(size * KIB, rate * 1e9) for size, rate in zip(kib, gbs, strict=True)])
    assert [level.name for level in found] == ["L1", "L2", "L3"]
    assert [level.bytes / KIB for level in found[:2]] == [60, 1446]
    assert 16380 <= found[2].bytes / KIB <= 32760, "its edge is soft"
    assert [level.read_bytes_per_s / 1e9 for level in found] == pytest.approx([438, 233, 196], rel=0.02)


def test_caches_come_from_the_reads_of_all_threads():
    curve = [(32, 400), (64, 400), (128, 400), (256, 90), (512, 90), (1024, 90)]
    readings = [read_at(size * KIB, rate * 1e9) for size, rate in curve]
    alone = [read_at(size * KIB, 7e9, threads=1.0) for size, _ in curve]
    node = [read_at(2**40, 1e9, node=1.0)]
    (level,) = cache_levels([*readings, *alone, *node])
    assert (level.bytes, level.read_bytes_per_s) == (128 * KIB, 400e9)
    assert cache_levels(readings[:1]) == ()
    assert cache_levels([]) == ()


def test_the_last_core_tells_cores_from_memory():
    one = read_at(GIB, 30e9, threads=1.0)
    said = [last_core([one, read_at(GIB, rate * 1e9)]) for rate in (58, 45, 33)]
    assert [text.partition(": ")[2] for text in said] == [
        "the cores limit reading, not the memory",
        "near the memory's limit",
        "the memory is at its limit",
    ]
    assert "was not seen" in last_core([one])
    assert "was not seen" in last_core([])


def test_memory_that_moved_by_over_five_percent_is_not_steady():
    held, said = steady(read_at(GIB, 40e9), read_at(GIB, 38.4e9))
    assert held
    assert "-4.0%" in said
    held, said = steady(read_at(GIB, 40e9), read_at(GIB, 37e9))
    assert not held
    assert "not steady" in said


def test_the_repeat_reads_the_same_bytes_the_same_way():
    first = read_at(96 * KIB, 1e9).model_copy(
        update={"where": {"bytes": 96.0 * KIB, "threads": 2.0, "node": "all", "kernel": next(iter(ways("read")))}}
    )
    last = ladder.again(first, budget_s=0.1)
    assert last.where == first.where
    assert last.best > 3e7
