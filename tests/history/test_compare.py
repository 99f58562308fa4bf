"""Noise is called noise, a loss is found, and what explains a difference otherwise is said."""

from __future__ import annotations

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from made import NOISE, made_device, made_reading

from bytebound.documents.comparison import Comparison
from bytebound.documents.values import from_json, json_schema, to_json
from bytebound.errors import DocumentError
from bytebound.measure.compare import compare, noticed
from bytebound.measure.noise import difference, is_ceiling, relative_error
from bytebound.measure.pairs import by_place, headlines

BETWEEN = 0.015  # by which quiet runs differ among themselves


def shares(rng, noise, *, level=1.0, n=20, m=None, pairs=200, ceiling=True):
    """Return the shares of pairs of readings, the second at ``level``, that are called slower and faster."""
    slower = faster = 0
    for _ in range(pairs):
        run = np.exp(BETWEEN * rng.standard_normal(2))
        first, second = (
            made_reading(
                "memory.read", "B/s", 24e9 * run[i] * (1, level)[i], NOISE[noise](rng, (n, m or n)[i]), ceiling=ceiling
            )
            for i in (0, 1)
        )
        found = difference(first, second)
        slower += found.confidence >= 0.95 and found.gain < 0
        faster += found.confidence >= 0.95 and found.gain > 0
    return slower / pairs, faster / pairs


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("ceiling", [True, False], ids=["ceiling", "workload"])
def test_the_same_machine_twice_is_noise_in_at_least_95_of_100_pairs(noise, ceiling):
    for n, m in ((10, 10), (20, 20), (5, 20)):
        assert sum(shares(np.random.default_rng(1), noise, n=n, m=m, ceiling=ceiling)) <= 0.05 + 0.02, (n, m)


@pytest.mark.parametrize(
    ("noise", "n", "least"), [("dips", 20, 0.95), ("dips", 10, 0.8), ("capped", 20, 0.85), ("capped heavy tails", 10, 0.8), ("quiet", 5, 0.9)]
)  # fmt: skip
def test_a_tenth_lost_is_found(noise, n, least):
    """On noise as measured on shared machines: a ceiling, with dips below it."""
    assert shares(np.random.default_rng(2), noise, level=0.9, n=n)[0] >= least
    assert shares(np.random.default_rng(2), noise, level=1 / 0.9, n=n)[1] >= least


def test_three_samples_of_a_shared_machine_prove_little():
    for noise in NOISE:
        assert sum(shares(np.random.default_rng(3), noise, n=3)) <= 0.05
        assert sum(shares(np.random.default_rng(3), noise, n=3, m=30)) <= 0.08


@pytest.mark.parametrize("noise", ["capped", "log-normal", "dips"])
@pytest.mark.parametrize("figure", ["best", "median"])
def test_the_error_is_near_the_scatter_of_repeated_runs(noise, figure):
    """Against the truth: many runs' figures, and the error each run claims for its own."""
    rng = np.random.default_rng(4)
    runs = [made_reading("memory.read", "B/s", 1.0, NOISE[noise](rng, 20)) for _ in range(300)]
    true = np.std([getattr(run, figure) for run in runs])
    claimed = np.median([relative_error(run, figure) * getattr(run, figure) for run in runs])

    assert true <= 1.3 * max(claimed, 0.015)
    assert claimed <= 4 * max(true, 0.015)


def test_times_are_turned_round():
    rng = np.random.default_rng(5)
    first = made_reading("memory.latency", "s", 1e-7, NOISE["dips"](rng, 20))
    second = made_reading("memory.latency", "s", 1.3e-7, NOISE["dips"](rng, 20))
    found = difference(first, second)

    assert is_ceiling(first)
    assert found.gain < 0
    assert found.ratio == pytest.approx(1.3, rel=0.05)
    assert found.confidence > 0.95


def test_zero_and_single_samples():
    one, zero = (made_reading("disk.read", "B/s", 1e9, np.array([rate])) for rate in (1.0, 1e-30))
    half = made_reading("disk.read", "B/s", 1e9, np.array([0.5]))
    rest = one.model_copy(update={"best": 0.0, "median": 0.0, "p10": 0.0, "p90": 0.0, "low": 0.0, "high": 0.0})

    assert difference(one, rest) is None
    assert difference(one, zero).confidence > 0.99
    assert 0.95 < difference(one, half).confidence < 0.999
    assert difference(one, made_reading("disk.read", "B/s", 1e9, np.array([0.8]))).confidence < 0.95


def two(**after):
    """Return the comparison of a machine with itself a month later, changed by ``after``."""
    rng = np.random.default_rng(6)
    return compare(made_device(rng, days=30), made_device(rng, **after))


def change_of(comparison, name="memory.read", where=("threads", 2.0)):
    """Return the headline change of a name."""
    found = [
        c for c in comparison.changes if c.name == name and (not c.headline or c.where.get(where[0], 2.0) == where[1])
    ]
    return max(found, key=lambda change: change.headline)


def test_a_loss_is_said_in_a_sentence():
    found = two(speed=0.88)

    assert (found.verdict, found.same_machine) == ("slower", True)
    assert found.sentence.startswith("memory read lost 12 % (24.0 GB/s → 21.")
    assert found.sentence.endswith(" % sure)")
    assert ": not noise (9" in found.sentence
    change = change_of(found)
    assert (change.verdict, change.headline, change.figure) == ("slower", True, "best")
    assert change.ratio == pytest.approx(0.88, abs=0.02)
    assert change.before.samples == change.after.samples == 20
    assert found.notes == ()


def test_the_same_machine_is_said_to_be_the_same():
    found = two()

    assert found.verdict == "noise"
    assert found.sentence.startswith("no ceiling differs by more than noise; memory read ")
    assert {change.verdict for change in found.changes} == {"noise"}


def test_a_gain_is_said():
    found = two(speed=1.2)

    assert found.verdict == "faster"
    assert found.sentence.startswith("memory read gained ")


def test_a_slower_run_that_others_disturbed_proves_nothing_but_a_faster_one_does():
    found = two(speed=0.8, spoilt=15)
    assert found.verdict == "noise"
    assert change_of(found).why == "others used the processor during 15 of the 20 slower samples"

    assert two(speed=1.2, spoilt=15).verdict == "faster"
    assert two(speed=0.8, spoilt=3).verdict == "slower"


def test_what_the_processors_state_explains_is_no_change():
    found = two(canary=0.55)

    assert found.verdict == "noise"
    assert change_of(found, "matrix.fp32").why == "no more than the processor itself changed (canary.fma)"
    assert change_of(found, "canary.fma").verdict == "slower"
    assert any(note.startswith("the processor itself ran at ×0.5") for note in found.notes)
    assert change_of(two(canary=0.55, speed=0.8)).verdict == "slower"  # DRAM follows the canary by a tenth only
    assert change_of(two(canary=1.8, speed=0.8)).verdict == "slower"  # a faster processor explains no loss


def test_runs_that_were_not_steady_must_differ_by_more():
    assert two(speed=0.88, stable=True).verdict == "slower"
    found = two(speed=0.88, stable=False)
    assert found.verdict == "noise"
    assert "moved by over 5 % within the run" in " ".join(found.notes)
    assert found.sentence.endswith(", but DRAM bandwidth moved as much within a run")
    assert two(speed=0.6, stable=False).verdict == "slower"


def test_a_quick_run_is_matched_with_a_full_one_at_dram():
    found = two(speed=0.85, n=8, ladder="quick", dram_bytes=2.0**28, complete=False, disturbed=0.3)

    assert found.verdict == "slower"
    assert [note.split(":")[0] for note in found.notes] == [
        "a full run beside a quick one", found.after.id, f"{found.after.id} is incomplete",
    ]  # fmt: skip
    assert found.notes[1] == f"{found.after.id}: others used the processor during 30 % of its samples"
    assert found.only_before == found.only_after == ()


def test_readings_of_one_side_are_named():
    rng = np.random.default_rng(7)
    first, second = made_device(rng, days=1), made_device(rng)
    fewer = second.measured.model_copy(update={"readings": second.measured.readings[1:]})
    found = compare(first, second.model_copy(update={"measured": fewer}))

    assert found.only_before == ("memory.read (bytes 32768, threads 2, node all, kernel one)",)
    empty = compare(first, second.model_copy(update={"measured": fewer.model_copy(update={"readings": ()})}))
    assert (empty.verdict, empty.sentence, empty.changes) == ("noise", "nothing was measured in both", ())


def test_two_machines_are_said_to_be_two():
    found = two(cpu="Xeon", speed=0.5)

    assert not found.same_machine
    assert found.notes[0] == "two machines are compared: here (AMD EPYC 9B14, 2 cores) and here (Xeon, 2 cores)"


def test_headlines_are_the_ceilings_other_verbs_use():
    device = made_device(np.random.default_rng(8))
    gpu = made_reading("memory.read", "B/s", 9e11, np.ones(5), where={"bytes": 2.0**30, "device": "cuda:0"})
    table = by_place((*device.measured.readings, gpu))

    assert sorted((place.name, table[place].best > 5e11) for place in headlines(table)) == [
        ("matrix.fp32", False), ("memory.latency", False), ("memory.read", False), ("memory.read", True),
    ]  # fmt: skip
    assert all(table[place].where.get("bytes", 2.0**29) >= 2**29 for place in headlines(table))


def test_the_document_round_trips_and_has_a_schema():
    found = two(speed=0.88, canary=0.55)

    assert from_json(Comparison, to_json(found)) == found
    schema = json_schema(Comparison)
    Draft202012Validator.check_schema(schema)
    assert schema["properties"]["schema"]["default"] == "bytebound.comparison/1"
    assert from_json(Comparison, to_json(found)).changes[0].where["bytes"] == 32768.0


def test_what_was_never_measured_cannot_be_compared():
    device = made_device(np.random.default_rng(9))
    bare = device.model_copy(update={"measured": None})

    for pair in ((device, bare), (bare, device)):
        with pytest.raises(DocumentError, match="here was never measured; compare two runs of `bytebound measure`"):
            compare(*pair)


def test_a_machine_that_lost_bandwidth_is_noticed():
    rng = np.random.default_rng(10)
    past = [made_device(rng, days=30 * month) for month in range(1, 7)]

    said = noticed(past, made_device(rng, speed=0.86))
    assert len(said) == 1
    assert said[0].startswith("since 2026-0")
    assert "(the middle of 6 earlier runs), memory read lost 1" in said[0]
    assert said[0].endswith("% sure)")
    assert noticed(past[:1], made_device(rng, speed=0.86))[0].startswith("since 2026-10-22, memory read lost ")


def test_no_loss_no_history_and_disturbed_runs_are_not_noticed():
    rng = np.random.default_rng(11)
    past = [made_device(rng, days=30 * month) for month in range(1, 4)]
    new = made_device(rng, speed=0.86)

    assert noticed(past, made_device(rng)) == ()
    assert noticed(past, made_device(rng, speed=1.2)) == ()
    assert noticed([], new) == ()
    assert noticed([new], new) == ()
    assert noticed(past, made_device(rng, speed=0.86, spoilt=15)) == ()
    assert noticed(past, made_device(rng, canary=0.55)) == ()


def test_a_machine_that_goes_back_and_forth_is_not_said_to_have_lost_anything():
    """Levels as one shared virtual machine gave them half a minute apart: 60, 68, 38, 38, 68 GB/s."""
    rng = np.random.default_rng(13)
    levels = (60, 68, 38, 38, 68)
    runs = [made_device(rng, days=5 - day, speed=level / 24) for day, level in enumerate(levels)]
    low = made_device(rng, speed=37.5 / 24)

    assert [len(noticed(runs[:count], runs[count])) for count in range(1, 5)] == [0, 1, 1, 0]
    assert noticed(runs, low) == ()
    assert compare(runs[4], low).verdict == "slower"
    found = compare(runs[4], low, runs)
    assert found.verdict == "noise"
    assert found.sentence.startswith("no ceiling differs by more than noise; memory read lost 4")
    assert found.sentence.endswith(", but 6 runs of this machine went back and forth between the two")


def test_the_dram_canary_shows_what_the_ladder_missed():
    """The ladder reads DRAM for a moment; the canary is the same read spread over the run, and sees both speeds."""
    rng = np.random.default_rng(16)

    def run(days, moment, *rates):
        device = made_device(rng, days=days, speed=moment / 24)
        where = {"bytes": 2.0**29 + 8192, "threads": 2.0, "node": "all", "kernel": "other"}
        canary = made_reading(
            "canary.read", "B/s", 1e9, np.repeat(rates, 20) * NOISE["quiet"](rng, 20 * len(rates)), where=where
        )
        readings = (*device.measured.readings, canary)
        return device.model_copy(update={"measured": device.measured.model_copy(update={"readings": readings})})

    low, high, both = run(3, 38, 38), run(1, 68, 68), run(4, 38, 38, 38, 68)
    seen = change_of(compare(low, both)).after
    assert (seen.samples, seen.best) == (60, pytest.approx(68e9, rel=0.03))
    assert seen.median == pytest.approx(38e9, rel=0.03)
    assert compare(low, high).verdict == "faster"
    found = compare(low, high, [both])
    assert found.verdict == "noise"
    assert change_of(found).why == "3 runs of this machine went back and forth between the two"


def test_a_lasting_loss_is_noticed_until_it_is_most_of_the_history():
    rng = np.random.default_rng(14)
    runs = [made_device(rng, days=9 - day, speed=1.0 if day < 3 else 0.8) for day in range(8)]

    said = [bool(noticed(runs[:count], runs[count])) for count in range(1, 8)]
    assert said == [False, False, True, True, True, True, False]
    assert compare(runs[2], runs[3], runs).verdict == "slower"


def test_a_virtual_machine_with_little_history_is_doubted():
    rng = np.random.default_rng(15)
    past, new = made_device(rng, days=1), made_device(rng, speed=0.8)
    system = new.measured.system.model_copy(update={"virtual": True})
    rented = new.model_copy(update={"measured": new.measured.model_copy(update={"system": system})})

    doubt = "; on a virtual machine a neighbour may have it: measure again"
    assert noticed([past], rented)[0].endswith(doubt)
    assert doubt not in noticed([past], new)[0]


def test_false_alarms_of_a_history_are_rare():
    rng = np.random.default_rng(12)
    alarms = losses = 0
    for _ in range(60):
        past = [made_device(rng, days=day, speed=np.exp(BETWEEN * rng.standard_normal())) for day in range(1, 5)]
        alarms += bool(noticed(past, made_device(rng, speed=np.exp(BETWEEN * rng.standard_normal()))))
        losses += bool(noticed(past, made_device(rng, speed=0.88 * np.exp(BETWEEN * rng.standard_normal()))))

    assert alarms <= 3
    assert losses >= 54
