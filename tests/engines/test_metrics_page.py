"""The metrics page: what is written is read, garbage is a sentence, and differences are differences."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytebound.engines.metrics_page import (
    MAX_PAGE,
    Page,
    cache_settings,
    canonical,
    differences,
    gauge_names,
    gauges,
    parse_page,
)  # fmt: skip
from bytebound.errors import DocumentError

VLLM = """# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="a \\"b\\\\ } # {c\\n"} 100.0
vllm:prompt_tokens_total{engine="1",model_name="x"} 1e2
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} 2
vllm:num_requests_running{engine="1"} 1
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0"} 0.5
vllm:kv_cache_usage_perc{engine="1"} 0.25
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{le="0.1"} 3
vllm:time_to_first_token_seconds_bucket{le="+Inf"} 4
vllm:time_to_first_token_seconds_sum 0.8
vllm:time_to_first_token_seconds_count 4
# TYPE vllm:prompt_tokens_created gauge
vllm:prompt_tokens_created 1.7e9
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 12
vllm:cache_config_info{block_size="128",cache_dtype="auto",num_gpu_blocks="364",num_cpu_blocks="None"} 1
something_else NaN 1700000000000
with_exemplar_total{a="b"} 5 # {trace="x"} 1.0 3.0
# EOF
"""
NAMES = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,12}", fullmatch=True)
LABELS = st.dictionaries(
    st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,6}", fullmatch=True),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=12),
    max_size=3,
)
VALUES = st.floats(allow_nan=False)
ESCAPES = {ord(letter): "\\" + code for letter, code in (("\\", "\\"), ('"', '"'), ("\n", "n"))}


def test_a_page_of_everything():
    page = parse_page(VLLM)

    assert page.values("vllm:prompt_tokens_total") == [100.0, 100.0]
    assert ("model_name", 'a "b\\ } # {c\n') in [label for _, labels in page.samples for label in labels]
    assert math.isnan(page.values("something_else")[0])
    assert page.values("with_exemplar_total") == [5.0]
    assert page.kind("vllm:time_to_first_token_seconds_sum") == "histogram"
    assert cache_settings(page) == {"kv_blocks": 364.0, "kv_block_tokens": 128.0, "kv_dtype": "auto"}


@given(
    st.dictionaries(st.tuples(NAMES, LABELS.map(lambda d: tuple(sorted(d.items())))), VALUES, max_size=6), st.booleans()
)
def test_what_is_written_is_read(samples, comma):
    """An independent writer with the format's escapes."""

    def written(name, labels, value):
        quoted = [f'{key}="{text.translate(ESCAPES)}"' for key, text in labels]
        inside = ",".join(quoted) + ("," if comma and quoted else "")
        return f"{name}{{{inside}}} {value!r}" if quoted else f"{name} {value!r}"

    text = "\n".join(written(name, labels, value) for (name, labels), value in samples.items())

    assert parse_page(text + "\n").samples == samples


@given(st.text(max_size=200) | st.lists(st.sampled_from(list('a{}=",\\# \n1.e_+-')), max_size=60).map("".join))
def test_garbage_is_read_or_refused_in_a_sentence(text):
    try:
        page = parse_page(text)
    except DocumentError as error:
        assert str(error).startswith("metrics page: line ")
    else:
        assert all(isinstance(value, float) for value in page.samples.values())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a 1\na 2\n", "line 2: a is given twice"),
        ("a one\n", "line 1: a: not a number: 'one'"),
        ("a 1_000\n", "not a number"),
        ("<html>\n", "not a sample: '<html>'"),
        ('a{b="c} 1\n', "not a sample"),
        ('a{b="c" d="e"} 1\n', "labels cannot be read"),
        ('a{b="c",b="d"} 1\n', "labels cannot be read"),
        ("x" * (MAX_PAGE + 1), "longer than"),
        ("\n".join(f"a{n} 1" for n in range(50_001)), "more than 50000 samples"),
    ],
)
def test_refusals(text, words):
    with pytest.raises(DocumentError) as caught:
        parse_page(text)

    assert words in str(caught.value)


@pytest.mark.parametrize(
    "evil", ['a{b="' + "\\" * 100_001, "a" + "{" * 200_000, 'a{b="' + 'x"' * 100_000, " " * 200_000 + "x"]
)
def test_long_lines_cost_their_length(evil):
    """No pattern here goes back over a line again and again."""
    with pytest.raises(DocumentError):
        parse_page(evil)


def test_only_some_names():
    assert {name for name, _ in parse_page(VLLM, only=["vllm:num_requests_running"]).samples} == {
        "vllm:num_requests_running"
    }


def test_differences():
    """200 prompt tokens before, 500 after; four first tokens in 0.8 s, then two more in 0.6 s: 0.3 s each."""
    more = (
        VLLM.replace("100.0", "400")
        .replace("seconds_sum 0.8", "seconds_sum 1.4")
        .replace("seconds_count 4", "seconds_count 6")
    )
    rises, fell = differences(parse_page(VLLM), parse_page(more))

    assert fell == []
    assert rises["vllm:prompt_tokens_total"] == 300
    assert rises["vllm:time_to_first_token_seconds.mean"] == pytest.approx(0.3)
    assert not [name for name in rises if name.startswith("process_") or name.endswith(("_created", "_bucket"))]
    assert canonical(rises)["server.prompt_tokens"] == 300
    assert canonical(rises)["server.ttft_s.mean"] == pytest.approx(0.3)


def test_a_counter_that_fell_is_left_out_and_named():
    before, after = parse_page(VLLM), parse_page(VLLM.replace("100.0", "3"))

    rises, fell = differences(before, after)

    assert fell == ["vllm:prompt_tokens_total"]
    assert "vllm:prompt_tokens_total" not in rises


def test_a_counter_that_is_new_counts_from_nothing():
    rises, _ = differences(Page({}, {}), parse_page(VLLM))

    assert rises["vllm:prompt_tokens_total"] == 200


def test_gauges_over_readings():
    """Requests of both engines are added up; shares of memory are averaged."""
    page, later = parse_page(VLLM), parse_page(VLLM.replace('running{engine="0"} 2', 'running{engine="0"} 6'))
    seen = gauges([page, later], gauge_names(page))

    assert seen["vllm:num_requests_running.max"] == 7
    assert seen["vllm:num_requests_running.mean"] == 5
    assert seen["vllm:kv_cache_usage_perc.max"] == 0.375
    assert canonical(seen)["server.running.max"] == 7
