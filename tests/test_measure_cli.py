"""The verb ``measure`` as people run it: a real process, its files, and Ctrl-C in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bytebound import cli
from bytebound.facts.machines import find_machine

pytest.importorskip("numba", reason="the measure extra is not installed")
pytest.importorskip("threadpoolctl", reason="the measure extra is not installed")
pytest.importorskip("sqlalchemy", reason="the measure extra is not installed")

ROOT = Path(__file__).parent.parent
SMALL = """
import sys
from bytebound.measure import parts
parts.WATCH_BYTES, parts.MATRIX_BYTES = 2**24, 2**22
from bytebound.cli import main
main()
"""


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """A data folder of the test's own."""
    monkeypatch.setenv("BYTEBOUND_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("BYTEBOUND_DB", raising=False)
    return tmp_path / "data"


def start(*arguments):
    """Start the real command, with little memory for its canaries."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONIOENCODING": "utf-8"}
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", SMALL, "measure", *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
    )  # fmt: skip


def test_a_tiny_run_from_end_to_end(data, tmp_path, capsys):
    """JSON on standard output, progress on the other stream, here.json, a page, and the history; then every verb takes ``here``."""
    page = tmp_path / "page.html"
    process = start("--quick", "--device", "cpu", "--only", "usable", "--only", "launch", "--json", "--html", str(page))
    out, said = process.communicate(timeout=120)

    assert process.returncode == 0, said
    document = json.loads(out)
    assert document["schema"] == "bytebound.machine/1"
    assert "measuring launch: cost of starting an operator" in said
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert find_machine("here").device.measured.id == document["measured"]["id"]
    assert cli.run(["estimate", "meta-llama/Llama-3.2-1B-Instruct", "--on", "here", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["machine"]["name"]
    assert cli.run(["measure", "--list", "--json"]) == 0
    assert [each["id"] for each in json.loads(capsys.readouterr().out)] == [document["measured"]["id"]]
    assert cli.run(["measure", "--list"]) == 0
    assert document["measured"]["id"] in capsys.readouterr().out
    assert cli.run(["measure", "--compare", "latest", "latest"]) == 0
    assert capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a child process")
def test_ctrl_c_keeps_finished_parts(data):
    """SIGINT in the middle of a real run: exit 130, finished parts on standard output and in here.json."""
    process = start("--device", "cpu", "--only", "usable", "--only", "dequant", "--only", "launch", "--json")
    said = ""
    while "measuring dequant" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, rest = process.communicate(timeout=60)

    assert process.returncode == 130, rest
    assert "interrupted: what was finished is kept" in rest
    assert "Traceback" not in rest
    document = json.loads(out)
    assert {"memory.usable", "canary.read"} <= {each["name"] for each in document["measured"]["readings"]}
    assert {each["probe"] for each in document["measured"]["missing"] if each["why"] == "interrupted"} >= {"launch"}
    assert not document["measured"]["complete"]
    assert find_machine("here").device.measured.id == document["measured"]["id"]


def test_nothing_is_saved_when_not_asked(data):
    process = start("--quick", "--device", "cpu", "--only", "usable", "--only", "launch", "--no-save", "-q")
    out, said = process.communicate(timeout=120)

    assert process.returncode == 0, said
    assert said == ""
    assert "launch" in out
    assert not data.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--only", "memroy"], 2, "unknown part 'memroy'"),
        (["--threads", "0", "--device", "cpu"], 2, "0 threads"),
        (["--device", "toaster"], 2, "toaster"),
        (["--list", "--compare", "a", "b"], 2, "two questions"),
        (["--compare", "a", "b"], 2, "no measurement is kept here yet"),
        (["--db", "nonsense://x", "--quick"], 2, "nonsense"),
        (["--html", "/no/such/folder/x.html"], 2, "no such folder"),
    ],
)
def test_bad_requests(arguments, code, words, capsys):
    """Refused before anything is measured, in a sentence."""
    assert cli.run(["measure", *arguments]) == code
    assert words in capsys.readouterr().err


def test_an_incomplete_run_does_not_replace_a_complete_one(data, capsys, monkeypatch):
    """What ``here`` stands for stays until another complete measurement."""
    from bytebound.cli.measuring import save
    from bytebound.documents.device import Device, Figure
    from bytebound.documents.measurement import Measured, System

    def machine(name, *, complete):
        system = System(
            cpu="x",
            cores_online=1,
            cores_usable=1,
            memory_total_bytes=1e9,
            memory_usable_bytes=1e9,
            memory_free_bytes=1e8,
        )
        record = Measured(id=name, when="2026-11-21T07:00:00+00:00", seconds=1, complete=complete, system=system)
        figures = {"memory_bytes": 1e9, "memory_bytes_per_s": 1e10}
        known = {key: Figure(value=value, unit="B", how="measured", source="test") for key, value in figures.items()}
        rate = Figure(value=1e11, unit="FLOP/s", how="measured", source="test")
        return Device(id=name, name=name, vendor="", kind="cpu", flop_per_s={"fp32": rate}, measured=record, **known)

    assert save(machine("part", complete=False), quiet=False)
    assert save(machine("whole", complete=True), quiet=False)
    assert save(machine("part", complete=False), quiet=False) == ""
    assert "here stays the complete one of 2026-11-21T07:00" in capsys.readouterr().err
    assert find_machine("here").device.id == "whole"
