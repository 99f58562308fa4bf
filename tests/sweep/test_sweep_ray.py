"""A sweep on a real Ray cluster of two nodes here: the same files as alone, whatever is killed, and one sentence where it cannot run."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="a sweep writes Parquet")
if not hasattr(os, "sched_getaffinity"):
    pytest.skip("the tests look into /proc", allow_module_level=True)

from bytebound.errors import QuantityError, UnfinishedError
from bytebound.sweep import on_ray, sweep_fleet

ASKED = {"draws": 4000, "plans": ["fp8-kv", "more-devices:8"], "part_draws": 400}


@pytest.fixture(scope="module")
def alone(fleet_file, tmp_path_factory):
    """The folder of the sweep that one process makes."""
    folder = tmp_path_factory.mktemp("alone") / "out"
    sweep_fleet(fleet_file, folder, workers=1, **ASKED)
    return folder


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two nodes with one processor each: the process that keeps it, and its address."""
    keep = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    before = {name: os.environ.get(name) for name in keep}
    os.environ.update(keep)  # before Ray is loaded: it reads them then
    pytest.importorskip("ray", reason="sweeps on a cluster need Ray")
    nodes = subprocess.Popen(  # noqa: S603
        [sys.executable, str(Path(__file__).with_name("nodes.py"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    address = nodes.stdout.readline().strip()
    assert address, "Ray started no cluster"
    yield nodes, address
    nodes.stdin.close()
    nodes.wait(timeout=60)
    nodes.stdout.close()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def workers():
    """Return the processes that run a part (Ray names them after their task)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::run_part"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_killed_workers_lose_nothing(cluster, alone, fleet_file, parts_of, tmp_path):
    """Three times a worker is killed over its part: the parts are tried again, and every file is the one made alone."""
    killed = []

    def kill(done, count):
        if done in {10, 30, 50} and (under_way := workers()):
            os.kill(under_way[0], signal.SIGKILL)
            killed.append(under_way[0])

    found = sweep_fleet(fleet_file, tmp_path / "out", on=cluster[1], progress=kill, **ASKED)

    assert killed
    assert 1 <= int(found.run["parts tried again"]) <= 6 * len(killed)
    assert len(parts_of(tmp_path / "out")) == 120
    assert parts_of(tmp_path / "out") == parts_of(alone)
    assert (tmp_path / "out" / "sweep.json").read_bytes() == (alone / "sweep.json").read_bytes()


def test_a_killed_driver_on_a_cluster_is_resumed(cluster, fleet_file, alone, parts_of, tmp_path):
    """Kill -9 of the command midway, then the same with --resume: what was there is kept, the rest is run."""
    folder = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "bytebound",
        "sweep",
        str(fleet_file),
        "--out",
        str(folder),
        "--on-ray",
        cluster[1],
    ]
    command += ["--draws", "4000", "--part-draws", "400", "--plans", "fp8-kv", "more-devices:8"]
    driver = subprocess.Popen(command)  # noqa: S603
    end = time.monotonic() + 120
    while len(parts_of(folder)) < 10:
        assert driver.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    there = len(parts_of(folder))
    done = subprocess.run([*command, "--resume", "--json"], capture_output=True, text=True, check=False)  # noqa: S603

    assert done.returncode == 0, done.stderr
    assert f'"parts run": "{120 - there}"' in done.stdout
    assert done.stdout.startswith("{")
    assert 10 <= there < 120
    assert parts_of(folder) == parts_of(alone)


def test_a_killed_node_loses_nothing(cluster, alone, fleet_file, parts_of, tmp_path):
    """One of the two nodes dies with what it has under way: the other does the rest."""
    nodes, address = cluster
    said = []

    def kill(done, count):
        if done == 20:
            nodes.stdin.write("kill\n")
            nodes.stdin.flush()
            said.append(nodes.stdout.readline())

    found = sweep_fleet(fleet_file, tmp_path / "out", on=address, progress=kill, **ASKED)

    assert said == ["killed\n"]
    assert int(found.run["parts tried again"]) >= 1
    assert parts_of(tmp_path / "out") == parts_of(alone)


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:ray", "127.0.0.1:99999"])
def test_what_is_no_address_is_said(cluster, address, fleet_file, tmp_path):
    with pytest.raises(QuantityError, match="is no address; write HOST:PORT, auto or local"):
        sweep_fleet(fleet_file, tmp_path / "out", on=address, **ASKED)


def test_where_nothing_answers_is_said_at_once(cluster, fleet_file, tmp_path):
    """A closed port: within the seconds of one connection, not Ray's minutes."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    began = time.monotonic()

    with pytest.raises(UnfinishedError, match=rf"nothing answers at 127\.0\.0\.1:{port}"):
        sweep_fleet(fleet_file, tmp_path / "out", on=f"127.0.0.1:{port}", **ASKED)
    assert time.monotonic() - began < on_ray.REACH_S + 5


def test_what_answers_and_is_no_cluster_is_given_up(cluster, fleet_file, tmp_path):
    """A server that accepts and says nothing: the command ends by itself, with one sentence and exit code 3."""
    code = "import sys; from bytebound.sweep import on_ray; on_ray.JOIN_S = 2.0; from bytebound.cli import main; main()"
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        asked = ["sweep", str(fleet_file), "--out", str(tmp_path / "out"), "--on-ray", address]
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", code, *asked], capture_output=True, text=True, check=False, timeout=60
        )

    assert done.returncode == 3
    assert "error: no Ray cluster can be joined: nothing has answered as one for 2 s" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_ray_the_extra_is_named(fleet_file, monkeypatch, tmp_path):
    """Everything else of a sweep works without Ray."""
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(UnfinishedError, match=r'Ray is not installed.*pip install "bytebound\[sweep\]"'):
        sweep_fleet(fleet_file, tmp_path / "out", on="local", **ASKED)
