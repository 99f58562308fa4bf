"""Our own table of training runs: it reads back what it wrote, and names the line and the mend of what is wrong."""

from __future__ import annotations

import csv
import io
from importlib.resources import files

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bytebound.errors import DocumentError
from bytebound.truth.training import read_any_training, shipped_training_truth
from bytebound.truth.training_table import (
    COLUMNS,
    NEEDED,
    format_training_table,
    read_training_table,
    write_training_table,
)

ROWS = shipped_training_truth()
RUN = {
    "id": "a1", "run": "a", "source": "desk", "locator": "runs/a.json", "device": "h100-sxm", "devices": "8", "model": "llama-3.1-8b",
    "seq": "4096", "micro_batch": "1", "global_batch": "64", "dp": "8", "zero": "3", "framework": "fsdp", "metric": "step_s", "value": "7.5",
    "unit": "s",
}  # fmt: skip


def table(*rows):
    """Return a table of rows as text."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def test_the_shipped_table_is_written_as_it_reads(tmp_path):
    text = (files("bytebound.facts") / "data" / "training_truth.csv").read_text("utf-8")
    assert format_training_table(ROWS) == text
    write_training_table(ROWS, tmp_path / "again.csv")
    assert read_training_table(tmp_path / "again.csv") == ROWS


def test_a_users_row_is_read_with_the_defaults_of_a_request(tmp_path):
    (tmp_path / "mine.csv").write_text(table(RUN))
    ((row,), left) = read_any_training(tmp_path / "mine.csv")
    assert not left
    assert (row.model, row.per_node, row.trust, row.work.zero) == ("meta-llama/Meta-Llama-3.1-8B", 8, "B", 3)
    assert row.work.precision == "bf16-mixed"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"metric": "speed"}, "unknown metric 'speed'"),
        ({"unit": "ms"}, "has the unit 's', not 'ms'"),
        ({"device": "h100sxm"}, "unknown device"),
        ({"model": "llama-9"}, "llama-9"),
        ({"devices": "16"}, "tp × pp × dp × cp is 8"),
        ({"global_batch": "60"}, "no multiple of micro_batch × dp = 8"),
        ({"framework": "torch"}, "framework"),
        ({"value": "-1"}, "no value of step_s"),
        ({"value": "many"}, "not a number"),
        ({"metric": "mfu", "unit": "1", "value": "0.4"}, "needs a basis"),
        ({"metric": "fits", "unit": "1", "value": "2"}, "fits is 1 or 0"),
        ({"seq": ""}, "the cell seq is empty"),
        ({"zero": "7"}, "zero"),
    ],
)
def test_a_wrong_cell_is_named_with_its_line(tmp_path, change, says):
    (tmp_path / "mine.csv").write_text(table(RUN, {**RUN, "id": "a2", **change}))
    with pytest.raises(DocumentError) as error:
        read_training_table(tmp_path / "mine.csv")
    assert says in error.value.message
    assert "mine.csv:3" in error.value.place


def test_a_wrong_header_is_named(tmp_path):
    (tmp_path / "mine.csv").write_text(table({name: cell for name, cell in RUN.items() if name != "seq"}))
    with pytest.raises(DocumentError, match="column 'seq' is missing"):
        read_training_table(tmp_path / "mine.csv")
    (tmp_path / "mine.csv").write_text(table({**RUN, "sequence": "1"}))
    with pytest.raises(DocumentError, match="unknown column 'sequence'"):
        read_training_table(tmp_path / "mine.csv")


def test_an_id_stands_once(tmp_path):
    (tmp_path / "mine.csv").write_text(table(RUN, RUN))
    with pytest.raises(DocumentError, match="stands on line 2 already"):
        read_training_table(tmp_path / "mine.csv")


CELLS = st.one_of(
    st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\n\x00"), max_size=8),
    st.sampled_from(["-1", "nan", "1e9", "0"]),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from(COLUMNS), CELLS, min_size=1, max_size=4))
def test_any_cell_is_read_or_refused_in_words(tmp_path, changes):
    (tmp_path / "mine.csv").write_text(table({**RUN, **changes}), encoding="utf-8")
    try:
        rows = read_training_table(tmp_path / "mine.csv")
    except DocumentError as error:
        assert "mine.csv" in error.place
    else:
        assert all(row.value >= 0 for row in rows)


def test_needed_columns_are_columns():
    assert set(NEEDED) <= set(COLUMNS)
