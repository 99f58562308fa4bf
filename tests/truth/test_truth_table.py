"""Our own table of measured numbers: it comes back as written, and every wrong cell is refused with its line."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytebound.documents.truth import BACKENDS, METRICS, REGIMES, STATISTICS, TRUSTS, Load, Truth
from bytebound.documents.work import Serve
from bytebound.errors import ByteboundError, DocumentError
from bytebound.truth import read_truth, write_truth
from bytebound.truth.table import COLUMNS, format_truth

ROW = Truth(
    id="made-up-1",
    source="made_up",
    locator="no such publication",
    device="h100-sxm",
    engine="vllm",
    model="meta-llama/Meta-Llama-3.1-8B",
    metric="tpot_s",
    value=0.0123,
    regime="closed-loop",
    work=Serve(batch=4, prompt=921.6, output=100, weights="fp8", kv="auto", tp=2, engine="vllm"),
    devices=2,
    date="2026-11",
    notes='a cell with a comma, a "quote" and\na second line',
)
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\r\0", exclude_categories=["Cs"]), max_size=40).map(
    str.strip
)


@st.composite
def truths(draw):
    work = Serve(
        batch=draw(st.floats(1, 1e6)),
        prompt=draw(st.floats(1, 1e6)),
        output=draw(st.integers(1, 10**6)),
        weights=draw(st.sampled_from(["auto", "fp8", "q4_k_m"])),
        kv=draw(st.sampled_from(["auto", "fp8"])),
        tp=draw(st.integers(1, 64)),
        dp=draw(st.integers(1, 64)),
        chunk=draw(st.integers(0, 10**5)),
        prefix_hit=draw(st.floats(0, 1)),
        disaggregated=draw(st.booleans()),
        scheduling=draw(st.sampled_from(["continuous", "static"])),
        engine="sglang",
    )
    return Truth(
        id="x",
        source=draw(WORDS.filter(bool)),
        locator=draw(WORDS.filter(bool)),
        device=draw(st.sampled_from(["h100-sxm", "m2-max"])),
        devices=work.tp * work.dp,
        engine="sglang",
        engine_version=draw(WORDS),
        backend=draw(st.sampled_from(BACKENDS)),
        model="Qwen/Qwen3-14B",
        metric=draw(st.sampled_from(sorted(METRICS))),
        value=draw(st.floats(1e-12, 1e18)),
        regime=draw(st.sampled_from(REGIMES)),
        statistic=draw(st.sampled_from(STATISTICS)),
        trust=draw(st.sampled_from(TRUSTS)),
        date=draw(st.sampled_from(["", "2026", "2026-11", "2026-11-21"])),
        work=work,
        licence=draw(WORDS),
        notes=draw(WORDS),
        load=draw(st.builds(Load, rounds=st.floats(0, 1e3), spread=st.floats(0, 1), slots=st.floats(0, 1e6))),
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(truths(), max_size=4))
def test_a_table_comes_back_as_it_was_written(tmp_path_factory, rows):
    rows = tuple(
        Truth(**{name: getattr(row, name) for name in row.__slots__} | {"id": str(i)}) for i, row in enumerate(rows)
    )
    path = tmp_path_factory.mktemp("truth") / "rows.csv"
    write_truth(rows, path)
    assert read_truth(path) == rows


def test_columns_beyond_the_usual_ones_are_written_only_where_needed(tmp_path):
    assert format_truth([ROW]).splitlines()[0] == ",".join(COLUMNS)
    chunked = Truth(**{name: getattr(ROW, name) for name in ROW.__slots__} | {"work": Serve(chunk=512)})
    assert "chunk" in format_truth([chunked]).splitlines()[0]


def changed(**cells):
    rows = list(csv.reader(io.StringIO(format_truth([ROW]))))
    header, row = rows
    for name, text in cells.items():
        row[header.index(name)] = text
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([header, row])
    return stream.getvalue()


@pytest.mark.parametrize(
    ("cells", "said", "where"),
    [
        ({"metric": "tpot"}, "unknown metric 'tpot'; nearest: tpot_s", ":2: metric"),
        ({"unit": "ms"}, "has the unit 's', not 'ms'", ":2: unit"),
        ({"device": "h1000"}, "unknown device 'h1000'", ":2: device"),
        ({"model": "llama-9"}, "unknown model 'llama-9'", ":2: model"),
        ({"engine": "vlm"}, "unknown engine 'vlm'; nearest: vllm", ":2: engine"),
        ({"regime": "loop"}, "unknown regime", ":2: regime"),
        ({"statistic": "average"}, "unknown statistic", ":2: statistic"),
        ({"trust": "D"}, "unknown trust", ":2: trust"),
        ({"backend": "sycl"}, "unknown backend", ":2: backend"),
        ({"weights": "fp9"}, "unknown dtype 'fp9'", "weights"),
        ({"kv": "fp9"}, "unknown dtype 'fp9'", "kv"),
        ({"scheduling": "eager"}, "unknown scheduling", "scheduling"),
        ({"value": "nan"}, "'nan' is not finite", ":2: value"),
        ({"value": "inf"}, "'inf' is not finite", ":2: value"),
        ({"value": "-1"}, "'-1' is not positive", ":2: value"),
        ({"value": "0"}, "'0' is not positive", ":2: value"),
        ({"value": "fast"}, "'fast' is not a number", ":2: value"),
        ({"value": ""}, "'' is not a number", ":2: value"),
        ({"devices": "0"}, "not a number of devices", ":2: devices"),
        ({"devices": "1.5"}, "not a number of devices", ":2: devices"),
        ({"devices": "3"}, "tp × pp × dp is 2, and devices is 3", ":2: devices"),
        ({"tp": "1"}, "tp × pp × dp is 1, and devices is 2", ":2: devices"),
        ({"ep": "4"}, "ep is 4, and tp × dp 2", ":2: ep"),
        ({"batch": "0"}, "batch is 0", "batch"),
        ({"batch": ""}, "the cell batch is empty", ":2"),
        ({"tp": "1.5"}, "tp must be a whole number", "tp"),
        ({"date": "21.11.2026"}, "is not a date", ":2: date"),
        ({"date": "2026-13-01"}, "is not a date", ":2: date"),
        ({"date": "2026-12-32"}, "is not a date", ":2: date"),
        ({"id": ""}, "the cell id is empty", ":2"),
        ({"source": ""}, "the cell source is empty", ":2"),
        ({"locator": ""}, "the cell locator is empty", ":2"),
    ],
)
def test_a_wrong_cell_is_refused_with_its_line(tmp_path, cells, said, where):
    path = tmp_path / "rows.csv"
    path.write_text(changed(**cells), encoding="utf-8")
    with pytest.raises(DocumentError) as caught:
        read_truth(path)
    assert said in caught.value.message
    assert where in caught.value.place
    assert str(path) in caught.value.place
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no header"),
        ("id,source\n", "the column 'locator' is missing"),
        (",".join(COLUMNS) + ",colour\n", "unknown column 'colour'"),
        (",".join((*COLUMNS, "unit")) + "\n", "the column 'unit' stands twice"),
        (",".join(COLUMNS) + "\na,b\n", "the row has 2 cells"),
        (",".join(COLUMNS) + '\n"a,b\n', "not a CSV table"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, text, said):
    path = tmp_path / "rows.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DocumentError) as caught:
        read_truth(path)
    assert said in caught.value.message


def test_an_id_may_stand_once_and_the_error_names_both_lines(tmp_path):
    path = tmp_path / "rows.csv"
    text = format_truth([ROW])
    path.write_text(text + text.split("\n", 1)[1], encoding="utf-8")
    with pytest.raises(DocumentError) as caught:
        read_truth(path)
    assert "'made-up-1' stands on line 2 already" in caught.value.message
    assert caught.value.place.endswith(":4")  # the first row takes lines 2 and 3


def test_a_missing_file_and_one_that_is_not_text(tmp_path):
    with pytest.raises(DocumentError):
        read_truth(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DocumentError):
        read_truth(tmp_path / "bytes.csv")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_table_is_read_or_refused_and_nothing_else(tmp_path_factory, data):
    text = format_truth([ROW, Truth(**{name: getattr(ROW, name) for name in ROW.__slots__} | {"id": "made-up-2"})])
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 12))
    text = text[:at] + data.draw(st.text(max_size=8)) + text[at + cut :]
    path = tmp_path_factory.mktemp("damaged") / "rows.csv"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        rows = read_truth(path)
    except ByteboundError as error:
        assert error.exit_code == 2
    else:
        assert all(row.value > 0 and row.metric in METRICS for row in rows)


def test_every_metric_says_its_clock():
    for unit, clock in METRICS.values():
        assert unit in {"s", "1/s", "J", "B", "tokens"}
        assert len(clock.split()) > 4
