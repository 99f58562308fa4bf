"""What users write in training steps, against arithmetic on their tensors: every state is there, whoever built what."""

from __future__ import annotations

import gc

import pytest

torch = pytest.importorskip("torch", reason="tracing needs torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from bytebound.trace.returned import trace_function  # noqa: E402

WIDTH, OUT, BATCH = 256, 16, 8
PARAMETERS = WIDTH * WIDTH + WIDTH + WIDTH * OUT + OUT
TENSORS = 4


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, OUT))


def traced(function, kind="training"):
    gc.collect()
    gc.freeze()  # a process that traces holds nothing but the user's objects; this one holds other tests', which are not looked at now
    try:
        return trace_function(function, name=function.__name__, kind=kind, limit_s=60)
    finally:
        gc.unfreeze()


def scaled():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    scaler = torch.amp.GradScaler("cpu")

    def step():
        loss = model(torch.rand(BATCH, WIDTH)).sum()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return model, optimizer, step


def whole_loop():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(3):
        loss = functional.cross_entropy(model(torch.rand(BATCH, WIDTH)), torch.randint(0, OUT, (BATCH,)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"{loss.item():.2f}")  # noqa: T201


def returned_step():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())

    def step():
        model(torch.rand(BATCH, WIDTH)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


@pytest.mark.parametrize("function", [scaled, whole_loop, returned_step])
def test_states_of_adamw_are_there_however_it_is_written(function):
    """4 bytes of parameter and gradient each, 8 of moments; on a GPU ``foreach`` holds one more copy at the peak."""
    held = traced(function).peaks["optimizer"].held
    assert held.parameters == 4 * PARAMETERS
    assert held.gradients == 4 * PARAMETERS
    assert held.optimizer == pytest.approx(8 * PARAMETERS, abs=8 * TENSORS)
    assert held.temporaries == pytest.approx(4 * PARAMETERS, rel=0.2)


def test_a_step_without_an_optimizer_says_so():
    """Memory of states that are not there is not counted silently."""

    def forgotten():
        model = net()
        return model, lambda: model(torch.rand(BATCH, WIDTH)).sum().backward()

    trace = traced(forgotten)
    assert trace.peak.held.optimizer == 0
    assert any("no optimizer" in note for note in trace.notes)


def test_forward_alone_keeps_nothing_for_a_backward_pass():
    """With kind forward there are no gradients, and no note about optimizers."""

    def both():
        return net(), torch.rand(BATCH, WIDTH)

    trace = traced(both, kind="forward")
    assert trace.peak.held.gradients == trace.peak.held.optimizer == 0
    assert not trace.notes
    assert {op.phase for op in trace.operators} == {"forward"}


class Attention(nn.Module):
    """Attention as users write it."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 3 * 64)
        self.dropout = dropout

    def forward(self, x):
        """Attend."""
        b, t, _ = x.shape
        q, k, v = self.inner(x).view(b, t, 3, 4, 16).permute(2, 0, 3, 1, 4)
        return functional.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout, is_causal=True)


def test_dropout_keeps_no_scores():
    """A GPU's kernels drop out without scores in memory; the one for CPUs would keep 4 heads × 512² of them, several times."""

    def attending(dropout):
        def function():
            return Attention(dropout), torch.rand(1, 512, 64)

        return traced(function).peak.held.total

    assert attending(0.1) < attending(0.0) + 4 * 4 * 512 * 512


def test_products_of_groups_take_32_bits():
    """Experts in 32 bits run on real devices; PyTorch's rule for shapes alone refuses them."""

    def grouped():
        weight = nn.Parameter(torch.zeros(4, 32, 16))

        def step():
            ends = torch.tensor([2, 4, 6, 8], dtype=torch.int32)
            functional.grouped_mm(torch.zeros(8, 32), weight, offs=ends).sum().backward()

        return nn.ParameterList([weight]), step

    work = sum(op.flops for op in traced(grouped).operators if "grouped" in op.name and op.phase == "forward")
    assert work == 2 * 8 * 32 * 16
