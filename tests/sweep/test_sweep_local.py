"""The laws of a sweep: it is the audit draw by draw, cut anywhere, on any number of processes, whatever is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="a sweep writes Parquet")

import pyarrow.parquet as pq  # noqa: E402

from bytebound.audit import audit_fleet  # noqa: E402
from bytebound.documents.sweep import Sweep, SweepSummary  # noqa: E402
from bytebound.documents.values import from_json, to_json  # noqa: E402
from bytebound.errors import DocumentError, QuantityError, UnfinishedError  # noqa: E402
from bytebound.sweep import local, sweep_fleet  # noqa: E402
from bytebound.sweep.part import run_part  # noqa: E402
from bytebound.sweep.request import sha256_of, text_of  # noqa: E402

ASKED = {
    "draws": 300,
    "plans": ["fp8-kv", "more-devices:8", "roadmap-device:b200-sxm"],
    "slip_months": [0, 4],
    "seed": 3,
}
SHORT = {"draws": 200, "plans": ["more-devices:8"], "part_draws": 20}


def table(folder):
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("part-*.parquet"))])


def values(found, column, **names):
    """Return a column as floats (NaN where null) where the named columns have these values."""
    mask = np.ones(found.num_rows, dtype=bool)
    for name, value in names.items():
        mask &= np.array(found[name].to_pylist()) == value
    return found.filter(mask)[column].cast("float64").to_numpy()


def outcome(found, **names):
    """Return the one outcome whose fields have these values."""
    (one,) = [one for one in found.outcomes if all(getattr(one, name) == value for name, value in names.items())]
    return one


@pytest.fixture(scope="module")
def swept(fleet_file, tmp_path_factory):
    """One sweep on one process: its folder and summary."""
    folder = tmp_path_factory.mktemp("sweep") / "out"
    return folder, sweep_fleet(fleet_file, folder, workers=1, **ASKED)


@pytest.mark.parametrize("slip", [0, 4])
def test_a_sweep_as_it_stands_is_the_audit(swept, fleet_file, slip):
    """Probability, months and resource of every workload are those of the audit with the same seed and draws."""
    audited = {w.name: w for w in audit_fleet(fleet_file, draws=300, seed=3, slip_months=slip).workloads}
    found = [one for one in swept[1].outcomes if one.plan == "as-is" and one.scenario.startswith(("as", "4")[slip > 0])]

    assert {one.workload for one in found} == set(audited)
    for one in found:
        assert one.starves == audited[one.workload].starves
        assert one.need_last == pytest.approx(audited[one.workload].need_devices.p50[-1], rel=0.01)
    assert any(0 < one.starves.probability < 1 for one in found)


def test_more_devices_are_added_to_what_is_held_and_change_no_need(swept):
    """Eight more devices: the same draws need the same, hold eight more, starve no earlier, and are paid for."""
    rows = table(swept[0])
    for scenario in ("as planned", "4 months late"):
        who = {"workload": "chat", "scenario": scenario}
        now, more = ({"plan": plan, **who} for plan in ("as-is", "more-devices:8"))
        first, later = (np.nan_to_num(values(rows, "starves_month", **key), nan=99) for key in (now, more))

        assert np.array_equal(values(rows, "need_peak", **now), values(rows, "need_peak", **more))
        assert np.allclose(values(rows, "supply_last", **now) + 8, values(rows, "supply_last", **more))
        assert np.all(first <= later)
        assert np.any(first < later)
        assert np.all(values(rows, "usd_paid", **now) <= values(rows, "usd_paid", **more))
        assert np.array_equal(values(rows, "usd_needed", **now), values(rows, "usd_needed", **more))


def test_a_row_keeps_its_own_books(swept):
    """A draw starves where and only where its least headroom is below 0; what is paid covers what is needed, and what is held."""
    rows = table(swept[0])
    starves, least = values(rows, "starves_month"), values(rows, "headroom_least")
    needed, paid, last = (values(rows, name) for name in ("usd_needed", "usd_paid", "need_last"))
    known = np.isfinite(needed)

    assert np.array_equal(np.isfinite(starves), least < 0)
    assert np.array_equal(np.isfinite(starves), np.array([name is not None for name in rows["resource"].to_pylist()]))
    assert np.all(starves[np.isfinite(starves)] <= values(rows, "least_month")[np.isfinite(starves)])
    assert np.all(paid[known] >= needed[known])
    assert np.all(needed[known] >= last[known] * 2 * 0.99 * 730)  # the last month alone, at 2 USD or more an hour
    assert not known[np.array(rows["workload"].to_pylist()) == "phone"].any()


def test_a_move_changes_nothing_before_its_month(fleet_file, swept):
    """Until the roadmap device is there, a draw needs what it needs as it stands."""
    sweep = from_json(Sweep, (swept[0] / "sweep.json").read_text())
    month = next(one.month for one in sweep.request.coming if one.machine.device.id == "b200-sxm")
    rows = table(swept[0])
    now, moved = (
        values(rows, "need_now", workload="chat", plan=plan, scenario="as planned")
        for plan in ("as-is", "roadmap-device:b200-sxm")
    )

    assert month == 0
    assert np.all(moved <= now)
    assert sweep.sha256 == sha256_of(sweep.request)


def test_what_cannot_be_applied_is_said_and_has_no_rows(swept):
    refused = outcome(swept[1], workload="phone", plan="more-devices:8", scenario="as planned")

    assert refused.refused == "an edge workload runs on the device it has"
    assert refused.starves is None
    assert len(values(table(swept[0]), "draw", workload="phone", plan="more-devices:8")) == 0


def test_the_cheapest_plan_is_the_cheapest_of_the_safe_ones(swept):
    """Found again by hand from the outcomes: no other plan allowed costs less at a risk of at most 10 %."""
    for best in swept[1].cheapest:
        rivals = [one for one in swept[1].outcomes if (one.workload, one.scenario) == (best.workload, best.scenario)]
        safe = [
            one for one in rivals if one.starves and one.allowed and not one.caution and one.starves.probability <= 0.1
        ]
        if best.plan is None:
            assert not safe
            assert "nearest is" in best.sentence
        elif best.usd_paid is not None:
            assert best.usd_paid <= min(one.usd_paid for one in safe if one.usd_paid is not None) * 1.001
    assert {best.plan is None for best in swept[1].cheapest} == {True, False}


def test_risk_by_month_ends_at_the_risk(swept):
    for one in swept[1].outcomes:
        if one.starves is not None:
            assert list(one.risk_by_month) == sorted(one.risk_by_month)
            assert one.risk_by_month[-1] == pytest.approx(one.starves.probability)


def test_the_draws_are_the_same_however_they_are_cut(swept, fleet_file, tmp_path):
    """Parts of 70 draws hold, row by row, what one part of 300 holds."""
    sweep_fleet(fleet_file, tmp_path / "cut", workers=1, part_draws=70, **ASKED)
    whole, cut = (
        {
            tuple(row[name] for name in ("workload", "plan", "scenario", "draw")): row
            for row in table(folder).to_pylist()
        }
        for folder in (swept[0], tmp_path / "cut")
    )

    assert len(whole) == table(swept[0]).num_rows
    assert whole == cut


def test_a_killed_process_loses_nothing(fleet_file, parts_of, tmp_path):
    """Two processes, one of them killed twice on the way: every file is the one that a single process writes."""
    alone = sweep_fleet(fleet_file, tmp_path / "alone", workers=1, **SHORT)
    killed = []

    def kill(done, count):
        if done in (5, 40):
            assert count == 80
            killed.append(multiprocessing.active_children()[0].pid)
            os.kill(killed[-1], signal.SIGKILL)

    found = sweep_fleet(fleet_file, tmp_path / "two", workers=2, progress=kill, **SHORT)

    assert len(set(killed)) == 2
    assert int(found.run["parts tried again"]) >= 1
    assert parts_of(tmp_path / "two") == parts_of(tmp_path / "alone")
    assert (found.outcomes, found.cheapest) == (alone.outcomes, alone.cheapest)


def test_a_part_that_always_kills_its_process_ends_the_sweep_with_its_name(swept, monkeypatch, tmp_path):
    """Not an endless retry: after so many tries the part is named."""
    sweep = from_json(Sweep, (swept[0] / "sweep.json").read_text())
    monkeypatch.setattr(local, "_run", _die)
    monkeypatch.setattr(local, "TRIES", 2)

    with pytest.raises(UnfinishedError, match=r"part 1 \(chat, .*\) lost its worker"):
        list(local.finished("", "", sweep.parts[1:2], folder=tmp_path, workers=2))


def _die(part):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_driver_leaves_no_process_and_is_resumed(fleet_file, parts_of, tmp_path):
    """Kill -9 of the command midway: its workers go too, the parts that are there stay as they are, --resume does the rest."""
    folder = tmp_path / "out"
    command = [sys.executable, "-m", "bytebound", "sweep", str(fleet_file), "--out", str(folder), "--workers", "2"]
    command += ["--draws", "200", "--part-draws", "20", "--plans", "more-devices:8"]
    driver = subprocess.Popen(command, start_new_session=True)  # noqa: S603
    until(lambda: len(parts_of(folder)) >= 3)
    workers = in_session(driver.pid) - {driver.pid}
    driver.kill()
    driver.wait()
    until(lambda: not in_session(driver.pid))
    there = {path.name: path.stat().st_mtime_ns for path in folder.glob("part-*.parquet")}
    found = sweep_fleet(fleet_file, folder, workers=1, resume=True, **SHORT)
    again = sweep_fleet(fleet_file, folder, workers=1, resume=True, **SHORT)

    assert len(workers) >= 2
    assert 3 <= len(there) < 80
    assert there.items() <= {path.name: path.stat().st_mtime_ns for path in folder.glob("part-*.parquet")}.items()
    assert found.run["parts run"] == str(80 - len(there))
    assert again.run["parts run"] == "0"
    assert again.outcomes == found.outcomes
    assert not list(folder.glob("*.unfinished"))


def in_session(session):
    """Return the living processes of a session (Linux)."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, own = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(own) == session and state != "Z":
            found.add(int(path.parent.name))
    return found


def until(reached, seconds=120):
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_damaged_part_is_run_again(swept, fleet_file, parts_of):
    """Cut short, one byte changed inside, of another part, or gone: what is not whole is not there."""
    folder, before = swept[0], parts_of(swept[0])
    names = list(before)
    damaged = bytearray(before[names[2]])
    damaged[len(damaged) // 3] ^= 0xFF
    (folder / names[0]).write_bytes(before[names[0]][:-9])
    (folder / names[1]).write_bytes(before[names[4]])
    (folder / names[2]).write_bytes(bytes(damaged))
    (folder / names[3]).unlink()
    (folder / f"{names[5]}.unfinished").write_bytes(b"half")
    found = sweep_fleet(fleet_file, folder, workers=1, resume=True, **ASKED)

    assert found.run["parts run"] == "4"
    assert parts_of(folder) == before
    assert not (folder / f"{names[5]}.unfinished").exists()


def test_a_full_disk_keeps_what_is_there(fleet_file, monkeypatch, tmp_path):
    """The sweep stops with one sentence, and goes on when there is room."""
    replaced = Path.replace

    def full(self, target):
        if "000007" in str(target):
            raise OSError(28, "No space left on device")
        return replaced(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(UnfinishedError, match=r"No space left on device.*--resume"):
            sweep_fleet(fleet_file, tmp_path / "out", workers=1, **SHORT)

    found = sweep_fleet(fleet_file, tmp_path / "out", workers=1, resume=True, **SHORT)
    assert found.run["parts run"] == "73"


def test_a_folder_of_something_else_is_refused(swept, fleet_file, tmp_path):
    """Another sweep, this one without --resume, or files that are no sweep: nothing is overwritten."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DocumentError, match="holds files that are no sweep"):
        sweep_fleet(fleet_file, tmp_path, workers=1, **ASKED)
    with pytest.raises(DocumentError, match="holds this sweep already; continue it with --resume"):
        sweep_fleet(fleet_file, swept[0], workers=1, **ASKED)
    with pytest.raises(DocumentError, match="holds another sweep, with other seed"):
        sweep_fleet(fleet_file, swept[0], workers=1, resume=True, **(ASKED | {"seed": 4}))
    with pytest.raises(DocumentError, match="holds another sweep, with other draws, seed, plans, scenarios"):
        sweep_fleet(fleet_file, swept[0], workers=1, resume=True, draws=301)


def test_a_damaged_plan_of_the_sweep_is_said(fleet_file, tmp_path):
    (tmp_path / "sweep.json").write_text("{")

    with pytest.raises(DocumentError, match=r"sweep\.json: not JSON"):
        sweep_fleet(fleet_file, tmp_path, workers=1, resume=True, **SHORT)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"draws": 5}, "--draws is 5"), ({"part_draws": 3}, "--part-draws is 3"), ({"workers": 0}, "--workers is 0"),
        ({"slip_months": [-1]}, "--slip-months"), ({"memory_price": [0]}, "--memory-price"), ({"months": 500}, "--months"),
        ({"draws": 1_000_000, "part_draws": 10, "plans": ["fp8-kv", "int8-kv"]}, "more than 1,000,000"),
    ],
)  # fmt: skip
def test_an_impossible_request_is_refused_before_anything_is_written(fleet_text, tmp_path, asked, said):
    (tmp_path / "fleet.toml").write_text(fleet_text)
    with pytest.raises(QuantityError, match=said):
        sweep_fleet(tmp_path / "fleet.toml", tmp_path / "out", **asked)

    assert not (tmp_path / "out").exists()


def test_a_part_needs_nothing_but_its_text(swept, parts_of):
    """The request read back from the folder gives the same file, and a worker of another version refuses."""
    sweep = from_json(Sweep, (swept[0] / "sweep.json").read_text())
    part = sweep.parts[3]
    other = replace(sweep.request, tool="bytebound 0.0.0")

    assert run_part(text_of(sweep.request), sweep.sha256, part) == parts_of(swept[0])[part.file]
    with pytest.raises(UnfinishedError, match=r"a worker has bytebound .*asked with bytebound 0\.0\.0"):
        run_part(text_of(other), sha256_of(other), part)


def test_the_documents_read_back(swept):
    kept, told = (swept[0] / "summary.json").read_text(), to_json(swept[1])
    found = [
        replace(from_json(SweepSummary, text), run={}) for text in (kept, told)
    ]  # another test may have resumed it
    assert found[0] == found[1]


def test_a_few_bytes_a_row(swept):
    """The size the documentation promises: at most 40 bytes a row beside 8 kB a part."""
    sizes = [(path.stat().st_size, pq.read_metadata(path).num_rows) for path in swept[0].glob("part-*.parquet")]

    assert sum(size for size, _ in sizes) <= 40 * sum(rows for _, rows in sizes) + 8_000 * len(sizes)
