"""An accelerator that takes the CUDA path on a machine without one: CUDA's events and graphs are played by the clock."""

# ruff: noqa: D102 - these are the methods of torch.cuda

import contextlib
import time
from types import SimpleNamespace

import pytest

from bytebound.measure.gpu import Accelerator

torch = pytest.importorskip("torch", reason="needs PyTorch")


class FakeCuda(Accelerator):
    """Says it is an NVIDIA device; its tensors lie on the processor."""

    @property
    def device(self):
        return "cpu"


class Event:
    """A CUDA event on a device that has always finished."""

    def __init__(self, *, enable_timing):
        assert enable_timing

    def record(self):
        self.at = time.perf_counter()

    def query(self):
        return True

    def elapsed_time(self, other):
        return (other.at - self.at) * 1e3


class HungEvent(Event):
    """The same on a device that never does."""

    def query(self):
        return False


class Graph:
    """What is captured is not run, as on a real device; a replay takes no time."""

    replays = 0

    def replay(self):
        Graph.replays += 1


def play_cuda(monkeypatch, event=Event, *, free=2**30, total=2**31):
    """Let ``torch.cuda`` answer as one device would."""
    said = SimpleNamespace(
        name="NVIDIA H200",
        total_memory=total,
        multi_processor_count=132,
        L2_cache_size=50 * 2**20,
        major=9,
        minor=0,
        uuid="",
        gcnArchName="gfx942:sramecc+",
    )
    answers = {
        "Event": event,
        "CUDAGraph": Graph,
        "Stream": lambda: None,
        "graph": lambda graph, stream: contextlib.nullcontext(),
        "device": lambda index: contextlib.nullcontext(),
        "synchronize": lambda index=None: None,
        "empty_cache": lambda: None,
        "mem_get_info": lambda index: (free, total),
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "can_device_access_peer": lambda one, other: True,
        "get_device_properties": lambda index: said,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    return FakeCuda("cuda", 0, said.name, total, said.L2_cache_size, 132, "sm_90")
