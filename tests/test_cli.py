"""The command line's contract: streams, exit codes, messages word by word, and files written whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "report"))

import fabricated

from bytebound import cli
from bytebound.cli.fleets import workload_lines
from bytebound.cli.serving import Asked
from bytebound.documents.audit import Audit
from bytebound.documents.estimate import Estimate
from bytebound.documents.values import from_json
from bytebound.documents.work import Serve
from bytebound.errors import PhysicsError, QuantityError, UnfinishedError

FLEET = str(Path(__file__).parent.parent / "examples" / "fleet.toml")
ROOT = Path(__file__).parent.parent
VERBS = (
    "audit",
    "calibrate",
    "estimate",
    "explain",
    "fit",
    "levers",
    "plan",
    "prove",
    "sweep",
    "train",
    "trace",
    "watch",
    "measure",
    "observe",
    "validate",
    "devices",
    "models",
    "prices",
    "trends",
    "formats",
    "engines",
    "schema",
)
QUESTION = ("llama-3.1-8b", "--on", "h100-sxm")


@pytest.fixture
def told(monkeypatch):
    """The audit verb answers with a fabricated audit; returns what it was asked."""
    asked = {}

    def answer(path, **options):
        asked.update(options, path=path)
        return fabricated.audit()

    monkeypatch.setattr("bytebound.audit.audit_fleet", answer)
    return asked


def shell(*arguments, env=None, stdin=None, encoding="utf-8"):
    """Run the real command in a process of its own."""
    clean = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS"}}
    command = [sys.executable, "-m", "bytebound", *arguments]
    environment = {**clean, "PYTHONPATH": str(ROOT / "src"), "PYTHONIOENCODING": encoding, **(env or {})}
    return subprocess.run(command, capture_output=True, check=False, timeout=120, env=environment, input=stdin)  # noqa: S603


def test_every_verb_is_there():
    """The verbs of the contract, and nothing that is not one."""
    assert sorted(name for name in cli.app if not name.startswith("-")) == sorted(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_has_examples(verb, capsys):
    """Help goes to standard output, exits 0 and shows how to call the verb."""
    code = cli.run([verb, "--help"])
    said = capsys.readouterr()

    assert code == 0
    assert said.err == ""
    assert f"Usage: bytebound {verb}" in said.out
    assert f"  bytebound {verb}" in said.out.split("Examples:")[1]


def test_flags_are_the_fields_of_serve():
    """Names and defaults of the command line are those of the Python API, but for the audit's own model_scale."""
    api = {f.name: f.default for f in fields(Serve)}
    flags = {f.name: f.default for f in fields(Asked)}

    assert flags == {name: value for name, value in api.items() if name != "model_scale"}


def test_no_flag_names_a_model_or_device_by_default():
    """What to run on what is always said by the person who asks."""
    required = [a.names[0] for a in cli.app["estimate"].assemble_argument_collection() if a.required]

    assert required == ["MODEL", "--on"]


MESSAGES = {
    (
        "audit",
    ): 'error: Command "audit" parameter FLEET requires an argument\n  next  bytebound --help, or bytebound VERB --help\n',
    ("audit", "x.toml", "--monhts", "3"): (
        "error: Unknown option: --monhts. Did you mean --months?\n  next  bytebound --help, or bytebound VERB --help\n"
    ),
    ("audit", "no-such.toml"): "error: no such file\n  at    no-such.toml\n  next  give the path of a fleet file\n",
    ("audit", "x.toml", "--fail-on", "starves"): (
        "error: unknown condition 'starves'; nearest: starves-within=6\n  at    --fail-on\n  next  write starves-within=6\n"
    ),
    ("audit", "x.toml", "--fail-on", "starves-within=soon"): (
        "error: 'soon' is not a number of months from 1 to 120\n  at    --fail-on\n  next  write starves-within=6\n"
    ),
    ("audit", FLEET, "--html", "no/such/folder/x.html"): (
        "error: no such folder\n  at    no/such/folder/x.html\n  next  make no/such/folder first\n"
    ),
    ("estimate", "llama-3.1-8b"): (
        'error: Command "estimate" parameter --on requires an argument\n  next  bytebound --help, or bytebound VERB --help\n'
    ),
    ("estimate", *QUESTION, "--batch", "many"): (
        'error: Invalid value for --batch: unable to convert "many" into int\n  next  bytebound --help, or bytebound VERB --help\n'
    ),
    ("estimate", *QUESTION, "--prefix-hit", "2"): "error: prefix_hit is 2, outside 0 … 1\n  at    --prefix-hit\n",
    ("schema", "fleed"): (
        "error: unknown document 'fleed'; nearest: fleet, levers\n  at    schema\n  next  choose one of machine, fleet, estimate, train, trace, trace-estimate, audit, observation, run, calibration, correction, comparison, validation, baseline, refitted, watched, levers, lever-ranking, plan, plan-request, proof, proofs, proof-errors, sweep, sweep-summary\n"
    ),
}


@pytest.mark.parametrize("arguments", MESSAGES, ids=" ".join)
def test_messages_of_wrong_requests(arguments, capsys):
    """One sentence, the place, the mend, on standard error; exit 2; nothing on standard output."""
    code = cli.run(list(arguments))
    said = capsys.readouterr()

    assert code == 2
    assert said.out == ""
    assert said.err == MESSAGES[arguments]


@pytest.mark.parametrize(
    "arguments",
    [("devices", "h10000"), ("prices", "h10000"), ("models", "llama-3.1-8x"), ("estimate", "llama-3.1-8x", "--on", "h100-sxm"), ("fit", "llama-3.1-8b", "--on", "h10")],
    ids=" ".join,
)  # fmt: skip
def test_unknown_names_come_with_the_nearest(arguments, capsys):
    """A misspelt name exits 2 and names what was meant."""
    assert cli.run(list(arguments)) == 2
    assert "nearest" in capsys.readouterr().err.splitlines()[0]


@pytest.mark.parametrize("form", [(), ("--json",), ("--quiet",)])
@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ((), 0),
        (("--fail-on", "never"), 0),
        (("--fail-on", "starves-within=1"), 1),
        (("--fail-on", "starves-within=8"), 1),
    ],
)
def test_audit_exit_code_hangs_on_the_answer_alone(told, form, condition, expected, capsys):
    """The same code for every format; 1 only where --fail-on asks and something starves."""
    assert cli.run(["audit", "fleet.toml", *form, *condition]) == expected
    assert capsys.readouterr().out


def test_audit_names_what_made_it_fail(told, capsys):
    """Exit 1 is explained on standard error."""
    assert cli.run(["audit", "fleet.toml", "--fail-on", "starves-within=8"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "exit 1: chat-70b, rag-long-context starve within 8 months"


def test_audit_hands_every_flag_on(told, capsys):
    """What is typed is what the audit is asked."""
    flags = ["--months", "12", "--draws", "500", "--seed", "3", "--memory-price", "1.5", "--slip-months", "2"]
    cli.run(["audit", "fleet.toml", *flags])

    assert told == {
        "path": Path("fleet.toml"), "months": 12, "draws": 500, "seed": 3, "memory_price": 1.5, "slip_months": 2.0, "proofs": (),
    }  # fmt: skip


def test_json_is_the_whole_document_and_nothing_else(monkeypatch, capsys):
    """Standard output parses, and comes back as the same audit."""
    whole = replace(fabricated.audit(), workloads=fabricated.audit().workloads[:9])
    monkeypatch.setattr("bytebound.audit.audit_fleet", lambda *_, **__: whole)
    cli.run(["audit", "fleet.toml", "--json"])
    text = capsys.readouterr().out
    back = from_json(Audit, text)

    assert json.loads(text)["schema"] == "bytebound.audit/1"
    assert replace(back, run=whole.run) == whole
    assert back.run["command"] == "bytebound audit fleet.toml --months 18 --draws 10000 --seed 0"


def test_the_command_of_a_scenario_is_complete(told, capsys):
    """What an audit says to run again includes every scenario that was on."""
    cli.run(["audit", "my fleet.toml", "--memory-price", "1.5", "--slip-months", "3", "--seed", "7", "--json"])

    assert json.loads(capsys.readouterr().out)["run"]["command"] == (
        "bytebound audit 'my fleet.toml' --months 18 --draws 10000 --seed 7 --memory-price 1.5 --slip-months 3"
    )


def test_files_are_written_whole_and_named(told, tmp_path, capsys):
    """Each asked file exists, is named on standard error, and leaves no part behind."""
    names = {"--html": "a.html", "--sarif": "a.sarif", "--junit": "a.xml"}
    code = cli.run(
        ["audit", "fleet.toml", *(part for flag, name in names.items() for part in (flag, str(tmp_path / name)))]
    )
    said = capsys.readouterr()

    assert code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "a.sarif", "a.xml"]
    assert said.err.splitlines() == [f"Wrote {tmp_path / name}" for name in names.values()]
    assert "Wrote" not in said.out


@pytest.mark.parametrize("error", [UnfinishedError("engine died"), PhysicsError("under the floor"), ValueError("oops")])
def test_a_failure_writes_nothing(monkeypatch, tmp_path, error, capsys):
    """What was there before stays as it was; nothing half-written appears."""

    def fails(*_, **__):
        raise error

    monkeypatch.setattr("bytebound.report.html.audit_html", fails)
    monkeypatch.setattr("bytebound.audit.audit_fleet", lambda *_, **__: fabricated.audit())
    old = tmp_path / "old.html"
    old.write_text("before")
    code = cli.run(["audit", "fleet.toml", "--sarif", str(tmp_path / "new.sarif"), "--html", str(old)])

    assert code == {UnfinishedError: 3, PhysicsError: 70, ValueError: 70}[type(error)]
    assert [p.name for p in tmp_path.iterdir()] == ["old.html"]
    assert old.read_text() == "before"


def test_a_folder_is_no_target(tmp_path, told, capsys):
    """Refused before any work is done."""
    assert cli.run(["audit", "fleet.toml", "--html", str(tmp_path)]) == 2
    assert told == {}
    assert capsys.readouterr().err == f"error: is a folder, not a file\n  at    {tmp_path}\n  next  name a file in it\n"


BUG_NOTE = "\n  next  run again with BYTEBOUND_DEBUG=1 and report what it prints\n"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (QuantityError("no", place="--on", mend="do"), (2, "error: no\n  at    --on\n  next  do\n")),
        (UnfinishedError("engine died"), (3, "error: engine died\n")),
        (PhysicsError("under the floor"), (70, "error: under the floor\n")),
        (ZeroDivisionError("oops"), (70, f"error: a bug of ours: ZeroDivisionError: oops{BUG_NOTE}")),
        (KeyboardInterrupt(), (130, "interrupted\n")),
        (MemoryError(), (70, f"error: a bug of ours: MemoryError: {BUG_NOTE}")),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_every_failure_has_its_code(monkeypatch, capsys, error, expected, form):
    """Whatever is raised, the code is the contract's, for every format, and 1 is never among them."""

    def fails(*_, **__):
        raise error

    monkeypatch.delenv("BYTEBOUND_DEBUG", raising=False)
    monkeypatch.setattr("bytebound.predict.estimate", fails)
    code = cli.run(["estimate", *QUESTION, *form])
    said = capsys.readouterr()

    assert (code, said.err) == expected
    assert said.out == ""


def test_debug_shows_the_traceback(monkeypatch, capsys):
    """BYTEBOUND_DEBUG=1 prints what a report of a bug needs."""
    monkeypatch.setenv("BYTEBOUND_DEBUG", "1")
    monkeypatch.setattr("bytebound.predict.estimate", lambda *_: 1 / 0)

    assert cli.run(["estimate", *QUESTION]) == 70
    assert "Traceback" in capsys.readouterr().err


FINE_CALLS = [
    ("estimate", *QUESTION, "--batch", "8"),
    ("explain", *QUESTION),
    ("fit", *QUESTION),
    ("devices",),
    ("devices", "h100"),
    ("devices", "h100-sxm"),
    ("models", "llama"),
    ("models", "meta-llama/Meta-Llama-3.1-8B"),
    ("prices",),
    ("prices", "h100-sxm"),
    ("trends",),
    ("formats",),
    ("engines",),
]


@pytest.mark.parametrize("arguments", FINE_CALLS, ids=" ".join)
def test_every_verb_answers_as_text_and_as_json(arguments, capsys):
    """Exit 0 twice: text for a person, one JSON document for a program, nothing else on standard output."""
    assert cli.run(list(arguments)) == 0
    text = capsys.readouterr().out
    assert cli.run([*arguments, "--json"]) == 0
    said = capsys.readouterr()

    assert text.strip()
    assert json.loads(said.out) is not None
    assert said.err == ""


def test_estimate_comes_back_as_the_document(capsys):
    """The JSON of an estimate round-trips through the API."""
    cli.run(["estimate", *QUESTION, "--batch", "4", "--json"])
    back = from_json(Estimate, capsys.readouterr().out)

    assert back.work["batch"] == 4


def test_what_does_not_fit_is_a_verdict(capsys):
    """An estimate that does not fit is an answer, exit 0; fit says no only where it is asked to fail."""
    big = ("llama-3.1-70b", "--on", "h100-sxm")

    assert cli.run(["estimate", *big]) == 0
    assert "verdict  capacity" in capsys.readouterr().out
    assert cli.run(["fit", *big]) == 0
    assert cli.run(["fit", *big, "--fail-on", "does-not-fit"]) == 1


@pytest.mark.parametrize("name", ["machine", "fleet", "estimate", "audit"])
def test_schema_is_json(name, capsys):
    """Every published schema parses and describes an object."""
    assert cli.run(["schema", name]) == 0
    assert "properties" in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("verb", "arguments"), [("estimate", QUESTION), ("trends", ())])
def test_html_of_the_other_verbs(verb, arguments, tmp_path, capsys):
    """``--html`` writes a page and says so."""
    path = tmp_path / "page.html"

    assert cli.run([verb, *arguments, "--html", str(path)]) == 0
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert capsys.readouterr().err == f"Wrote {path}\n"


def test_lines_of_workloads(tmp_path):
    """SARIF points at the line that names a workload."""
    path = tmp_path / "fleet.toml"
    path.write_text("months = 18\n[[workload]]\nname = \"chat\"\n[[workload]]\n  name = 'rag'\n", encoding="utf-8")

    assert workload_lines(path) == {"chat": 3, "rag": 5}


def test_version_and_completion():
    """``--version`` prints a version; completion of the shell can be installed."""
    done = shell("--version")

    assert done.returncode == 0
    assert done.stdout.decode().strip()[0].isdigit()
    assert shell("--install-completion", "--help").returncode == 0


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("arguments", [("--help",), ("estimate", *QUESTION), ("trends",), ("estimate", "x", "--on", "y"), ("estimate", *QUESTION, "--prefix-hit", "2")], ids=" ".join)  # fmt: skip
def test_any_encoding_can_be_written(encoding, arguments):
    """A terminal that knows only ASCII gets ASCII, never a crash."""
    done = shell(*arguments, encoding=encoding)

    assert done.returncode in {0, 2}
    assert b"bug of ours" not in done.stderr
    done.stdout.decode(encoding)
    done.stderr.decode(encoding)


def test_json_is_utf8_whatever_the_terminal_can_show():
    """A program reads UTF-8 JSON even where the locale is ASCII."""
    done = shell("formats", "--json", encoding="ascii")

    assert done.returncode == 0
    assert json.loads(done.stdout.decode("utf-8"))


@pytest.mark.parametrize("arguments", [("--help",), ("estimate", *QUESTION)], ids=" ".join)
def test_a_pipe_gets_no_colour(arguments):
    """Not a terminal: no escape, with or without NO_COLOR."""
    assert b"\x1b" not in shell(*arguments).stdout
    assert b"\x1b" not in shell(*arguments, env={"NO_COLOR": "1"}).stdout


def test_no_color_outranks_force_color():
    """A result is coloured on request, unless NO_COLOR forbids it."""
    assert b"\x1b" in shell("estimate", *QUESTION, env={"FORCE_COLOR": "1"}).stdout
    assert b"\x1b" not in shell("estimate", *QUESTION, env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stdout


def test_a_closed_pipe_is_quiet():
    """``bytebound devices | head -1`` says nothing on standard error."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(
        [sys.executable, "-m", "bytebound", "models", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:  # fmt: skip
        process.stdout.read(1)
        process.stdout.close()
        said = process.stderr.read()

    assert said == b""
    assert process.returncode in {0, 141}
