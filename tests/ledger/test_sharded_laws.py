"""Laws of sharding, on a trace written by hand: a LLaMA of 8 layers with the closed form of its activations."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytebound.documents.trace import Held, Moment, Stack, Trace, TracedTensor
from bytebound.documents.work import Train
from bytebound.errors import RequestError, UnknownNameError
from bytebound.ledger.sharded import shard
from bytebound.ledger.sharded_rules import split_of
from bytebound.ledger.table import COLUMN, REPLICATE, ROW, VOCAB

LAYERS, HIDDEN, HEADS, KV, WIDE, VOCABULARY, SEQ = 8, 256, 8, 4, 704, 1000, 512
HEAD = HIDDEN // HEADS
LAYER = "model.layers.*"
MATRICES = {
    f"{LAYER}.self_attn.q_proj": (HIDDEN, HIDDEN), f"{LAYER}.self_attn.k_proj": (KV * HEAD, HIDDEN),
    f"{LAYER}.self_attn.v_proj": (KV * HEAD, HIDDEN), f"{LAYER}.self_attn.o_proj": (HIDDEN, HIDDEN),
    f"{LAYER}.mlp.gate_proj": (WIDE, HIDDEN), f"{LAYER}.mlp.up_proj": (WIDE, HIDDEN), f"{LAYER}.mlp.down_proj": (HIDDEN, WIDE),
    f"{LAYER}.input_layernorm": (HIDDEN,), f"{LAYER}.post_attention_layernorm": (HIDDEN,),
}  # fmt: skip
KEPT = (
    *((f"{LAYER}.{norm}", shape, width) for norm in ("input_layernorm", "post_attention_layernorm")
      for shape, width in (((1, SEQ, HIDDEN), 4), ((1, SEQ, HIDDEN), 2), ((1, SEQ, HIDDEN), 2), ((1, SEQ, 1), 4))),
    *((f"{LAYER}.self_attn", (1, HEADS, SEQ, HEAD), 2) for _ in range(4)), (f"{LAYER}.self_attn", (1, HEADS, SEQ), 4),
    (f"{LAYER}.mlp.gate_proj", (SEQ, WIDE), 2), (f"{LAYER}.mlp.act_fn", (1, SEQ, WIDE), 2),
    (f"{LAYER}.mlp.up_proj", (SEQ, WIDE), 2), (f"{LAYER}.mlp", (1, SEQ, WIDE), 2),
)  # fmt: skip
"""What a layer keeps: s b (16 h + 8 h_q + 8 f + 4 a + 8) bytes."""
ALL = ("forward/", "backward/", "backward/Layer", "optimizer/")


def states(module: str, shape: tuple[int, ...], stack: str, copies: float) -> list[TracedTensor]:
    size = float(np.prod(shape)) * 2
    always = dict.fromkeys(ALL, copies)
    grown = {
        "optimizer/": copies,
        "backward/Layer": {"": 1.0 * (module == "lm_head"), "Layer": 1.0 * ("mlp" in module)}[stack],
    }
    return [
        TracedTensor("parameter", "weight", module, stack, "", shape, "bfloat16", size, copies, True, always),
        TracedTensor("gradient", "weight.grad", module, stack, "mm", shape, "bfloat16", size, copies, True, grown),
        *(TracedTensor("optimizer", f"weight.{m}", module, stack, "", shape, "bfloat16", size, copies, True, always) for m in "mv"),
    ]  # fmt: skip


@cache
def written(foreach: float = 0.0) -> Trace:
    """One step in 16 bits with AdamW; ``foreach`` copies of all parameters are temporary in the optimizer step."""
    logits = (SEQ, VOCABULARY)
    everything = LAYERS * sum(int(np.prod(shape)) for shape in MATRICES.values()) + 2 * VOCABULARY * HIDDEN + HIDDEN
    before = {"forward/": 1.0, "backward/": 1.0}
    tensors = [
        *states("model.embed_tokens", (VOCABULARY, HIDDEN), "", 1.0),
        *(tensor for path, shape in MATRICES.items() for tensor in states(path, shape, "Layer", float(LAYERS))),
        *states("model.norm", (HIDDEN,), "", 1.0),
        *states("lm_head", (VOCABULARY, HIDDEN), "", 1.0),
        *(
            TracedTensor("activation", "", module, "Layer", "mul", shape, "", float(np.prod(shape)) * width, LAYERS, True,
                         {**dict.fromkeys(before, float(LAYERS)), "backward/Layer": LAYERS - 1.0 * ("mlp" in module)})
            for module, shape, width in KEPT
        ),
        TracedTensor("activation", "", "", "", "_log_softmax", logits, "float32", SEQ * VOCABULARY * 4.0, 1.0, True, before),
        TracedTensor("temporary", "", "", "", "_log_softmax_backward_data", logits, "float32", SEQ * VOCABULARY * 4.0, 2.0, True,
                     {"backward/": 2.0}),
        TracedTensor("temporary", "", f"{LAYER}.mlp", "Layer", "mul", (1, SEQ, WIDE), "bfloat16", SEQ * WIDE * 2.0, 3.0, True,
                     {"backward/Layer": 3.0}),
        TracedTensor("temporary", "", "", "", "_foreach_sqrt", (1,), "bfloat16", 2.0 * everything, foreach, True,
                     {"optimizer/": foreach}),
    ]  # fmt: skip
    columns = {
        "parameter": "parameters",
        "gradient": "gradients",
        "optimizer": "optimizer",
        "activation": "activations",
        "temporary": "temporaries",
    }

    def moment(key: str) -> Moment:
        held = dict.fromkeys(columns.values(), 0.0)
        for tensor in tensors:
            held[columns[tensor.role]] += tensor.storage_bytes * tensor.alive.get(key, 0.0)
        return Moment(0.5, key.partition("/")[0], "", "", Held(**held))  # type: ignore[arg-type]

    peaks = {key: moment(key) for key in ALL}
    return Trace(
        name="by hand", kind="training", samples=1, seq=SEQ, parameters=everything, trainable=everything,
        stacks=(Stack("Layer", "model.layers", LAYERS, 3),), peak=max(peaks.values(), key=lambda m: m.held.total), peaks=peaks,
        timeline=(), operators=(), tensors=tuple(tensors),
    )  # fmt: skip


def asked(**fields: object) -> Train:
    dp = fields.get("dp", 1)
    return Train(**{"seq": SEQ, "global_batch": dp, "framework": "fsdp", "recompute": "none", **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("foreach", [0.0, 6.0])
def test_one_device_is_the_trace(foreach: float) -> None:
    """With every degree 1 each part is the trace's at its peak, wherever that is."""
    trace = written(foreach)
    ours, held = shard(trace, asked()), trace.peak.held
    assert (ours.parameters, ours.gradients, ours.optimizer, ours.activations, ours.temporary) == (
        held.parameters, held.gradients, held.optimizer, held.activations, held.temporaries,
    )  # fmt: skip
    assert str(ours.peak).startswith("optimizer" if foreach else "backward")


@given(
    tp=st.sampled_from([1, 2, 4, 8]), pp=st.sampled_from([1, 2, 4]), dp=st.sampled_from([1, 2, 8]), cp=st.sampled_from([1, 2]),
    zero=st.integers(0, 3), field=st.sampled_from(["tp", "dp", "cp"]), together=st.sampled_from(["on", "off"]),
    framework=st.sampled_from(["megatron", "deepspeed"]), many=st.sampled_from([8, 16]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_more_devices_never_hold_more(  # noqa: PLR0917
    tp: int, pp: int, dp: int, cp: int, zero: int, field: str, together: str, framework: str, many: int
) -> None:
    """Doubling a degree, with as many micro-batches per device, never raises states or what is kept, whatever else is dealt out."""
    degrees = {"tp": tp, "pp": pp, "dp": dp, "cp": cp}
    doubled = {**degrees, field: degrees[field] * 2}
    if doubled["tp"] > HEADS:
        return
    same = {"zero": zero, "sequence_parallel": together, "framework": framework}
    one, two = (shard(written(), asked(**d, **same, global_batch=many * d["dp"])) for d in (degrees, doubled))
    for part in ("parameters", "gradients", "optimizer"):
        assert getattr(two, part) <= getattr(one, part)
    assert two.allocated_bytes - two.temporary <= (one.allocated_bytes - one.temporary) * (1 + 1e-12)


@given(
    tp=st.sampled_from([1, 2, 4]),
    pp=st.sampled_from([1, 2, 4, 8]),
    dp=st.sampled_from([1, 2, 3, 8]),
    zero=st.integers(0, 3),
)
@settings(max_examples=40, deadline=None)
def test_all_ranks_together_hold_the_model(tp: int, pp: int, dp: int, zero: int) -> None:
    """Divided matrices add up to the model's over all ranks; norms are whole on every tensor-parallel rank."""
    plan = asked(tp=tp, dp=dp, zero=zero, framework="deepspeed", global_batch=8 * dp)
    ours = shard(written(), plan)
    norms = 2.0 * (2 * LAYERS + 1) * HIDDEN
    matrices = 2.0 * written().parameters - norms
    alike = tp * (dp if zero >= 3 else 1)
    assert float(ours.parameters) * alike == pytest.approx(matrices + norms * tp)
    staged = shard(written(), asked(pp=pp, zero=0, framework="deepspeed", global_batch=16))
    layers = (matrices + norms - 2.0 * HIDDEN * (2 * VOCABULARY + 1)) / pp
    ends = 2.0 * HIDDEN * (2 * VOCABULARY + 1) if pp == 1 else 2.0 * HIDDEN * VOCABULARY
    assert float(staged.parameters) == pytest.approx(layers + ends, abs=2 * HIDDEN)


def test_closed_form_of_a_layer() -> None:
    """Without sequence parallelism 16 h + 8 (the norms) stay whole and 8 h_q + 8 f + 4 a are divided; with it everything is."""
    outside = SEQ * VOCABULARY * 4.0

    def layer(**fields: object) -> float:
        ours = shard(written(), asked(**fields, framework="megatron", zero=0))
        return (float(ours.activations) - outside / float(fields.get("tp", 1))) / LAYERS  # type: ignore[arg-type]

    norms, inner = SEQ * (16.0 * HIDDEN + 8), SEQ * (8.0 * HIDDEN + 8 * WIDE + 4 * HEADS)
    assert layer() == norms + inner
    assert layer(tp=4, sequence_parallel="off") == norms + inner / 4
    assert layer(tp=4, sequence_parallel="on") == (norms + inner) / 4


def test_pipeline_keeps_micro_batches() -> None:
    """The first of four stages keeps four micro-batches of two layers: as much as eight layers; interleaving keeps more."""
    layer = SEQ * (16.0 * HIDDEN + 8 * HIDDEN + 8 * WIDE + 4 * HEADS + 8)
    plain = shard(written(), asked(pp=4, global_batch=8, zero=0, framework="megatron"))
    assert float(plain.activations) <= LAYERS * layer
    assert float(plain.activations) > (LAYERS - 1) * layer
    more = shard(written(), asked(pp=4, virtual_stages=2, global_batch=8, zero=0, framework="megatron"))
    assert float(more.activations - plain.activations) == pytest.approx(layer * LAYERS * 3 / 8)


def test_requests_broadcast() -> None:
    """An array of plans answers as each plan alone."""
    tp, dp = np.array([1, 2, 4, 8]), np.array([8, 4, 2, 1])
    many = shard(written(), asked(tp=tp, dp=dp, global_batch=64))
    alone = [shard(written(), asked(tp=int(t), dp=int(d), global_batch=64)) for t, d in zip(tp, dp, strict=True)]
    assert many.allocated_bytes.tolist() == [float(one.allocated_bytes) for one in alone]
    assert many.peak.tolist() == [str(one.peak) for one in alone]


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"tp": 3}, "tp"), ({"tp": 16}, "tp"), ({"pp": 16}, "pp"), ({"pp": 4, "virtual_stages": 4}, "pp"), ({"ep": 2}, "ep"),
        ({"cp": 3}, "cp"), ({"seq": 1024}, "seq"), ({"dp": 2, "global_batch": 3}, "global_batch"),
    ],
)  # fmt: skip
def test_plans_that_cannot_be(fields: dict[str, int], place: str) -> None:
    """A degree that does not divide what it deals out is refused by name, with a mend."""
    with pytest.raises(RequestError) as found:
        shard(written(), asked(**fields))
    assert found.value.place == place
    assert found.value.mend


def test_traces_that_cannot_be() -> None:
    """A trace that does not say what is alive at its peaks, and a plan with an unknown style, are refused."""
    from dataclasses import replace

    blind = replace(written(), tensors=tuple(replace(tensor, alive={}) for tensor in written().tensors))
    with pytest.raises(RequestError, match="alive"):
        shard(blind, asked())
    with pytest.raises(UnknownNameError, match="sideways"):
        shard(written(), asked(tp=2), plan={"self_attn.q_proj": "sideways"})


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("model.layers.*.self_attn.q_proj", COLUMN), ("model.layers.*.mlp.down_proj", ROW), ("transformer.h.*.attn.c_attn", COLUMN),
        ("transformer.h.*.mlp.c_proj", ROW), ("bert.encoder.layer.*.intermediate.dense", COLUMN), ("lm_head", VOCAB),
        ("bert.encoder.layer.*.attention.output.dense", ROW), ("bert.pooler.dense", REPLICATE), ("layers.*.feed_forward.w2", ROW),
        ("model.layers.*.self_attn.q_proj.lora_A.default", REPLICATE), ("model.layers.*.self_attn.q_proj.lora_B.default", COLUMN),
        ("model.layers.*.self_attn.o_proj.lora_A.default", ROW), ("model.layers.*.mlp.gate", REPLICATE),
    ],
)  # fmt: skip
def test_names_of_products(path: str, split: int) -> None:
    """Products of common code are known by the ends of their paths, and LoRA's by what they adapt."""
    assert split_of(path) == split
