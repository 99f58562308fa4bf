"""Fabricated documents with round numbers, so that a rendering can be checked by reading it."""

from __future__ import annotations

import math
from dataclasses import replace

from bytebound.documents.audit import (
    Assumption,
    Audit,
    Fix,
    FleetTotals,
    Headroom,
    PoolAudit,
    RooflinePoint,
    Starves,
    WorkloadAudit,
)
from bytebound.documents.estimate import Estimate, MachineFacts, Memory, ModelFacts, NextWall, OperatorTime, Phase
from bytebound.documents.values import Interval, Provenance

MONTHS = tuple(f"{2026 + (10 + i) // 12}-{(10 + i) % 12 + 1:02d}" for i in range(18))
NEVER = Starves(0.0, None, None, None, None)


def headroom(start: float, monthly: float, spread: float = 0.02, months: int = 18) -> Headroom:
    """Supply over need that shrinks by ``monthly`` a month, with a band that widens by ``spread`` a month."""
    middle = [(1 + start) * (1 - monthly) ** i - 1 for i in range(months)]
    low = [(1 + m) * (1 - spread) ** i - 1 for i, m in enumerate(middle)]
    high = [(1 + m) * (1 + spread) ** i - 1 for i, m in enumerate(middle)]
    return Headroom(tuple(low), tuple(middle), tuple(high))


def fix(lever: str, title: str, **changes: object) -> Fix:
    """One fix that saves $2,000 a month unless told otherwise."""
    base = Fix(
        lever=lever,
        title=title,
        effect=1.5,
        usd_per_month=-2000.0,
        starves_after=Starves(0.2, 15, None, None, "compute"),
        quality_note="under 0.5 % on common suites",
        status="recommended",
        reason="weights are most of the bytes of a step",
        source="levers.md §8",
    )
    return replace(base, **changes)


FIXES = (
    fix("fp8-weights", "Store weights in fp8"),
    fix("more-devices", "Buy 8 more h100-sxm", effect=2.0, usd_per_month=14000.0, status="helps", quality_note=""),
    fix(
        "prefix-cache",
        "Cache shared prefixes",
        effect=1.02,
        usd_per_month=None,
        status="little-effect",
        reason="only 4 % of prompts share a prefix",
    ),
    fix(
        "speculative",
        "Speculative decoding",
        effect=0.8,
        usd_per_month=5000.0,
        status="rejected",
        starves_after=None,
        reason="at batch 256 the step is compute-bound: drafts cost more than they save",
    ),
)


def workload(name: str, **changes: object) -> WorkloadAudit:
    """A workload that is fine until a field says otherwise."""
    base = WorkloadAudit(
        name=name,
        kind="serve",
        model="meta-llama/Llama-3.1-70B",
        pool="main",
        deployment="tp 4 · fp8 weights · vllm",
        verdict_now="kv-bandwidth",
        why="62 % of the decode step reads KV cache",
        headroom_now=1.0,
        starves=NEVER,
        by_resource={
            "capacity": headroom(1.4, 0.01),
            "memory-bandwidth": headroom(1.0, 0.02),
            "compute": headroom(8.0, 0.02),
            "links": headroom(20.0, 0.01),
        },
        headroom=headroom(1.0, 0.02),
        fixes=(),
        need_devices=headroom(7.0, -0.03),
        supply_devices=(16.0,) * 18,
        best_batch=64,
        metrics={"ttft_s": Interval(0.25, 0.2, 0.3), "tpot_s": Interval(0.02, 0.018, 0.023)},
        roofline=(
            RooflinePoint(name, "prefill", "h100-sxm", 700.0, 5e14, 3.35e12, 9.89e14),
            RooflinePoint(name, "decode", "h100-sxm", 40.0, 1.1e14, 3.35e12, 9.89e14),
        ),
        usd_per_month=Interval(20000.0, 18000.0, 23000.0),
        provenance=(Provenance("h100-sxm memory bandwidth", "cited", "NVIDIA H100 datasheet, 2023"),),
    )
    return replace(base, **changes)


def audit(**changes: object) -> Audit:
    """Ten workloads on three pools; the first starves now, the second in June 2027."""
    early = Starves(1.0, 0, 0, 0, "memory-bandwidth")
    soon = Starves(0.83, 4, 7, 12, "capacity")
    late = Starves(0.31, 11, None, None, "compute")
    base = Audit(
        name="examples/fleet.toml",
        start="2026-11",
        months=MONTHS,
        draws=10_000,
        seed=0,
        scenario=("memory price ×1.0", "no roadmap slip"),
        workloads=(
            workload(
                "chat-70b",
                headroom_now=-0.12,
                headroom=headroom(-0.12, 0.04),
                starves=early,
                fixes=FIXES,
                by_resource={
                    "capacity": headroom(0.3, 0.02),
                    "memory-bandwidth": headroom(-0.12, 0.04),
                    "compute": headroom(3.0, 0.03),
                    "links": headroom(9.0, 0.02),
                },
            ),
            workload(
                "rag-long-context",
                headroom_now=0.23,
                headroom=headroom(0.23, 0.03),
                starves=soon,
                verdict_now="capacity",
                fixes=FIXES[:3],
                by_resource={"capacity": headroom(0.23, 0.03), "memory-bandwidth": headroom(0.9, 0.02)},
            ),
            workload("moe-two-nodes", headroom_now=0.5, headroom=headroom(0.5, 0.025), starves=late, fixes=FIXES[1:2]),
            workload("code-completion", pool="main", model="Qwen/Qwen2.5-Coder-32B"),
            workload("vision", model="Qwen/Qwen2-VL-72B-Instruct"),
            workload("embeddings", kind="embed", model="BAAI/bge-m3", headroom_now=4.2),
            workload("images", kind="diffusion", model="black-forest-labs/FLUX.1-dev", pool="images"),
            workload("laptop-assistant", kind="edge", pool="laptops", usd_per_month=None, headroom_now=0.4),
            workload("fine-tune", kind="train", headroom_now=12.0),
            workload("pre-training", kind="train", headroom_now=math.nan, verdict_now="unknown", roofline=()),
        ),
        pools=(
            pool("main", "h100-sxm", count=64.0),
            pool("images", "l40s", count=8.0),
            pool("laptops", "apple-m4-pro", count=100.0),
        ),
        fleet=FleetTotals(
            usd_per_month_now=118_000.0,
            usd_per_month_end=164_000.0,
            power_w_now=62_000.0,
            workloads_starving=3,
            first="chat-70b",
            first_month=0,
            first_resource="memory-bandwidth",
            sentence="chat-70b starves now on memory-bandwidth; storing weights in fp8 saves $2 000/month "
            "and carries it to Feb 2028.",
        ),
        assumptions=(
            Assumption("growth of chat-70b", "60 % a year (40–90 %)", "stated", "fleet.toml"),
            Assumption("memory use of the engine", "92 %", "assumed", "vLLM default"),
            Assumption(
                "h100-sxm memory bandwidth", "3.35 TB/s", "cited", "https://www.nvidia.com/en-us/data-center/h100/"
            ),
        ),
        run={"command": "bytebound audit examples/fleet.toml", "version": "0.1.0", "seconds": "3.1"},
    )
    return replace(base, **changes)


def pool(name: str, device: str, *, count: float) -> PoolAudit:
    """A pool that grows by a half in month 9 and whose need grows 3 % a month from 70 % of it."""
    needed = [0.7 * count * 1.03**i for i in range(18)]
    return PoolAudit(
        name=name,
        device=device,
        devices_by_month=tuple(count * (1.5 if i >= 9 else 1.0) for i in range(18)),
        usd_per_month=tuple(count * 1500 * (1.5 if i >= 9 else 1.0) for i in range(18)),
        power_w=tuple(count * 700 * (1.5 if i >= 9 else 1.0) for i in range(18)),
        needed=Headroom(
            tuple(0.9 * n for n in needed),
            tuple(needed),
            tuple(1.15 * n for n in needed),
        ),
    )


def operator(name: str, role: str, **changes: object) -> OperatorTime:
    """One operator that reads 1 GB of weights in 0.4 ms."""
    base = OperatorTime(
        name=name,
        role=role,
        repeat=80,
        flops=2e12,
        weight_bytes=1e9,
        kv_bytes=0.0,
        activation_bytes=1e6,
        network_bytes=0.0,
        seconds=4e-4,
        bound="weight-bandwidth",
    )
    return replace(base, **changes)


def estimate(**changes: object) -> Estimate:
    """70B parameters in fp8 on four devices, batch 32."""
    decode = Phase(
        seconds=0.0094,
        flops=4.5e12,
        weight_bytes=1.76e10,
        kv_bytes=6e9,
        activation_bytes=1e8,
        network_bytes=5e8,
        intensity=190.0,
        mbu=0.75,
        mfu=0.06,
        bound="weight-bandwidth",
        shares={
            "weight-bandwidth": 0.61,
            "kv-bandwidth": 0.21,
            "activation-bandwidth": 0.0,
            "compute": 0.0,
            "scale-up-link": 0.14,
            "overhead": 0.04,
        },
        floor_s=0.007,
        operators=(
            operator("attention.qkv", "linear"),
            operator("attention.core", "attention", weight_bytes=0.0, kv_bytes=6e9, bound="kv-bandwidth"),
            operator("mlp.up_gate", "linear", weight_bytes=9e9, seconds=3e-3),
            operator("allreduce", "collective", weight_bytes=0.0, network_bytes=5e8, bound="scale-up-link"),
        ),
    )
    prefill = replace(decode, seconds=0.8, bound="compute", mfu=0.55, mbu=0.05, intensity=2000.0, operators=())
    base = Estimate(
        model=ModelFacts("meta-llama/Llama-3.1-70B", 70_553_706_496, 70_553_706_496, 327_680),
        machine=MachineFacts("4x h100-sxm", 4, 4),
        work={"batch": 32, "prompt": 2048, "output": 256, "weights": "fp8", "kv": "auto", "tp": 4, "engine": "vllm"},
        ttft_s=Interval(0.8, 0.6, 1.1),
        tpot_s=Interval(0.0094, 0.0085, 0.0104),
        tokens_per_s=Interval(3400.0, 3000.0, 3750.0),
        request_s=Interval(3.2, 2.8, 3.8),
        memory=Memory(
            weights_bytes=16.4 * 2**30,
            kv_bytes=5.6 * 2**30,
            activation_bytes=1.0 * 2**30,
            reserve_bytes=3.0 * 2**30,
            total_bytes=26.0 * 2**30,
            usable_bytes=79.6 * 2**30,
            fits=True,
            max_kv_tokens=700_000,
        ),
        decode=decode,
        prefill=prefill,
        verdict="weight-bandwidth",
        elasticity={"memory_bandwidth": 0.8, "memory_capacity": 0.0, "compute": 0.0, "scale_up_link": 0.14},
        next_wall=NextWall("kv-bandwidth", "batch 96"),
        usd_per_mtok=Interval(0.82, 0.75, 0.9),
        joules_per_token=Interval(0.7, 0.6, 0.9),
        power_w=2400.0,
        provenance=(
            Provenance("h100-sxm memory bandwidth", "cited", "NVIDIA H100 datasheet, 2023"),
            Provenance("efficiency of linear operators", "assumed", "0.85 of the peak, by operator class"),
        ),
    )
    return replace(base, **changes)
