"""How NVIDIA's own benchmark jobs in aiconfigurator's sample loaded their engines: not stated there, deduced from the rows.

The sample says concurrency and lengths and nothing of the client. What a client did shows in how TTFT and TPOT depend on
concurrency and output, where a prefill of one prompt takes P:

* vLLM 0.12: TTFT does not depend on the output and grows by P / 20 per client: half the work of a first burst, over ten
  rounds.
* SGLang 0.5.1 and 0.5.8: TTFT is half of all prompts' work, and TPOT sees half of the stalls: one round.
* TensorRT-LLM 1.0.0rc3: the same ten rounds, and about 2.8 P more at every concurrency from 8 to 64, prompt and output
  length: arrivals in groups of eight or so, prefilled one after another. With Llama-3.1-8B the excess is instead
  output × TPOT / concurrency: one client more than slots, always one in line.
"""

from __future__ import annotations

from bytebound.documents.truth import Load

ROUNDS, CLUMP = 10.0, 8.0
DEDUCED = "assumed: rounds, slots and grouping of arrivals, deduced from how TTFT depends on concurrency and output"


def job_load(engine: str, version: str, model: str, clients: float) -> Load:
    """Return how a job of ``clients`` in flight loaded ``engine``, as deduced."""
    if engine == "sglang" and version.startswith(("0.5.1", "0.5.8")):
        return Load(rounds=1.0)
    if engine == "tensorrt-llm" and version.startswith("1.0.0"):
        if "llama" in model.lower():
            return Load(rounds=ROUNDS, slots=max(clients - 1, 1.0))
        return Load(rounds=ROUNDS, clump=CLUMP)
    return Load(rounds=ROUNDS)
