"""``bytebound watch``: the command runs as if alone, and what it did is reported whatever became of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from bytebound.documents.values import from_json
from bytebound.documents.watched import Watched

if TYPE_CHECKING:
    from pathlib import Path

TRAIN = """
import os, sys, torch
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 8))
optimizer = torch.optim.AdamW(model.parameters())
for step in range(int(sys.argv[1])):
    model(torch.ones(16, 64)).square().mean().backward()
    optimizer.step(); optimizer.zero_grad()
    print("step", step)
"""
PARAMETERS = 64 * 128 + 128 + 128 * 8 + 8


def watch(*words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "bytebound", "watch", *words], check=False, capture_output=True, text=True, cwd=folder, timeout=120,
        env={**os.environ, "BYTEBOUND_DATA": str(folder), "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def script(folder: Path, text: str) -> str:
    pytest.importorskip("torch", reason="training runs need torch")
    (folder / "train.py").write_text(text)
    return "train.py"


def document(done: subprocess.CompletedProcess[str]) -> Watched:
    return from_json(Watched, done.stdout)


def test_a_program_without_torch(tmp_path):
    """Its output is its own, its end is fine, and we say that there was nothing to see: exit code 3."""
    done = watch("--", sys.executable, "-c", "print('mine')", folder=tmp_path)
    assert done.returncode == 3
    assert done.stdout.startswith("mine\n")
    assert "no Python process of this command imported torch" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no command to watch"),
        (["--", "no-such-program-of-anyone"], "no program 'no-such-program-of-anyone'"),
        (["--steps", "1000", "--", "true"], "1000 steps are outside"),
        (["--on", "h900", "--", "true"], "unknown"),
    ],
)
def test_a_wrong_request_runs_nothing(words, said, tmp_path):
    """One sentence and exit code 2."""
    done = watch(*words, folder=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr


def test_output_exit_code_and_the_users_sitecustomize(tmp_path):
    """The program prints what it prints alone, its own sitecustomize runs, and its failure is ours with its code named."""
    name = script(
        tmp_path,
        TRAIN + "print('PYTHONPATH' in os.environ, [p for p in sys.path if 'bytebound/engines' in p])\nsys.exit(5)\n",
    )
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "sitecustomize.py").write_text("print('my sitecustomize')\n")
    done = watch("--", sys.executable, name, "6", folder=tmp_path, PYTHONPATH=str(mine))
    first, *lines = done.stdout.splitlines()
    assert first == lines[0] == "my sitecustomize"  # of bytebound's own process, and of the program
    assert lines[1:7] == [f"step {step}" for step in range(6)]
    assert lines[7] == "True []"
    assert lines[8].startswith("watched Sequential, 9,352 parameters")
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        "error: the command failed with exit code 5", f"  at    {sys.executable}", "  next  see what it printed above"
    ]  # fmt: skip


def test_killed_midway(tmp_path):
    """What was recorded until a SIGKILL is reported, and kept in the history; forked loader workers are no ranks."""
    loader = """
from torch.utils.data import DataLoader
for batch in DataLoader(torch.ones(8, 64), num_workers=1, multiprocessing_context="fork"):
    model(batch).square().mean().backward()
    optimizer.step()
os.kill(os.getpid(), 9)
"""
    name = script(tmp_path, TRAIN + loader)
    done = watch("--json", "--", sys.executable, name, "5", folder=tmp_path)
    assert done.returncode == 3
    assert "signal 9" in done.stderr
    found = document(done)
    assert found.exit_code == -9
    (rank,) = found.ranks
    assert rank.steps == 13
    assert not rank.finished
    assert rank.states is not None
    assert rank.states.parameters == 4 * PARAMETERS
    assert rank.peak is not None
    kept = subprocess.run(
        [sys.executable, "-m", "bytebound", "measure", "--list", "--json"], check=False, capture_output=True, text=True,
        env={**os.environ, "BYTEBOUND_DATA": str(tmp_path)},
    )  # fmt: skip
    assert found.id in kept.stdout, kept.stderr


def test_two_processes(tmp_path):
    """Each rank of a launcher writes its own record; the launcher itself took no steps."""
    name = script(
        tmp_path,
        TRAIN.replace(
            "optimizer =",
            "torch.distributed.init_process_group('gloo')\nmodel = torch.nn.parallel.DistributedDataParallel(model)\noptimizer =",
        )
        + "torch.distributed.destroy_process_group()\n",
    )
    done = watch(
        "--json",
        "--",
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        name,
        "5",
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = document(done)
    assert [rank.rank for rank in found.ranks] == [0, 1]
    assert {rank.world for rank in found.ranks} == {2}
    assert {rank.states.parameters for rank in found.ranks if rank.states} == {4 * PARAMETERS}
    assert found.ranks[0].model is not None
    assert found.ranks[0].model.wrappers == ("DistributedDataParallel",)
    assert any("DDP" in note for note in found.notes)
    assert json.loads(done.stdout)["schema"] == "bytebound.watched/1"
