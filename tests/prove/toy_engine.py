"""An engine of proofs whose clock only its own steps move: what the protocol and its misfortunes are tested on."""

from __future__ import annotations

import ctypes
import os
import signal
import time

import numpy as np

from bytebound.errors import DocumentError, QuantityError

NOW = [0.0]
time.perf_counter = lambda: NOW[0]  # this is a process of its own, and a busy machine must not move its clock


class Toy:
    """Steps of ``seconds``; every fault an engine can have, on demand."""

    version = "toy 1"

    def __init__(self, settings):
        self.settings = settings
        self.prepared = 0
        self.random = np.random.default_rng(settings.get("seed", 0))

    def prepare(self, depth):
        """Remember the depth."""
        self.prepared = depth

    def step(self, depth=0):
        """Take as long as the settings say, longer by ``noise`` of a random share."""
        assert depth == self.prepared
        NOW[0] += self.settings["seconds"] * (1 + self.settings.get("noise", 0.0) * self.random.exponential())

    def memory(self):
        """Return bytes as told."""
        return {"weights": self.settings.get("weights", 1e6), "resident": 0.0}

    def echo(self, value):
        """Return what came."""
        return value

    def shout(self):
        """Print where the pipe once was, in Python and in C."""
        print("not an answer")  # noqa: T201
        ctypes.CDLL(None).puts(b"not an answer either")

    def refuse(self, how):
        """Fail in one of many ways."""
        if how == "sentence":
            raise QuantityError("too deep", place="depth", mend="less")
        if how == "bug":
            raise ZeroDivisionError("a\nbug " + 3000 * "x")
        if how == "memory":
            np.ones(1 << 40)
        if how == "hold":
            np.ones(1 << 30)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "abort":
            os.write(2, b"GGML_ASSERT: no\nterminate called: std::bad_alloc\n")
            os.abort()
        if how == "sleep":
            time.sleep(60)


def open(settings):  # noqa: A001
    """Open a toy, or refuse as a missing package does."""
    if settings.get("missing"):
        raise DocumentError("toys are not installed", place="toy", mend="pip install toy")
    return Toy(settings)
