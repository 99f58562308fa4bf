"""Fabricated plans with round numbers, so that a rendering can be checked by reading it."""

from __future__ import annotations

from dataclasses import replace

from bytebound.documents.plan import Command, Deployment, Infeasible, ModelPlan, Plan, Searched
from bytebound.documents.values import Interval, Provenance

OBJECTIVE = {"ttft": 1.0, "tpot": 0.05, "request": None}


def some(value: float, spread: float = 1.25) -> Interval:
    return Interval(value, value / spread, value * spread)


VLLM = Command(
    engine="vllm",
    version="0.33.0",
    text='vllm serve org/model \\\n  --tensor-parallel-size 2 \\\n  --speculative-config \'{"method": "draft_model", "model": "DRAFT_MODEL", "num_speculative_tokens": 3}\'',
    notes=("start 2 copies of this, each on its own devices, behind one load balancer",),
    source="PyPI vllm 0.33.0",
)
MANIFEST = Command(
    engine="kubernetes", version="vllm 0.33.0", text="# org/model\napiVersion: apps/v1", kind="kubernetes"
)
REFUSED = Command(engine="llama.cpp", version="b11549", text="", notes=("llama.cpp has no fp8 weights",))


def deployment(**changes: object) -> Deployment:
    """Two copies of two devices for $4,000 a month unless told otherwise."""
    base = Deployment(
        model="org/model", machine="2x h100-sxm", device="h100-sxm", devices=4, replicas=2, prefill_replicas=0,
        work={"batch": 64, "prompt": 1500, "output": 300, "tp": 2, "pp": 1, "weights": "fp8", "kv": "auto", "prefix_hit": 0.3},
        ttft_s=some(0.4), tpot_s=some(0.03), tokens_per_s=some(4000.0), requests_per_s=12.0, utilization=0.75, memory_bytes=6e10,
        usable_bytes=7.5e10, usd_per_month=some(4000.0), usd_per_mtok=some(0.25), joules_per_token=some(0.5), probability=0.93,
        binds="weight-bandwidth", quality="near-lossless", quality_note="under 0.5 % on common suites",
        levers=("fp8-weights", "prefix-cache"), proven=("proof-17",), engine="vllm", commands=(VLLM, MANIFEST, REFUSED),
        notes=("a note of its own",),
    )  # fmt: skip
    return replace(base, **changes)


def front() -> tuple[Deployment, ...]:
    """The best, a faster and dearer one, one of unknown price, and one with prefill apart."""
    return (
        deployment(commands=()),
        deployment(device="b200-sxm", machine="1x b200-sxm", devices=2, tpot_s=some(0.012), usd_per_month=some(9000.0), commands=()),
        deployment(device="h200-sxm", devices=3, replicas=2, prefill_replicas=1, work={"batch": 8, "disaggregated": True}, usd_per_month=some(7000.0), commands=()),
    )  # fmt: skip


def model_plan(**changes: object) -> ModelPlan:
    base = ModelPlan("org/model", 9.0, 1500, 300, dict(OBJECTIVE), deployment(), front())
    return replace(base, **changes)


def plan(*models: ModelPlan, **changes: object) -> Plan:
    models = models or (model_plan(),)
    searched = Searched(
        1_250_000, 800_000, 40_000, 0.5, {"device": ["h100-sxm", "l4"], "tp": [1, 2, 4], "batch": list(range(1, 65))}
    )
    base = Plan(
        best=models[0].best if len(models) == 1 else None, front=models[0].front if len(models) == 1 else (), searched=searched,
        infeasible_because=next((each.infeasible_because for each in models if each.infeasible_because), None), models=models,
        devices=4 * len(models), usd_per_month=4000.0 * len(models), notes=("devices are rented one by one",),
        provenance=(Provenance("price of h100-sxm", "derived", "https://example.org/prices (2026-08)"),),
    )  # fmt: skip
    return replace(base, **changes)


def infeasible(limit: str = "tpot") -> ModelPlan:
    why = Infeasible(
        limit, "no deployment keeps TPOT under 1.00 ms", deployment(probability=0.0), 'bound it with --for "tpot<6ms"'
    )
    return model_plan(best=None, front=(), infeasible_because=why)
