"""``bytebound plan``: streams, exit codes and the document, from the command line."""

from __future__ import annotations

import json

import pytest

from bytebound import cli
from bytebound.documents.plan import Plan
from bytebound.documents.values import from_json, to_json

ASKED = [
    "plan", "llama-3.1-8b", "--demand", "5/s", "--prompt", "1500", "--output", "300", "--devices", "l4,h100-sxm",
    "--batch", "4,16,64", "--tp", "1,2", "--pp", "1", "--chunk", "0", "--quiet",
]  # fmt: skip


def test_the_document_reads_back_and_carries_what_starts_the_best(capsys):
    assert cli.run([*ASKED, "--for", "ttft<1s,tpot<50ms", "--json"]) == 0
    text = capsys.readouterr().out
    document = json.loads(text)
    assert document["schema"] == "bytebound.plan/1"
    assert document["best"] == document["front"][0]
    assert document["models"][0]["objective"] == {"ttft": 1.0, "tpot": 0.05, "request": None}
    assert document["searched"]["ranges"]["batch"] == [4, 16, 64]
    vllm = next(command for command in document["best"]["commands"] if command["engine"] == "vllm")
    assert f"--max-num-seqs {document['best']['work']['batch']}" in vllm["text"]
    assert json.loads(to_json(from_json(Plan, text))) == document


def test_a_plan_in_words_names_the_best_and_what_was_searched(capsys):
    assert cli.run([*ASKED, "--for", "tpot<50ms"]) == 0
    said = capsys.readouterr()
    assert "Rent" in said.out
    assert "vllm serve" in said.out
    assert said.err == ""


def test_what_nobody_meets_exits_with_one(capsys):
    impossible = [*ASKED, "--for", "tpot<0.1ms"]
    assert cli.run([*impossible, "--json"]) == 1
    why = json.loads(capsys.readouterr().out)["infeasible_because"]
    assert why["limit"] == "tpot"
    assert why["nearest"]["machine"]
    assert cli.run([*impossible, "--fail-on", "never"]) == 0
    assert cli.run([*ASKED, "--for", "tpot<50ms", "--budget", "$10/month"]) == 1


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        (["--for", "tpot<fast"], "fast"), (["--demand", "5/s,3/s"], "2 values for 1 model"), (["--budget", "-3"], "budget"),
        (["--batch", "1:1000000000:1", "--chunk", "1:1000000:1"], "most to be made"), (["--pool", "9x l4"], "both named"),
        (["--sure", "2"], "sure"), (["--weights", "fp7"], "fp7"), (["--disaggregated", "perhaps"], "perhaps"),
        (["--file", "nowhere.toml"], "name them once"), (["--prompt", "NaN"], "finite"), (["--max-devices", "-1"], "max_devices"),
    ],
)  # fmt: skip
def test_a_wrong_question_exits_with_two_and_one_sentence(changes, word, capsys):
    assert cli.run(["plan", "llama-3.1-8b", "--quiet", "--devices", "l4", *changes]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert word in said.err
    assert said.err.startswith("error: ")


def test_no_model_is_a_wrong_question(capsys):
    assert cli.run(["plan", "--demand", "5/s"]) == 2
    assert "no model is named" in capsys.readouterr().err


def test_the_question_of_a_file_is_that_of_the_command_line(tmp_path, capsys):
    file = tmp_path / "plan.toml"
    file.write_text(
        '[[models]]\nname = "llama-3.1-8b"\ndemand = "5/s"\nprompt = 1500\noutput = 300\nobjective = {tpot = "50ms"}\n'
        '[search]\ndevices = ["l4", "h100-sxm"]\nbatch = [4, 16, 64]\ntp = "1,2"\npp = 1\nchunk = 0\n'
    )
    assert cli.run(["plan", "--file", str(file), "--json", "--quiet"]) == 0
    of_file = json.loads(capsys.readouterr().out)
    assert cli.run([*ASKED, "--for", "tpot<50ms", "--json"]) == 0
    of_line = json.loads(capsys.readouterr().out)
    for document in (of_file, of_line):
        document["searched"].pop("seconds")
    assert of_file == of_line


def test_two_models_each_with_its_demand_share_a_pool(capsys):
    asked = [
        "plan",
        "llama-3.1-8b",
        "qwen3-14b",
        "--demand",
        "5/s,2/s",
        "--for",
        "tpot<50ms;tpot<80ms",
        "--pool",
        "8x h100-sxm",
        "--batch",
        "8,32",
    ]
    assert cli.run([*asked, "--json", "--quiet"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [each["demand_per_s"] for each in document["models"]] == [5.0, 2.0]
    assert [each["objective"]["tpot"] for each in document["models"]] == [0.05, 0.08]
    assert document["devices"] == sum(each["best"]["devices"] for each in document["models"]) <= 8
    assert document["best"] is None
