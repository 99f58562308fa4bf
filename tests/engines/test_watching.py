"""The recorder inside a training process: what it says is held is what PyTorch holds, and the program does not notice."""

from __future__ import annotations

import json

import pytest

from bytebound.engines.watching.allocator import Event, fullest_moments
from bytebound.engines.watching.reading import lines_of, read_rank
from bytebound.engines.watching.states import Block

torch = pytest.importorskip("torch", reason="training runs need torch")

CPU = "cpu"


def made(address: int, size: int) -> Event:
    return Event((CPU, address), size, 0, "")


def freed(address: int, size: int) -> Event:
    return Event((CPU, address), -size, 0, "")


def mark(name: str) -> Event:
    return Event(("", 0), 0, 0, name)


STEP = [
    made(1, 100), made(2, 7), freed(2, 7), mark("backward"), made(3, 50), made(4, 5), freed(4, 5), freed(1, 100), mark("forward"),
    mark("optimizer"), made(5, 20), freed(5, 20), mark("step"), freed(3, 50),
]  # fmt: skip
STATES = {(CPU, 90): Block("parameters", 50), (CPU, 91): Block("optimizer", 100)}


def test_a_step_by_hand():
    """Kept from forward to backward: activations; there at the optimizer's start: gradients; the rest: temporaries."""
    (moment,) = fullest_moments(STEP, STATES, [{(CPU, 3)}], CPU)
    assert moment.held == {"parameters": 50, "gradients": 50, "optimizer": 100, "activations": 100, "temporaries": 5}
    assert moment.phase == "backward"
    assert moment.after_forward == 50 + 100 + 100
    assert moment.total_bytes is None


def test_the_same_step_again_holds_the_same():
    """Steps of one kind have one peak, whichever of them is looked at."""
    moments = fullest_moments(STEP * 3, STATES, [{(CPU, 3)}] * 3, CPU)
    assert len(moments) == 3
    assert len({json.dumps(moment.held) for moment in moments}) == 1


def test_other_devices_do_not_count():
    """A block on another device changes nothing."""
    other = [Event(("cuda:0", 1), 10**9, 0, ""), *STEP]
    assert (
        fullest_moments(other, STATES, [{(CPU, 3)}], CPU)[0].held
        == fullest_moments(STEP, STATES, [{(CPU, 3)}], CPU)[0].held
    )


def test_states_made_while_watched_are_counted_once():
    """A state that is still held at the end and was made on the way is one block."""
    events = [made(91, 100), *STEP[:-1], freed(3, 50)]
    held = fullest_moments(events, STATES, [{(CPU, 3)}], CPU)[0].held
    assert held["optimizer"] == 100


def test_a_half_written_line_is_left_out():
    """A process killed while it writes loses that line and no other."""
    assert lines_of(b'{"what": "step", "number": 1}\n{"what": "st') == [{"what": "step", "number": 1}]
    assert lines_of(b'\xff\xfe\n[1]\n\n{"what": "end"}\n') == [{"what": "end"}]
    assert read_rank([{"what": "end"}]) is None


def small(bias: bool = True):  # noqa: FBT001, FBT002
    return torch.nn.Sequential(torch.nn.Linear(64, 128, bias=bias), torch.nn.ReLU(), torch.nn.Linear(128, 8, bias=bias))


def train(model, optimizers, *, steps: int = 6, micro: int = 1, keep: bool = False):
    data = torch.zeros(32, 64)
    for _ in range(steps):
        for _ in range(micro):
            model(data).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=not keep)


def watched(**named):
    import bytebound as bb

    model = small()
    names = named.pop("optimizer", torch.optim.AdamW)
    optimizers = [names(model.parameters(), lr=0.1, **named.pop("settings", {}))]
    with bb.watch(closely=named.pop("closely", 1)) as run:
        train(model, optimizers, **named)
    (rank,) = run.watched.ranks
    return rank, model, run


def test_states_are_the_known_bytes():
    """AdamW in fp32: 4 bytes of parameter and of gradient each, 8 of moments, a 4-byte step count per tensor."""
    rank, model, run = watched()
    count, tensors = sum(p.numel() for p in model.parameters()), len(list(model.parameters()))
    assert rank.states.parameters == rank.peak.held.parameters == 4 * count
    assert rank.states.gradients == 4 * count
    assert rank.states.optimizer == rank.peak.held.optimizer == 8 * count + 4 * tensors
    assert rank.steps == 6
    assert rank.samples == 32
    assert rank.timed.samples == 2  # not the first two, not the closely seen third, not the one after it
    assert rank.optimizers[0].kernel == "loop"
    assert "measured only" in run.watched.missing["prediction"]
    assert "AdamW (loop)" in str(run)


def test_activations_are_what_autograd_keeps():
    """Linear keeps its input and ReLU its output: the first hidden layer's 32 × 128 floats once, where backward begins."""
    rank, _, _ = watched(optimizer=torch.optim.SGD)
    hidden, out = 4 * 32 * 128, 4 * 32 * 8
    states = rank.states.parameters + rank.states.optimizer
    # the linear output is freed once ReLU has made its own; the model's output and the loss are alive too
    assert rank.peak.after_forward_bytes - states == pytest.approx(hidden + out, abs=8)


@pytest.mark.parametrize("keep", [True, False])
def test_gradients_that_stay_are_counted_once(keep):
    """Gradients zeroed in place lie there all the time; dropped ones at the optimizer step: the same bytes at that peak."""
    rank, _, _ = watched(keep=keep)
    assert rank.states.gradients == rank.states.parameters
    assert rank.peak.held.gradients <= rank.states.gradients


def test_micro_batches_make_one_step():
    """Three backward passes and an optimizer step are one step of three times the samples."""
    rank, _, _ = watched(micro=3)
    assert (rank.steps, rank.microbatches, rank.samples) == (6, 3, 96)


def test_two_steps_are_too_few_for_a_peak_and_say_so():
    """What was not seen is said, not guessed."""
    rank, _, run = watched(steps=1)
    assert rank.peak is None
    assert rank.states is not None
    assert "only one optimizer step" in run.watched.missing["memory by category"]


def test_times_alone():
    """Without a closely seen step every step but the first two is timed."""
    rank, _, _ = watched(closely=0)
    assert rank.peak is None
    assert rank.timed.samples == 4


def test_several_optimizers_and_closures():
    """A step ends where the first optimizer steps again; LBFGS calls forward and backward inside its own step."""
    import bytebound as bb

    model, data = small(), torch.zeros(4, 64)
    two = [torch.optim.AdamW(model[0].parameters()), torch.optim.SGD(model[2].parameters(), lr=0.1)]
    with bb.watch() as run:
        train(model, two)
    (rank,) = run.watched.ranks
    assert rank.steps == 6
    assert [optimizer.name for optimizer in rank.optimizers] == ["AdamW", "SGD"]
    lbfgs = torch.optim.LBFGS(model.parameters())

    def closure():
        lbfgs.zero_grad()
        loss = model(data + 1).square().mean()
        loss.backward()
        return loss

    with bb.watch() as run:
        for _ in range(4):
            lbfgs.step(closure)
    assert run.watched.ranks[0].steps == 4


def test_nothing_is_left_behind():
    """After the block torch is as it was, and an error inside goes on with what was recorded kept."""
    import bytebound as bb

    optimizer = (
        torch.optim.optimizer
        if hasattr(torch.optim, "optimizer")
        else __import__("sys").modules["torch.optim.optimizer"]
    )
    before = (
        torch.autograd.backward,
        torch.autograd.profiler.profile._prepare_trace,
        dict(optimizer._global_optimizer_post_hooks),
    )
    model = small()
    adam = torch.optim.AdamW(model.parameters())

    def fail():
        train(model, [adam], steps=5)
        raise ValueError("mine")

    run = bb.watch()
    with pytest.raises(ValueError, match="mine"), run:
        fail()
    assert run.watched.ranks[0].steps == 5
    assert run.watched.exit_code == 1
    after = (
        torch.autograd.backward,
        torch.autograd.profiler.profile._prepare_trace,
        dict(optimizer._global_optimizer_post_hooks),
    )
    assert after == before
    assert not model._forward_pre_hooks


def test_the_users_profiler_comes_first():
    """A profiler that the program starts while we watch works as if we were not there."""
    import bytebound as bb

    model = small()
    adam = torch.optim.AdamW(model.parameters())
    with bb.watch() as run:
        train(model, [adam], steps=2)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            train(model, [adam], steps=2)
        train(model, [adam], steps=4)
    assert any(event.key == "aten::addmm" for event in profiler.key_averages())
    (rank,) = run.watched.ranks
    assert rank.steps == 8
    assert rank.troubles == ()
    assert rank.peak is not None


def test_a_small_llama_agrees_with_its_trace():
    """Activations and temporaries of a real step are the tracer's within 3 %; parameters and states to the byte."""
    transformers = pytest.importorskip("transformers", reason="the model is transformers'")
    import bytebound as bb
    from bytebound.trace.run import Step, trace_step

    config = transformers.LlamaConfig(
        vocab_size=500,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
    )

    def make() -> Step:
        model = transformers.LlamaForCausalLM._from_config(config, attn_implementation="sdpa")
        optimizer = torch.optim.AdamW(model.parameters())

        def run() -> None:
            ids = torch.zeros(2, 128, dtype=torch.long)
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return Step(model, run, (optimizer,))

    traced = trace_step(make, name="llama", on="cpu").peak
    step = make()
    with bb.watch() as run:
        for _ in range(4):
            step.run()
    (rank,) = run.watched.ranks
    held = rank.peak.held
    assert rank.peak.phase == traced.phase
    assert (held.parameters, held.optimizer) == (traced.held.parameters, traced.held.optimizer)
    live = traced.held.activations + traced.held.temporaries
    assert held.activations + held.temporaries == pytest.approx(live, rel=0.03)
    assert (rank.seq, rank.tokens) == (128, 256)
    assert run.watched.request["precision"] == "fp32"
    assert run.watched.request["optimizer_kernel"] == "loop"


def test_micro_batches_and_dropout_agree_with_the_trace_of_their_config():
    """What watch traces by itself from the model's config: gradients lie there from the second micro-batch on, dropout keeps its masks."""
    transformers = pytest.importorskip("transformers", reason="the model is transformers'")
    import bytebound as bb

    sizes = {
        "n_layer": 4,
        "n_embd": 64,
        "n_head": 4,
        "vocab_size": 300,
        "n_positions": 64,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).train()
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.zeros(4, 64, dtype=torch.long)
    with bb.watch() as run:
        for _ in range(4):
            for _ in range(2):
                model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    (rank,) = run.watched.ranks
    assert rank.microbatches == 2
    assert rank.peak.held.gradients == rank.states.gradients
    traced = next(found for found in run.watched.predictions if found.how == "trace")
    for category in ("parameters", "gradients", "optimizer", "activations", "temporaries"):
        assert getattr(traced.held, category) == pytest.approx(getattr(rank.peak.held, category), rel=0.01, abs=2048), (
            category
        )
