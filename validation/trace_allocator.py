"""Traced memory beside what PyTorch's CPU allocator really handed out, for unlike models: ``make`` no network, no device.

Run it: ``python validation/trace_allocator.py [--csv validation/trace_allocator.csv]``. Each model is small, so that its real weights,
gradients, states and activations fit a laptop; the step is the same code for both. The tracer knows shapes alone; the allocator is
read through ``torch.profiler``.

oneDNN, which PyTorch computes convolutions with on a CPU, takes workspaces of its own inside a kernel: for a depthwise convolution whose
kernel is larger than its image it pads every 1 × 1 group of the weight to 16 × 16. They are no tensors of the step, other kernels need
others, and a trace knows none of them. So each step runs without oneDNN, and again with it, and the table has both peaks.
"""

from __future__ import annotations

import argparse
import csv
import gc
import sys
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import torch
from torch.profiler import ProfilerActivity, profile

from bytebound.trace.run import Step, trace_step

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Compared:
    """One model: bytes alive when a step begins, the peak above them as traced and as allocated, and how far off that is.

    ``onednn_bytes`` is the peak above them where oneDNN computes, with its workspaces.
    """

    model: str
    kind: str
    parameters: int
    start_bytes: int
    traced_bytes: int
    allocated_bytes: int
    error: float
    onednn_bytes: int
    exact_extrapolation: bool
    torch: str
    library: str
    date: str


def train(model: torch.nn.Module, loss_of: Callable[[], torch.Tensor]) -> Step:
    """Return the step that trains ``model`` with AdamW on what ``loss_of`` computes."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def run() -> None:
        loss_of().backward()
        optimizer.step()
        optimizer.zero_grad()

    return Step(model=model, run=run, optimizers=(optimizer,))


def llama() -> Step:
    """A dense decoder with grouped queries and a gated MLP."""
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=4000, hidden_size=256, intermediate_size=688, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4)
    )  # fmt: skip
    ids = torch.randint(0, 4000, (2, 256))
    return train(model, lambda: model(input_ids=ids, labels=ids, use_cache=False).loss)


def tied() -> Step:
    """A decoder whose embedding is its output matrix too: two gradients meet, one of them a view."""
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=20000, hidden_size=128, intermediate_size=344, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, tie_word_embeddings=True,
        )
    )  # fmt: skip
    ids = torch.randint(0, 20000, (1, 64))
    return train(model, lambda: model(input_ids=ids, labels=ids, use_cache=False).loss)


def mixtral() -> Step:
    """A decoder whose feed-forward is a mixture of experts."""
    from transformers import MixtralConfig, MixtralForCausalLM  # noqa: PLC0415

    model = MixtralForCausalLM(
        MixtralConfig(
            vocab_size=2000, hidden_size=256, intermediate_size=384, num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=2,
            num_local_experts=8, num_experts_per_tok=2,
        )
    ).bfloat16()  # fmt: skip
    ids = torch.randint(0, 2000, (2, 256))
    return train(model, lambda: model(input_ids=ids, labels=ids, use_cache=False).loss)


def vit() -> Step:
    """A vision transformer."""
    from transformers import ViTConfig, ViTForImageClassification  # noqa: PLC0415

    model = ViTForImageClassification(
        ViTConfig(hidden_size=256, num_hidden_layers=8, num_attention_heads=4, intermediate_size=1024, image_size=96, num_labels=10)
    )  # fmt: skip
    images, labels = torch.randn(8, 3, 96, 96), torch.zeros(8, dtype=torch.long)
    return train(model, lambda: model(pixel_values=images, labels=labels).loss)


def convnext() -> Step:
    """A convolutional network with stages of unlike width."""
    from transformers import ConvNextConfig, ConvNextForImageClassification  # noqa: PLC0415

    model = ConvNextForImageClassification(
        ConvNextConfig(hidden_sizes=[32, 64, 128, 256], depths=[2, 2, 6, 2], image_size=96, num_labels=10)
    )
    images, labels = torch.randn(8, 3, 96, 96), torch.zeros(8, dtype=torch.long)
    return train(model, lambda: model(pixel_values=images, labels=labels).loss)


def whisper() -> Step:
    """An encoder of audio with a decoder behind it."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration  # noqa: PLC0415

    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=2000, d_model=192, encoder_layers=4, decoder_layers=4, encoder_attention_heads=4, decoder_attention_heads=4,
            encoder_ffn_dim=768, decoder_ffn_dim=768, max_source_positions=300, max_target_positions=64, pad_token_id=0,
            bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        )
    )  # fmt: skip
    audio, labels = torch.randn(4, 80, 600), torch.randint(3, 2000, (4, 48))
    return train(model, lambda: model(input_features=audio, labels=labels).loss)


def unet() -> Step:
    """The denoiser of an image diffusion model."""
    from diffusers import UNet2DConditionModel  # noqa: PLC0415

    model = UNet2DConditionModel(
        sample_size=32, block_out_channels=(32, 64, 128), layers_per_block=2, cross_attention_dim=64, attention_head_dim=8,
        norm_num_groups=16, down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    image, time, text = torch.randn(2, 4, 32, 32), torch.full((2,), 10), torch.randn(2, 16, 64)
    return train(model, lambda: model(image, time, text).sample.pow(2).mean())


def mamba() -> Step:
    """A state-space model, with the scan written out in PyTorch."""
    from transformers import MambaConfig, MambaForCausalLM  # noqa: PLC0415

    model = MambaForCausalLM(MambaConfig(vocab_size=1000, hidden_size=128, state_size=8, num_hidden_layers=6))
    ids = torch.randint(0, 1000, (2, 12))
    return train(model, lambda: model(input_ids=ids, labels=ids, use_cache=False).loss)


MODELS: dict[str, tuple[Callable[[], Step], str, str]] = {
    "llama": (llama, "dense decoder", "transformers"),
    "tied": (tied, "dense decoder, tied embedding", "transformers"),
    "mixtral": (mixtral, "mixture of experts", "transformers"),
    "vit": (vit, "vision transformer", "transformers"),
    "convnext": (convnext, "convolutional", "transformers"),
    "whisper": (whisper, "audio, encoder and decoder", "transformers"),
    "unet": (unet, "image diffusion", "diffusers"),
    "mamba": (mamba, "state space", "transformers"),
}


def allocated(step: Step, *, onednn: bool = False) -> int:
    """Return the peak that the CPU allocator saw during ``step``, above what was alive before it."""
    with (
        torch.backends.mkldnn.flags(enabled=onednn, allow_tf32=None),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof,
    ):
        step.run()
    now = peak = 0
    changes = [
        (event.start_ns(), event.nbytes())
        for event in prof.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        now += change
        peak = max(peak, now)
    return peak


def alive_bytes() -> int:
    """Return the bytes of every real tensor that is alive, each storage once."""
    storages: dict[int, int] = {}
    for found in gc.get_objects():
        if (
            type(found) in (torch.Tensor, torch.nn.Parameter) and found.device.type == "cpu"
        ):  # wrappers have no bytes of their own
            storages[found.untyped_storage().data_ptr()] = found.untyped_storage().nbytes()
    return sum(storages.values())


def compare(name: str) -> Compared:
    """Return one model traced and run for real."""
    make, kind, library = MODELS[name]
    torch.manual_seed(0)
    trace = trace_step(make, name=name, on="cpu")
    before = alive_bytes()
    step = make()
    step.run()  # makes the optimizer's states
    gc.collect()
    start = alive_bytes() - before
    traced = round(trace.peak.held.total) - start
    peak, with_onednn = allocated(step), allocated(step, onednn=True)
    return Compared(
        name, kind, round(trace.parameters), start, traced, peak, traced / peak - 1, with_onednn, trace.exact, torch.__version__,
        f"{library} {sys.modules[library].__version__}", f"{datetime.now(UTC):%Y-%m-%d}",
    )  # fmt: skip


def main() -> None:
    """Compare all models; print the table and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", help="write the table here")
    parser.add_argument("models", nargs="*", help="which (all)")
    asked = parser.parse_args()
    rows: list[Compared] = []
    for name in asked.models or MODELS:
        found = compare(name)
        rows.append(found)
        print(f"{found.model:10} start {found.start_bytes / 2**20:8.2f} MiB, above it: traced {found.traced_bytes / 2**20:8.3f} "
              f"allocated {found.allocated_bytes / 2**20:8.3f} MiB, {found.error:+.2%}, with oneDNN {found.onednn_bytes / 2**20:8.3f} MiB, exact {found.exact_extrapolation}", flush=True)  # fmt: skip
        gc.collect()
    if asked.csv:
        with open(asked.csv, "w", encoding="utf-8", newline="") as file:  # noqa: PTH123
            writer: Any = csv.writer(file, lineterminator="\n")
            writer.writerow([field.name for field in fields(Compared)])
            writer.writerows(
                [f"{value:.5f}" if isinstance(value, float) else value for value in astuple(row)] for row in rows
            )


if __name__ == "__main__":
    main()
