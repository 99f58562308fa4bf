"""Observe a Hugging Face model under PyTorch: prefill and decode timed apart, and each once more under the profiler.

Times come from steps that are not profiled, taken in turn with probes of the machine. The profiled steps only say how a
step divides among its operators; what the profiler itself costs is measured and said.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from bytebound.documents.observation import OperatorRun, PhaseRun, Run
from bytebound.engines.summary import spread
from bytebound.engines.torch_canaries import canaries
from bytebound.engines.torch_open import Opened, memory_errors, need_packages, open_model
from bytebound.engines.torch_steps import Steps, make_steps, page_faults, profile_steps
from bytebound.errors import QuantityError, UnfinishedError, UnknownNameError
from bytebound.measure.sampling import Probe, Sample, sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Progress = Callable[[str], None]

FAULT_S, FAULTS_SHARE = 2.5e-6, 0.05
"""What it costs to get one cleared 4 KiB page [s] (measured in a virtual machine on AMD Zen 4: a prefill of 0.90 s took
1.15 s with 100,000 of them), and the share of a prefill from which that is worth a note."""
ATTENTIONS = ("sdpa", "eager")
PROFILED_STEPS, PROFILE_S = 4, 6.0
"""Most steps under the profiler, of which the fastest is shown, and about the seconds they may take: one is always run."""
PROBED = 3
"""Samples of each probe of the machine in a round: they are short, and a ceiling is the best of many."""
SHORTEST_S = 0.1
"""Shorter samples are too short to tell whether others used the machine meanwhile."""


def run_torch_model(
    source: Any,
    *,
    batch: int = 1,
    prompt: int = 512,
    output: int = 32,
    dtype: str = "auto",
    device: str = "auto",
    attention: str = "sdpa",
    threads: int | None = None,
    repeats: int = 5,
    budget_s: float = 120.0,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Run:
    """Run a model under PyTorch and return what was seen, per phase and operator.

    Prefill passes ``prompt`` random tokens of ``batch`` sequences from nothing. Decode adds one token to each at a fixed
    depth of ``prompt + output // 2`` tokens, the mean depth of such a request. A model without a cache (an encoder) only
    has the first. After Ctrl-C, or when memory runs out midway, what is finished is returned and ``errors`` says so.

    Args:
        source: a model folder (config.json and safetensors), a ``.gguf`` file, a ``config.json``, its object or a bundled
            model's id (then with random weights), or a ``torch.nn.Module`` that takes ``input_ids``.
        batch: sequences at once.
        prompt: tokens of each.
        output: tokens each would generate; decode steps per round.
        dtype: ``fp32``, ``bf16``, ``fp16`` or ``auto``: the checkpoint's, or fp32 where the processor emulates that one.
        device: ``cpu``, ``cuda``, ``rocm``, ``xpu``, ``mps`` or ``auto``; ``auto`` takes an accelerator where there is one.
        attention: ``sdpa`` (fused) or ``eager``.
        threads: of PyTorch on the processor; None leaves its own choice.
        repeats: rounds of prefill, decode and probes.
        budget_s: seconds after which no further round starts; at least one is run.
        seed: of random weights and tokens.
        on_progress: told what is being done.

    Raises:
        QuantityError: it would not fit into memory, a number is out of range, or the dtype is emulated.
        UnknownNameError: no such model, dtype, device or attention.
        DocumentError: the files are damaged, hostile, pickled or of an unknown kind.
        RequestError: a package is missing, or no such device is there.
        UnfinishedError: memory ran out before anything was finished.
    """
    began = time.perf_counter()
    need_packages()
    from bytebound.engines.torch_source import overheard  # noqa: PLC0415 - needs transformers

    say = on_progress or (lambda _text: None)
    for name, value in (("batch", batch), ("prompt", prompt), ("output", output), ("repeats", repeats)):
        if value < 1:
            raise QuantityError(f"{name} is {value}", place=f"--{name}", mend="give 1 or more")
    if attention not in ATTENTIONS:
        raise UnknownNameError("attention", attention, ATTENTIONS, place="--attention")
    with ExitStack() as stack:
        stack.enter_context(_threads(threads))
        opened = open_model(
            source, dtype=dtype, device=device, attention=attention, load=(batch, prompt + output), seed=seed, say=say
        )
        stack.enter_context(_evaluating(opened.model))
        taken = _Taken()
        steps = make_steps(
            opened.model, opened.accelerator,
            vocabulary=opened.vocabulary, batch=batch, prompt=prompt, depth=prompt + output // 2, seed=seed,
        )  # fmt: skip
        try:
            with memory_errors(opened.name), overheard(taken.notes):
                _rounds(steps, opened, taken, repeats=repeats, output=output, deadline=began + budget_s, say=say)
        except KeyboardInterrupt:
            if not taken.seconds:
                raise
            taken.errors.append("interrupted: what had been measured until then is kept")
        except UnfinishedError as error:
            if not taken.seconds:
                raise
            taken.errors.append(str(error))
        return _record(opened, taken, load={"batch": batch, "prompt": prompt, "output": output}, began=began)


@dataclass(slots=True)
class _Taken:
    """What has been seen so far."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    samples: list[Sample] = field(default_factory=list)
    rates: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    operators: dict[str, tuple[OperatorRun, ...]] = field(default_factory=dict)
    faults: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def probe(self, probe: Probe) -> None:
        """Take one sample of a probe of the machine."""
        seen = sample(probe.work)
        self.samples.append(seen)
        self.rates[probe.name].append(probe.amount / max(seen.seconds, 1e-9))


def _rounds(
    steps: Steps, opened: Opened, taken: _Taken, *, repeats: int, output: int, deadline: float, say: Progress
) -> None:
    with ExitStack() as stack:
        say("warming up")
        probes = canaries(stack, opened.accelerator)
        if not probes:
            taken.notes.append("no probe of the machine was interleaved: numba is not installed")
        for probe in probes:
            probe.work()
        steps.prefill()
        cache = steps.fill()
        if cache is not None:
            steps.decode(cache)
        for done in range(repeats):
            if done and time.perf_counter() > deadline:
                taken.notes.append(f"{done} of {repeats} rounds were run in the time given")
                break
            for probe in [*probes] * PROBED:
                taken.probe(probe)
            faults = page_faults()
            whole = sample(steps.prefill)
            taken.faults.append(page_faults() - faults)
            taken.samples.append(whole)
            taken.seconds["prefill"].append(whole.seconds)
            text = f"round {done + 1} of {repeats}: prefill {whole.seconds:.3f} s"
            if cache is not None:
                times = taken.seconds["decode"]
                taken.samples.append(sample(partial(_decode, steps, cache, times, count=output, deadline=deadline)))
                text += f", decode {times[-1] * 1e3:.1f} ms"
            say(text)
        pages = statistics.median(taken.faults)
        if pages * FAULT_S > FAULTS_SHARE * statistics.median(taken.seconds["prefill"]):
            taken.notes.append(
                f"a prefill asked the system for {pages:,.0f} pages: the allocator gives memory back and fetches it again; "
                "MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ (glibc) or another allocator can keep it"
            )
        _profiles(steps, cache, taken, say=say)


def _decode(steps: Steps, cache: Any, times: list[float], *, count: int, deadline: float) -> None:
    """Time up to ``count`` decode steps, fewer when time is up, and never none."""
    for done in range(count):
        if done and time.perf_counter() > deadline:
            return
        start = time.perf_counter()
        steps.decode(cache)
        times.append(time.perf_counter() - start)


def _profiles(steps: Steps, cache: Any, taken: _Taken, *, say: Progress) -> None:
    if steps.accelerator.kind == "mps":
        taken.notes.append("no operators: PyTorch's profiler cannot time kernels on Metal")
        return
    for name, step in (("prefill", steps.prefill), ("decode", partial(steps.decode, cache))):
        if name not in taken.seconds:
            taken.notes.append(f"no {name}: the model keeps no cache that can be held at one depth")
            continue
        say(f"profiling {name}")
        usual = statistics.median(taken.seconds[name])
        count = max(1, min(PROFILED_STEPS, int(PROFILE_S / usual)))
        taken.operators[name], seen = profile_steps(step, steps.model, count=count, accelerator=steps.accelerator)
        over = seen / usual - 1
        more = "longer" if over >= 0 else "less"
        taken.notes.append(f"the profiled {name} step took {abs(over):.0%} {more} than the median of the others")


def _record(opened: Opened, taken: _Taken, *, load: dict[str, int], began: float) -> Run:
    import transformers  # noqa: PLC0415 - optional

    batch, prompt = load["batch"], load["prompt"]
    phases = []
    for name, context, tokens in (("prefill", 0, prompt), ("decode", prompt + load["output"] // 2, 1)):
        seconds = spread(taken.seconds.get(name, ()))
        if seconds is not None:
            operators = taken.operators.get(name, ())
            phases.append(PhaseRun(name, seconds, batch, context, tokens=batch * tokens, operators=operators))
    told = [one.disturbed for one in taken.samples if one.seconds >= SHORTEST_S]
    when = datetime.now(UTC)
    return Run(
        id=f"run-{when:%Y%m%d-%H%M%S}-{uuid4().hex[:6]}", when=when.isoformat(timespec="seconds"), engine="transformers",
        engine_version=transformers.__version__, model=opened.name, settings=dict(opened.settings), load=dict(load),
        phases=tuple(phases), canaries={name: seen for name, rates in taken.rates.items() if (seen := spread(rates, rate=True))},
        disturbed=sum(told) / max(len(told), 1), notes=(*opened.notes, *taken.notes), errors=tuple(taken.errors),
        seconds=time.perf_counter() - began,
    )  # fmt: skip


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    import torch  # noqa: PLC0415 - optional

    before = torch.get_num_threads()
    if count is not None:
        if count < 1:
            raise QuantityError(f"threads is {count}", place="--threads", mend="give 1 or more")
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Switch dropout off while the model is run, and leave a caller's module as it was."""
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)
