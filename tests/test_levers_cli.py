"""``bytebound levers``: lists, explains and ranks; whatever is typed, one clear sentence."""

from __future__ import annotations

import json

import pytest

from bytebound.cli import run

H100 = ["levers", "llama-3.1-8b", "--on", "h100-sxm"]


def test_the_list_shows_every_card_of_a_group(capsys):
    assert run(["levers", "--group", "offload"]) == 0
    out = capsys.readouterr().out

    assert "weight-offload" in out
    assert "fp8-kv" not in out


def test_one_card_is_explained_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")
    assert run(["levers", "fp8-kv"]) == 0
    out = " ".join(capsys.readouterr().out.split())

    for word in (
        "formula",
        "Preconditions",
        "Pitfalls",
        "--kv-cache-dtype fp8",
        "Published effects",
        "83 5",
        "conflicts",
    ):
        assert word in out


def test_a_ranking_as_a_document(capsys):
    assert run([*H100, "--batch", "32", "--prompt", "4000", "--with", "fp8-weights,fp8-kv", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)

    assert found["schema"] == "bytebound.lever-ranking/1"
    assert found["effects"][0]["levers"] == ["fp8-weights", "fp8-kv"]
    assert found["effects"][0]["speed"]["value"] > 1.1
    assert found["effects"][-1]["outcome"] == "refused"
    assert found["work"]["batch"] == 32


def test_cards_as_a_document(capsys):
    assert run(["levers", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)

    assert found["schema"] == "bytebound.levers/1"
    assert len(found["cards"]) >= 60


def test_a_page_holds_every_lever(tmp_path, capsys):
    page = tmp_path / "levers.html"

    assert run([*H100, "--html", str(page), "-q"]) == 0
    text = page.read_text(encoding="utf-8")
    assert "fp8-weights" in text
    assert "two-four-sparsity" in text
    assert 'src="http' not in text
    assert "helps" in capsys.readouterr().out


def test_a_set_that_cannot_be_is_an_answer_of_no(capsys):
    assert run([*H100, "--with", "int4-weights,fp8-weights"]) == 1
    err = capsys.readouterr().err

    assert "do not combine" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["levers", "fp9-kv"], "fp8-kv"),
        (["levers", "lamma-3.1-8b"], "unknown lever or model"),
        (["levers", "../../etc/passwd"], "unknown lever or model"),
        (["levers", "llama-3.1-8b"], "needs a machine"),
        (["levers", "fp8-kv", "--on", "l4"], "is a lever"),
        (["levers", "--on", "l4"], "name the model"),
        (["levers", "nope", "--on", "l4"], "unknown lever or model"),
        (["levers", "--group", "nix"], "unknown group"),
        (["levers", "--with", "fp8-kv"], "needs a model and a machine"),
        ([*H100, "--with", "nope"], "unknown lever 'nope'"),
        ([*H100, "--with", ";rm -rf /"], "unknown lever"),
        ([*H100, "--for", "ttft<"], "cannot read"),
        ([*H100, "--for", "speed<1s"], "unknown objective"),
        ([*H100, "--sort", "luck"], "luck"),
        ([*H100, "--shared-prefix", "2"], "outside 0"),
        ([*H100, "--shared-prefix", "nan"], "outside 0"),
        ([*H100, "--batch", "0"], "batch"),
        ([*H100, "--tp", "4"], "1 device"),
        ([*H100, "--most-batch", "-3"], "most_batch"),
        ([*H100, "--engine", "vlllm"], "vllm"),
        (["levers", "llama-3.1-8b", "--on", "h9000"], "unknown device"),
        ([*H100, "--html", "/nowhere/x.html"], "no such folder"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_hostile_words_get_one_sentence_and_exit_2(words, said, capsys):
    assert run(words) == 2
    err = capsys.readouterr().err

    assert said in err
    assert err.startswith("error: ")
    assert "Traceback" not in err
