"""Cards: every lever has one, its function or its reason, its engines as they are kept today, and a conflict in both directions."""

from __future__ import annotations

import re

import pytest

from bytebound.errors import DocumentError, UnknownNameError
from bytebound.facts.levers import (
    CardRow,
    EffectRow,
    EngineRow,
    QualityRow,
    card_rows,
    conflicts_of,
    engine_rows,
    lever_problems,
    quality_rows,
    sentences,
)
from bytebound.facts.tables import parse_row, read_table
from bytebound.plan.cards import CARDS, find_card, find_lever, flag_of
from bytebound.plan.cautions import CAUTIONS
from bytebound.plan.compose import ORDER
from bytebound.plan.levers import ALL_LEVERS, FUNCTIONS, LEVERS

CANONICAL = [
    "fp8-weights",
    "int8-weights",
    "int4-weights",
    "fp8-kv",
    "int8-kv",
    "larger-batch",
    "double-tp",
    "halve-tp",
    "prefix-cache",
    "kv-offload",
    "speculative-decoding",
    "disaggregate",
    "shorter-context",
    "more-devices",
    "roadmap-device",
    "fp8-training",
    "8-bit-optimizer",
    "full-recompute",
    "drop-recompute",
    "shard-states",
    "optimizer-offload",
    "chunked-loss",
    "fused-optimizer",
    "flash-attention",
    "sequence-parallel",
    "context-parallel",
    "smaller-micro-batch",
    "larger-micro-batch",
    "lora",
    "qlora",
    "fp4-weights",
    "q8_0-weights",
    "q4_k-weights",
    "q4_0-weights",
    "bf16-weights",
    "int4-kv",
    "weight-offload",
    "expert-offload",
    "chunked-prefill",
    "paged-kv",
    "continuous-batching",
    "pipeline-parallel",
    "expert-parallel",
    "data-parallel",
    "flash-serving",
    "fused-kernels",
    "cuda-graphs",
    "unstructured-pruning",
    "two-four-sparsity",
    "structured-pruning",
    "kv-eviction",
    "sliding-window",
    "mla-model",
    "dynamic-activations",
    "kv-quant-torch",
]


def test_no_problem_of_the_tables_is_known():
    assert list(lever_problems()) == []


def test_every_canonical_lever_has_a_card_and_every_card_a_function():
    assert set(CANONICAL) <= set(CARDS)
    assert set(FUNCTIONS) == set(CARDS) == set(ALL_LEVERS)
    assert set(CAUTIONS) <= set(CARDS)
    assert {card.group for card in CARDS.values()} == set(ORDER)
    assert {"more-devices", "roadmap-device", "mla-model", "structured-pruning"}.isdisjoint(
        lever.name for lever in LEVERS
    )


@pytest.mark.parametrize("card", CARDS.values(), ids=lambda card: card.name)
def test_a_card_says_what_it_must(card):
    assert card.changes
    assert card.formula
    assert card.source
    assert all(sentence.endswith((".", ").")) for sentence in (*card.preconditions, *card.pitfalls))
    assert card.proof in {"", card.name}
    assert all(each.source and each.flag for each in card.engines)
    assert all(prior.source and prior.before > 0 and prior.after > 0 for prior in card.priors)


@pytest.mark.parametrize(
    ("lever", "engine", "status"),
    [
        ("int4-weights", "autoawq", "deprecated"),
        ("two-four-sparsity", "torchao", "removed"),
        ("two-four-sparsity", "llm-compressor", "removed"),
        ("weight-offload", "flexgen", "deprecated"),
        ("fp8-kv", "vllm", "maintained"),
    ],
)
def test_engines_are_as_they_are_kept(lever, engine, status):
    found = {each.engine: each.status for each in find_card(lever).engines}

    assert found[engine] == status


def test_llama_cpp_flags_are_those_of_today():
    draft = next(each for each in find_card("speculative-decoding").engines if each.engine == "llama.cpp")

    assert "--spec-draft-n-max" in draft.flag
    assert "removed" in draft.note
    assert flag_of("int8-kv", "llama.cpp") == "-ctk q8_0 -ctv q8_0 -fa on"
    assert flag_of("two-four-sparsity", "torchao") == ""


def test_conflicts_hold_in_both_directions():
    for name in CARDS:
        for other in conflicts_of(name):
            assert name in conflicts_of(other)
            assert other != name
    assert "int4-weights" in conflicts_of("fp8-weights")
    assert "kv-eviction" in conflicts_of("prefix-cache")
    assert "fp8-kv" not in conflicts_of("fp8-weights")


def test_priors_differ_by_family_and_size():
    """Rule 21: one number for all models would be wrong by several times."""
    rises = {
        (prior.family, prior.parameters): prior.after / prior.before - 1
        for prior in find_card("int4-weights").priors
        if prior.scheme == "AWQ g128"
    }

    assert rises["Llama-3", 8e9] > 2 * rises["Llama-2", 7e9]
    assert rises["Llama-2", 70e9] < 0.03
    assert len(quality_rows()) >= 50
    assert len(engine_rows()) >= 180


def test_an_unknown_lever_names_the_nearest():
    with pytest.raises(UnknownNameError) as caught:
        find_card("fp9-kv")

    assert "fp8-kv" in caught.value.nearest
    assert caught.value.exit_code == 2
    assert find_card(" FP8-KV ").name == find_lever("fp8-kv").name == "fp8-kv"


@pytest.mark.parametrize(
    ("model", "table", "changes", "said"),
    [
        (CardRow, "levers.csv", {"group": "magic"}, "group"),
        (CardRow, "levers.csv", {"kinds": "serve|dance"}, "kinds are some of"),
        (CardRow, "levers.csv", {"quality": "fine"}, "quality"),
        (CardRow, "levers.csv", {"source": ""}, "source"),
        (EngineRow, "lever_engines.csv", {"status": "loved"}, "status"),
        (EngineRow, "lever_engines.csv", {"flag": ""}, "flag"),
        (QualityRow, "lever_quality.csv", {"before": "nan"}, "before"),
        (QualityRow, "lever_quality.csv", {"parameters_count": "-7e9"}, "parameters_count"),
        (EffectRow, "lever_effects.csv", {"printed": "inf"}, "printed"),
        (EffectRow, "lever_effects.csv", {"tolerance_ratio": "3"}, "tolerance_ratio"),
        (EffectRow, "lever_effects.csv", {"kind": "guess"}, "kind"),
    ],
)
def test_a_wrong_cell_is_refused_at_its_place(model, table, changes, said):
    line, cells = read_table(table)[0]

    with pytest.raises(DocumentError) as caught:
        parse_row(model, {**cells, **changes}, place=f"{table}:{line}")

    assert said in str(caught.value)
    assert f"{table}:{line}" in str(caught.value)


def test_an_unknown_column_names_the_nearest():
    line, cells = read_table("lever_engines.csv")[0]

    with pytest.raises(UnknownNameError, match="flag"):
        parse_row(EngineRow, {**cells, "flags": "-x"}, place=f"lever_engines.csv:{line}")


def test_no_sentence_is_lost_between_bars():
    row = card_rows()["fp8-kv"]

    assert len(sentences(row.pitfalls)) == row.pitfalls.count(" | ") + 1


def test_cards_promise_the_proofs_there_are():
    from bytebound.prove.catalogue import levers

    assert {card.name for card in CARDS.values() if card.proof} == set(levers())


SHORT = {
    "-ctk": "--cache-type-k", "-ctv": "--cache-type-v", "-fa": "--flash-attn", "-np": "--parallel", "-cb": "--cont-batching",
    "-b": "--batch-size", "-ub": "--ubatch-size", "-ngl": "--gpu-layers", "-cram": "--cache-ram", "-md": "--spec-draft-model",
}  # fmt: skip
ELSEWHERE = {"--model", "--block-size", "-O", "--page-size", "--disable-cuda-graph", "-ot", "--prune-layers"}
"""Flags of cards that no command of ours writes: defaults, a file's name, another program."""


def test_flags_are_those_the_commands_write():
    """Two tables, written apart, one of them from the engines' own argument parsers."""
    known = {(cells["engine"], cells["flag"]) for _, cells in read_table("engine_flags.csv")}
    unknown = [
        (row.engine, row.lever, flag)
        for row in engine_rows()
        if row.engine in {"vllm", "sglang", "llama.cpp"} and row.status == "maintained"
        for flag in re.findall(r"(?<![\w-])(--?[a-zA-Z][\w-]*)", row.flag)
        if flag not in ELSEWHERE and (row.engine, SHORT.get(flag, flag)) not in known
    ]

    assert unknown == []
