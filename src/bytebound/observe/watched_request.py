"""The ``Train`` request that describes a watched run, so that the same step can be predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from bytebound.documents.work import Train
from bytebound.errors import RequestError

if TYPE_CHECKING:
    from bytebound.documents.watched import WatchedModel, WatchedOptimizer, WatchedRank

OPTIMIZERS = {
    "adam": "adamw", "adamw": "adamw", "adam8bit": "adamw-8bit", "adamw8bit": "adamw-8bit", "pagedadamw8bit": "adamw-8bit",
    "pagedadam8bit": "adamw-8bit", "adamw4bit": "adamw-4bit", "adam4bit": "adamw-4bit", "lion": "lion", "adafactor": "adafactor",
    "muon": "muon",
}  # fmt: skip
"""Class of an optimizer, in small letters -> our name for what it keeps."""
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj", "query", "key", "value", "c_attn"}
FEED_FORWARD = {"gate_proj", "up_proj", "down_proj", "fc1", "fc2", "c_fc"}


def request_of(rank: WatchedRank) -> tuple[Train, tuple[str, ...]]:
    """Return the request that describes one process's steps, and in words what was taken for it.

    Raises:
        RequestError: no Hugging Face language model, an unknown optimizer or precision, or steps that say no tokens.
    """
    model = rank.model
    if model is None or not model.config:
        mend = "give its training step with --trace FILE.py:FUNCTION"
        raise RequestError("measured only: the model has no Hugging Face config to predict from", mend=mend)
    if not (rank.samples and rank.seq and rank.microbatches):
        raise RequestError("measured only: no step showed the model a batch of tokens", mend="let it take three steps")
    if len(rank.optimizers) != 1:
        raise RequestError(f"measured only: {len(rank.optimizers)} optimizers step the model, and we predict one")
    notes: list[str] = []
    micro = max(round(rank.samples / rank.microbatches), 1)
    whole = micro * max(round(rank.microbatches), 1)
    zero, framework = _sharding(model)
    trainable = _adapters(model)
    work = Train(
        seq=rank.seq, micro_batch=micro, global_batch=whole * rank.world, dp=rank.world, zero=zero if rank.world > 1 else 0,
        framework=framework, precision=_precision(rank, model, notes), optimizer=_optimizer(rank.optimizers[0]),
        optimizer_kernel=_kernel(rank), recompute="full" if model.checkpointing else "none",
        attention="eager" if model.attention == "eager" else "flash", **trainable,
    )  # fmt: skip
    return work, tuple(notes)


def _sharding(model: WatchedModel) -> tuple[int, str]:
    """Return ZeRO's stage and the framework, from how the model is wrapped."""
    names = " ".join(model.wrappers)
    if "DeepSpeed" in names:
        raise RequestError("measured only: DeepSpeed's stage cannot be seen from outside")
    return (3, "fsdp") if "FSDP" in names or "FullySharded" in names else (0, "hf")


def _precision(rank: WatchedRank, model: WatchedModel, notes: list[str]) -> str:
    widths = model.trainable | model.frozen if not model.adapters else model.frozen or model.trainable
    stored = max(widths, key=lambda name: widths[name])
    if stored == "float32":
        if rank.autocast == "float16":
            notes.append("fp16 autocast is predicted as bf16 autocast: the same bytes")
        return "bf16-autocast" if rank.autocast else "fp32"
    if stored in {"bfloat16", "float16"}:
        if stored == "float16":
            notes.append("parameters in fp16 are predicted as bf16: the same bytes")
        return "bf16"
    raise RequestError(f"measured only: parameters in {stored} are not predicted")


def _optimizer(optimizer: WatchedOptimizer) -> str:
    name = optimizer.name.lower()
    if name == "sgd":
        return "sgd-momentum" if optimizer.settings.get("momentum") else "sgd"
    if name not in OPTIMIZERS:
        raise RequestError(f"measured only: what {optimizer.name} keeps is not known")
    return OPTIMIZERS[name]


def _kernel(rank: WatchedRank) -> Literal["auto", "foreach", "fused", "loop"]:
    known: dict[str, Literal["foreach", "fused", "loop"]] = {"foreach": "foreach", "fused": "fused", "loop": "loop"}
    return known.get(rank.optimizers[0].kernel, "loop" if rank.device == "cpu" else "auto")


def _adapters(model: WatchedModel) -> dict[str, Any]:
    if not model.adapters:
        if model.frozen:
            raise RequestError("measured only: some parameters are frozen and there are no adapters")
        return {}
    first = next(iter(model.adapters.values()))
    if "LORA" not in str(first.get("peft_type")).upper() or not isinstance(first.get("r"), int):
        raise RequestError(f"measured only: adapters of type {first.get('peft_type')} are not predicted")
    targets = first.get("target_modules")
    return {
        "trainable": "qlora" if "uint8" in model.frozen else "lora", "lora_rank": first["r"],
        "lora_targets": _targets({str(name).rpartition(".")[2] for name in targets} if isinstance(targets, list) else set()),
    }  # fmt: skip


def _targets(names: set[str]) -> str:
    """Return our word for the layers that adapters are at."""
    if names in ({"q_proj", "v_proj"}, {"query", "value"}):
        return "qv"
    if names and names <= ATTENTION:
        return "attention"
    return "mlp" if names and names <= FEED_FORWARD else "all"
