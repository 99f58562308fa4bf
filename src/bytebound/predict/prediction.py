"""The vectorised heart: requests × ceilings -> times, memory, rates and verdict, as arrays of shape (requests,)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.ledger import inference, residence
from bytebound.predict.roofline import (
    Ceilings,
    Timing,
    lay_on,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.ledger.ledger import Ledger
    from bytebound.ledger.request import Request
    from bytebound.ledger.table import OpTable

    Array = NDArray[Any]

CAPACITY = -1
"""Verdict code for what does not fit; other codes index ``TIME_RESOURCES``."""

PREFILL_TOGETHER_TOKENS = 1024.0
"""Under load an engine fills a prefill pass with short prompts up to about here before waiting costs more than it saves
(assumed; the bf16 ridge of data-centre parts is 150 to 300 tokens, so weights are amortised well before)."""


MOST_BUSY = 0.99
"""Share of time in prefill beyond which the mean wait is not extrapolated."""


@dataclass(frozen=True, slots=True)
class Overheads:
    """What an engine adds: host times [s], reserved memory [B], usable share, page size [tokens].

    Host times are per step, per sequence of a step and per request. Of memory (``facts.reserves``): what the share is of, what the driver keeps, more reserve where a model is dealt to
    several devices, bytes per sampled logit, and the tokens of a start-up pass where a request states no chunk of its own.
    """

    host_s_per_step: float
    host_s_per_request: float
    reserve_bytes: float
    memory_share: float
    block_tokens: float
    host_s_per_sequence: float = 0.0
    launch_s_decode: float = 0.0
    launch_s_prefill: float = 0.0
    basis: str = "total"
    held_back_bytes: float = 0.0
    peers_bytes: float = 0.0
    logit_bytes: float = 4.0
    every_logit: bool = False
    default_chunk: float = 0.0
    pass_tokens: float = 0.0

    def step_s(self, sequences: Array) -> Array:
        """Return the host's part of a step of so many sequences [s]."""
        return self.host_s_per_step + self.host_s_per_sequence * sequences


def prefilled_together(r: Request) -> Array:
    """Return how many prompts a busy engine takes into one prefill pass, (requests,)."""
    return np.asarray(np.minimum(np.maximum(np.floor(PREFILL_TOGETHER_TOKENS / r.prompt), 1.0), r.batch))


@dataclass(frozen=True, slots=True)
class Residence:
    """Bytes on the fullest device, (requests,)."""

    weights: Array
    kv: Array
    activations: Array
    reserve: Array
    usable: Array
    kv_per_token: Array
    max_kv_tokens: Array

    @property
    def total(self) -> Array:
        """Everything the work needs on that device."""
        return self.weights + self.kv + self.activations + self.reserve

    @property
    def fits(self) -> NDArray[np.bool_]:
        """Whether it does."""
        return np.asarray(self.total <= self.usable)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Everything ``estimate`` prints, before intervals; arrays (requests,)."""

    decode: Timing
    prefill: Timing
    decode_ledger: Ledger
    prefill_ledger: Ledger
    residence: Residence
    ttft_s: Array
    tpot_s: Array
    request_s: Array
    tokens_per_s: Array
    prefill_request_s: Array
    decode_time_share: Array
    queue_s: Array
    spent: Array
    verdict: NDArray[np.int64]


def reside(table: OpTable, r: Request, ceilings: Ceilings, engine: Overheads) -> Residence:
    """Return what is resident per device. KV is counted with every sequence at its full length, in whole pages."""
    crossing = (
        table.crosses and table.kind == "decoder"
    )  # the prompt is the encoder's; the decoder keeps its own output
    length = (r.output + 1 if crossing else r.prompt + r.output) + np.zeros_like(r.prompt * r.output)
    paged = np.ceil(length / engine.block_tokens) * engine.block_tokens
    per_sequence = residence.kv_bytes_per_sequence(table, r, paged)
    decoder = table.kind == "decoder"
    weights = residence.resident_weight_bytes(table, r)
    asked = np.where(r.chunk == engine.default_chunk, engine.pass_tokens, r.chunk)
    activations = residence.activation_peak_bytes(table, r, pass_tokens=asked, logit_bytes=engine.logit_bytes,
                                                  every_logit=engine.every_logit)  # fmt: skip
    visible = np.maximum(ceilings.memory_bytes - engine.held_back_bytes, 0.0)
    reserve = (
        engine.reserve_bytes + np.where(r.tp * r.pp > 1, engine.peers_bytes, 0.0) + np.zeros_like(weights + visible)
    )
    usable = residence.usable_bytes(engine.basis, engine.memory_share, visible=visible, weights=weights,
                                    activations=activations, reserve=reserve)  # fmt: skip
    kv = (r.batch * per_sequence if decoder else np.zeros_like(per_sequence)) + np.zeros_like(weights)
    per_token = residence.kv_bytes_per_token(table, r)
    room = np.maximum(usable - weights - activations - reserve, 0.0)
    held = np.divide(room * paged, per_sequence, out=np.zeros_like(room * paged * per_sequence), where=per_sequence > 0)
    straight = np.divide(room, per_token, out=np.zeros_like(room * per_token), where=per_token > 0)
    tokens = np.where(per_token > 0, np.maximum(held, straight), 0.0)
    return Residence(weights, kv, activations, reserve, usable + np.zeros_like(weights), per_token, np.floor(tokens))


def predict(table: OpTable, r: Request, ceilings: Ceilings, engine: Overheads, *, acceptance: Array | float, draft_cost: Array | float,
            denoise_steps: Array | float, continuous: bool) -> Prediction:  # fmt: skip
    """Return the prediction for every request.

    Decoding advances ``batch`` sequences by one token (by the expected accepted tokens under speculation). Under
    continuous batching the other ``batch − 1`` sequences each need one prefill while one request decodes its ``output``
    tokens, so TPOT = step + (batch − 1) × prefill / output. Throughput shares the device in the same way.

    Source: Orca (OSDI 2022) for the schedule; Leviathan et al. 2023 eq. 1 for the expected accepted tokens.
    """
    one = np.ones((1,))
    encoder_only = table.kind == "encoder"
    alone = r.batch if encoder_only else one
    prefill_ledger = inference.prefill_ledger(table, r, alone)
    prefill = lay_on(prefill_ledger, ceilings, host_s=engine.step_s(alone), launch_s=engine.launch_s_prefill,
                     costs=ceilings.prefill)  # fmt: skip
    decode_ledger = prefill_ledger if encoder_only else inference.decode_ledger(table, r)
    decode = (
        prefill
        if encoder_only
        else lay_on(
            decode_ledger,
            ceilings,
            host_s=engine.step_s(r.batch),
            launch_s=engine.launch_s_decode,
            costs=ceilings.decode,
        )
    )
    ttft = prefill.total + engine.host_s_per_request
    together = prefilled_together(r) if not encoder_only else one
    if bool(np.any(together > 1)):
        ledger = inference.prefill_ledger(table, r, together)
        many = lay_on(ledger, ceilings, host_s=engine.step_s(together), launch_s=engine.launch_s_prefill,
                      costs=ceilings.prefill)  # fmt: skip
        prefill_request = many.total / together / r.pp
    else:
        prefill_request = prefill.total / r.pp
    accepted = _accepted_tokens(r.draft, acceptance)
    per_token = decode.total * (1 + r.draft * draft_cost) / accepted
    held = reside(table, r, ceilings, engine)
    if encoder_only:
        request, tpot = ttft, np.full_like(ttft, np.nan)
        tokens_per_s = r.dp * r.batch * r.prompt / ttft
        spent = prefill.spent
        decode_time = queue = np.zeros((1,))
    elif table.kind == "denoiser":
        request = ttft + denoise_steps * decode.total
        tpot, tokens_per_s, ttft = decode.total, r.dp * r.batch / request, request
        spent = prefill.spent + denoise_steps * decode.spent
        decode_time = denoise_steps * decode.total / request
        queue = np.zeros((1,))
    else:
        stalls = (r.batch - 1) / r.output if continuous else np.zeros((1,))
        tpot = per_token + np.where(r.disaggregated > 0, 0.0, stalls * prefill_request)
        request = ttft + np.maximum(r.output - 1, 0) * tpot
        cycle = r.output * per_token + r.batch * prefill_request
        tokens_per_s = r.dp * r.batch * r.output / cycle
        decode_time = r.output * per_token / cycle
        queue = queue_s(r.batch * prefill_request / cycle, prefill_request, decode.total)
        spent = prefill.spent * (r.batch * prefill_request / prefill.total) + decode.spent * (
            r.output * per_token / decode.total
        )
    binds = spent.argmax(axis=0)
    verdict = np.where(held.fits, binds, CAPACITY)
    shape = np.broadcast_shapes(ttft.shape, tokens_per_s.shape, verdict.shape)
    ttft, tpot, request, tokens_per_s = (np.broadcast_to(x, shape) for x in (ttft, tpot, request, tokens_per_s))
    return Prediction(
        decode, prefill, decode_ledger, prefill_ledger, held, ttft, tpot, request, tokens_per_s,
        np.broadcast_to(prefill_request, shape),
        np.broadcast_to(decode_time, shape), np.broadcast_to(queue, shape), spent, np.broadcast_to(verdict, shape),
    )  # fmt: skip


def queue_s(busy: Array, prefill_s: Array, step_s: Array) -> Array:
    """Return the mean wait of a new prompt at a busy replica [s]: the step under way, then prompts before it.

    ``W = step / 2 + ρ / (2 (1 − ρ)) × prefill`` with ρ the share of the cycle spent on prefill. Source: M/D/1 mean wait
    (Pollaczek–Khinchine). Percentiles under real traces are a later issue.
    """
    rho = np.minimum(busy, MOST_BUSY)
    return np.asarray(step_s / 2 + rho / (2 * (1 - rho)) * prefill_s)


def _accepted_tokens(draft: Array, acceptance: Array | float) -> Array:
    """Return expected tokens per speculative step: (1 − α^(γ+1)) / (1 − α).

    Source: Leviathan, Kalman, Matias 2023 (arXiv 2211.17192), equation 1.
    """
    alpha = np.minimum(np.asarray(acceptance, dtype=float), 1 - 1e-9)
    return np.asarray((1 - alpha ** (draft + 1)) / (1 - alpha))
