"""A run laid beside a machine: bytes over time over ceiling by hand, verdicts in words, and what is not known is said."""

from __future__ import annotations

from dataclasses import replace

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bytebound as bb
from bytebound.documents.calibration import AttentionCost, Calibration, FormatCost
from bytebound.documents.device import Device, Figure, Machine
from bytebound.documents.measurement import Measured, System
from bytebound.documents.observation import Observation, PhaseRun, RequestRun, Run, Spread
from bytebound.documents.values import from_json, json_schema, plain, to_json
from bytebound.documents.work import Serve
from bytebound.errors import RequestError, UnknownNameError
from bytebound.models import read_model
from bytebound.observe.compare import engine_of, observe_run

MODEL = read_model("meta-llama/Llama-3.2-1B-Instruct")
BODY = 16 * (2048 * (2 * 2048 + 2 * 512) + 3 * 2048 * 8192) * 2
HEAD = 128256 * 2048 * 2
KV = 16 * 2 * 512 * 2  # bytes per token
READ, RATE = 2e10, 3e11


def known(value, unit):
    return Figure(value=value, unit=unit, how="measured", source="bytebound measure m-1")


def machine(*, measured=True, read=READ):
    system = System(cpu="any", cores_online=2, cores_usable=2, memory_total_bytes=3e10, memory_usable_bytes=3e10, memory_free_bytes=2e10)  # fmt: skip
    record = Measured(id="m-1", when="2026-11-21T08:00:00+00:00", seconds=60, system=system) if measured else None
    device = Device(
        id="my-pc", name="my pc", vendor="any", kind="cpu", memory_bytes=known(3e10, "B"), memory_bytes_per_s=known(read, "B/s"),
        flop_per_s={"fp32": known(RATE, "FLOP/s")}, measured=record,
    )  # fmt: skip
    return Machine(name="here", device=device)


def spread(median, samples=20):
    return Spread(best=median * 0.95, median=median, p10=median * 0.97, p90=median * 1.1, samples=samples)


def phase(seconds, name="decode", *, batch=1.0, context=1000.0, tokens=None):
    return PhaseRun(name, spread(seconds), batch, context, batch if tokens is None else tokens)


def run(*phases, **changes):
    made = Run(
        id="run-1", when="2026-11-21T09:00:00+00:00", engine="llama.cpp", engine_version="xllamacpp 1", model="model.gguf",
        phases=phases,
    )  # fmt: skip
    return replace(made, **changes)


def lay(*phases, model=MODEL, on=None, work=None, calibration=None, datasheet=None, **changes):
    return observe_run(
        run(*phases, **changes),
        model,
        on or machine(),
        work=work or Serve(),
        calibration=calibration,
        datasheet=datasheet,
    )


@given(st.floats(0.05, 5), st.integers(1, 64), st.integers(1, 4000))
def test_mbu_is_bytes_over_time_over_ceiling(seconds, batch, context):
    """Counted by hand: matrices and head once, keys and values of every sequence, over the time, over the measured ceiling."""
    found = lay(phase(seconds, batch=float(batch), context=float(context))).phases[0]
    moved = BODY + HEAD + batch * KV * (context + 0.5) + batch * KV
    flops = batch * (BODY + HEAD + 16 * 32 * (context + 0.5) * 4 * 64)
    assert found.bytes == pytest.approx(moved, rel=2e-3)
    assert found.mbu == pytest.approx(moved / seconds / READ, rel=2e-3)
    assert found.bytes_per_s == pytest.approx(found.bytes / seconds)
    assert found.flops == pytest.approx(flops, rel=0.02)
    assert found.mfu == pytest.approx(found.flops / seconds / RATE, rel=1e-9)
    assert found.intensity == pytest.approx(found.flops / found.bytes)
    assert found.error == pytest.approx(found.predicted_s.value / seconds - 1)
    assert found.predicted_s.low < found.predicted_s.value < found.predicted_s.high
    assert found.residual == pytest.approx(1 / max(found.mbu, found.mfu))


@pytest.mark.parametrize(
    ("share", "batch", "verdict"),
    [
        (0.9, 1, "weight-bandwidth"),
        (0.7, 1, "mixed (weight-bandwidth, overhead)"),
        (0.3, 1, "overhead"),
        (1.2, 1, "cache"),
        (0.9, 256, "kv-bandwidth"),
    ],
)
def test_verdicts(share, batch, verdict):
    """The share of the ceiling that a step reaches decides the word; a step faster than memory read from caches."""
    moved = BODY + HEAD + batch * KV * 4001.5
    on = machine().model_copy(
        update={"device": machine().device.model_copy(update={"flop_per_s": {"fp32": known(1e14, "FLOP/s")}})}
    )
    found = lay(phase(moved / READ / share, batch=float(batch), context=4000.0), on=on).phases[0]
    assert found.verdict == verdict
    assert found.mbu == pytest.approx(share, rel=0.01)
    if verdict == "cache":
        assert "never left the caches" in found.sentence


def test_prefill_is_bound_by_compute():
    flops = BODY * 512 + HEAD  # two per weight of two bytes; only the last token passes the head
    found = lay(phase(flops / RATE / 0.85, "prefill", tokens=512.0, context=0.0)).phases[0]
    assert found.verdict == "compute"
    assert 0.7 < found.mfu < 1.0
    assert found.mbu < 0.2


def test_a_run_of_both_phases_answers_in_the_users_terms():
    """TTFT, TPOT and the rate come from the phases; a batch of four gives four tokens a step."""
    found = lay(phase(1.0, "prefill", tokens=512.0, context=0.0), phase(0.2, batch=4.0))
    assert found.ttft_s.median == 1.0
    assert found.tpot_s.median == 0.2
    assert found.tokens_per_s.median == pytest.approx(20, rel=0.1)
    assert found.tokens_per_s.best == pytest.approx(4 / (0.2 * 0.95))
    assert found.measurement == "m-1"
    assert found.memory_bytes_per_s == READ
    assert found.run.id == "run-1"
    assert any("run-1" in item.source for item in found.provenance)


def test_requests_of_a_server():
    """With requests, the user's times are the requests' own."""
    requests = tuple(
        RequestRun(due_s=i, sent_s=i, first_token_s=i + 0.5, last_token_s=i + 1.5, prompt_tokens=8, output_tokens=11) for i in range(5)
    )  # fmt: skip
    found = lay(phase(0.1), requests=requests, engine="vllm")
    assert found.ttft_s.median == pytest.approx(0.5)
    assert found.tpot_s.median == pytest.approx(0.1)


def test_an_unknown_model_says_so_and_keeps_the_times():
    found = lay(phase(0.2), model=None)
    assert found.phases == ()
    assert "--model" in found.missing["mbu"]
    assert found.model == "model.gguf"
    assert found.tpot_s.median == 0.2


def test_a_run_that_finished_nothing():
    found = lay()
    assert found.phases == ()
    assert (found.ttft_s, found.tpot_s, found.tokens_per_s) == (None, None, None)


def test_datasheets_stand_beside_what_was_measured():
    """A share of the printed ceiling needs one: else it is missing, with the reason."""
    without = lay(phase(0.2))
    assert without.phases[0].mbu_datasheet is None
    assert "my pc" in without.missing["mbu_datasheet"]
    sheet = machine(read=2.5e10).device
    found = lay(phase(0.2), datasheet=sheet)
    assert found.phases[0].mbu_datasheet == pytest.approx(found.phases[0].mbu * 20 / 25)
    assert found.phases[0].mfu_datasheet == pytest.approx(found.phases[0].mfu)
    assert "mbu_datasheet" not in found.missing


CALIBRATION = Calibration(
    id="c1", when="2026-11-21T00:00:00+00:00", engine="llama.cpp", engine_version="1", machine="my-pc", threads=2,
    formats=(FormatCost("body", "bf16", 2048, (1,), (6e-11,)), FormatCost("head", "bf16", 2048, (1,), (5e-11,))),
    attention=AttentionCost("on", "fp16", 32, 8, 64, (0, 1000), (0.0, 1e-5), 1e-9), s_per_step=1e-3, s_per_layer=1e-4,
    memory_bytes_per_s=2e10, spread=0.02, samples=100, disturbed=0.0, seconds=5.0, shape={"width": 2048.0},
)  # fmt: skip


def test_grades():
    """Calibrated where the engine was probed here, else scaled; calibrated predictions say where the time goes."""
    scaled_, calibrated_ = lay(phase(0.2)).phases[0], lay(phase(0.2), calibration=CALIBRATION).phases[0]
    by_hand = BODY * 6e-11 + HEAD * 5e-11 + 16 * 32 * 1e-5 + 1e-3 + 16e-4
    assert (scaled_.grade, calibrated_.grade) == ("scaled", "calibrated")
    assert calibrated_.predicted_s.value == pytest.approx(by_hand, rel=2e-3)
    assert calibrated_.error == pytest.approx(by_hand / 0.2 - 1, abs=2e-3)
    assert "by the calibration" in calibrated_.sentence
    width = {found.predicted_s.high / found.predicted_s.value for found in (scaled_, calibrated_)}
    assert min(width) == calibrated_.predicted_s.high / calibrated_.predicted_s.value


def test_notes_say_what_to_doubt():
    """A busy machine, memory that was slower than when measured, an engine we do not know, a machine never measured."""
    slow = {"memory.read": Spread(1.5e10, 1.4e10, 1.3e10, 1.45e10, 9)}
    notes = " | ".join(lay(phase(0.2), disturbed=0.4, canaries=slow, engine="marvellous").notes)
    assert "marvellous is not known" in notes
    assert "40 %" in notes or "40%" in notes
    assert "15.0 GB/s at best during the run, 20.0 GB/s when the machine was measured" in notes
    assert lay(phase(0.2)).notes == ()
    assert "never" not in lay(phase(0.2), on=machine(measured=False)).notes
    assert any("was not measured" in note for note in lay(phase(0.2), on=machine(measured=False)).notes)


@pytest.mark.parametrize(
    ("said", "ours"),
    [("ollama", "llama.cpp"), ("llama.cpp", "llama.cpp"), ("vLLM", "vllm"), ("", "vllm"), ("x", "vllm")],
)
def test_engines(said, ours):
    assert engine_of(run(engine=said)) == ours


def test_wrong_calibrations_and_formats_are_refused():
    with pytest.raises(RequestError, match="made on epyc"):
        lay(phase(0.2), calibration=replace(CALIBRATION, machine="epyc"))
    with pytest.raises(RequestError, match=r"the calibration is of llama.cpp"):
        lay(phase(0.2), calibration=CALIBRATION, engine="vllm")
    with pytest.raises(UnknownNameError, match="q4_0"):
        lay(phase(0.2), calibration=CALIBRATION, work=Serve(weights="q4_0"))


def test_an_observation_is_a_document():
    """JSON, its schema, and back: every claim still points to the run's own record."""
    found = lay(phase(1.0, "prefill", tokens=512.0, context=0.0), phase(0.2, batch=4.0), calibration=CALIBRATION)
    text = to_json(found)
    jsonschema.validate(plain(found), json_schema(Observation))
    assert plain(from_json(Observation, text)) == plain(found)
    assert bb.from_json(Observation, text).run == found.run
