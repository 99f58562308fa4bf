"""Our Triton kernels: against PyTorch under Triton's interpreter, and compiled for real GPUs, neither of which needs one."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    find_spec("torch") is None or find_spec("triton") is None, reason="needs torch and triton: pip install torch triton"
)
HERE = Path(__file__).parent


def ran(script, *words, **env):
    said = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, str(HERE / script), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={**os.environ, **env},
    )
    assert said.returncode == 0, said.stderr[-2000:]
    return said.stdout.splitlines()


def test_every_kernel_agrees_with_torch_under_the_interpreter():
    assert ran("triton_check.py", TRITON_INTERPRET="1") == ["every kernel agrees"]


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
def test_every_kernel_compiles_to_wide_loads(target, tmp_path):
    """Bandwidth needs 16-byte accesses: the streaming kernels have no others (a sum stores its one result)."""
    rows = {
        name: (int(wide), int(each))
        for _, name, wide, each in map(str.split, ran("triton_compile.py", target, TRITON_CACHE_DIR=str(tmp_path)))
    }
    assert set(rows) == {"read", "write", "copy", "triad", "matvec", "attend", "join"}
    assert all(rows[name][0] == rows[name][1] > 0 for name in ("write", "copy", "triad"))
    assert rows["read"][0] == rows["read"][1] - 1
    assert rows["matvec"][0] > 0
    assert rows["attend"][0] > 0
