"""The plan of a published training run: its degrees, batches, precision, recomputation and adapters as fields of ``Train``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from bytebound.documents.architecture import Linear
from bytebound.truth.readings import Inexpressible
from bytebound.truth.training_sources import (
    LITGPT_ACCUMULATED,
    LITGPT_DEVICES,
    LITGPT_RANKS,
    MAXTEXT,
    MAXTEXT_TOKENS,
    NARAYANAN_MICRO,
    PEFT_MEAN_TOKENS,
    PRECISIONS,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bytebound.documents.architecture import Architecture
    from bytebound.truth.training_sources import Practice

VIRTUAL = re.compile(r"\b(?:VPP?|interleaving)[ =](\d+)")
DEEPSPEED = re.compile(r"\bDS=Y\b|\bDeepspeed\b")
"""Runs of bigscience's V100 table whose column ``DS`` says that DeepSpeed drove Megatron."""
TRAINABLE = re.compile(r"peft_type (\S+); trainable (\d+)")
RANK = re.compile(r"rank(\d+)")
ATTENTION_PROJECTIONS = ("q_proj", "v_proj")

RECOMPUTED: Mapping[str, tuple[str, dict[str, Any]]] = {
    "none": ("none", {}),
    "full": ("full", {}),
    "core_attn": ("selective", {}),
    "core_attn baseline in that run": ("selective", {}),
    "selective core_attn": ("selective", {}),
    "selective []": ("none", {}),
    "selective+SP": ("selective", {"sequence_parallel": "on"}),
}
"""Recomputation as printed -> ours and what else it says."""


def plan_of(
    cells: Mapping[str, str], practice: Practice, metric: str, architecture: Architecture
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the fields of ``Train`` a row states or its publication's practice implies, and what was assumed.

    Raises:
        Inexpressible: something a request has no word for, degrees or batches that are not stated or cannot be.
    """
    plan: dict[str, Any] = dict(practice.work)
    said: list[str] = []
    if practice.key == "maxtext":
        return _maxtext(cells, plan)
    _degrees(cells, plan, said)
    _batches(cells, practice, plan, said)
    _precision(cells, practice, plan)
    if cells["recompute"]:
        if cells["recompute"] not in RECOMPUTED:
            raise Inexpressible("what is recomputed has no word in a request", cells["recompute"])
        kind, more = RECOMPUTED[cells["recompute"]]
        plan |= {"recompute": kind, **more}
        if practice.key.startswith("korthikanti"):
            plan.setdefault("sequence_parallel", "off")
    if practice.key == "gpt2-v100" and DEEPSPEED.search(cells["notes"]):
        plan["framework"] = "deepspeed"
    if found := VIRTUAL.search(cells["notes"]):
        plan["virtual_stages"] = int(found[1])
    _adapters(cells, practice, plan, said, metric=metric, architecture=architecture)
    return plan, tuple(said)


def _whole(cells: Mapping[str, str], name: str) -> int:
    return int(float(cells[name])) if cells[name] else 0


def _degrees(cells: Mapping[str, str], plan: dict[str, Any], said: list[str]) -> None:
    """Add the degrees: cp and ep 1 where blank, dp what is left of the devices."""
    devices = _whole(cells, "n_gpus")
    if cells["source"] == "litgpt config hub":
        devices = LITGPT_DEVICES.get(cells["model"].lower(), 1)
        cells = {**cells, "dp": str(devices)}
    if cells["source"] == "Korthikanti 2022 abstract":
        cells = {**cells, "tp": "8", "pp": "35", "dp": "8", "global_batch": "2240", "micro_batch": "1"}
    tp, pp, cp = (_whole(cells, name) or 1 for name in ("tp", "pp", "cp"))
    if not devices or not cells["tp"]:
        raise Inexpressible("devices or degrees not stated", cells["citation_locator"])
    dp = _whole(cells, "dp")
    if not dp:
        dp = devices // (tp * pp * cp)
        said.append("data parallelism from the devices")
    if tp * pp * cp * dp != devices or "WARNING" in cells["notes"]:
        raise Inexpressible("degrees do not multiply out to the devices", f"{tp} x {pp} x {dp} x {cp} != {devices}")
    plan |= {"tp": tp, "pp": pp, "dp": dp, "cp": cp, "ep": _whole(cells, "ep") or 1}
    if cells["zero_stage"]:
        plan["zero"] = _whole(cells, "zero_stage")
    if plan.get("zero") == 3 and plan.get("framework") is None:
        plan["framework"] = "deepspeed"  # Narayanan's ZeRO-3 runs; the others are Megatron
    plan.setdefault("framework", "megatron")


def _batches(cells: Mapping[str, str], practice: Practice, plan: dict[str, Any], said: list[str]) -> None:
    seq, micro, batch = (_whole(cells, name) for name in ("seq", "micro_batch", "global_batch"))
    if practice.key == "narayanan-2021":
        size = cells["params_b"].split(".")[0]
        micro = NARAYANAN_MICRO[size, _whole(cells, "n_gpus")] if plan["zero"] == 3 else 1
    if practice.key in {"mt-nlg", "korthikanti-2022-mfu"}:
        micro = 1
    if practice.key == "korthikanti-2022-mfu":
        batch = 2240
        said.append("280 sequences a replica, as in table 5")
    if practice.key == "litgpt":
        accumulated = LITGPT_ACCUMULATED.get(cells["model"].lower(), 1)
        batch = micro * plan["dp"] * accumulated
    if not seq:
        raise Inexpressible("sequence length not stated", cells["citation_locator"])
    if not micro or not batch:
        raise Inexpressible("batch not stated", cells["citation_locator"])
    if batch % (micro * plan["dp"]):
        raise Inexpressible(
            "the global batch is no multiple of the micro-batches", f"{batch} / ({micro} x {plan['dp']})"
        )
    plan |= {"seq": seq, "micro_batch": micro, "global_batch": batch}


def _precision(cells: Mapping[str, str], practice: Practice, plan: dict[str, Any]) -> None:
    printed = cells["precision"].lower()
    if practice.key in {"litgpt", "peft", "maxtext"}:
        return
    if printed in PRECISIONS:
        plan["precision"] = PRECISIONS[printed]
    if printed == "fp16/bf16 (see notes)" or (practice.key == "bloom-tuning" and printed == "bf16"):
        plan |= {"gradients": "bf16"}  # before 02-28 gradients were summed in 16 bits ("Rebalancing layers")


def _adapters(
    cells: Mapping[str, str],
    practice: Practice,
    plan: dict[str, Any],
    said: list[str],
    *,
    metric: str,
    architecture: Architecture,
) -> None:
    name = cells["model"].lower()
    if practice.key == "peft":
        _peft(cells, metric, architecture, plan, said)
    elif practice.key == "litgpt":
        kind = name.rsplit(" ", 1)[-1]
        several = plan["dp"] > 1
        said += [f"{plan['dp']} devices, as today's configuration file says"] if several else []
        said.append("the longest sample has 512 tokens")
        plan |= {"zero": 3 if several else 0}
        if kind == "full":
            # litgpt's full fine-tuning over several devices checkpoints every block (finetune/full.py).
            plan |= {"recompute": "full" if several else "none"}
            return
        rank, targets = LITGPT_RANKS.get(name.rsplit(" ", 1)[0], (32, "qv"))
        plan |= {"trainable": kind, "lora_rank": rank, "lora_targets": targets}
    elif re.search(r"\blora$", name):
        plan |= {"trainable": "lora", "lora_rank": 32, "lora_targets": "all"}
        said.append("LoRA of rank 32 on all linear layers")


def _peft(
    cells: Mapping[str, str], metric: str, architecture: Architecture, plan: dict[str, Any], said: list[str]
) -> None:
    """Add the adapter of a row of PEFT's comparison: LoRA whose count of trained parameters a request reproduces, or none.

    Variants (DoRA, LoRA-FA, ...) keep other tensors alive, and their count of parameters tells them apart.
    """
    found = TRAINABLE.search(cells["notes"])
    kind, count = (found[1], int(found[2])) if found else ("", 0)
    if kind == "LORA" and (rank := RANK.search(cells["model"])):
        targets = "mlp" if "target-mlp" in cells["model"] else "qv"
        if adapter_parameters(architecture, int(rank[1]), targets) == count:
            plan |= {"trainable": "lora", "lora_rank": int(rank[1]), "lora_targets": targets}
        else:
            raise Inexpressible("the adapter has no word in a request", cells["model"])
    elif kind != "full":
        raise Inexpressible("the adapter has no word in a request", kind)
    if metric == "tokens_per_s_per_device":
        plan["seq"] = PEFT_MEAN_TOKENS
        said.append(f"samples of {PEFT_MEAN_TOKENS} tokens, their mean")
    else:
        said.append("the longest sample has 768 tokens")


def adapter_parameters(architecture: Architecture, rank: int, targets: str) -> int:
    """Return the parameters of LoRA adapters: rank × (inputs + outputs) of every target layer."""
    total = 0
    for _, block, operator in architecture.operators():
        if isinstance(operator, Linear):
            name = operator.name.rsplit(".", 1)[-1]
            chosen = name in ATTENTION_PROJECTIONS if targets == "qv" else operator.role == "mlp"
            total += chosen * rank * (operator.inputs + operator.outputs) * block.repeat * operator.copies
    return total


def _maxtext(cells: Mapping[str, str], plan: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the plan of a MaxText run: batch, recomputation and sharding stand in the script beside the README.

    Slices multiply data-parallel replicas; within one slice weights are fully sharded.
    """
    chip, size = cells["hardware"].lower(), cells["params_b"]
    if (chip, size) not in MAXTEXT:
        raise Inexpressible("batch not stated", cells["citation_locator"])
    micro, recompute, tp = MAXTEXT[chip, size]
    devices = _whole(cells, "n_gpus")
    dp = devices // tp
    plan |= {
        "seq": MAXTEXT_TOKENS, "micro_batch": micro * tp, "global_batch": micro * tp * dp, "tp": tp, "pp": 1, "cp": 1, "dp": dp, "recompute": recompute,
    }  # fmt: skip
    return plan, ("batch and recomputation of the script beside the table",)
