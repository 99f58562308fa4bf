"""The history and a comparison in the terminal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made import made_device, made_run

from bytebound.history.store import keep, open_history, records
from bytebound.measure.compare import compare
from bytebound.report.history import comparison_text, history_text
from bytebound.report.page import Page

RNG = np.random.default_rng(1)


def test_the_history_is_a_list_newest_first(tmp_path):
    history = open_history(str(tmp_path / "kept.sqlite"))
    assert history_text(records(history), Page()).splitlines()[0] == "nothing kept yet"

    keep(history, made_device(RNG, days=1, name="m-1", ladder="quick", stable=False))
    keep(history, made_run())
    lines = history_text(records(history), Page()).splitlines()

    assert lines[0] == "2 kept"
    assert lines[2].split() == ["id", "kind", "when", "what"]
    assert lines[3].split() == ["r-1", "run", "2026-11-21", "12:00", "SmolLM2-135M", "llama.cpp", "b6000"]
    assert lines[4].split(maxsplit=5)[5] == "EPYC 9B14: 24.0 GB/s, quick, unstable"
    assert "taken on" in history_text(records(history), Page(width=150))
    assert "AMD EPYC 9B14, 2 cores" in history_text(records(history), Page(width=150))


def test_a_comparison_shows_every_reading_with_its_spread():
    rng = np.random.default_rng(6)
    found = compare(made_device(rng, days=30), made_device(rng, speed=0.85, canary=0.55, ladder="quick", disturbed=0.2))
    lines = comparison_text(found, Page()).splitlines()

    assert lines[0].startswith("memory read lost 1")
    table = [line for line in lines if line[:2] in {"✗ ", "✓ ", "– "}]
    assert len(table) == len(found.changes) == 6
    row = next(line for line in table if " 512 MiB  " in line)
    assert row.startswith("✗ memory.read")
    assert "GB/s)" in row
    assert row.endswith("slower 99 %")
    assert any(" 512 MiB, 1 thread  " in line for line in table)
    text = " ".join(" ".join(lines).split())
    assert "no more than the processor itself changed (canary.fma): memory.read, matrix.fp32" in text
    assert "after m-20261121t120000 · 2026-11-21 12:00 · here · quick, disturbed 20 % of the time" in text
    assert "a full run beside a quick one" in text


@pytest.mark.parametrize("page", [Page(width=60, ascii=True), Page(width=200, colour=True)])
def test_any_page_holds_it(page):
    found = compare(made_device(RNG, days=30), made_device(RNG, speed=0.85))
    text = comparison_text(replace(found, only_before=("x",), only_after=("y",), notes=("evil\x1b[31m",)), page)

    assert "evil[31m" in text
    assert not page.ascii or text.isascii()
    assert page.colour or max(len(line) for line in text.splitlines()) <= page.width
