"""The recorder inside a training process: marks its steps, looks closely at a few, appends a line per step to a file.

It hooks optimizers and the outermost model only, and never raises into the program: what fails ends the recording.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import time
import traceback
import weakref
from typing import TYPE_CHECKING, Any

from . import described
from .allocator import Watch, fullest_moments
from .states import find_roots, held, place_of, plain_tensors, stepped, trunk

if TYPE_CHECKING:
    from collections.abc import Callable

LEAD = 1
"""Steps before the closely seen ones during which the allocator is watched too, so that the gradients they free are known."""
COMPILED_AFTER = 4
"""Steps that a compiled model gets before it is looked at closely: it is still being compiled in the first ones."""
WRITTEN = 1000
"""Steps whose times are all written; from 10 times as many every tenth, and so on."""


def guarded(method: Callable[..., None]) -> Callable[..., None]:
    """Return a hook that costs a compiler nothing, counts its own time, and turns the recorder off where it fails."""

    @functools.wraps(method)
    def hook(self: Recorder, *args: Any) -> None:
        if self.torch.compiler.is_compiling() or self.off:
            return
        start = time.perf_counter()
        try:
            method(self, *args)
        except Exception as error:  # noqa: BLE001 - the program that is watched must not notice
            self.give_up(error)
        self.own_s += time.perf_counter() - start
        if self.stepped:  # a new step: what ending the last one took is in neither
            self.stepped, self.own_s, self.clock = False, 0.0, time.perf_counter()

    return hook


class Recorder:
    """Records the training of one process into ``folder``; ``closely`` steps are looked at with torch's profiler."""

    def __init__(self, torch: Any, folder: str, *, closely: int = 1) -> None:
        self.torch, self.folder, self.closely = torch, folder, closely
        self.removers: list[Callable[[], None]] = []
        self._clear()

    def _clear(self) -> None:
        self.off = False
        self.file: int | None = None
        self.steps = self.met = self.micro = 0
        self.samples = self.tokens = self.own_s = 0.0
        self.clock: float | None = None
        self.in_forward = self.stepped = False
        self.later = False  # the optimizer whose steps we count is gone: another model is trained now
        self.autocast = ""
        self.inputs: dict[str, Any] = {}
        self.optimizers: dict[int, weakref.ref[Any]] = {}
        self.primary: weakref.ref[Any] | None = None
        self.roots: list[weakref.ref[Any]] = []
        self.watch: Watch | None = None
        self.begin_at, self.done_at = 1, 0
        self.device = "cpu"

    # --- hooks ---------------------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Hook optimizers, the start of backward passes and the user's own profiler."""
        torch = self.torch
        optimizer = importlib.import_module("torch.optim.optimizer")
        self.removers += [
            optimizer.register_optimizer_step_pre_hook(self.before_step).remove,
            optimizer.register_optimizer_step_post_hook(self.after_step).remove,
        ]
        self._wrap(torch.autograd, "backward", self.backward_begins, self.backward_ends)
        self._wrap(torch.autograd.profiler.profile, "_prepare_trace", self.other_profiler, None)

    def _wrap(
        self, owner: Any, name: str, before: Callable[..., None], after: Callable[..., None] | None
    ) -> None:  # fmt: skip
        """Call ``before`` and ``after`` around a function of torch, which stays itself in every other way."""
        function = getattr(owner, name, None)
        if function is None:
            return

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            before(*args[:1])
            try:
                return function(*args, **kwargs)
            finally:
                if after is not None:
                    after()

        setattr(owner, name, wrapped)
        self.removers.append(lambda: setattr(owner, name, function) if getattr(owner, name) is wrapped else None)

    def detach(self) -> None:
        """Take every hook away."""
        while self.removers:
            self.removers.pop()()

    @guarded
    def model_called(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note what the model is given, once for every forward pass that will have a backward pass."""
        if self.in_forward or not self.torch.is_grad_enabled():
            return
        self.in_forward = True
        self._mark("forward")
        samples, tokens, shape = described.inputs(self.torch, args, kwargs)
        self.samples += samples
        self.tokens += tokens
        self.inputs = shape

    @guarded
    def inner_called(self, _module: Any, args: tuple[Any, ...]) -> None:
        """Note the dtype that autocast multiplies in where the first linear layer runs."""
        self.autocast = described.autocast(self.torch, args)

    @guarded
    def backward_begins(self, *_: Any) -> None:
        """The end of a forward pass."""
        self.in_forward = False
        self.micro += 1
        self._mark("backward")

    @guarded
    def backward_ends(self) -> None:
        """What follows is the next forward pass or the optimizer."""
        self._mark("forward")

    @guarded
    def before_step(self, optimizer: Any, _args: Any, _kwargs: Any) -> None:
        """An optimizer begins: its gradients are all there."""
        self.optimizers.setdefault(id(optimizer), weakref.ref(optimizer))
        if self.watch is not None:
            gradients = (tensor.grad for tensor in stepped(optimizer))
            places = (place_of(part) for grad in gradients for part in plain_tensors(self.torch, grad))
            self.watch.gradients.append({place for place in places if place is not None})
        self._mark("optimizer")

    @guarded
    def after_step(self, optimizer: Any, _args: Any, _kwargs: Any) -> None:
        """An optimizer is done; where it is the first one, so is the step."""
        if self.primary is None or self.primary() is None:
            self.later = self.primary is not None
            self.primary = weakref.ref(optimizer)
        if self.primary() is not optimizer:
            self._mark("forward")
            return
        self._mark("step")
        self._step_done(time.perf_counter())
        self.samples = self.tokens = 0.0
        self.micro = 0
        self.in_forward, self.stepped = False, True

    @guarded
    def other_profiler(self, profiler: Any) -> None:
        """The user's own profiler begins: there can be only one."""
        if self.watch is not None and profiler is not self.watch.profiler.profiler:
            self.watch.stop()
            self.watch = None
            self.begin_at = self.steps + 1

    # --- a step --------------------------------------------------------------------------------------------------

    def _step_done(self, now: float) -> None:
        self.steps += 1
        if len(self.optimizers) > self.met and not self.later:
            self._meet()
        if self.steps <= WRITTEN or self.steps % 10 ** (len(str(self.steps // WRITTEN))) == 0:
            self._write_step(now)
        if self.watch is not None and self.steps >= self.begin_at + LEAD + self.closely:
            self._finish_watch(whole=True)
        elif self.watch is None and self.closely and not self.done_at and self.steps >= self.begin_at:
            self._start_watch()

    def _write_step(self, now: float) -> None:
        after = self.done_at and self.steps == self.done_at + 1  # the first step without the profiler is slower still
        kind = "close" if self.watch is not None else "warm" if self.steps <= 2 or after else "timed"
        kind = "later" if self.later else kind
        self.write(
            "step", number=self.steps, kind=kind, seconds=None if self.clock is None else now - self.clock, own_s=self.own_s,
            samples=self.samples, tokens=self.tokens, micro=self.micro, inputs=self.inputs, **described.memory(self.torch, self.device),
        )  # fmt: skip

    def _meet(self) -> None:
        """Describe the model at the first step, and again where more optimizers came; hook the outermost modules."""
        first, self.met = self.met == 0, len(self.optimizers)
        known = {id(root) for ref in self.roots if (root := ref()) is not None}
        roots = find_roots(self.torch, self._alive())
        self.roots = [weakref.ref(root) for root in roots]
        self.device = described.device_of(roots, self._alive())
        facts = described.facts(self.torch, roots, self._alive(), self.device)
        if first:
            self.begin_at = COMPILED_AFTER if facts.get("compiled") else self.begin_at
            self.write("start", **described.process(self.torch))
        self.write("model", **facts)
        for root in (root for root in roots if id(root) not in known):
            for module in trunk(root):
                self.removers.append(module.register_forward_pre_hook(self.model_called, with_kwargs=True).remove)
            linear = next((m for m in root.modules() if type(m) is self.torch.nn.Linear), None)
            if linear is not None:
                self.removers.append(linear.register_forward_pre_hook(self.inner_called).remove)

    def _alive(self) -> list[Any]:
        return [optimizer for ref in self.optimizers.values() if (optimizer := ref()) is not None]

    def _held(self) -> dict[Any, Any]:
        roots = [root for ref in self.roots if (root := ref()) is not None]
        return held(self.torch, roots, self._alive())

    # --- the allocator -------------------------------------------------------------------------------------------

    def _mark(self, name: str) -> None:
        if self.watch is not None:
            self.watch.mark(name)

    def _start_watch(self) -> None:
        if self.torch._C._autograd._profiler_enabled():  # noqa: SLF001 - the user's own runs now; the next step may be free
            return
        self.begin_at = self.steps
        self._write_states(self._held())  # in case that this is all we see
        watch = Watch(self.torch)
        watch.start()
        self.watch = watch

    def _finish_watch(self, *, whole: bool) -> None:
        """Stop and write the states and the fullest moment of every closely seen step."""
        watch, self.watch = self.watch, None
        if watch is None:
            return
        self.done_at = self.steps
        events = watch.stop()
        states = self._held()
        moments = fullest_moments(events, states, watch.gradients, self.device)
        self._write_states(states)
        for index, moment in enumerate(moments):
            self.write(
                "peak", number=self.begin_at + 1 + index, lead=index < LEAD, phase=moment.phase, after_forward=moment.after_forward,
                total=moment.total_bytes, whole=whole, **moment.held,
            )  # fmt: skip

    def _write_states(self, states: dict[Any, Any]) -> None:
        totals = {"parameters": 0, "gradients": 0, "optimizer": 0, "elsewhere": 0}
        for place, block in states.items():
            totals[block.category if place[0] == self.device else "elsewhere"] += block.storage_bytes
        self.write("states", number=self.steps, autocast=self.autocast, **totals)

    # --- the record ----------------------------------------------------------------------------------------------

    def note(self, name: str) -> None:
        """Leave a mark that this process got so far."""
        os.close(os.open(os.path.join(self.folder, f"{name}-{os.getpid()}"), os.O_CREAT | os.O_WRONLY, 0o600))  # noqa: PTH118

    def write(self, what: str, **values: Any) -> None:
        """Append one line; it is in the file when this returns, whatever happens to the process next."""
        if self.file is None:
            name = os.path.join(self.folder, f"{os.getpid()}.jsonl")  # noqa: PTH118
            self.file = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        os.write(self.file, json.dumps({"what": what, **values}, default=str).encode() + b"\n")

    def give_up(self, error: Exception) -> None:
        """Record nothing more in this process, and say why in the record."""
        self.off = True
        try:
            where = traceback.extract_tb(error.__traceback__)[-1:]
            lines = "".join(f" ({frame.name}, line {frame.lineno})" for frame in where)
            self.write("trouble", why=f"{type(error).__name__}: {error}{lines}"[:500])
            if self.watch is not None:
                self.watch.stop()
        except Exception:  # noqa: BLE001, S110 - a full disk, say
            pass
        self.watch = None

    def end(self) -> None:
        """The program ends: keep what the allocator showed so far."""
        if self.off or self.file is None:
            return
        try:
            if self.watch is not None and self.steps > self.begin_at:
                self._finish_watch(whole=False)
            elif not self.done_at:
                self._write_states(self._held())
            self.write("end", **described.memory(self.torch, self.device))
        except Exception as error:  # noqa: BLE001 - as everywhere here
            self.give_up(error)

    def forked(self) -> None:
        """A fork of this process is another one: it records only if it takes optimizer steps itself."""
        self._clear()
