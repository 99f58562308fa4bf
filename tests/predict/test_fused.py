"""A large question runs through a recorded program; every number is the one the formulas give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bytebound.documents.work import Serve
from bytebound.errors import UnknownNameError
from bytebound.predict import program
from bytebound.predict.answers import PIECE, PLANNED
from bytebound.predict.estimate import settle

COUNT = 4 * PIECE + 321

MODELS = {
    "meta-llama/Llama-3.1-8B": "dense",
    "Qwen/Qwen3-30B-A3B": "experts",
    "deepseek-ai/DeepSeek-V2-Lite": "latent attention and experts",
    "google/gemma-2-2b-it": "windows",
    "Qwen/Qwen3-Next-80B-A3B-Instruct": "recurrent states",
    "black-forest-labs/FLUX.1-dev--transformer": "denoiser",
    "openai/whisper-small": "encoder and decoder",
    "google-bert/bert-base-uncased": "encoder",
}


def everything(count: int) -> Serve:
    """Return questions in which every field that may be an array is one."""
    rng = np.random.default_rng(7)

    def pick(*values: object) -> np.ndarray:
        return rng.choice(np.array(values), count)

    tp = pick(1, 2, 4, 8)
    return Serve(
        batch=rng.integers(1, 512, count), prompt=rng.integers(1, 40_000, count), output=rng.integers(1, 4_000, count), tp=tp,
        pp=pick(1, 2), ep=np.minimum(pick(1, 2, 4), tp), dp=pick(1, 2), weights=pick("auto", "fp8", "int4", "q4_k_m", "nvfp4"),
        kv=pick("auto", "fp8"), chunk=pick(0, 512), prefix_hit=pick(0.0, 0.3), offload_hit=pick(0.0, 0.2),
        host_weights=pick(0.0, 0.5), disaggregated=pick(False, True), draft_tokens=pick(0, 3), acceptance=pick(0.5, 0.9),
        draft_cost=pick(0.05, 0.2), images=pick(0, 2), denoise_steps=pick(20, 28), model_scale=pick(1.0, 3.0),
    )  # fmt: skip


def in_pieces(setting, work: Serve, count: int) -> dict[str, np.ndarray]:
    """Return the answers of questions small enough for the formulas themselves."""
    parts = []
    for start in range(0, count, PIECE):
        cut = {name: value[start : start + PIECE] for name in work.__slots__ if np.ndim(value := getattr(work, name))}
        parts.append(setting.answer(replace(work, **cut)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Check that every number agrees to rounding."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        least = 1e-14 if "share" in name else 0  # what little is left of a whole is a difference of larger numbers
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=least, err_msg=name)


@pytest.fixture
def passes(monkeypatch):
    """Run programs by NumPy alone."""
    monkeypatch.setattr(program, "worth_compiling", lambda size: False)


@pytest.fixture
def compiled(monkeypatch):
    """Run programs by the compiled loop."""
    pytest.importorskip("numba", reason="numba is optional (bytebound[fast])")
    monkeypatch.setattr(program, "worth_compiling", lambda size: True)


def check_everything(model: str, machine: str) -> None:
    """Check questions in which all fields vary at once."""
    setting = settle(model, machine, "vllm")
    work = everything(COUNT)
    same(setting.answer(work), in_pieces(setting, work, COUNT))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.usefixtures("passes")
def test_array_passes_give_the_formulas_numbers(model):
    """Every kind of model, by NumPy alone."""
    check_everything(model, "8x h100-sxm")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.usefixtures("compiled")
def test_the_compiled_loop_gives_the_formulas_numbers(model):
    """Every kind of model, compiled, on a machine whose links and precisions differ."""
    check_everything(model, "2x(4x l40s)")


@pytest.mark.parametrize(
    "fixed", [{}, {"scheduling": "static"}, {"attention": "eager"}, {"weights": "fp8", "draft_tokens": 2}]
)
def test_fields_that_do_not_vary(fixed):
    """One number for the whole question, or the same number a million times, is the same question."""
    rng = np.random.default_rng(2)
    setting = settle("Qwen/Qwen3-30B-A3B", "8x h100-sxm", "sglang")
    work = Serve(batch=rng.integers(1, 300, COUNT), tp=4, prompt=2000, **fixed)
    level = replace(work, tp=np.full(COUNT, 4), kv=np.full(COUNT, "auto"))
    expected = in_pieces(setting, work, COUNT)
    same(setting.answer(work), expected)
    same(setting.answer(level), expected)
    none = setting.answer(Serve(tp=np.full(COUNT, 4)))
    assert np.all(none["tpot_s"] == setting.answer(Serve(tp=4))["tpot_s"])


def test_one_program_serves_other_numbers():
    """Questions of the same shape share a program, and each has its own answer: other devices, lengths and prices of time."""
    rng = np.random.default_rng(3)
    batch = rng.integers(1, 300, COUNT)
    for machine in ("8x h100-sxm", "8x a100-sxm-80gb", "8x h200-sxm", "8x mi300x"):
        setting = settle("meta-llama/Llama-3.1-70B", machine, "vllm")
        for prompt in (700, 9000):
            work = Serve(batch=batch, prompt=prompt, tp=8)
            same(setting.answer(work), in_pieces(setting, work, COUNT))


def test_what_varies_belongs_to_the_shape():
    """Two questions that vary in one field each, and not in the same, do not share a program."""
    setting = settle("meta-llama/Llama-3.1-8B", "h100-sxm", "vllm")
    many = np.resize(np.arange(2, 400), COUNT)
    for work in (Serve(batch=many, prompt=37), Serve(batch=37, prompt=many), Serve(batch=37, prompt=900, output=many)):
        same(setting.answer(work), in_pieces(setting, work, COUNT))


def test_a_request_that_goes_another_way_than_the_sample():
    """One request alone needs an all-reduce of experts; its block is answered by the formulas."""
    setting = settle("Qwen/Qwen3-30B-A3B", "8x h100-sxm", "vllm")
    tp = np.resize([1, 2], COUNT)
    ep = tp.copy()
    ep[3333], tp[3333] = 1, 2
    work = Serve(batch=np.resize(np.arange(1, 100), COUNT), tp=tp, ep=ep)
    same(setting.answer(work), in_pieces(setting, work, COUNT))


def test_ceilings_that_vary():
    """A ceiling of every request."""
    setting = settle("meta-llama/Llama-3.1-8B", "h100-sxm", "vllm")
    factors = np.linspace(0.5, 2.0, COUNT)
    own = setting.ceilings
    wide = replace(
        own, memory_bytes_per_s=own.memory_bytes_per_s * factors, flop_per_s=own.flop_per_s[:, None] * factors
    )
    found = setting.answer(Serve(batch=8), wide)
    for i in (0, 2222, COUNT - 1):
        alone = setting.answer(Serve(batch=8), wide.part(slice(i, i + 1)))
        for name, value in alone.items():
            assert found[name][i] == pytest.approx(value[0], rel=1e-12, nan_ok=True), name


def test_only_what_is_asked():
    """Names asked for come alone and unchanged, few requests or many; an unknown one is refused with the nearest."""
    setting = settle("meta-llama/Llama-3.1-8B", "h100-sxm", "vllm")
    for count in (10, COUNT):
        work = Serve(batch=np.resize(np.arange(1, 100), count))
        whole, part = setting.answer(work), setting.answer(work, names=PLANNED)
        assert tuple(part) == PLANNED
        same(part, {name: whole[name] for name in PLANNED})
        with pytest.raises(UnknownNameError, match="tpot_s"):
            setting.answer(work, names=("tpot",))


def test_numba_that_does_not_load_is_done_without(monkeypatch):
    """Where numba finds no folder for its compiled code, NumPy runs the program."""

    def refuse(name: str) -> None:
        raise RuntimeError(f"cannot cache function in {name}")

    monkeypatch.setattr(program, "import_module", refuse)
    program.loads.cache_clear()
    try:
        assert not program.loads()
    finally:
        program.loads.cache_clear()
