"""The training ledger against Narayanan's FLOPs, Megatron's and ZeRO's volumes, and counts by hand."""

import numpy as np
import pytest

from bytebound.documents.work import Train
from bytebound.ledger.table import compile_table
from bytebound.ledger.training import model_flops, train_ledger
from bytebound.ledger.training_exchanges import GATHER, REDUCE
from bytebound.ledger.training_job import lay_out
from bytebound.models import read_model
from bytebound.models.config import read_config


def gpt(hidden, layers, heads, vocabulary):
    """A GPT as Megatron's papers mean it: f = 4 h, learned positions, output matrix tied."""
    config = {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": hidden, "n_layer": layers, "n_head": heads,
        "vocab_size": vocabulary, "n_positions": 2048,
    }  # fmt: skip
    return compile_table(read_config(config, name="gpt"))


def ledger_of(table, **fields):
    return train_ledger(table, lay_out(table, Train(**fields)))


def volume(ledger, name):
    """Bytes of all messages whose name starts so, in one step."""
    x, m = ledger.exchanges, ledger.job.microbatches
    events = x.events * np.where(x.per_step[:, None], 1.0, m)
    return sum(float((x.payload_bytes * events)[i, 0]) for i, label in enumerate(x.names) if label.startswith(name))


@pytest.mark.parametrize(
    ("hidden", "layers", "heads", "batch"), [(6144, 48, 64, 4), (12288, 96, 96, 64), (20480, 105, 128, 280)]
)
def test_narayanan_equation_3(hidden, layers, heads, batch):
    """Narayanan et al. 2021 (arXiv 2104.04473) eq. 3: 96 B s L h² (1 + s/6h + V/16Lh) with full recomputation."""
    s, v = 2048, 51200
    table = gpt(hidden, layers, heads, v)
    flops = model_flops(table, lay_out(table, Train(seq=s, micro_batch=batch, global_batch=batch)))
    paper = 96 * batch * s * layers * hidden**2 * (1 + s / (6 * hidden) + v / (16 * layers * hidden))

    assert float(4 * flops.under("full")[0] - flops.head[0]) == pytest.approx(paper, rel=2e-3)


def test_conventions_differ_by_half_the_scores_and_six_flops_per_embedding_parameter():
    """Llama-3.1-8B at 8,192 tokens: 6 L h s more per token in full, 6 × 525 M more with the embedding."""
    table = compile_table(read_model("meta-llama/Llama-3.1-8B"))
    flops = model_flops(table, lay_out(table, Train(seq=8192, micro_batch=1, global_batch=1)))
    per_token = {name: 3 * float(flops.under(name)[0]) / 8192 for name in ("causal", "full", "causal+embedding")}

    assert per_token["causal"] == pytest.approx(6 * (8_030_261_248 - 525_336_576) + 6 * 32 * 4096 * 8192, rel=1e-3)
    assert per_token["full"] - per_token["causal"] == pytest.approx(6 * 32 * 4096 * 8192, rel=1e-3)
    assert per_token["causal+embedding"] - per_token["causal"] == pytest.approx(6 * 525_336_576)


def test_full_recompute_does_everything_but_the_head_again():
    table = compile_table(read_model("meta-llama/Llama-3.1-8B"))
    flops = model_flops(table, lay_out(table, Train(recompute="full")))
    part = model_flops(table, lay_out(table, Train(recompute="full", recompute_layers=0.25)))

    assert flops.again == pytest.approx(flops.under("causal") - flops.head)
    assert part.again == pytest.approx(flops.again / 4)
    assert model_flops(table, lay_out(table, Train(recompute="selective"))).again == 0


def test_only_chosen_experts_count():
    """Mixtral-8x7B has 46.7 B parameters and multiplies 12.9 B of them (Mistral AI, December 2023), 0.13 B of which look up."""
    table = compile_table(read_model("mistralai/Mixtral-8x7B-v0.1"))
    flops = model_flops(table, lay_out(table, Train(seq=1, micro_batch=1, global_batch=1)))

    assert float(flops.matrices[0]) == pytest.approx(2 * (12.88e9 - 0.131e9), rel=5e-3)


@pytest.mark.parametrize("tp", [2, 4, 8])
@pytest.mark.parametrize("ep", [1, 8])
def test_degrees_deal_out_the_work(tp, ep):
    """All devices of a group together do what one device alone does: nothing is lost, nothing done twice."""
    table = compile_table(read_model("mistralai/Mixtral-8x7B-v0.1"))
    alone = ledger_of(table, micro_batch=1, global_batch=16)
    dealt = ledger_of(table, micro_batch=1, global_batch=16, tp=tp, ep=ep, dp=8, zero=1)
    routers = [i for i, role in enumerate(alone.rows.roles) if role == "router"]
    whole, part = (
        float(np.delete((one.rows.flops * one.rows.repeat)[:, 0], routers).sum()) for one in (alone, dealt)
    )  # routers work on every token of every device

    assert part * tp == pytest.approx(whole, rel=1e-6)


def test_tensor_parallelism_sums_four_times_a_layer():
    """Megatron-LM (arXiv 1909.08053) section 3: two all-reduces forward and two backward of 2 s b h bytes in every layer."""
    table = gpt(4096, 32, 32, 50000)
    job = {"seq": 2048, "micro_batch": 2, "global_batch": 2, "tp": 8, "framework": "megatron"}
    sums = ledger_of(table, **job, sequence_parallel="off")
    gathers = ledger_of(table, **job, sequence_parallel="on")
    message = 2 * 2048 * 2 * 4096

    assert volume(sums, "tensor parallel") == pytest.approx(4 * 32 * message)
    assert sums.exchanges.kind[0] == REDUCE
    assert volume(gathers, "tensor parallel") == pytest.approx(2 * volume(sums, "tensor parallel"))  # each moves half
    assert gathers.exchanges.kind[0] == GATHER


def test_full_recompute_repeats_the_forward_sums():
    table = gpt(4096, 32, 32, 50000)
    kept, again = (ledger_of(table, tp=8, global_batch=8, recompute=r) for r in ("none", "full"))

    assert volume(again, "tensor parallel") == pytest.approx(1.5 * volume(kept, "tensor parallel"))


@pytest.mark.parametrize(("zero", "elements"), [(0, 1), (1, 2), (3, 3)])
def test_data_parallel_volume(zero, elements):
    """ZeRO (arXiv 1910.02054) section 7: a sum, or a reduce-scatter with one gather (2 N), or with two gathers (3 N)."""
    architecture = read_model("meta-llama/Llama-3.1-8B")
    table = compile_table(architecture)
    ledger = ledger_of(
        table,
        dp=8,
        global_batch=8,
        micro_batch=1,
        zero=zero,
        framework="fsdp" if zero == 3 else "megatron",
        gradients="bf16",
    )
    found = volume(ledger, "gradients") + volume(ledger, "weights")

    assert found == pytest.approx(elements * 2 * architecture.parameters, rel=1e-3)


def test_a_frozen_base_is_gathered_and_never_reduced():
    architecture = read_model("Qwen/Qwen3-8B")
    lora = ledger_of(compile_table(architecture), dp=64, trainable="lora", zero=3, global_batch=64, framework="fsdp")

    assert volume(lora, "frozen") == pytest.approx(2 * 2 * architecture.parameters, rel=1e-3)
    assert volume(lora, "gradients") < 0.02 * volume(lora, "frozen")


def test_experts_exchange_their_tokens_four_times():
    """Dispatch and combine, forward and backward, of 2 k h bytes a token and expert layer (DeepSeek-V3 section 3.2)."""
    table = compile_table(read_model("mistralai/Mixtral-8x7B-v0.1"))
    ledger = ledger_of(table, seq=4096, dp=8, ep=8, global_batch=8, micro_batch=1, zero=1)

    assert volume(ledger, "experts") == pytest.approx(4 * 32 * 2 * 4096 * 4096 * 2)


def test_optimizer_bytes_are_dealt_out_and_foreach_passes_more_often():
    table = compile_table(read_model("meta-llama/Llama-3.1-8B"))
    whole, dealt = (ledger_of(table, dp=8, global_batch=8, zero=z, framework="megatron") for z in (0, 1))
    foreach = ledger_of(table, dp=8, global_batch=8, zero=0, framework="megatron", optimizer_kernel="foreach")

    assert float(whole.optimizer_bytes[0]) == pytest.approx((2 * 12 + 3 * 4 + 2 * 2) * 8.03e9, rel=1e-3)
    assert dealt.optimizer_bytes == pytest.approx(whole.optimizer_bytes / 8)
    assert foreach.optimizer_bytes > 1.8 * whole.optimizer_bytes


def test_eager_attention_multiplies_the_square_and_writes_it():
    """Korthikanti et al. 2022 section 4.1: the scores are 5 a s / h of a layer's activations; flash attention writes none."""
    table = gpt(12288, 96, 96, 51200)
    flash, eager = (
        ledger_of(table, seq=2048, micro_batch=1, global_batch=1, attention=a, recompute="none")
        for a in ("flash", "eager")
    )
    at = flash.rows.roles.index("attention-scores")

    assert eager.rows.flops[at, 0] == pytest.approx(2 * flash.rows.flops[at, 0], rel=1e-3)
    assert sum(name.endswith("softmax") for name in eager.rows.names) == 1
    assert float(eager.moved_bytes[0] - flash.moved_bytes[0]) > 96 * 96 * 2048**2 * (13 + 17) * 0.9
