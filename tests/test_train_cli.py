"""``bytebound train``: streams, exit codes, documents, the page, and what it says to a wrong request."""

from __future__ import annotations

import json
import re
from dataclasses import fields

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bytebound import cli
from bytebound.cli.training import TrainAsked
from bytebound.documents.training import TrainEstimate
from bytebound.documents.values import from_json
from bytebound.documents.work import FRAMEWORKS, OPTIMIZERS, PRECISIONS, SCHEDULES, Train

JOB = ("train", "llama-3.1-8b", "--on", "8x h100-sxm", "--seq", "4096")
SHORT = ("train", "llama-3.1-70b", "--on", "2x h100-sxm")


def run(capsys, *arguments):
    code = cli.run(list(arguments))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_flags_are_the_fields_of_a_request():
    """Every field of Train but the audit's growth is a flag with the same default; only dp and global_batch may stay open."""
    asked = {f.name: f.default for f in fields(TrainAsked)}
    request = {f.name: f.default for f in fields(Train) if f.name != "model_scale"}

    assert asked.keys() == request.keys()
    assert {name for name in asked if asked[name] != request[name]} == {"dp", "global_batch"}


def test_text_names_verdict_memory_time_and_cost(capsys):
    code, out, err = run(capsys, *JOB, "--tokens", "1e12")

    assert (code, err) == (0, "")
    for word in (
        "verdict",
        "memory",
        "optimizer",
        "activations",
        "MFU",
        "HFU",
        "causal",
        "billion tokens",
        "days",
        "+1 % of",
        "usable",
        "next",
    ):
        assert word in out
    assert max(map(len, out.splitlines())) <= 110


def test_json_is_the_document_of_the_contract(capsys):
    code, out, err = run(capsys, *JOB, "--json")
    found = json.loads(out)

    assert (code, err) == (0, "")
    assert found["schema"] == "bytebound.train/1"
    assert {
        "step_s",
        "tokens_per_s_per_device",
        "mfu",
        "memory",
        "verdict",
        "elasticity",
        "usd_per_btok",
    } <= found.keys()
    assert {
        "parameters", "gradients", "optimizer", "activations", "temporary", "reserve", "total_bytes", "usable_bytes", "fits",
    } <= found["memory"].keys()  # fmt: skip
    assert from_json(TrainEstimate, out).memory.fits is True
    assert found["work"]["dp"] == 8


def test_explain_shows_sources_and_the_whole_request(capsys):
    _, out, _ = run(capsys, *JOB, "--explain")

    assert "how each number is known" in out
    assert "optimizer_kernel" in out
    assert "H100 datasheet" in " ".join(out.split())


@pytest.mark.parametrize(
    ("fail_on", "job", "code"), [("never", SHORT, 0), ("does-not-fit", SHORT, 1), ("does-not-fit", JOB, 0)]
)
def test_fail_on_decides_exit_code_one(capsys, fail_on, job, code):
    found, out, err = run(capsys, *job, "--fail-on", fail_on)

    assert found == code
    assert out
    assert err == ""


def test_a_search_shows_what_to_ask_next_and_that_fits(capsys):
    """The command that the search proposes is a command, and its answer fits."""
    code, out, _ = run(capsys, "train", "llama-3.1-8b", "--on", "2x a100-80gb-sxm", "--seq", "8192", "--fit", "--json")
    change = json.loads(out)["fitting"]["changes"][0]
    flags = [word for name, value in change["flags"].items() for word in (f"--{name.replace('_', '-')}", str(value))]
    again, shown, err = run(
        capsys,
        "train",
        "llama-3.1-8b",
        "--on",
        "2x a100-80gb-sxm",
        "--seq",
        "8192",
        "--fail-on",
        "does-not-fit",
        *flags,
    )

    assert (code, again, err) == (0, 0, "")
    assert "verdict  capacity" not in shown


def test_the_page_is_whole_and_asks_for_nothing(capsys, tmp_path):
    page = tmp_path / "train.html"
    code, _, err = run(capsys, *SHORT, "--fit", "--html", str(page))
    text = page.read_text(encoding="utf-8")
    body = text[text.index("<body") :]

    assert code == 0
    assert f"Wrote {page}" in err
    assert "Does not fit" in body
    assert "What fits, and what to change" in body
    assert not re.search(
        r"""(src|href)=["']?(https?:)?//(?!arxiv)""", re.sub(r'<a href="https://[^"]+" rel="noreferrer">', "", body)
    )
    assert "default-src &#39;none&#39;" in text


def test_quiet_says_nothing_but_the_result(capsys, tmp_path):
    _, out, err = run(capsys, *JOB, "--html", str(tmp_path / "t.html"), "-q")

    assert err == ""
    assert "verdict" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--optimizer", "adamW8bit"), ["unknown optimizer", "adamw-8bit", "--optimizer"]),
        (("--precision", "bf17"), ["unknown precision", "bf16", "--precision"]),
        (("--offload", "disk"), ["unknown offload", "--offload"]),
        (("--framework", "megatronn"), ["nearest: megatron", "--framework"]),
        (("--tp", "3"), ["product divides 8"]),
        (("--tp", "16"), ["16", "8x h100-sxm has 8 devices", "--tp, --pp, --dp, --cp"]),
        (("--dp", "3"), ["set dp to 8"]),
        (("--pp", "64", "--dp", "1"), ["64"]),
        (("--ep", "4"), ["no experts", "--ep"]),
        (("--micro-batch", "0"), ["micro_batch is 0", "--micro-batch"]),
        (("--virtual-stages", "-1"), ["virtual_stages is -1", "--virtual-stages"]),
        (("--lora-rank", "99999999999999999999"), ["lora_rank is 1e+20", "--lora-rank"]),
        (("--tokens", "nan"), ["tokens must be finite", "--tokens"]),
        (("--recompute-layers", "2"), ["recompute_layers is 2", "--recompute-layers"]),
        (("--global-batch", "12"), ["no multiple of micro_batch", "--global-batch"]),
        (("--fit", "--sure", "2"), ["sure is 2", "--sure"]),
        (("--html", "/no/such/folder/t.html"), ["no such folder"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_a_wrong_request_exits_two_with_place_and_mend(capsys, arguments, said):
    code, out, err = run(capsys, *JOB, *arguments)

    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 3
    for words in said:
        assert words in err


@pytest.mark.parametrize(
    ("model", "machine", "extra", "said"),
    [
        ("llama-3.1-8c", "8x h100-sxm", (), "llama-3.1-8b"),
        ("llama-3.1-8b", "8x h100", (), "h100-sxm"),
        ("llama-3.1-70b", "8x(8x h100-sxm)", ("--tp", "6", "--dp", "1"), "divides 64"),
        ("Qwen/Qwen2.5-7B-Instruct", "8x h100-sxm", ("--tp", "8"), "28 attention heads"),
        ("llama-3.1-8b", "64x h100-sxm", ("--pp", "64", "--dp", "1"), "32 layers"),
        ("Qwen/Qwen3-30B-A3B", "6x h100-sxm", ("--ep", "6"), "128 experts"),
    ],
)  # fmt: skip
def test_unknown_names_and_splits_that_cannot_be(capsys, model, machine, extra, said):
    code, out, err = run(capsys, "train", model, "--on", machine, *extra)

    assert code == 2
    assert out == ""
    assert said.lower() in err.lower()


def test_the_schema_is_published(capsys):
    code, out, _ = run(capsys, "schema", "train")

    assert code == 0
    assert "fitting" in json.loads(out)["properties"]


DEGREE = st.sampled_from(["1", "2", "3", "8", "0", "-1", "1e9", "nan", "999999999999999999999", ""])
VALUES = {
    **dict.fromkeys(("tp", "pp", "dp", "cp", "ep", "expert-tp", "virtual-stages", "micro-batch", "lora-rank"), DEGREE),
    "seq": st.sampled_from(["1", "4096", "131072", "0", "inf", "10000000000"]),
    "global-batch": st.sampled_from(["8", "512", "7", "0"]),
    "tokens": st.sampled_from(["1e12", "-1", "nan"]),
    "recompute-layers": st.sampled_from(["0", "0.5", "2", "nan"]),
    "zero": st.sampled_from(["0", "1", "2", "3", "4"]),
    "recompute": st.sampled_from(["none", "full", "all"]),
    "attention": st.sampled_from(["flash", "eager"]),
    "trainable": st.sampled_from(["full", "lora", "qlora"]),
    "offload": st.sampled_from(["none", "optimizer", "parameters", "parameters-nvme"]),
    "optimizer": st.sampled_from(OPTIMIZERS),
    "precision": st.sampled_from(PRECISIONS),
    "framework": st.sampled_from(FRAMEWORKS),
    "schedule": st.sampled_from(SCHEDULES),
}  # fmt: skip
MODELS = (
    "llama-3.1-8b",
    "Qwen/Qwen3-30B-A3B",
    "google-bert/bert-base-uncased",
    "openai/whisper-small",
    "state-spaces/mamba-130m-hf",
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    model=st.sampled_from(MODELS),
    machine=st.sampled_from(["8x h100-sxm", "t4", "m2-max", "tpu-v5p", "tesla-p40"]),
    flags=st.dictionaries(st.sampled_from(sorted(VALUES)), st.none(), max_size=5).flatmap(
        lambda names: st.fixed_dictionaries({name: VALUES[name] for name in names})
    ),
)
def test_any_flags_give_an_answer_or_one_sentence(capsys, model, machine, flags):
    """No flags, however absurd, end in a traceback, a NaN in the text, or a result beside an error."""
    code, out, err = run(
        capsys, "train", model, "--on", machine, *(f"--{name}={value}" for name, value in flags.items())
    )

    assert code in {0, 2}
    assert "bug of ours" not in err
    assert "nan" not in out.lower().replace("tinyllama", "")
    assert (code == 2) == err.startswith("error: ")
    assert code == 0 or (out == "" and len(err.splitlines()) <= 3)
