"""The verb ``validate`` as people run it: tables in, figures out, exit codes, files; the comparison itself is fabricated."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest

sys.path.insert(0, str(Path(__file__).parent / "report"))

import validated

from bytebound import cli
from bytebound.documents.truth import Truth
from bytebound.documents.validation import KEYS, Validation
from bytebound.documents.values import json_schema
from bytebound.documents.work import Serve
from bytebound.truth.table import write_truth
from bytebound.validate.baseline import read_baseline

ROW = Truth(
    id="made-1", source="made up for a test", locator="nowhere", device="h100-sxm", engine="vllm", metric="tpot_s", value=0.02,
    model="meta-llama/Llama-3.1-8B", regime="closed-loop", work=Serve(batch=8, prompt=1024, output=128, weights="bf16"),
)  # fmt: skip


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """Comparison is fabricated; what it was asked is kept."""
    kept = {}

    def compare(rows, unexpressed, **options):
        kept.update(options, rows=rows, unexpressed=unexpressed)
        return validated.validation(120, protocol=options["protocol"])

    module = ModuleType("bytebound.validate.run")
    module.validate = compare
    monkeypatch.setitem(sys.modules, "bytebound.validate.run", module)
    monkeypatch.setattr("bytebound.truth.shipped_truth", lambda: (ROW,))
    return kept


@pytest.fixture
def table(tmp_path):
    """A table of ours with two rows."""
    path = tmp_path / "mine.csv"
    write_truth((ROW, replace(ROW, id="made-2", metric="ttft_s", value=0.3)), path)
    return path


def test_without_a_table_the_shipped_rows_are_taken(asked, capsys):
    """Offline, every group, the twenty worst; progress on the other stream."""
    assert cli.run(["validate"]) == 0
    out, said = capsys.readouterr()

    assert asked["rows"] == (ROW,)
    assert (asked["protocol"], asked["by"], asked["worst"]) == ("fit", KEYS, 20)
    assert "truth     the shipped table" in out
    assert "weak spots" in out
    assert "predicting 1 rows, fit" in said
    assert "\x1b" not in out


def test_the_document_fits_its_schema(asked, table, capsys):
    """JSON on standard output, with what was asked for in it, and nothing else."""
    arguments = ["--truth", str(table), "--protocol", "leave-one-model-out", "--by", "device, model", "--worst", "3", "--json", "-q"]  # fmt: skip
    assert cli.run(["validate", *arguments]) == 0
    out, said = capsys.readouterr()
    document = json.loads(out)

    jsonschema.validate(document, json_schema(Validation))
    assert [row.id for row in asked["rows"]] == ["made-1", "made-2"]
    assert (asked["by"], asked["worst"]) == (("device", "model"), 3)
    assert (document["protocol"], document["truth"]) == ("leave-one-model-out", ["mine.csv"])
    assert said == ""


def test_pages_are_written_whole(table, tmp_path, capsys):
    """The page and the documentation, and where they are; no path of this machine is in either."""
    html, markdown = tmp_path / "accuracy.html", tmp_path / "accuracy.md"
    assert cli.run(["validate", "--truth", str(table), "--html", str(html), "--markdown", str(markdown)]) == 0

    assert html.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert markdown.read_text(encoding="utf-8").startswith("# How wrong is bytebound?")
    assert f"Wrote {markdown}" in capsys.readouterr().err
    for path in (html, markdown):
        assert str(tmp_path) not in path.read_text(encoding="utf-8")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["accuracy.html", "accuracy.md", "mine.csv"]


def test_committed_figures_decide_the_exit_code(tmp_path, capsys):
    """The same figures pass; with an error halved in the committed ones, ``--fail-on worse`` is 1 and says which group."""
    path = tmp_path / "baseline.json"
    assert cli.run(["validate", "-q", "--save-baseline", str(path)]) == 0
    assert cli.run(["validate", "-q", "--baseline", str(path), "--fail-on", "worse"]) == 0
    groups = read_baseline(path).groups
    document = json.loads(path.read_text(encoding="utf-8"))
    for group in document["groups"]:
        if (group["by"], group["name"]) == ("device", "h200"):
            group["median_error"] = group["noise_high"] = group["median_error"] / 2
    path.write_text(json.dumps(document), encoding="utf-8")
    capsys.readouterr()

    assert cli.run(["validate", "--baseline", str(path), "--json"]) == 0
    worse = json.loads(capsys.readouterr().out)["regressions"]
    assert {(r["by"], r["name"]) for r in worse} == {("device", "h200")}
    assert len(worse) == sum((g.by, g.name) == ("device", "h200") for g in groups)
    assert cli.run(["validate", "--baseline", str(path), "--fail-on", "worse"]) == 1
    out, said = capsys.readouterr()
    assert "exit 1:" in said
    assert "device h200" in said
    assert "worse than committed" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--by", "devise"), "unknown group 'devise'; nearest: device"),
        (("--by", ","), "no group is named"),
        (("--worst", "-1"), "-1 rows are outside 0 … 1000\n  at    --worst"),
        (("--fail-on", "worse"), "--fail-on worse compares with committed figures"),
        (("--protocol", "random"), "--protocol"),
        (("--truth", "none.csv"), "no such file\n  at    none.csv"),
        (("--baseline", "none.json"), "no such file\n  at    none.json"),
        (("--html", "no/such/page.html"), "no such folder"),
        (("--markdown", "no/such/page.md"), "no such folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_requests(arguments, words, capsys, monkeypatch, tmp_path):
    """One sentence, the place and the mend, exit code 2, and no comparison was begun."""
    monkeypatch.chdir(tmp_path)
    assert cli.run(["validate", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_wrong_row_is_refused_with_its_line(table, capsys):
    """A table of ours is read strictly."""
    table.write_text(table.read_text(encoding="utf-8").replace(",ttft_s,", ",ttft,"), encoding="utf-8")
    assert cli.run(["validate", "--truth", str(table)]) == 2
    assert f"{table}:3" in capsys.readouterr().err


def test_one_id_in_two_tables_is_refused(table, tmp_path, capsys):
    """The same row twice would count twice."""
    other = tmp_path / "other.csv"
    write_truth((ROW,), other)
    assert cli.run(["validate", "--truth", str(table), "--truth", str(other)]) == 2
    assert "row 'made-1' is also in mine.csv" in capsys.readouterr().err


def test_a_file_of_neither_layout_is_refused(tmp_path, capsys):
    path = tmp_path / "prices.csv"
    path.write_text("device,price\nh100,2\n", encoding="utf-8")
    assert cli.run(["validate", "--truth", str(path)]) == 2
    assert "the column 'id' is missing" in capsys.readouterr().err


def test_a_table_without_rows_is_refused(table, capsys):
    table.write_text(table.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    assert cli.run(["validate", "--truth", str(table)]) == 2
    assert "no row can be expressed" in capsys.readouterr().err


def test_ctrl_c_leaves_no_file(tmp_path, monkeypatch, capsys):
    """Interrupted while comparing: exit code 130, and no half-written page."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["bytebound.validate.run"], "validate", interrupted)
    assert cli.run(["validate", "--html", str(tmp_path / "page.html")]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []  # noqa: PTH208


@pytest.mark.parametrize("name", ["validation", "baseline"])
def test_its_documents_have_schemas(name, capsys):
    assert cli.run(["schema", name]) == 0
    assert "properties" in json.loads(capsys.readouterr().out)


def test_help_has_examples(capsys):
    assert cli.run(["validate", "--help"]) == 0
    out = capsys.readouterr().out
    assert "bytebound validate --truth mine.csv" in out
    assert "Examples:" in out
