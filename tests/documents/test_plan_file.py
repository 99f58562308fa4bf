"""The plan file: what is written is what is asked, every problem has its line, and no text can make it fail otherwise."""

import json
import math
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytebound.documents.plan_file import PlanFile, parse_plan, read_plan_file
from bytebound.documents.values import json_schema
from bytebound.errors import DocumentError

WHOLE = """
schema = "bytebound.plan-request/1"
sure = "90%"
budget = "$20000"
quality = "lossless"
minimize = "energy"
max_devices = 16

[[models]]
name = "llama-3.1-8b"
demand = "300/min"
prompt = 1500
output = 300
objective = { ttft = "1s", tpot = "50ms" }
shared_prefix = 0.3

[[models]]
name = "qwen3-32b"
demand = "2/s"

[models.objective]
request = "20s"

[search]
devices = ["l4", "h100-sxm"]
tp = [1, 2, 4]
weights = "auto,fp8"
batch = "1:512"
draft = 3
host_weights = "0:1:0.25"
disaggregated = "no"
"""


def test_a_file_is_the_request_it_says(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(WHOLE)

    asked = read_plan_file(path)

    assert [model.model for model in asked.models] == ["llama-3.1-8b", "qwen3-32b"]
    assert [model.demand_per_s for model in asked.models] == [5.0, 2.0]
    assert [model.objective for model in asked.models] == [{"ttft": 1.0, "tpot": 0.05}, {"request": 20.0}]
    assert (asked.models[0].prompt, asked.models[0].output, asked.models[0].shared_prefix) == (1500, 300, 0.3)
    assert (asked.sure, asked.usd_per_month, asked.quality, asked.minimize, asked.max_devices) == (
        0.9,
        2e4,
        "lossless",
        "energy",
        16,
    )
    assert asked.devices == ("l4", "h100-sxm")
    assert asked.ranges == {
        "tp": (1, 2, 4), "weights": ("auto", "fp8"), "batch": "1:512", "draft_tokens": (3,), "host_weights": "0:1:0.25",
        "disaggregated": "no",
    }  # fmt: skip


def test_a_pool_is_written_as_the_command_line_takes_it():
    text = '[[models]]\nname = "a"\ndemand = "1/s"\n[pool]\ndevices = { "h100-sxm" = 64, l40s = 32 }'

    assert parse_plan(text).pool == "64x h100-sxm, 32x l40s"


def test_every_problem_of_a_file_is_told_at_once_with_its_line():
    text = """sure = 2
[[models]]
name = "a"
demand = "5 parsecs"
promt = 3
[[models]]
name = "b"
demand = "1/s"
objective = { tpot = "-5ms" }
[search]
tp = "1..8"
batch = [0.5, -1]
weights = [1]
disaggregated = "perhaps"
"""
    with pytest.raises(DocumentError) as caught:
        parse_plan(text, place="p.toml")

    message = caught.value.message
    assert [int(line.split(":")[1]) for line in message.splitlines()] == [1, 4, 5, 9, 11, 12, 13, 14]
    assert "nearest: prompt" in message
    assert "models[1].objective.tpot" in message
    assert message.count("p.toml:") == 8


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "models"),
        ("[[models]]\n", "name"),
        ('[[models]]\nname = "a"\ndemand = "0/s"', "greater than 0"),
        ('[[models]]\nname = "a"\ndemand = "1/s"\nshared_prefix = 0.7\nreused_context = 0.7', "whole prompt"),
        ('[[models]]\nname = "a"\ndemand = "1/s"\n[pool]\ndevices = {l4 = 1}\n[search]\ndevices = "l4"', "pool alone"),
        ('[[models]]\nname = "a"\ndemand = "1/s"\n[search]\ntp = []', "0 values"),
        ('[[models]]\nname = "a"\ndemand = "1/s"\n[search]\ntp = [true]', "not a number"),
        ('[[models]]\nname = "a"\ndemand = 1e400', "demand"),
        ('schema = "bytebound.plan-request/9"\n[[models]]\nname = "a"\ndemand = 1', "schema"),
        ("a = " + "[" * 5000, "nested"),
        ("a = " + "9" * 5000, "not TOML"),
        ("[[models", "not TOML"),
    ],
)
def test_what_is_wrong_is_one_sentence(text, word):
    with pytest.raises(DocumentError, match=word):
        parse_plan(text)


def test_a_file_that_is_missing_too_large_or_no_text_is_refused(tmp_path):
    with pytest.raises(DocumentError, match="no such file"):
        read_plan_file(tmp_path / "none.toml")
    (tmp_path / "large.toml").write_text("#" * (1 << 21))
    with pytest.raises(DocumentError, match="larger"):
        read_plan_file(tmp_path / "large.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DocumentError, match="cannot be read"):
        read_plan_file(tmp_path / "binary.toml")


keys = st.sampled_from(
    [
        "models",
        "search",
        "pool",
        "sure",
        "budget",
        "schema",
        "name",
        "demand",
        "objective",
        "tp",
        "weights",
        "batch",
        "x",
    ]
)
leaves = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8),
    st.sampled_from(["5/s", "50ms", "1:8", "1,2", "auto,fp8", "$5"]),
)  # fmt: skip
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)


def toml(value):
    """Write a value as TOML, independently of what reads it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else f"{value}"
    return json.dumps(value, ensure_ascii=False)


@given(st.dictionaries(keys, values, max_size=5))
@settings(max_examples=300, deadline=None)
def test_no_file_fails_in_any_other_way(data):
    text = "\n".join(f"{key} = {toml(value)}" for key, value in data.items())
    try:
        tomllib.loads(text)
    except ValueError:
        return
    try:
        asked = parse_plan(text)
    except DocumentError as error:
        assert error.message
        assert all(line.startswith("plan:") for line in error.message.splitlines())
    else:
        assert asked.models


@given(st.text(max_size=60))
def test_no_text_fails_in_any_other_way(text):
    try:
        parse_plan(text)
    except DocumentError as error:
        assert str(error)


def test_the_schema_names_every_key():
    schema = json_schema(PlanFile)

    assert set(schema["properties"]) == {field.rstrip("_") for field in PlanFile.model_fields}
    assert schema["required"] == ["models"]
    assert "draft" in schema["$defs"]["Search"]["properties"]
