"""What to know before a command is run: the checkpoint it needs, how many copies, which lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bytebound.plan.commands.asked import Asked


class Unable(Exception):  # noqa: N818 - no error: the answer that an engine does not run a deployment
    """An engine cannot run a deployment; the text says why in one sentence."""


def loading_note(asked: Asked, online: Mapping[str, str], stored: Mapping[str, str]) -> list[str]:
    """Return which checkpoint the command starts from, where that is not the plain one."""
    if not asked.quantized:
        return []
    replaced = "" if asked.plain else f"{asked.checkpoint} stores {asked.stored}: replace it by a 16-bit checkpoint; "
    if asked.weights in online:
        made = f"{replaced}the 16-bit checkpoint is quantized to {asked.weights} while it loads"
        return [f"{made}; one that stores {asked.weights} loads faster and needs no --quantization"]
    if asked.weights in stored:
        other = (
            f"{asked.checkpoint} stores {asked.stored}: replace it by a checkpoint quantized to {stored[asked.weights]}"
        )
        return [f"{other} (by llm-compressor, NVIDIA ModelOpt or its maker); its own configuration names the format"]
    return [replaced.removesuffix("; ")] if replaced else []


def length_note(asked: Asked) -> str:
    """Return which lengths the plan counted with."""
    return (
        f"planned for {asked.prompt:,} tokens in and {asked.output:,} out; longer requests are served, and take what the plan "
        "did not count"
    )


def copies_note(count: int, what: str) -> list[str]:
    """Return that several copies are needed, and a balancer before them."""
    return [f"start {count:,} {what} of this, each on its own devices, behind one load balancer"] if count > 1 else []
