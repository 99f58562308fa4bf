"""A measured machine as text and as a page: the document's own numbers, on any width, whatever the readings are."""

from __future__ import annotations

import math
import re

import machines
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from test_html import BROWSER, HOSTILE, browse, charts, tags

from bytebound.documents.measurement import CacheLevel, Measured, Missing, Reading
from bytebound.report.machine import machine_text
from bytebound.report.machine_html import machine_html
from bytebound.report.page import Page
from bytebound.report.readings import ceilings, ladders, unit_of
from bytebound.report.words import matrix_rate, quantity

KINDS = {"cpu": machines.cpu, "gpu": machines.gpu, "catalogue": machines.catalogue}
WIDTHS = (60, 80, 100, 140, 200)


def changed(**parts):
    """The two-core machine with parts of its record changed."""
    device = machines.cpu()
    return device.model_copy(update={"measured": device.measured.model_copy(update=parts)})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("ascii_only", [False, True])
def test_text_fits_the_page(kind, width, ascii_only):
    """No line is wider than the page, none ends in blanks, and an ASCII page holds nothing else."""
    text = machine_text(KINDS[kind](), Page(width=width, ascii=ascii_only), saved="/home/me/here.json")

    assert max(map(cell_len, text.splitlines())) <= width  # columns: marks that sit on a letter take none
    assert text.isascii() or not ascii_only
    assert not any(line.endswith(" ") for line in text.splitlines())
    assert "\x1b" not in text


def test_text_says_what_the_document_says():
    """Ceilings in their units, best before median before the range; levels beside what the system reports."""
    lines = [re.sub(r"\s{2,}", "  ", line) for line in machine_text(machines.cpu(), Page(width=100)).splitlines()]

    assert lines[0] == "AMD EPYC 9B14 · 2 cores · 22.0 GiB memory · virtual machine"
    assert "memory read (2 threads)  24.0 GB/s  23.0 GB/s  21.6–24.0 GB/s" in lines
    assert "memory read (1 thread)  12.0 GB/s  11.5 GB/s  10.8–12.0 GB/s" in lines
    assert "memory latency (1 thread)  187 ns  194 ns  187–206 ns" in lines
    assert "launch, torch op  4.80 µs  4.99 µs  4.80–5.28 µs" in lines
    assert "matrix product, int8 (92 % of theory)  1.10 TOP/s  1.06 TOP/s  990 GOP/s–1.10 TOP/s" in lines
    assert "L3  16 MiB  43.0 GB/s" in lines
    assert "the system reports L1d 32 KiB, L2 1 MiB, L3 32 MiB" in lines
    assert not any(line.startswith("memory write (1 thread)") for line in lines)


def test_headline_names_a_matrix_rate_and_the_ridge():
    """560 GFLOP/s of bf16 over 24 GB/s is 23 FLOP per byte."""
    text = " ".join(machine_text(machines.cpu(), Page(width=80)).split())

    assert "Reads memory at 24.0 GB/s and multiplies matrices at 560 GFLOP/s in bf16" in text
    assert "work under 23 FLOP per byte waits for memory" in text


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"complete": False}, "Incomplete: the run was interrupted"),
        ({"stable": False}, "Unstable: memory bandwidth at the end differed by over 5 %"),
        ({"disturbed": 0.08}, "Disturbed: others used the processor during 8.0 % of the samples"),
        ({}, "Limit: memory limited to 22.0 GiB by the container"),
        ({}, "no accelerator is visible to torch"),
        ({}, "what was seen is a limit per core"),
    ],
)
def test_doubts_are_said_in_both(parts, expected):
    """What may be wrong with the figures stands in the text and on the page."""
    device = changed(**parts)
    plain = re.sub(r"\s+", " ", machine_text(device, Page(width=80)))

    assert expected in plain
    assert expected in machine_html(device)


def test_a_quiet_machine_raises_no_doubt():
    system = machines.cpu().measured.system.model_copy(update={"limits": ()})
    device = changed(disturbed=0.0, system=system)

    assert "Disturbed" not in machine_text(device, Page(width=80))
    assert 'class="doubts"' not in machine_html(device)


def test_the_ladder_falls_from_the_caches_to_memory():
    """In the picture, the curve of both threads starts over 100 GB/s and ends at its name, beside 24 GB/s."""
    lines = machine_text(machines.cpu(), Page(width=80, ascii=True)).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("cache ladder"))
    picture = lines[start + 1 : start + 14]
    ends = [i for i, line in enumerate(picture) if line.endswith("* 2 threads")]
    begins = next(i for i, line in enumerate(picture) if "*" in line)

    assert re.split(r"[\s|]+", picture[0].strip()) == ["L1d", "L2", "L3", "memory"]
    assert begins < 3 < ends[0]
    assert "+ 1 thread" in picture[ends[0] + 3] or any("+ 1 thread" in line for line in picture[ends[0] :])


def test_circumstances_that_change_do_not_split_a_ladder():
    """The kernel that was fastest may differ from size to size; the curve is one, and NUMA nodes are others."""
    own = [
        machines.reading(
            "memory.read", 1e9 * (9 - i), "B/s", bytes=2.0 ** (20 + i), threads=2.0, node="all", kernel=f"k{i}"
        )
        for i in range(5)
    ]
    nodes = [machines.reading("memory.read", 4e9, "B/s", bytes=2.0**24, threads=1.0, node=float(n)) for n in (0, 1)]
    measured = changed(readings=(*own, *nodes), caches=()).measured

    assert {at: len(r) for at, r in ladders(measured)["memory.read"].items()} == {"2 threads": 5}
    assert [r.best for r in ceilings(measured)] == [5e9, 4e9, 4e9]
    assert "memory read (1 thread, node 1)" in machine_text(changed(readings=(*own, *nodes)), Page(width=100))


def test_the_best_of_several_matrix_sizes_is_the_ceiling():
    """Of two bf16 products on the accelerator, the faster counts; pinned and pageable links are two ceilings."""
    found = {(r.name, r.where.get("memory", "")): r.best for r in ceilings(machines.gpu().measured)}

    assert found["matrix.bf16", ""] == 790e12
    assert found["link.host-to-device", "pinned"] == 55e9
    assert found["link.host-to-device", "pageable"] == 12e9


@pytest.mark.parametrize("kind", KINDS)
def test_page_shows_the_documents_numbers(kind):
    """Every ceiling of the document stands on the page in its unit; nothing is loaded from anywhere."""
    device = KINDS[kind]()
    page = machine_html(device)
    loading = [a for tag, a in tags(page) if a.get("src") or (tag == "link" and not a["href"].startswith("data:"))]

    assert loading == []
    assert quantity(device.memory_bytes_per_s.value, "B/s") in page
    for dtype, figure in device.flop_per_s.items():
        assert matrix_rate(dtype, figure.value) in page
    for r in ceilings(device.measured) if device.measured else []:
        assert quantity(r.best, unit_of(r)) in page
        assert quantity(r.median, unit_of(r)) in page


def test_charts_hold_the_readings():
    """The ladder chart has every read of the document; the roofline has every roof."""
    device = machines.cpu()
    drawn = charts(machine_html(device))
    reads = [r.best for r in device.measured.readings if r.name == "memory.read"]

    assert set(drawn) == {"ladder", "kernels", "latency", "roofline", "spread"}
    page = machine_html(device)
    assert page.count("2 threads</th><td>1 GiB</td><td>24.0 GB/s") == 1
    assert len(reads) == 34
    assert all(name in page for name in ("L1d", "L2", "L3"))


def test_hostile_names_stay_text():
    """Script in a name, a note, a place or a processor never becomes an element, nor an escape a command."""
    evil = HOSTILE + "\x1b[31m\u202e"
    system = machines.cpu().measured.system.model_copy(
        update={"cpu": evil, "software": {evil: evil}, "limits": (evil,)}
    )
    bad = machines.reading("memory.read", 1e9, "B/s", bytes=4096.0, kernel=evil, device=evil)
    device = changed(
        readings=(bad, *machines.ladder()), notes=(evil,), missing=(Missing(probe=evil, why=evil),), system=system,
        caches=(CacheLevel(name=evil, bytes=2.0**20, read_bytes_per_s=1e11),),
    ).model_copy(update={"name": evil, "notes": evil})  # fmt: skip
    page, safe = machine_html(device), machine_html(machines.cpu())
    text = machine_text(device, Page(width=60), saved=evil)

    assert [a for t, a in tags(page) if t in {"script", "img"}] == [a for t, a in tags(safe) if t in {"script", "img"}]
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert max(map(len, text.splitlines())) <= 60


NAMES = st.sampled_from(["memory.read", "memory.latency", "cache.l2", "matrix.bf16", "launch.torch-op", "odd", "a.b.c"])
WHERE = st.dictionaries(
    st.sampled_from(["bytes", "threads", "node", "device", "odd"]),
    st.one_of(st.floats(0, 1e15), st.text(max_size=30), st.floats(allow_nan=True, allow_infinity=True)),
    max_size=4,
)


@st.composite
def any_reading(draw):
    """A reading of any size and place that the document accepts."""
    p10, median, p90 = sorted(draw(st.tuples(*[st.floats(0, 1e23)] * 3)))
    unit = draw(st.sampled_from(["B/s", "s", "FLOP/s", "B", "Hz", "odd"]))
    return Reading(
        name=draw(NAMES), unit=unit, best=draw(st.floats(0, 1e23)), median=median, p10=p10, p90=p90, low=p10, high=p90,
        samples=draw(st.integers(1, 99)), where=draw(WHERE), how=draw(st.text(max_size=60)), note=draw(st.text(max_size=60)),
    )  # fmt: skip


@given(
    readings=st.lists(any_reading(), max_size=12),
    sizes=st.lists(st.floats(0, 1e15), max_size=4),
    width=st.sampled_from((60, 80, 140)),
    ascii_only=st.booleans(),
)
def test_any_readings_make_a_text_and_a_page(readings, sizes, width, ascii_only):
    """Whatever the readings are, both renderings come out whole, and the text keeps to its page."""
    caches = tuple(CacheLevel(name=f"L{i}", bytes=size, read_bytes_per_s=size) for i, size in enumerate(sizes))
    device = changed(readings=tuple(readings), caches=caches)
    text = machine_text(device, Page(width=width, ascii=ascii_only))

    assert max(map(cell_len, text.splitlines())) <= width  # columns: marks that sit on a letter take none
    assert text.isascii() or not ascii_only
    assert machine_html(device).endswith("</html>")


def test_a_machine_with_many_cores_and_readings_stays_a_small_page():
    """128 thread counts of a full ladder: the picture shows a few curves, the page stays under 1.5 MB."""
    readings = [
        machines.reading("memory.read", 1e9 * (t + 1), "B/s", bytes=size, threads=float(t + 1))
        for t in range(128)
        for size in machines.SIZES
    ]
    device = changed(readings=tuple(readings))

    assert len(machine_html(device).encode()) < 1_500_000
    assert len(machine_text(device, Page(width=80)).splitlines()) < 60


def test_an_empty_record_is_still_a_machine():
    """Nothing measured but the system: no table breaks, and what is missing is said."""
    device = changed(readings=(), caches=(), notes=())
    assert isinstance(device.measured, Measured)

    assert "not measured" in machine_text(device, Page(width=80))
    assert set(charts(machine_html(device))) == {"roofline"}
    assert not math.isnan(len(machine_html(device)))


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("kind", KINDS)
def test_machine_charts_draw_in_a_browser(kind, tmp_path):
    """Every chart becomes an SVG and the console stays silent."""
    page = machine_html(KINDS[kind]())
    path = tmp_path / f"{kind}.html"
    path.write_text(page, encoding="utf-8")
    drawn, said = browse(path, tmp_path, page_id=kind)

    assert said == []
    assert 'data-charts="drawn"' in drawn
    assert drawn.count('<svg xmlns="http://www.w3.org/2000/svg"') >= len(charts(page))
