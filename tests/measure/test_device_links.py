"""Links between devices: real processes over the loopback, one that dies, torchrun, and the arithmetic behind them."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import fake_cuda
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytebound.documents.measurement import Missing, Reading
from bytebound.errors import DocumentError
from bytebound.measure.gpu_links import collectives, peer_copies
from bytebound.measure.gpu_time import TINY
from bytebound.measure.links import Row, alpha_beta, link_readings, main, read_rows

SIZES = (4096, 2**16)


def test_bus_bandwidth_is_that_of_nccl_tests():
    """Its PERFORMANCE.md: an all-reduce of S bytes over n ranks in t has the bus bandwidth S / t * 2 (n - 1) / n."""
    reduced, gathered = (Row(name, 1e9, 8, 1, "nccl", (0.01, 0.02)) for name in ("all-reduce", "all-gather"))
    found = link_readings([reduced, gathered])
    assert [item.best for item in found] == pytest.approx([1e11 * 2 * 7 / 8, 1e11 * 7 / 8])
    assert found[0].where == {"bytes": 1e9, "ranks": 8.0, "nodes": 1.0}


@given(st.floats(1e-7, 1e-2), st.floats(1e6, 1e12))
def test_a_fit_finds_the_latency_and_the_bandwidth_it_was_made_of(alpha, beta):
    sizes = [alpha * beta * factor for factor in (0.01, 0.1, 1, 10, 100)]
    fitted = alpha_beta(sizes, [alpha + size / beta for size in sizes])
    assert fitted == pytest.approx((alpha, beta), rel=1e-3)


@given(
    st.lists(st.tuples(st.floats(1, 1e10), st.floats(1e-7, 10)), min_size=2, max_size=6, unique_by=lambda pair: pair[0])
)
def test_a_fit_of_anything_is_no_number_physics_forbids(points):
    alpha, beta = alpha_beta([size for size, _ in points], [took for _, took in points])
    assert alpha >= 0
    assert 0 < beta < 1e24


def test_two_real_ranks_talk_over_the_loopback():
    outcomes = list(collectives("cpu", 2, sizes=SIZES, samples=2, budget_s=90))
    assert not [item for item in outcomes if isinstance(item, Missing)], outcomes
    assert [item.name for item in outcomes] == [
        "link.all-reduce", "link.all-reduce", "link.all-gather", "link.all-gather",
        "link.all-reduce.latency", "link.all-gather.latency",
    ]  # fmt: skip
    assert [item.where["bytes"] for item in outcomes[:4]] == [*SIZES, *SIZES]
    assert all(0 < item.best < 1e12 for item in outcomes[:4])


def test_a_rank_that_dies_midway_gives_a_sentence_and_what_was_measured():
    killed = []

    def kill_one():
        until = time.monotonic() + 60
        while not killed and time.monotonic() < until:
            ranks = [
                child for child in psutil.Process().children() if "bytebound.measure.links" in " ".join(child.cmdline())
            ]
            rows = [name for child in ranks for name in _rows_of(child)]
            if len(ranks) == 2 and rows:
                second = next(child for child in ranks if child.environ()["RANK"] == "1")
                second.kill()
                killed.append(second.pid)
            time.sleep(0.02)

    killer = threading.Thread(target=kill_one)
    killer.start()
    began = time.monotonic()
    outcomes = list(collectives("cpu", 2, sizes=(*SIZES, *[2**22] * 50), samples=50, budget_s=90))
    killer.join()
    assert killed
    assert time.monotonic() - began < 60
    (missing,) = [item for item in outcomes if isinstance(item, Missing)]
    assert "rank 1 was ended by signal 9" in missing.why
    assert "measurements are kept" in missing.why
    assert [item for item in outcomes if isinstance(item, Reading)]


def _rows_of(process):
    words = process.cmdline()
    with contextlib.suppress(OSError, ValueError):
        return Path(words[words.index("--out") + 1]).read_text().splitlines()
    return []


def test_time_that_runs_out_is_said():
    (missing,) = collectives("cpu", 2, sizes=SIZES, budget_s=0.2)
    assert "not done after 0 s; 0 of 4 measurements are kept" in missing.why


@pytest.mark.parametrize(("kind", "ranks"), [("cpu", 1), ("mps", 2)])
def test_a_collective_needs_two_that_can_talk(kind, ranks):
    (missing,) = collectives(kind, ranks)
    assert "needs two" in missing.why


def test_torchrun_starts_the_ranks_and_rank_0_writes(tmp_path):
    out = tmp_path / "links.jsonl"
    said = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
         "bytebound.measure.links", "--kind", "cpu", "--sizes", "4096", "65536", "--samples", "2", "--out", str(out)],
        capture_output=True, text=True, check=False, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert said.returncode == 0, said.stderr[-2000:]
    rows = read_rows(out)
    assert [(row.operation, row.bytes) for row in rows] == [
        ("all-reduce", 4096.0), ("all-reduce", 65536.0), ("all-gather", 4096.0), ("all-gather", 65536.0),
    ]  # fmt: skip
    assert {(row.ranks, row.nodes, row.backend) for row in rows} == {(2, 1, "gloo")}
    assert "link.all-reduce of 65.5 kB" in said.stdout


def test_without_torchrun_it_says_so(monkeypatch, capsys):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["--out", "x"])
    assert ended.value.code == 2
    assert "start it under torchrun" in capsys.readouterr().err


def test_a_line_cut_short_is_left_out_and_a_wrong_one_named(tmp_path):
    good = {"operation": "all-reduce", "bytes": 4096.0, "ranks": 2, "nodes": 1, "backend": "gloo", "seconds": [1e-3]}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(good) + "\n" + json.dumps(good)[:20])
    assert len(read_rows(path)) == 1
    for wrong in (
        {"ranks": 1},
        {"seconds": []},
        {"seconds": [0.0]},
        {"operation": "send"},
        {"more": 1},
        {"seconds": None},
    ):
        path.write_text(json.dumps(good) + "\n" + json.dumps({**good, **wrong}) + "\n")
        with pytest.raises(DocumentError, match="not a link measurement") as caught:
            read_rows(path)
        assert caught.value.place.endswith(":2")
    with pytest.raises(DocumentError, match="cannot read link measurements"):
        read_rows(tmp_path / "absent")


@given(text=st.text(max_size=200))
def test_any_text_is_read_or_refused(text, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text(text, encoding="utf-8", errors="replace")
    with contextlib.suppress(DocumentError):
        read_rows(path)


def test_every_ordered_pair_of_devices_is_copied(monkeypatch):
    one = fake_cuda.play_cuda(monkeypatch)
    two = type(one)("cuda", 1, one.name, one.memory_bytes)
    three = type(one)("cuda", 2, one.name, one.memory_bytes)
    found = list(peer_copies([one, two, three], TINY, budget_s=5))
    assert len(found) == 6
    assert {item.name for item in found} == {"link.device-to-device"}
    assert all("peer to peer" in item.how for item in found)
