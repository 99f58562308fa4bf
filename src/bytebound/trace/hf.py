"""Trace any model of transformers from its config, under a training request."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from bytebound.errors import DocumentError, RequestError
from bytebound.trace import kernels
from bytebound.trace.inputs import inputs_of, left_out
from bytebound.trace.loading import loading
from bytebound.trace.optimizers import TRACED, Master, make_optimizer
from bytebound.trace.run import Step, loss_of, trace_step

if TYPE_CHECKING:
    from torch import nn

    from bytebound.documents.trace import Trace
    from bytebound.documents.work import Train

HEADS = (
    "AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForSpeechSeq2Seq", "AutoModelForCTC", "AutoModelForImageClassification",
    "AutoModelForMaskedLM", "AutoModelForAudioClassification", "AutoModel",
)  # fmt: skip
"""Tried in order for a config that names no architecture."""
LORA_TARGETS = {
    "all": "all-linear",
    "attention": r".*\.(q_proj|k_proj|v_proj|o_proj|out_proj|qkv_proj|c_attn|query|key|value|query_key_value|q|k|v|o)",
    "qv": r".*\.(q_proj|v_proj|query|value|q|v|c_attn)",
    "mlp": r".*\.(gate_proj|up_proj|down_proj|gate_up_proj|fc1|fc2|c_fc|wi|wi_0|wi_1|wo|dense_h_to_4h|dense_4h_to_h)",
}
LAYERDROPS = ("layerdrop", "encoder_layerdrop", "decoder_layerdrop")
LOSS_CHUNK = 1024
"""Tokens whose logits exist at a time under a chunked loss (torchtune's CEWithChunkedOutputLoss deals 8 chunks)."""


def trace_model(
    config: str | dict[str, Any] | Any,
    work: Train,
    *,
    name: str = "",
    kind: str = "training",
    repeat_kv: bool = False,
    passes: int = 1,
    **options: Any,
) -> Trace:
    """Trace one step of a transformers model on one device, as ``work`` trains it; degrees of parallelism are not applied.

    Args:
        config: path of a config.json, its values, or a ``PretrainedConfig``.
        work: seq, micro_batch, precision, gradients, optimizer and its kernel, recompute, attention, loss, trainable; one value each.
        name: what to call it; "" takes the architecture's name.
        kind: ``forward`` for a forward pass without gradients.
        repeat_kv: grouped keys and values are copied per query head before attention (kernels without grouped queries).
        passes: micro-batches of a step, one after another: from the second on gradients are held all the time.
        options: of ``run.trace_step``.

    Returns:
        The trace. ``made_with`` holds the settings.

    Raises:
        DocumentError: no such file, or it is no config.
        RequestError: transformers does not know the model, the request has several values, or the code cannot be traced.
    """
    with loading():
        settled = read_config(config)
        kernels.register()
    _refuse(work)
    forward = kind == "forward"
    notes = _notes(settled, work)

    built: list[nn.Module] = []
    optimizers: list[torch.optim.Optimizer] = []

    def make() -> Step:
        if not built:  # one model serves every depth: tracing cuts its layers and puts them back
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                built.append(build_model(settled, work, repeat_kv=repeat_kv, on=options.get("on", "gpu")))
        model = built[0]
        model.zero_grad()
        for past in optimizers:
            past.zero_grad()
            if isinstance(past, Master):
                past.release()
        optimizer = None if forward else _optimizer(model, work)
        optimizers[:] = [optimizer] if optimizer is not None else []
        given = inputs_of(model, batch=int(work.micro_batch), seq=int(work.seq))
        autocast = work.precision == "bf16-autocast"
        chunked = work.loss == "chunked" and hasattr(model, "lm_head") and "labels" in given

        def run() -> None:
            with torch.set_grad_enabled(not forward):
                for _ in range(passes):
                    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                        loss = _chunked_loss(model, given) if chunked else loss_of(model(**given))
                    if optimizer is not None:
                        loss.backward()
                if optimizer is not None:
                    optimizer.step()
                    optimizer.zero_grad()

        return Step(
            model, run, (optimizer,) if optimizer is not None else (), samples=float(work.micro_batch * passes), seq=float(work.seq),
            made_with=_made_with(work),
        )  # fmt: skip

    return trace_step(
        make, name=name or _name(settled), kind="forward" if forward else "training", notes=notes, **options
    )


def _refuse(work: Train) -> None:
    """Refuse what no trace can answer.

    Raises:
        RequestError: several values at once, a 4-bit base, or an optimizer that is not known.
    """
    arrays = [
        field for field in ("seq", "micro_batch", "lora_rank", "recompute_layers") if np.shape(getattr(work, field))
    ]
    if arrays:
        raise RequestError(
            f"a trace answers one question, and {arrays[0]} has several values", place=arrays[0], mend="give one"
        )
    if work.trainable == "qlora":
        raise RequestError(
            "a 4-bit base has no code that runs without a GPU",
            place="trainable",
            mend="trace lora, or ask the formulas (bytebound train)",
        )
    if work.optimizer not in TRACED:
        make_optimizer(work.optimizer, ())


def read_config(config: str | dict[str, Any] | Any) -> Any:
    """Return the ``PretrainedConfig`` of a path, values or one itself.

    Raises:
        DocumentError: no such file, no JSON object, or transformers refuses the values.
        RequestError: the model type is not known to transformers.
    """
    from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig  # noqa: PLC0415 - optional, and slow to import

    if isinstance(config, PretrainedConfig):
        return copy.deepcopy(config)
    place = "config"
    if isinstance(config, str):
        place = config
        path = Path(config) / "config.json" if Path(config).is_dir() else Path(config)
        try:
            config = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise DocumentError(
                f"no config can be read ({error})", place=place, mend="give the path of a config.json"
            ) from error
    if not isinstance(config, dict):
        raise DocumentError("a config is a JSON object", place=place)
    values = {key: value for key, value in config.items() if key not in {"quantization_config", "auto_map"}}
    model_type = values.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        raise RequestError(
            f"transformers knows no model type {model_type!r}",
            place=place,
            mend="give a config.json with a model_type of transformers",
        )
    try:
        return AutoConfig.for_model(model_type, **values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DocumentError(f"transformers refuses this config: {error}", place=place) from error


def build_model(config: Any, work: Train, *, repeat_kv: bool, on: str = "gpu") -> nn.Module:
    """Build the model as the request trains it: dtype, attention, recomputation, adapters."""
    import transformers  # noqa: PLC0415 - optional, and slow to import

    wide = work.precision in {"fp32", "bf16-autocast"}
    dtype = torch.float32 if wide else torch.float16 if work.precision == "fp16-mixed" else torch.bfloat16
    if work.attention == "flash":
        wanted = [kernels.REPEATED if repeat_kv else kernels.FLASH, "sdpa", "eager"]
        wanted = wanted[1:] if on == "cpu" else wanted  # PyTorch chooses there as it does for real tensors
    else:
        wanted = [kernels.SELECTIVE, "eager"] if work.recompute == "selective" else ["eager"]
    named = getattr(transformers, (getattr(config, "architectures", None) or [""])[0], None)
    model = None
    for attention in wanted:
        try:
            if named is not None:
                model = named._from_config(config, dtype=dtype, attn_implementation=attention)  # noqa: SLF001 - what Auto classes call
            else:
                model = _auto(transformers, config).from_config(config, dtype=dtype, attn_implementation=attention)
            break
        except (ValueError, ImportError):
            if attention == wanted[-1]:
                raise
    assert model is not None  # noqa: S101 - the last attempt raised otherwise
    model.train()
    _settle(model)
    if work.trainable == "lora":
        model = _with_adapters(model, work)
    if work.recompute == "full":
        _recompute(model, float(work.recompute_layers))
    return model


def _settle(model: nn.Module) -> None:
    """Leave out what no training step keeps (caches) and what chance decides (dropped layers, masked frames)."""
    parts = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    for part in (*parts.values(), *model.modules()):
        for name in ("use_cache", "apply_spec_augment"):
            if getattr(part, name, False):
                setattr(part, name, False)
        for name in LAYERDROPS:
            if getattr(part, name, 0.0):
                setattr(part, name, 0.0)


def _auto(transformers: Any, config: Any) -> Any:
    for head in HEADS:
        auto = getattr(transformers, head)
        if type(config) in auto._model_mapping:  # noqa: SLF001 - no public way to ask
            return auto
    raise RequestError(
        f"transformers has no model for {type(config).__name__}", place="config", mend="name a class in architectures"
    )


def _recompute(model: nn.Module, share: float) -> None:
    """Recompute the first ``share`` of the layers in backward."""
    model.gradient_checkpointing_enable({"use_reentrant": False})
    switches = [
        module
        for module in model.modules()
        if hasattr(module, "gradient_checkpointing") and not hasattr(module, "config")
    ]
    for module in switches[round(share * len(switches)) :]:
        module.gradient_checkpointing = False


def _with_adapters(model: nn.Module, work: Train) -> nn.Module:
    try:
        from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - optional
    except ImportError as error:
        raise RequestError("tracing LoRA needs peft", place="trainable", mend="pip install peft") from error
    wanted = LoraConfig(r=int(work.lora_rank), lora_alpha=16, target_modules=LORA_TARGETS[work.lora_targets])
    try:
        adapted: nn.Module = get_peft_model(model, wanted)
    except ValueError as error:
        raise RequestError(
            f"peft finds no layers for adapters: {error}", place="lora_targets", mend="use lora_targets='all'"
        ) from error
    return adapted


def _optimizer(model: nn.Module, work: Train) -> torch.optim.Optimizer:
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    narrow = work.precision.endswith("-mixed") and work.trainable == "full"
    if narrow:
        keep = torch.bfloat16 if work.gradients == "bf16" else torch.float32
        return Master(wanted, work.optimizer, kernel=work.optimizer_kernel, keep=keep)
    return make_optimizer(work.optimizer, wanted, kernel=work.optimizer_kernel)


def _chunked_loss(model: Any, given: dict[str, Any]) -> torch.Tensor:
    """Cross-entropy of a causal model, the logits of ``LOSS_CHUNK`` tokens at a time and again in backward."""
    labels = given["labels"]
    hidden = model.base_model(**{key: value for key, value in given.items() if key != "labels"})[0][:, :-1]
    target = labels[:, 1:]

    def part(states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        logits = model.lm_head(states).float()
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum")

    total: Any = 0.0
    for first in range(0, hidden.shape[1], LOSS_CHUNK):
        piece = slice(first, first + LOSS_CHUNK)
        total = total + checkpoint(part, hidden[:, piece], target[:, piece], use_reentrant=False)
    result: torch.Tensor = total / target.numel()
    return result


def _made_with(work: Train) -> dict[str, str]:
    return {
        "precision": work.precision,
        "optimizer": work.optimizer,
        "optimizer_kernel": work.optimizer_kernel,
        "recompute": work.recompute,
        "attention": work.attention,
        "loss": work.loss,
        "trainable": work.trainable,
    }


def _notes(config: Any, work: Train) -> tuple[str, ...]:
    notes = [unfed] if (unfed := left_out(config)) else []
    if getattr(config, "apply_spec_augment", False):
        notes.append("SpecAugment was left out: which frames it masks is a matter of values")
    if any(getattr(config, name, 0.0) for name in LAYERDROPS):
        notes.append("every layer ran: the config drops some by chance (layerdrop), and memory is wanted for all")
    longest = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if isinstance(longest, int) and work.seq > longest:
        notes.append(f"the config allows {longest:,} positions; {int(work.seq):,} were traced all the same")
    if work.precision in {"fp8-mixed", "fp4-mixed"}:
        notes.append(f"{work.precision} was traced with 16-bit products: kernels for narrower ones need a GPU")
    if work.precision == "bf16-autocast":
        notes.append(
            "autocast followed PyTorch's list of operators for CPUs, which keeps a few more in 16 bits than the one for GPUs"
        )
    return tuple(notes)


def _name(config: Any) -> str:
    return str((getattr(config, "architectures", None) or [type(config).__name__])[0])
