"""Inputs of a transformers model: what its first argument means, in shapes."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from bytebound.errors import RequestError

AUDIO_RATE = 16_000
"""Samples per second of speech models."""


def inputs_of(model: Any, *, batch: int, seq: int) -> dict[str, Any]:
    """Return keyword arguments of one training call, labels among them where the class takes them.

    Args:
        model: a transformers model (or one wrapped by peft).
        batch: samples.
        seq: tokens of text (of both sides for encoder-decoders), samples of a waveform (a second at least); images and spectrograms have the size of
            the config.

    Raises:
        RequestError: the kind of input is not known.
    """
    kind = getattr(model, "main_input_name", "input_ids")
    config = model.config
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    whole = type(inner).__name__
    if kind == "input_ids":
        ids = torch.zeros(batch, seq, dtype=torch.long)
        if "SequenceClassification" in whole:
            return {"input_ids": ids, "labels": torch.zeros(batch, dtype=torch.long)}
        if _sees_apart(config):
            return _pair(model, ids)
        given = {"input_ids": ids} | ({"decoder_input_ids": ids.clone()} if _takes(model, "decoder_input_ids") else {})
        return given | ({"labels": torch.zeros(batch, seq, dtype=torch.long)} if _takes(model, "labels") else {})
    if kind == "pixel_values":
        pixels = _pixels(model, batch)
        labels = {"labels": torch.zeros(batch, dtype=torch.long)} if _takes(model, "labels") else {}
        return {"pixel_values": pixels, **labels}
    if kind == "input_features":
        frames = 2 * getattr(config, "max_source_positions", 1500)
        mels = getattr(config, "num_mel_bins", 80)
        features = torch.zeros(batch, mels, frames, dtype=model.dtype)
        target = min(seq, getattr(config, "max_target_positions", seq))
        labels = {"labels": torch.zeros(batch, target, dtype=torch.long)} if _takes(model, "labels") else {}
        return {"input_features": features, **labels}
    if kind == "input_values":  # labels of CTC are cut out by value, which shapes cannot follow
        return {"input_values": torch.zeros(batch, max(seq, AUDIO_RATE), dtype=model.dtype)}
    raise RequestError(
        f"{whole} takes {kind}, which a config alone does not shape",
        place="config",
        mend="trace it as FILE.py:function with inputs of your own",
    )


def left_out(config: Any) -> str:
    """Return what of a model is not fed, as a sentence, or an empty string."""
    if getattr(config, "vision_config", None) is None or _sees_apart(config) or not hasattr(config, "text_config"):
        return ""
    return "text alone was fed: the vision tower did not run, for how many image tokens a sequence holds is a matter of values"


def _sees_apart(config: Any) -> bool:
    """Whether text and image go in side by side (as in CLIP), and no image tokens into the text."""
    both = getattr(config, "vision_config", None) is not None and getattr(config, "text_config", None) is not None
    return both and not any(hasattr(config, name) for name in ("image_token_id", "image_token_index"))


def _pair(model: Any, ids: torch.Tensor) -> dict[str, Any]:
    """As many images as texts, and the contrast between them as loss; texts no longer than the config allows."""
    longest = getattr(model.config.text_config, "max_position_embeddings", ids.shape[1])
    given = {"input_ids": ids[:, :longest], "pixel_values": _pixels(model, ids.shape[0])}
    return given | ({"return_loss": True} if _takes(model, "return_loss") else {})


def _pixels(model: Any, batch: int) -> torch.Tensor:
    vision = getattr(model.config, "vision_config", model.config)
    size = getattr(vision, "image_size", 224)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return torch.zeros(batch, getattr(vision, "num_channels", 3), height, width, dtype=model.dtype)


def _takes(model: Any, argument: str) -> bool:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return argument in inspect.signature(inner.forward).parameters
