"""Shares of a measured ceiling: taken from the table, mixed by bytes, only where the machine was measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import bytebound as bb
from bytebound.documents.device import Device, Figure, Machine
from bytebound.documents.work import Serve
from bytebound.facts.engine_shares import engine_share, engine_shares
from bytebound.facts.engines import engines
from bytebound.facts.formats import find_format
from bytebound.ledger.ledger import ATTENTION, CONTEXT, EXPERT, GEMM
from bytebound.models.catalogue import model_ids
from bytebound.predict import scaled as module
from bytebound.predict.estimate import settle
from bytebound.predict.scaled import DATASHEET_OVER_MEASURED, scaled

MODEL = "meta-llama/Llama-3.2-1B-Instruct"


def machine(how="measured", kind="cpu"):
    def known(value, unit):
        return Figure(value=value, unit=unit, how=how, source="a test")

    device = Device(
        id="my-pc", name="my pc", vendor="any", kind=kind, memory_bytes=known(1e13, "B"),
        memory_bytes_per_s=known(2e10, "B/s"), flop_per_s={"fp32": known(3e11, "FLOP/s")},
    )  # fmt: skip
    return Machine(name="here", device=device)


def test_the_table_is_sound():
    """Known engines, kinds and formats; shares in (0, 1] inside their interval; each with a source and a date."""
    for (engine, kind, part), share in engine_shares().items():
        assert engine in engines()
        assert kind in {"cpu", "gpu", "apple-soc"}
        assert part == "*" or part.startswith("attention-") or find_format(part).name == part
        assert 0 < share.low <= share.value <= share.high <= 1
        assert share.how in {"measured", "cited", "derived", "assumed"}
        assert share.source
        assert share.date >= "2026"


def test_formats_not_tried_take_the_row_for_any_and_attention_does_not():
    assert engine_share("llama.cpp", "cpu", "q3_k") == engine_shares()["llama.cpp", "cpu", "*"]
    assert engine_share("llama.cpp", "cpu", "attention-unheard-of") is None
    assert engine_share("transformers", "cpu", "q3_k") is None


def test_a_measured_machine_takes_the_engines_share():
    """The products' bandwidth share is the table's for that format; attention's likewise; and both are in the sources."""
    setting = settle(MODEL, machine(), "llama.cpp")
    found = scaled(setting, "fp16", "eager")
    for part, classes in (("fp16", [GEMM, EXPERT]), ("attention-eager", [ATTENTION, CONTEXT])):
        assert found.ceilings.memory_share[classes] == pytest.approx(engine_share("llama.cpp", "cpu", part).value)
    said = [item.what for item in found.evidence.provenance]
    assert any("fp16 products" in what and "measured read ceiling" in what for what in said)
    assert any(what.startswith("attention: ") for what in said)
    assert found.grade == "scaled"


def test_a_mix_takes_the_time_of_its_parts():
    """Layers in one format and a head in another: bytes over share add up, part by part."""
    setting = settle(MODEL, machine(), "llama.cpp")
    body = 16 * (2048 * (2 * 2048 + 2 * 512) + 3 * 2048 * 8192)
    head = 128256 * 2048
    sizes = {"q4_0": body * 4.5 / 8, "bf16": head * 2.0}
    seconds = sum(size / engine_share("llama.cpp", "cpu", name).value for name, size in sizes.items())
    share = scaled(setting, "q4_0", "flash").ceilings.memory_share[GEMM]
    assert share == pytest.approx(sum(sizes.values()) / seconds, rel=1e-6)


def test_a_mix_with_an_unknown_part_is_not_known(monkeypatch):
    """Half-known mixes take the datasheet's share, raised, and claim no source they did not use."""

    def known(engine, kind, part):
        return engine_share(engine, kind, part) if part in {"bf16", "attention-flash"} else None

    monkeypatch.setattr(module, "engine_share", known)
    before = settle(MODEL, machine(), "llama.cpp")
    found = scaled(before, "q4_0", "flash")
    plain = before.ceilings.memory_share[GEMM]
    assert found.ceilings.memory_share[GEMM] == pytest.approx(np.minimum(plain * DATASHEET_OVER_MEASURED, 1.0))
    assert not any("products: " in item.what for item in found.evidence.provenance)
    assert any(item.what.startswith("attention: ") for item in found.evidence.provenance)


def test_what_was_not_measured_stays_as_it_was():
    """A printed ceiling, or an engine nobody tried on that kind of machine: no share of ours is claimed."""
    setting = settle(MODEL, machine("cited"), "llama.cpp")
    assert scaled(setting, "fp16", "flash") is setting
    other = scaled(settle(MODEL, machine(kind="gpu"), "vllm"), "bf16", "flash")
    before = settle(MODEL, machine(kind="gpu"), "vllm")
    assert other.evidence == before.evidence
    assert np.all(other.ceilings.memory_share >= before.ceilings.memory_share)
    assert np.all(other.ceilings.memory_share <= 1)


def test_the_interval_is_the_tables():
    share = engine_share("llama.cpp", "cpu", "fp16")
    found = bb.estimate(MODEL, machine(), Serve(weights="fp16", engine="llama.cpp"))
    widest = max(share.value / share.low, share.high / share.value, 1.2)
    assert found.tpot_s.high / found.tpot_s.value == pytest.approx(widest)


@pytest.mark.parametrize("engine", ["llama.cpp", "transformers", "vllm"])
def test_every_model_and_format_has_an_estimate(engine):
    """No bundled model falls out of the rules, whatever its formats and whichever attention."""
    for name in model_ids()[::5]:
        for weights in ("auto", "q4_k_m"):
            setting = settle(name, machine(), engine)
            share = scaled(setting, weights, "eager").ceilings.memory_share
            assert np.all((share > 0) & (share <= 1))


def test_more_bandwidth_is_never_slower():
    """On the same machine with twice the measured bandwidth, and nothing else changed."""
    work = Serve(weights="q8_0", engine="llama.cpp", prompt=100)
    slow = machine()
    faster = slow.device.memory_bytes_per_s.model_copy(update={"value": 4e10})
    fast = slow.model_copy(update={"device": slow.device.model_copy(update={"memory_bytes_per_s": faster})})
    assert bb.estimate(MODEL, fast, work).decode.seconds < bb.estimate(MODEL, slow, work).decode.seconds
    assert (
        bb.estimate(MODEL, slow, replace(work, weights="q4_0")).decode.seconds
        < bb.estimate(MODEL, slow, work).decode.seconds
    )
