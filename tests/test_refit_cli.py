"""``bytebound calibrate --truth``: refits from tables of measured rows, says how wrong it is, and writes two tables."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bytebound.errors import DocumentError
from bytebound.facts.calibration import read_offsets
from bytebound.truth import shipped_truth, write_truth


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the verb in a process of its own."""
    return subprocess.run(  # noqa: S603 - our own verb
        [sys.executable, "-m", "bytebound", "calibrate", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of the shipped rows of one engine on three devices."""
    rows = [r for r in shipped_truth() if r.engine == "vllm" and r.metric in {"tpot_s", "ttft_s", "request_s"}]
    path = tmp_path_factory.mktemp("truth") / "rows.csv"
    write_truth(rows[:24], path)
    return path


def test_a_refit_writes_what_it_fitted(table, tmp_path):
    done = run("--truth", str(table), "--out", str(tmp_path / "fit"), "--json", "-q")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "bytebound.refitted/1"
    assert 0 < document["used"] <= 24
    offsets = read_offsets(tmp_path / "fit" / "calibration.csv")
    assert len(offsets) == document["offsets"] > 0
    assert all(abs(o.offset) <= 5 and o.sd > 0 and o.rows > 0 for o in offsets.values())
    assert {item["what"] for item in document["left_out"]} == {"model", "device", "engine", "family"}


def test_the_same_rows_give_the_same_tables(table, tmp_path):
    for name in ("a", "b"):
        assert run("--truth", str(table), "--out", str(tmp_path / name), "-q").returncode == 0
    for file in ("calibration.csv", "intervals.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--truth", "{table}"), "--out"),
        (("--truth", "{table}", "--measured", "tpot=9ms", "--out", "{folder}"), "tables of measured rows alone"),
        (("--truth", "{folder}/none.csv", "--out", "{folder}/fit"), "none.csv"),
        (("--truth", "{table}", "--out", "{folder}/not/there"), "no such folder"),
        (("--truth", "{table}", "--out", "{table}"), "two tables"),
    ],
)
def test_wrong_requests_are_one_sentence(table, tmp_path, words, said):
    done = run(*(word.format(table=table, folder=tmp_path) for word in words))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_table_is_replaced_whole_and_said_so(table, tmp_path):
    (tmp_path / "calibration.csv").write_text("of an earlier fit", encoding="utf-8")
    done = run("--truth", str(table), "--out", str(tmp_path))

    assert done.returncode == 0
    assert f"Wrote {tmp_path / 'calibration.csv'}" in done.stderr
    assert read_offsets(tmp_path / "calibration.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calibration.csv", "intervals.csv"]


@pytest.mark.parametrize(
    "text",
    ["", "scope,operator\na,b\n", "\0", "scope,operator,quantity,offset,sd,rows,source,date\na,b,c,nan,1,1,s,d\n"],
)
def test_a_table_that_is_none_is_refused_with_its_place(tmp_path, text):
    path = tmp_path / "c.csv"
    path.write_text(text, encoding="utf-8")
    if "," not in text:
        assert read_offsets(path) == {}
    else:
        with pytest.raises(DocumentError, match=r"calibration row|no number"):
            read_offsets(path)
    with pytest.raises(DocumentError, match="no such file"):
        read_offsets(tmp_path / "none.csv")
