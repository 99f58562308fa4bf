"""Extrapolated steps equal whole ones to the byte; categories, closed forms, doubling laws."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="tracing runs PyTorch code")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula  # noqa: E402

from bytebound.errors import RequestError, UnfinishedError  # noqa: E402
from bytebound.trace.formulas import operator  # noqa: E402
from bytebound.trace.run import Step, trace_module, trace_step  # noqa: E402

WIDTH = 32


class Block(torch.nn.Module):
    """A residual feed-forward layer; ``wide`` makes another kind of it."""

    def __init__(self, *, wide: bool):
        super().__init__()
        self.up = torch.nn.Linear(WIDTH, WIDTH * (4 if wide else 2))
        self.down = torch.nn.Linear(WIDTH * (4 if wide else 2), WIDTH)

    def forward(self, x):
        """Apply it."""
        return x + self.down(torch.nn.functional.gelu(self.up(x)))


class Model(torch.nn.Module):
    """An embedding, a stack of blocks (``kinds``: which are wide) and a head."""

    def __init__(self, kinds):
        super().__init__()
        self.enter = torch.nn.Embedding(50, WIDTH)
        self.layers = torch.nn.ModuleList(Block(wide=kind) for kind in kinds)
        self.leave = torch.nn.Linear(WIDTH, 50)

    def forward(self, ids):
        """Return logits."""
        x = self.enter(ids)
        for layer in self.layers:
            x = layer(x)
        return self.leave(x)


def traced(kinds, *, batch=2, **options):
    return trace_module(
        lambda: Model(kinds), lambda: (torch.zeros(batch, 8, dtype=torch.long),), name="model", **options
    )


def held(trace):
    return {key: moment.held for key, moment in trace.peaks.items()}


def sums(trace):
    return {
        (op.name, op.phase, op.module): (op.calls, op.flops, op.read_bytes, op.written_bytes, op.fused_bytes, op.weight_bytes)
        for op in trace.operators
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kinds", "optimizer"),
    [
        ([False] * 12, "adamw"),
        ([False, True] * 13, "lion"),
        ([False] * 2 + [True] * 14, None),
        (([True] + [False] * 5) * 6, "sgd"),
    ],
)
def test_few_layers_foretell_all_of_them_to_the_byte(kinds, optimizer):
    few, whole = (traced(kinds, optimizer=optimizer, layers=layers) for layers in ("few", "all"))
    assert any(stack.traced < stack.repeat for stack in few.stacks)
    assert all(stack.traced == stack.repeat for stack in whole.stacks)
    assert held(few) == held(whole)
    assert few.peak.held == whole.peak.held
    assert (few.peak.op, few.peak.phase) == (whole.peak.op, whole.peak.phase)
    assert sums(few).keys() == sums(whole).keys()
    for key, row in sums(few).items():
        assert row == pytest.approx(sums(whole)[key], rel=1e-9)
    assert {(t.role, t.module, t.name, t.op, t.shape, t.copies) for t in few.tensors} == {
        (t.role, t.module, t.name, t.op, t.shape, t.copies) for t in whole.tensors
    }


def test_layers_that_are_not_linear_in_their_number_are_all_run():
    class Growing(Model):  # every layer keeps the outputs of all before it: quadratic in depth
        def forward(self, ids):
            x = self.enter(ids)
            outputs = [x]
            for layer in self.layers:
                outputs.append(layer(torch.cat(outputs).mean(0, keepdim=True).expand_as(x)))
            return self.leave(outputs[-1])

    trace = trace_module(lambda: Growing([False] * 14), lambda: (torch.zeros(2, 8, dtype=torch.long),), name="m")
    assert [stack.traced for stack in trace.stacks] == [14]
    assert any("all of them were run" in note for note in trace.notes)


def test_states_and_gradients_are_what_the_optimizer_needs():
    trace = traced([False] * 4)
    parameters = trace.parameters
    assert trace.trainable == parameters == sum(p.numel() for p in Model([False] * 4).parameters())
    assert trace.peaks["optimizer"].held.parameters == 4 * parameters
    assert trace.peaks["optimizer"].held.gradients == 4 * parameters
    steps = 4 * len(list(Model([False] * 4).parameters()))  # AdamW counts steps in a tensor of 4 bytes per parameter
    assert trace.peaks["optimizer"].held.optimizer == 8 * parameters + steps
    assert trace.peaks["optimizer"].held.temporaries == pytest.approx(4 * parameters, abs=64)  # foreach's square roots


def test_fused_adamw_holds_no_second_copy_and_foreach_does():
    def step(**kernel):
        def make():
            model = Model([False] * 2)
            optimizer = torch.optim.AdamW(model.parameters(), **kernel)

            def run():
                model(torch.zeros(1, 1, dtype=torch.long)).mean().backward()
                optimizer.step()
                optimizer.zero_grad()

            return Step(model, run, (optimizer,))

        return trace_step(make, name="m").peaks["optimizer"].held

    parameters = sum(p.numel() for p in Model([False] * 2).parameters())
    assert step(foreach=True).temporaries - step(fused=True).temporaries == pytest.approx(4 * parameters, abs=64)


def test_twice_the_batch_is_twice_the_activations_and_products_and_the_same_states():
    one, two = traced([False] * 4, batch=2), traced([False] * 4, batch=4)
    kept = [[m for m in t.timeline if m.phase == "forward"][-1].held.activations for t in (one, two)]
    assert kept[1] == pytest.approx(2 * kept[0], abs=16)  # the loss and its gradient are one number each
    assert one.peaks["backward/"].held.optimizer == two.peaks["backward/"].held.optimizer
    products = [sum(op.flops for op in t.operators if op.kind == "gemm") for t in (one, two)]
    assert products[1] == 2 * products[0]


def test_products_of_a_dense_step_are_six_flops_per_weight_and_token():
    trace = traced([False] * 4)
    weights = 4 * 2 * WIDTH * 2 * WIDTH + WIDTH * 50
    products = sum(op.flops for op in trace.operators if op.kind == "gemm")
    assert products == 6 * weights * 2 * 8


def test_tensors_add_up_to_the_bytes_held_at_every_peak():
    trace = traced([False, True] * 4)
    for key, moment in trace.peaks.items():
        for role, category in (
            ("gradient", "gradients"),
            ("optimizer", "optimizer"),
            ("activation", "activations"),
            ("temporary", "temporaries"),
        ):
            found = sum(t.storage_bytes * t.alive.get(key, 0) for t in trace.tensors if t.role == role)
            assert found == getattr(moment.held, category), (key, role)


def test_fused_bytes_are_never_more_than_unfused_ones_and_never_less_than_the_weights():
    trace = traced([False] * 4)
    for op in trace.operators:
        assert op.fused_bytes <= op.read_bytes + op.written_bytes
    forward = [op for op in trace.operators if op.phase == "forward"]
    assert sum(op.fused_bytes for op in forward) >= 4 * 4 * 2 * WIDTH * 2 * WIDTH


def test_rounded_storages_are_whole_blocks():
    assert traced([False] * 2, round_to=512).peak.held.total % 512 == 0


def test_an_operator_without_a_formula_is_named_with_its_bytes():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.eye(8))

        def forward(self, x):
            return torch.linalg.lu_factor(self.weight + x)[0]

    trace = trace_module(Odd, lambda: (torch.zeros(8, 8),), name="m")
    assert any(line.startswith("linalg_lu_factor_ex: 1 calls move") for line in trace.unknown)
    assert any(not op.known for op in trace.operators)


@pytest.fixture
def stranger():
    """An operator of another library that is called like one of ATen's; it copies."""

    @torch.library.custom_op("bytebound_tests::clone", mutates_args=(), schema="(Tensor x) -> Tensor")
    def clone(x):
        return x * 1

    clone.register_fake(torch.empty_like)
    clone.register_autograd(lambda _, gradient: gradient)
    yield torch.ops.bytebound_tests.clone
    flop_registry.pop(torch.ops.bytebound_tests.clone, None)
    operator.cache_clear()


class Uses(torch.nn.Module):
    """A matrix, and an operator over the product."""

    def __init__(self, operator):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(8))
        self.operator = operator

    def forward(self, x):
        """Apply both."""
        return self.operator(x @ self.weight)


def test_an_operator_of_another_library_is_never_taken_for_atens(stranger):
    trace = trace_module(lambda: Uses(stranger), lambda: (torch.zeros(4, 8),), name="m")
    (found,) = [op for op in trace.operators if op.name.startswith("bytebound_tests")]
    assert not found.known
    assert found.read_bytes == found.written_bytes == 4 * 8 * 4
    assert trace.unknown == ("bytebound_tests::clone: 1 calls move 256 B and have no FLOP formula",)


def test_a_formula_registered_with_pytorch_is_counted(stranger):
    register_flop_formula(stranger)(lambda shape, **_: 7 * shape[0] * shape[1])
    operator.cache_clear()
    trace = trace_module(lambda: Uses(stranger), lambda: (torch.zeros(4, 8),), name="m")
    assert [op.flops for op in trace.operators if op.name == "bytebound_tests::clone"] == [7 * 4 * 8]
    assert trace.unknown == ()


def test_an_encoder_layer_in_evaluation_is_counted_product_by_product():
    """PyTorch would run it as one operator; projections and feed-forward per token, scores and their use per pair."""
    layer = torch.nn.TransformerEncoderLayer
    trace = trace_module(
        lambda: layer(16, 2, 32, batch_first=True), lambda: (torch.zeros(1, 4, 16),), name="m", optimizer=None
    )
    products = sum(op.flops for op in trace.operators if op.kind in {"gemm", "attention"})
    assert trace.unknown == ()
    assert products == 2 * 4 * (4 * 16 * 16 + 2 * 16 * 32) + 2 * 2 * 4 * 4 * 16


def convolutions(groups):
    return torch.nn.Sequential(torch.nn.Conv2d(4, 16, 1), torch.nn.Conv2d(16, 16, 3, padding=1, groups=groups))


@pytest.mark.parametrize("groups", [1, 4, 16])
def test_each_weight_of_a_convolution_meets_every_point_once_a_pass(groups):
    """Two FLOPs per weight, point and sample: forward, weight gradient and, but for the first layer, input gradient."""
    trace = trace_module(lambda: convolutions(groups), lambda: (torch.zeros(2, 4, 8, 8),), name="m")
    found = sum(op.flops for op in trace.operators if op.kind == "conv")
    assert found == 2 * (2 * 8 * 8) * (2 * 4 * 16 + 3 * 16 * 16 // groups * 9)
    if groups == 1:  # PyTorch counts the weight gradient once per group
        with FakeTensorMode(), FlopCounterMode(display=False) as counter:
            convolutions(groups)(torch.zeros(2, 4, 8, 8)).mean().backward()
        assert found == counter.get_total_flops()


def test_layers_of_an_rnn_meet_every_token_with_both_matrices():
    class Last(torch.nn.LSTM):
        def forward(self, x):
            return super().forward(x)[0]

    trace = trace_module(lambda: Last(8, 16), lambda: (torch.zeros(5, 2, 8),), name="m")
    assert trace.unknown == ()
    assert sum(op.flops for op in trace.operators if op.kind == "gemm" and op.phase == "forward") == 2 * 10 * 64 * (
        8 + 16
    )


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (lambda _, x: x[x > 0].sum(), "values of a tensor"),
        (lambda _, x: x.cuda().sum(), "asks for a GPU"),
        (lambda _, x: x.detach().sum(), "no parameter gets a gradient"),
        (lambda _, x: [x].pop(1), "the code raised IndexError: pop index out of range"),
    ],
)
def test_what_cannot_be_traced_is_one_sentence_with_a_line(forward, words):
    class Bad(torch.nn.Linear):
        pass

    Bad.forward = forward
    with pytest.raises(RequestError, match=words) as caught:
        trace_module(lambda: Bad(4, 4), lambda: (torch.zeros(2, 4),), name="bad")
    assert "test_tracer.py:" in caught.value.place or caught.value.place == "bad"
    assert caught.value.mend


def test_a_loss_that_is_no_number_says_so():
    with pytest.raises(RequestError, match="the loss is not one number"):
        trace_module(lambda: torch.nn.Linear(4, 4), lambda: (torch.zeros(2, 4),), name="m", loss=lambda out: out)


def test_a_trace_over_its_time_ends():
    class Long(torch.nn.Linear):
        def forward(self, x):
            for _ in range(400):
                x = x + 1
            return super().forward(x)

    with pytest.raises(UnfinishedError, match="longer than 0 s"):
        trace_module(lambda: Long(4, 4), lambda: (torch.zeros(2, 4),), name="m", limit_s=0.0)
