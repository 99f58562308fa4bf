"""The public API: a sorted list of names, each of which can be had, and nothing heavier than it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import bytebound
from bytebound import errors

NAMES = [
    "Architecture",
    "Audit",
    "ByteboundError",
    "Calibration",
    "Correction",
    "Device",
    "Estimate",
    "Fleet",
    "LeverRanking",
    "Machine",
    "Observation",
    "Plan",
    "Proof",
    "Proofs",
    "Run",
    "Serve",
    "SweepSummary",
    "Trace",
    "TraceEstimate",
    "Train",
    "TrainEstimate",
    "Validation",
    "Watched",
    "audit_fleet",
    "calibrate",
    "correct",
    "diagnose",
    "estimate",
    "estimate_trace",
    "find_device",
    "find_machine",
    "find_plan",
    "fit",
    "from_json",
    "json_schema",
    "observe_run",
    "prove_all",
    "prove_lever",
    "rank_levers",
    "read_fleet",
    "read_model",
    "sweep_fleet",
    "to_json",
    "trace_target",
    "train",
    "watch",
]
"""The contract. A change here is a change for users: say so in CHANGELOG.md."""

EXIT_CODES = {
    "ByteboundError": 70,
    "RequestError": 2,
    "UnknownNameError": 2,
    "QuantityError": 2,
    "DocumentError": 2,
    "UnfinishedError": 3,
    "PhysicsError": 70,
}


def test_all_is_the_contract_and_sorted():
    """``__all__`` is the list above, sorted, without a name twice."""
    assert bytebound.__all__ == NAMES
    assert sorted(bytebound.__all__) == bytebound.__all__
    assert len(set(bytebound.__all__)) == len(bytebound.__all__)


def test_dir_is_all():
    """``dir(bytebound)`` lists the public names and nothing else."""
    assert dir(bytebound) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_name_can_be_had_twice(name):
    """A public name is there, is documented, and is the same thing when asked for again."""
    first, second = getattr(bytebound, name), getattr(bytebound, name)

    assert first is second
    assert callable(first)
    assert first.__doc__


def test_no_module_takes_the_place_of_a_public_name():
    """With every module of the package imported first, each public name is still what it was."""
    code = (
        "import importlib, pkgutil, bytebound\n"
        "for info in pkgutil.walk_packages(bytebound.__path__, 'bytebound.'):\n"
        "    if not info.name.endswith(('__main__', 'triton_kernels')):\n"
        "        importlib.import_module(info.name)\n"
        "print([name for name in bytebound.__all__ if not callable(getattr(bytebound, name))])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)  # noqa: S603

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_lazy_table_and_the_typed_imports_agree():
    """What type checkers see is what users get: the TYPE_CHECKING imports name exactly the public names."""
    source = Path(bytebound.__file__).read_text(encoding="utf-8")
    typed = source.partition("if TYPE_CHECKING:")[2].partition("\n_HOMES")[0]
    imported = re.findall(r"from ([\w.]+) import (.+)", typed)
    homes = {name: home for home, names in imported for name in names.split(", ")}

    assert homes == bytebound._HOMES
    assert sorted(homes) == NAMES


def test_an_unknown_name_is_an_attribute_error():
    """A misspelt name fails as any module's does."""
    with pytest.raises(AttributeError, match="no attribute 'estimat'"):
        _ = bytebound.estimat


def test_exit_codes_are_the_contract():
    """Each class of error has its documented exit code, and the tree in the docstring names every class."""
    found = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.ByteboundError)
    }

    assert found == EXIT_CODES
    for name, code in EXIT_CODES.items():
        assert re.search(rf"{name}\s+exit {code}\b", errors.__doc__ or ""), name


@pytest.mark.parametrize("name", [name for name in EXIT_CODES if name != "UnknownNameError"])
def test_every_error_says_where_and_what_next(name):
    """An error is its place, one sentence and the mend, in this order."""
    error = getattr(errors, name)("it is wrong", place="fleet.toml:3: count", mend="write a number")

    assert str(error) == "fleet.toml:3: count: it is wrong; write a number"
    assert str(error.at("file")) == "file: fleet.toml:3: count: it is wrong; write a number"


def test_an_unknown_name_error_carries_the_nearest():
    """The nearest known names are in the sentence and on the error."""
    error = errors.UnknownNameError("device", "h1000", ["h100-sxm", "l4"], place="--on", mend="list them")

    assert str(error) == "--on: unknown device 'h1000'; nearest: h100-sxm; list them"
    assert error.nearest == ("h100-sxm",)
