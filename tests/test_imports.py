"""What stays unloaded: heavy libraries are imported by the verb that needs them."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("numpy", "pydantic", "torch", "jinja2", "vl_convert", "huggingface_hub")

PROBE = """
import sys
{action}
print("loaded:", *sorted(name for name in {heavy!r} if name in sys.modules))
"""

HELP = """
sys.argv = ["bytebound", *{arguments!r}]
from bytebound.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""


def loaded_by(action: str) -> list[str]:
    """Return which heavy libraries a fresh interpreter has loaded after ``action``."""
    code = PROBE.format(action=action, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)  # noqa: S603
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


def test_importing_the_package_loads_nothing_heavy():
    """``import bytebound`` is light."""
    assert loaded_by("import bytebound") == []


def test_naming_an_error_loads_nothing_heavy():
    """Catching our errors needs no library."""
    assert loaded_by("from bytebound import ByteboundError; import bytebound.units") == []


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["audit", "--help"], ["estimate", "--help"], ["devices", "--help"]],
    ids=" ".join,
)
def test_help_loads_nothing_heavy(arguments):
    """Help and version answer without numpy, pydantic or torch."""
    assert loaded_by(HELP.format(arguments=arguments)) == []


def test_a_prediction_loads_no_optional_library():
    """An estimate needs neither torch, nor templates, nor charts, nor the hub."""
    action = "import bytebound as bb; bb.estimate('meta-llama/Llama-3.1-8B', 'h100-sxm', bb.Serve())"

    assert loaded_by(action) == ["numpy", "pydantic"]


def test_the_check_can_fail():
    """The probe sees a library that is loaded: a check that cannot fail proves nothing."""
    assert loaded_by("import numpy, pydantic") == ["numpy", "pydantic"]
    assert "numpy" in loaded_by("import bytebound; bytebound.Serve")
