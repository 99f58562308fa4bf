"""The verb ``prove`` as people run it: what can be proven, one lever on a tiny model, all with Ctrl-C midway, bad input."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import jsonschema
import pytest

pytest.importorskip("sqlalchemy", reason="the measure extra is not installed")

from bytebound import cli
from bytebound.documents.device import Device, Figure
from bytebound.documents.measurement import Measured, System
from bytebound.documents.observation import Spread
from bytebound.documents.proof import Compared, Proof, Proofs, Quality, Unproven
from bytebound.documents.values import Interval, Provenance, from_json, json_schema
from bytebound.errors import UnfinishedError
from bytebound.facts.machines import here_file
from bytebound.history.store import open_history, records
from bytebound.prove import catalogue, known
from bytebound.prove import ledger as module
from bytebound.prove.catalogue import Entry
from bytebound.report.page import Page
from bytebound.report.proof import proof_text, proofs_markdown, proofs_text
from bytebound.report.proof_html import proofs_html


def figure(value, unit):
    return Figure(value=value, unit=unit, how="measured", source="by hand", when="2026-11-21")


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """A data folder of the test's own."""
    monkeypatch.setenv("BYTEBOUND_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("BYTEBOUND_DB", raising=False)
    return tmp_path / "data"


@pytest.fixture
def here(data):
    """A measured machine, written by hand as what ``here`` stands for."""
    system = System(cpu="any", cores_online=2, cores_usable=2, memory_total_bytes=3e10, memory_usable_bytes=3e10, memory_free_bytes=2e10)  # fmt: skip
    device = Device(
        id="my-pc", name="my pc", vendor="any", kind="cpu", memory_bytes=figure(3e10, "B"),
        memory_bytes_per_s=figure(2e10, "B/s"), flop_per_s={"fp32": figure(3e11, "FLOP/s")},
        measured=Measured(id="m-1", when="2026-11-21T08:00:00+00:00", seconds=60, system=system),
    )  # fmt: skip
    data.mkdir(parents=True, exist_ok=True)
    here_file().write_text(device.model_dump_json(by_alias=True), encoding="utf-8")
    return device


def made(lever="q8_0-weights", *, number=0, verdict="confirmed", ratio=0.5, **changed):
    """Return a proof as a run would."""
    time = Spread(0.09, 0.1, 0.095, 0.12, 36)
    less = Spread(0.045, 0.05, 0.047, 0.06, 36)
    compared = Compared(
        "decode", time, less, Interval(ratio, 0.48, 0.53, 0.9), Interval(0.52, 0.46, 0.58), "calibrated", 0.52 / ratio - 1, True,
    )  # fmt: skip
    proof = Proof(
        id=f"proof-{number}", when=f"2026-11-21T12:{number:02}:00+00:00", lever=lever, title="q8_0 <b>weights</b>",
        engine="llama.cpp", engine_version="xllamacpp 1", model="random:1b", machine="my-pc", before={"weights": "fp16"},
        after={"weights": "q8_0", "threads": 2.0}, compared=(compared,), verdict=verdict, effect="helps",
        sentence=f"a decode step ×{ratio:.2f} | as predicted", rounds=12, disturbed=0.1, seconds=30.0, real_weights=False,
        quality=Quality("SmolLM2", "a text", 768, 12.0, 12.1, 0.003, 0.96), provenance=(Provenance("costs", "calibrated", "probes"),),
    )  # fmt: skip
    return replace(proof, **changed)


def entries_of(*results):
    """Return a catalogue whose trials end in these results, in turn."""
    return tuple(Entry(f"lever-{i}", "llama.cpp", lambda _bench, each=each: each) for i, each in enumerate(results))


@pytest.fixture
def faked(monkeypatch):
    """Trials that are their own results; an exception is raised."""

    def use(*results):
        monkeypatch.setattr(module, "entries", lambda _engine="": entries_of(*results))
        monkeypatch.setattr(module, "missing", lambda _engine: None)

        def run(trial, _bench, **_options):
            if isinstance(trial, BaseException):
                raise trial
            return trial

        monkeypatch.setattr(module, "run_trial", run)

    return use


def test_the_list_says_what_is_missing(capsys, monkeypatch):
    monkeypatch.setattr(catalogue, "missing", lambda engine: Unproven("", engine, "not here", "pip install it"))
    assert cli.run(["prove", "--list"]) == 0
    told = capsys.readouterr().out
    assert "0 of" in told
    assert "not here: pip install it" in told
    assert cli.run(["prove", "--list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["trials"]
    assert {"lever": "q4_0-weights", "engine": "llama.cpp", "ready": False, "reason": "not here", "mend": "pip install it"} in rows  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["q4_0-weigths"], "unknown lever to prove 'q4_0-weigths'; nearest: q4_0-weights"),
        ([], "name one lever, or say --all"),
        (["q4_0-weights", "--all"], "name one lever, or say --all"),
        (["q4_0-weights", "--engine", "vllm"], "unknown engine to prove on 'vllm'"),
        (["flash-serving", "--engine", "ctranslate2"], "ctranslate2 has no trial of flash-serving"),
        (["q4_0-weights", "--on", "h100-sxm"], "proofs run on the machine they are asked on"),
        (["q4_0-weights", "--rounds", "1"], "rounds is 1"),
        (["q4_0-weights", "--budget", "nan"], "budget is nan"),
        (["q4_0-weights", "--model", "none.gguf"], "llama.cpp runs GGUF files"),
        (["q4_0-weights", "--model", "random:7z"], "unknown shape '7z'"),
        (["q4_0-weights", "--out", "/no/such/folder/x.md"], "no such folder"),
    ],
)
def test_bad_input_is_one_sentence(words, said, here, capsys, monkeypatch):
    monkeypatch.setattr(catalogue, "missing", lambda _engine: None)
    assert cli.run(["prove", *words, "--quiet"]) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert not told.out


def test_an_engine_that_is_not_there_and_a_machine_never_measured(capsys, monkeypatch):
    monkeypatch.setattr(catalogue, "missing", lambda engine: Unproven("", engine, "not installed", "pip install x"))
    assert cli.run(["prove", "q4_0-weights"]) == 2
    assert "not installed" in capsys.readouterr().err
    monkeypatch.setattr(catalogue, "missing", lambda _engine: None)
    assert cli.run(["prove", "q4_0-weights"]) == 2
    assert "bytebound measure" in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_finished(here, faked, capsys, tmp_path):
    faked(
        made(), UnfinishedError("out of memory", place="llama.cpp", mend="smaller"), KeyboardInterrupt(), made("never")
    )
    out = tmp_path / "ledger.json"
    assert cli.run(["prove", "--all", "--out", str(out), "--json"]) == 130
    told = capsys.readouterr()
    ledger = from_json(Proofs, told.out)
    assert from_json(Proofs, out.read_text()) == ledger
    assert [proof.lever for proof in ledger.proofs] == ["q8_0-weights"]
    assert ledger.unproven == (Unproven("lever-1", "llama.cpp", "llama.cpp: out of memory", "smaller"),)
    assert ledger.notes == (module.INTERRUPTED,)
    assert "confirmed: q8_0-weights" in told.err
    jsonschema.validate(json.loads(told.out), json_schema(Proofs))
    (record,) = records(open_history(), kind="proofs")
    assert record.title == "1 of 1 levers confirmed: q8_0-weights"


@pytest.mark.parametrize(
    ("verdicts", "flag", "code"),
    [(("confirmed",), "none", 0), (("confirmed", "refuted"), "none", 0), (("confirmed", "refuted"), "refuted", 1),
     (("inconclusive",), "refuted", 3), (("confirmed", "inconclusive"), "none", 3), ((), "none", 3)],
)  # fmt: skip
@pytest.mark.usefixtures("here")
def test_exit_codes(verdicts, flag, code, faked, capsys):
    faked(*(made(f"l{i}", number=i, verdict=verdict) for i, verdict in enumerate(verdicts)))
    assert cli.run(["prove", "--all", "--fail-on", flag, "--no-save", "--quiet"]) == code
    assert "proofs came out as predicted" in capsys.readouterr().out
    assert not records(open_history(), kind="proofs")


def test_the_newest_conclusive_proof_counts(here, faked):
    for nth, (verdict, ratio) in enumerate([("confirmed", 0.6), ("confirmed", 0.5), ("inconclusive", 0.9)]):
        faked(made(number=nth, verdict=verdict, ratio=ratio))
        cli.run(["prove", "--all", "--quiet", "--json"])
    found = known.proven(open_history(), "my-pc")
    assert found["q8_0-weights"].compared[0].measured.value == 0.5
    assert known.proven(open_history(), "another-pc") == {}
    assert known.proven(open_history(), "my-pc", engine="torch") == {}


def test_reports_hold_every_number_and_no_markup():
    ledger = module.ledger_of(
        "my-pc", (made(), made("x|y", number=1, verdict="refuted", quality=None)), (Unproven("a", "b", "c <i>"),)
    )
    one = proof_text(made(), Page())
    for word in (
        "×0.50 (0.48–0.53)",
        "×0.52 (0.46–0.58)",
        "+4 %",
        "100 ms",
        "50.0 ms",
        "perplexity 12.000 to 12.100",
        "96.0 %",
    ):
        assert word in one
    table = proofs_text(ledger, Page(width=100))
    assert "1 of 2 proofs came out as predicted within 15 %, 1 did not" in table
    assert "a on b not proven" in table
    text = proofs_markdown(ledger)
    assert "x\\|y" in text
    assert "\\<i\\>" in text
    assert "Quality is of SmolLM2 on 768 tokens of a text." in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    page = proofs_html(ledger)
    assert "<b>weights" not in page
    assert "PPL 12.00 to 12.10" in page


def test_a_real_lever_on_a_tiny_model(here, capsys, tmp_path, monkeypatch):
    """Through real llama.cpp: a file of the user's, probes, both sides, judgement; the file stays as it was."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")
    pytest.importorskip("gguf", reason="gguf is not installed")
    from bytebound.engines.random_gguf import Shape, write_random_gguf
    from bytebound.observe import calibrate
    from bytebound.prove import llamacpp, run

    monkeypatch.setattr(llamacpp, "DEEP", 1000)
    monkeypatch.setattr(calibrate, "MOST_SPREAD", 1e9)
    monkeypatch.setattr(calibrate, "MOST_DISTURBED", 2.0)
    monkeypatch.setattr(run, "host_canaries", lambda _stack: ())
    file = write_random_gguf(tmp_path / "mine.gguf", Shape(2, 256, 512, 4, 2, 64, 320), "fp16")
    before = hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns
    words = [
        "prove",
        "int8-kv",
        "--model",
        str(file),
        "--engine",
        "llama.cpp",
        "--rounds",
        "2",
        "--threads",
        "1",
        "--json",
    ]
    assert cli.run(words) in {0, 3}
    proof = from_json(Proof, capsys.readouterr().out)
    assert (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns) == before
    cache = next(each for each in proof.compared if each.metric == "kv_memory")
    assert cache.measured.value == pytest.approx(8.5 / 16, rel=0.02)  # told in hundredths of MiB
    assert cache.within
    assert "no tokenizer" in proof.errors[0]  # so nothing is said of its quality
    assert proof.model == "mine.gguf"
    assert proof.real_weights
    assert cli.run(["prove", "q8_0-weights", "--model", str(write_random_gguf(tmp_path / "small.gguf", Shape(1, 256, 256, 4, 2, 64, 320), "q4_0")), "--quiet"]) == 2  # fmt: skip
    assert "holds 4.5 bits per weight already, q8_0 would take 8.5" in capsys.readouterr().err
