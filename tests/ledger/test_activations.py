"""Activations kept for the backward pass, against published tables and against what real torch saves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bytebound.documents.work import Train
from bytebound.ledger.activations import activation_bytes_per_layer, kept
from bytebound.ledger.schedules import in_flight
from bytebound.ledger.table import compile_table
from bytebound.ledger.training_plan import resolve
from bytebound.models.config import read_config

GIB = 2.0**30


def gpt(layers, hidden, heads):
    """Return the operator tables of a GPT as Megatron's papers have them."""
    values = {
        "model_type": "gpt2",
        "n_embd": hidden,
        "n_head": heads,
        "n_layer": layers,
        "vocab_size": 51200,
        "n_positions": 2048,
    }
    return compile_table(read_config(values))


def llama(**changes):
    values = {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
        "num_key_value_heads": 8, "num_hidden_layers": 32, "vocab_size": 128256, "head_dim": 128,
    }  # fmt: skip
    return compile_table(read_config(values | changes))


@pytest.mark.parametrize(
    ("shape", "plan", "gib"),
    [
        ((48, 6144, 64), (1, 1, 4, "off", "none"), 59.25),
        ((48, 6144, 64), (1, 1, 4, "on", "selective"), 9.5625),
        ((96, 12288, 96), (8, 3, 1, "off", "none"), 66.84375),
        ((96, 12288, 96), (8, 3, 1, "on", "selective"), 12.3515625),
        ((105, 20480, 128), (35, 3, 1, "off", "none"), 114.0234375),
        ((105, 20480, 128), (35, 3, 1, "on", "selective"), 23.076171875),
        ((128, 25600, 160), (64, 1, 1, "off", "none"), 131.25),
        ((128, 25600, 160), (64, 1, 1, "on", "selective"), 26.5625),
    ],
)
def test_korthikanti_figure_1_to_the_byte(shape, plan, gib):
    """The bars of Fig. 1 of arXiv 2205.05198, as Calculon's validation prints them (exact binary fractions)."""
    table = gpt(*shape)
    pp, virtual, micro, together, recompute = plan
    work = resolve(
        Train(
            seq=2048, micro_batch=micro, global_batch=micro * 512, tp=8, pp=pp, virtual_stages=virtual, sequence_parallel=together,
            recompute=recompute, attention="eager", framework="megatron", zero=0,
        ), table,
    )  # fmt: skip
    per_layer = activation_bytes_per_layer(table, work, dropout=True)
    first = per_layer * table.layers / pp * in_flight(work)[0]
    assert float(first) == gib * GIB


@pytest.mark.parametrize("kv_heads", [32, 8])
def test_eager_llama_is_the_published_closed_form(kv_heads):
    """``s b (16 h + 8 h_q + 8 f + 4 a + 8)``, KV heads repeated: traced by the survey of peers with torch 2.13."""
    table = llama(num_key_value_heads=kv_heads)
    work = resolve(Train(seq=2048, micro_batch=3, global_batch=3, framework="hf", precision="bf16", zero=0), table)
    expected = 2048 * 3 * (16 * 4096 + 8 * 4096 + 8 * 14336 + 4 * 32 + 8)
    assert float(activation_bytes_per_layer(table, work)) == expected


def test_gated_layers_keep_6_f_over_h_and_grouped_heads_their_own():
    """Fused kernels: ``s b h (12 + 4 k/a + ... + 6 f/h)`` and the softmax statistics, 4 bytes per head and token."""
    table = llama()
    work = resolve(Train(seq=1000, micro_batch=1, global_batch=8, framework="megatron", zero=1), table)
    expected = 1000 * (4096 * (2 + 2 + 2 + 4 * 8 / 32 + 2 + 2 + 2) + 6 * 14336 + 4 * 32)
    assert float(activation_bytes_per_layer(table, work)) == pytest.approx(expected)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_eager_layer_is_what_torch_saves(precision):
    """One LLaMA layer of real torch: the storages autograd saves, without parameters, are ours."""
    torch = pytest.importorskip("torch", reason="measures what autograd saves")
    transformers = pytest.importorskip("transformers", reason="the layer is transformers' own")
    h, f, a, vocab, seq, batch = 64, 160, 4, 96, 24, 2
    values = {
        "model_type": "llama", "hidden_size": h, "intermediate_size": f, "num_attention_heads": a, "num_key_value_heads": a,
        "num_hidden_layers": 2, "vocab_size": vocab, "attn_implementation": "sdpa", "use_cache": False,
    }  # fmt: skip

    def saved(layers):
        config = transformers.LlamaConfig(**{**values, "num_hidden_layers": layers})
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
        own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
        alive = []

        def pack(tensor):
            alive.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.model(input_ids=torch.zeros(batch, seq, dtype=torch.long))
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in alive}
        return sum(size for pointer, size in storages.items() if pointer not in own)

    table = compile_table(read_config(values))
    work = resolve(
        Train(seq=seq, micro_batch=batch, global_batch=batch, framework="hf", precision=precision, zero=0), table
    )
    assert saved(3) - saved(2) == float(activation_bytes_per_layer(table, work))


def test_autocast_keeps_16_bit_weights_and_a_copy_for_every_reader():
    """Autograd keeps autocast's weight copies: 416 MiB per layer of LLaMA-8B, 2 bytes per parameter, however long the sequence."""
    table = llama()
    work = resolve(Train(seq=np.array([64, 4096]), micro_batch=1, global_batch=1, framework="hf", zero=0), table)
    assert work.precision == "bf16-autocast"
    copies = kept(table, work).copies[0]
    assert copies.tolist() == [32 * 416 * 2**20] * 2
    tokenwise = activation_bytes_per_layer(table, work) / np.array([64, 4096])
    plain = activation_bytes_per_layer(table, replace(work, precision="bf16")) / np.array([64, 4096])
    assert (tokenwise - plain).tolist() == [10 * 4096] * 2  # 4 in the norms, 4 for k and v, 2 for up


def test_checkpointing_keeps_two_bytes_per_hidden_value():
    table = llama()
    work = resolve(Train(seq=2048, micro_batch=1, global_batch=1, framework="hf", precision="bf16", zero=0), table)
    assert kept(table, work).boundary[0] == 2 * 2048 * 4096


def test_context_parallelism_divides_tokens_and_copies_q_k_v():
    table = llama()
    one, four = (resolve(Train(seq=8192, cp=cp, framework="megatron", zero=1), table) for cp in (1, 4))
    ring = activation_bytes_per_layer(table, four) - activation_bytes_per_layer(table, one) / 4
    assert float(ring) == 2048 * 2 * (4096 + 2 * 1024)
