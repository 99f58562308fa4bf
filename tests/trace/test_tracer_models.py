"""Models of transformers under training requests, against closed forms and whole traces."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="tracing runs PyTorch code")
transformers = pytest.importorskip("transformers", reason="these are its models")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from bytebound.documents.work import Train  # noqa: E402
from bytebound.errors import DocumentError, RequestError, UnknownNameError  # noqa: E402
from bytebound.ledger.traced import PRODUCTS, model_flops  # noqa: E402
from bytebound.trace.hf import build_model, read_config, trace_model  # noqa: E402
from bytebound.trace.loading import loading  # noqa: E402
from bytebound.trace.run import trace_module  # noqa: E402

S, B, H, F, A, KV, D, V = 64, 2, 64, 192, 4, 2, 16, 300
PHILOX = 3 * 8
"""Random state a flash kernel keeps for backward: a seed of two 64-bit integers and an offset (aten::_scaled_dot_product_flash_attention)."""


def llama(layers=12, **changed):
    values = {
        "hidden_size": H, "intermediate_size": F, "num_hidden_layers": layers, "num_attention_heads": A, "num_key_value_heads": KV,
        "vocab_size": V, "model_type": "llama", "architectures": ["LlamaForCausalLM"],
    }  # fmt: skip
    return values | changed


def slope(work, *, at="forward", **options):
    """Activation bytes that one more layer keeps, from whole traces of two depths."""
    kept = []
    for layers in (1, 2):
        trace = trace_model(llama(layers), replace(work, optimizer="sgd"), layers="all", **options)
        kept.append(trace.peaks[at].held.activations)
    return kept[1] - kept[0]


def test_a_llama_layer_keeps_exactly_the_closed_form():
    """16-bit Llama with a flash kernel and repeated keys: s·b·(16h + 8·h_q + 8f + 4a + 8) bytes, and the kernel's random state."""
    work = Train(seq=S, micro_batch=B, precision="bf16")
    assert slope(work, repeat_kv=True) == S * B * (16 * H + 8 * A * D + 8 * F + 4 * A + 8) + PHILOX
    assert slope(work) == S * B * (16 * H + 4 * A * D + 4 * KV * D + 8 * F + 4 * A + 8) + PHILOX


def test_autocast_keeps_16_bit_copies_of_the_weights_and_of_every_input():
    """32-bit residuals and five casts of the norms' outputs: 26h for 16h; 2 bytes per weight of the layer's matrices."""
    matrices = 2 * H * A * D + 2 * H * KV * D + 3 * H * F
    work = Train(seq=S, micro_batch=B, precision="bf16-autocast")
    assert slope(work, repeat_kv=True) == S * B * (26 * H + 8 * A * D + 8 * F + 4 * A + 8) + 2 * matrices + PHILOX


def test_full_recomputation_keeps_two_bytes_per_width():
    assert slope(Train(seq=S, micro_batch=B, precision="bf16", recompute="full")) == 2 * S * B * H


def test_recomputed_layers_are_no_model_flops():
    """The same model with full recomputation computes a third more, and has the same FLOPs for MFU."""
    plain, again = (
        trace_model(llama(), Train(seq=S, micro_batch=B, precision="bf16", recompute=how)) for how in ("none", "full")
    )
    done = [sum(op.flops for op in trace.operators if op.kind in PRODUCTS) for trace in (plain, again)]
    assert done[1] > 1.2 * done[0]
    assert model_flops(again) == model_flops(plain)


def test_eager_attention_keeps_scores_that_flash_does_not():
    flash, eager = (
        slope(Train(seq=S, micro_batch=B, precision="bf16", recompute="none", attention=how))
        for how in ("flash", "eager")
    )
    assert eager - flash > 2 * 2 * A * S * S * B  # at least 16-bit scores and probabilities


def test_flops_are_six_per_weight_and_token_and_half_of_full_attention():
    trace = trace_model(llama(), Train(seq=S, micro_batch=B, precision="bf16"))
    weights = 12 * (2 * H * A * D + 2 * H * KV * D + 3 * H * F) + H * V
    # the head works on all tokens; attention: 2 products in forward and 5 in backward, each 2·s²·h_q, causal half
    attention = 12 * 7 * 2 * S * S * A * D * B / 2
    products = sum(op.flops for op in trace.operators if op.kind in {"gemm", "attention"})
    rope = sum(op.flops for op in trace.operators if op.module.endswith("rotary_emb") and op.kind == "gemm")
    assert products - rope == 6 * weights * S * B + attention


def test_mixed_precision_states_are_eighteen_bytes_a_parameter():
    trace = trace_model(llama(4), Train(seq=S, micro_batch=1, precision="bf16-mixed"))
    held = trace.peaks["optimizer"].held
    assert held.parameters + held.gradients + held.optimizer == pytest.approx(18 * trace.parameters, rel=1e-3)


@pytest.mark.parametrize(
    "config",
    [
        llama(12),
        {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "hidden_size": H, "intermediate_size": F, "head_dim": D,
         "num_hidden_layers": 30, "num_attention_heads": A, "num_key_value_heads": KV, "vocab_size": V, "sliding_window": 16},
        {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "hidden_size": H, "intermediate_size": F, "num_hidden_layers": 10,
         "num_attention_heads": A, "num_key_value_heads": KV, "vocab_size": V, "num_local_experts": 4},
    ],
    ids=lambda config: config["model_type"],
)  # fmt: skip
def test_few_layers_foretell_whole_models(config):
    optimizer = "adamw" if config["model_type"] == "llama" else "sgd"
    work = Train(seq=S, micro_batch=1, precision="bf16", optimizer=optimizer)
    few, whole = (trace_model(config, work, layers=layers) for layers in ("few", "all"))
    assert any(stack.traced < stack.repeat for stack in few.stacks)
    assert few.peak.held == whole.peak.held
    assert few.flops == pytest.approx(whole.flops, rel=1e-12)
    assert few.unknown == ()


def test_what_values_or_chance_would_decide_is_left_out_and_said():
    speech = {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"], "hidden_size": H, "num_hidden_layers": 2,
              "num_attention_heads": A, "intermediate_size": F, "conv_dim": [32] * 7}  # fmt: skip
    trace = trace_model(speech, Train(seq=16000, precision="bf16", optimizer="sgd"))
    assert [note.split(":")[0] for note in trace.notes] == ["SpecAugment was left out", "every layer ran"]
    vision = {"hidden_size": H, "num_hidden_layers": 2, "num_attention_heads": A, "image_size": 32, "patch_size": 16}
    seeing = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "text_config": llama(2),
              "vision_config": {"model_type": "clip_vision_model", **vision}}  # fmt: skip
    trace = trace_model(seeing, Train(seq=S, precision="bf16", optimizer="sgd"))
    assert trace.notes[0].startswith("text alone was fed")


def test_text_and_image_side_by_side_both_run():
    tower = {"hidden_size": H, "num_hidden_layers": 2, "num_attention_heads": A, "intermediate_size": F}
    config = {"model_type": "clip", "architectures": ["CLIPModel"], "text_config": {**tower, "vocab_size": V},
              "vision_config": {**tower, "image_size": 32, "patch_size": 16}}  # fmt: skip
    trace = trace_model(config, Train(seq=S, micro_batch=B, precision="bf16", optimizer="sgd"))
    ran = {op.module.split(".")[0] for op in trace.operators if op.phase == "backward" and op.kind == "gemm"}
    assert {"text_model", "vision_model"} <= ran


def test_a_diffusion_model_is_traced_whole_and_nothing_is_unknown():
    diffusers = pytest.importorskip("diffusers", reason="these are its models")
    trace = trace_module(
        lambda: diffusers.UNet2DModel(
            sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        ),
        lambda: {"sample": torch.zeros(1, 3, 8, 8), "timestep": torch.zeros(1)},
        name="unet", optimizer="sgd",
    )  # fmt: skip
    assert trace.unknown == ()
    products = [op for op in trace.operators if op.kind in {"gemm", "attention", "conv"}]
    assert {op.kind for op in products} >= {"gemm", "conv"}
    assert all(op.flops > 0 for op in products)


def test_what_loads_faster_works_as_ever():
    optimize = pytest.importorskip("scipy.optimize", reason="its stand-in is tested")
    sys.modules.pop("scipy.optimize")
    with loading():
        from scipy.optimize import linear_sum_assignment, minimize_scalar
    assert minimize_scalar is sys.modules["scipy.optimize"].minimize_scalar
    assert [list(part) for part in linear_sum_assignment([[2, 1], [1, 2]])] == [[0, 1], [1, 0]]
    sys.modules["scipy.optimize"] = optimize


def test_flops_of_every_operator_are_what_pytorch_counts():
    """Eager attention, for PyTorch 2.13 counts none of its flash kernel on a CPU."""
    work = Train(seq=S, micro_batch=B, precision="bf16", attention="eager")
    found = Counter()
    for op in trace_model(llama(), work).operators:
        if op.kind == "gemm":
            found[op.name] += op.flops
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        ids = torch.zeros(B, S, dtype=torch.long)
        build_model(read_config(llama()), work, repeat_kv=False)(input_ids=ids, labels=ids).loss.backward()
    assert found == {op.__name__: flops for op, flops in counter.get_flop_counts()["Global"].items()}


def test_experts_count_only_the_tokens_they_get():
    config = {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "hidden_size": H, "intermediate_size": F,
              "num_hidden_layers": 2, "num_attention_heads": A, "num_key_value_heads": KV, "vocab_size": V}  # fmt: skip
    trace = trace_model(config | {"num_local_experts": 8}, Train(seq=S, precision="bf16"), kind="forward")
    grouped = sum(op.flops for op in trace.operators if op.name == "_grouped_mm")
    assert grouped == 2 * 2 * (S * 2) * 3 * H * F  # two layers, two experts a token, three matrices


def test_requests_that_cannot_be_traced_say_why():
    with pytest.raises(RequestError, match="seq has several values"):
        trace_model(llama(), Train(seq=[64, 128]))
    with pytest.raises(RequestError, match="4-bit base"):
        trace_model(llama(), Train(trainable="qlora"))
    with pytest.raises(UnknownNameError, match="adamw-8bit"):
        trace_model(llama(), Train(optimizer="adamw-8bit"))
    with pytest.raises(RequestError, match="no model type 'nonesuch'"):
        trace_model({"model_type": "nonesuch"}, Train())
    with pytest.raises(DocumentError, match="no config can be read"):
        trace_model("nowhere/config.json", Train())
