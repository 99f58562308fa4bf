"""What one token reads of the weights, and how many keys queries meet: against counts made by hand and from real files."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytebound.documents.architecture import Embedding, Linear, Norm, Parameter
from bytebound.documents.work import Serve
from bytebound.engines.random_gguf import Shape, write_random_gguf
from bytebound.errors import UnknownNameError
from bytebound.ledger.ledger import ATTENTION, CONTEXT
from bytebound.ledger.precision import row_formats, streamed
from bytebound.ledger.table import compile_table
from bytebound.models import read_model
from bytebound.predict.estimate import settle

DENSE, MIXED, EXPERTS, LATENT = (
    "meta-llama/Llama-3.1-8B",
    "google/gemma-2-2b-it",
    "Qwen/Qwen3-30B-A3B",
    "deepseek-ai/DeepSeek-V2-Lite",
)
SETTINGS = {name: settle(name, "8x h100-sxm", "llama.cpp") for name in (DENSE, MIXED, EXPERTS, LATENT)}


def attention(name, phase, **work):
    """Return (queries, pairs) of one step summed over layers."""
    prediction = SETTINGS[name].run(Serve(**work))
    ledger = prediction.decode_ledger if phase == "decode" else prediction.prefill_ledger
    return float(ledger.total("queries")[0]), float(ledger.total("pairs")[0])


def looked_at(position, window):
    """Return keys that the token at ``position`` (from 0) reads, itself included."""
    return min(position + 1, window)


def by_hand(prompt, window):
    """Return the pairs of one head over a prompt, token by token."""
    return sum(looked_at(position, window) for position in range(prompt))


@given(st.integers(1, 300), st.integers(1, 64))
def test_decoding_meets_every_key_once(prompt, batch):
    """Llama-3.1-8B: 32 layers of 32 heads; each of ``batch`` tokens meets its whole context."""
    queries, pairs = attention(DENSE, "decode", batch=batch, prompt=prompt, output=2)
    assert queries == 32 * 32 * batch
    assert pairs == 32 * 32 * batch * (prompt + 1)


@given(st.integers(1, 400))
def test_a_prompt_meets_half_of_its_square(prompt):
    queries, pairs = attention(DENSE, "prefill", prompt=prompt, output=1)
    assert queries == 32 * 32 * prompt
    assert pairs == pytest.approx(32 * 32 * by_hand(prompt, np.inf))


@pytest.mark.parametrize("prompt", [64, 4096, 4097, 6000])
def test_windows_limit_what_is_met(prompt):
    """Gemma-2-2B: 26 layers of 8 heads, every other one sees 4,096 tokens."""
    _, pairs = attention(MIXED, "prefill", prompt=prompt, output=1, chunk=100_000)
    assert pairs == pytest.approx(13 * 8 * (by_hand(prompt, 4096) + by_hand(prompt, np.inf)))
    _, pairs = attention(MIXED, "decode", prompt=prompt, output=2)
    assert pairs == pytest.approx(13 * 8 * (min(prompt + 1, 4096) + prompt + 1))


def test_what_is_cached_already_is_met_and_not_computed():
    """Half of a prompt in the prefix cache: the other half still meets all of it."""
    queries, pairs = attention(DENSE, "prefill", prompt=1000, output=1, prefix_hit=0.5)
    assert queries == 32 * 32 * 500
    assert pairs == pytest.approx(32 * 32 * (by_hand(1000, np.inf) - by_hand(500, np.inf)))


def test_devices_share_heads_and_latents_keep_theirs():
    one, two = (attention(DENSE, "decode", batch=4, prompt=100, output=2, tp=tp) for tp in (1, 8))
    assert np.array(one) == pytest.approx(8 * np.array(two))
    queries, pairs = attention(LATENT, "decode", prompt=99, output=2)
    assert (queries, pairs) == (27 * 16, 27 * 16 * 100)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_pairs_explain_the_flops_of_attention(name, phase):
    """Each pair costs a multiply and an add per value of key and value; rows that are not attention have no pairs."""
    setting = SETTINGS[name]
    prediction = setting.run(Serve(batch=3, prompt=777, output=10))
    ledger = prediction.decode_ledger if phase == "decode" else prediction.prefill_ledger
    s = setting.table.scores
    wide = 2 * s.latent + s.rope if name == LATENT and phase == "decode" else s.qk_dim + s.v_dim
    rows = ledger.op_class == (ATTENTION if phase == "decode" else CONTEXT)
    assert rows.any()
    assert ledger.flops[rows][:, 0] == pytest.approx(2 * (ledger.pairs[rows][:, 0] * wide))
    for quantity in (ledger.queries, ledger.pairs):
        assert not np.broadcast_to(quantity, ledger.flops.shape)[~rows].any()


@pytest.mark.parametrize("name", SETTINGS)
def test_streamed_is_every_active_weight_but_embeddings(name):
    """Elements and bytes against a walk over the model's tensors: matrices a token visits, the head, no look-ups, no norms."""
    architecture = read_model(name)
    count = 0.0
    for tower, block, operator in architecture.operators():
        if tower is architecture.main and not isinstance(operator, Embedding | Norm | Parameter):
            active = operator.active if isinstance(operator, Linear) else 1
            matrices = [t for t in operator.tensors() if len(t.shape) > 1]
            count += sum(t.elements for t in matrices) * active * block.repeat
    found = streamed(compile_table(architecture), "auto")
    assert sum(elements for _, elements in found.values()) == pytest.approx(count, rel=1e-12)
    assert sum(size for size, _ in found.values()) == pytest.approx(2 * count, rel=1e-12)
    assert set(found) == {("body", "bf16"), ("head", "bf16")}


@pytest.mark.parametrize(("weights", "tied"), [("q4_0", True), ("q8_0", False), ("q6_k", False), ("fp16", True)])
def test_streamed_is_what_a_file_holds(weights, tied, tmp_path):
    """A GGUF file: bytes of its matrices as gguf counts them, without the embedding where the head is another matrix."""
    path = write_random_gguf(tmp_path / "x.gguf", Shape(3, 256, 768, 4, 2, 64, 320, tied=tied), weights)
    matrices = {t.name: int(t.n_bytes) for t in gguf.GGUFReader(path).tensors if len(t.shape) > 1}
    head = matrices.pop("token_embd.weight") if tied else matrices.pop("output.weight")
    matrices.pop("token_embd.weight", None)
    found = streamed(compile_table(read_model(str(path))), "auto")
    assert {part: size for part, (size, _) in found.items()} == {
        ("body", weights): sum(matrices.values()),
        ("head", weights): head,
    }


def test_formats_asked_for_take_the_place_of_the_stored():
    """A mix covers everything under its main block format; a layer-only format leaves head and router as they are."""
    table = compile_table(read_model(EXPERTS))
    assert set(streamed(table, "q4_k_m")) == {("body", "q4_k"), ("head", "q4_k")}
    assert set(streamed(table, "int4")) == {("body", "int4"), ("head", "bf16")}
    formats = dict(zip(table.products.roles, row_formats(table.products, "int4"), strict=True))
    assert formats["router"] == "bf16"
    assert formats["expert"] == "int4"
    assert row_formats(table.products, "auto") == table.products.stored
    size, elements = streamed(table, "q8_0")["body", "q8_0"]
    router = 48 * 2048 * 128  # layers, width, experts: stays in 16 bits
    assert size == pytest.approx((elements - router) * 8.5 / 8 + router * 2)
    with pytest.raises(UnknownNameError, match="'q4_x'"):
        streamed(table, "q4_x")
