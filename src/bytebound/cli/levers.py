"""``bytebound levers``: list the cards, explain one, or rank them all for a case."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from bytebound.cli.output import FINE, NO, Html, Json, Quiet, emit, page, say, writable, write
from bytebound.cli.serving import DEFAULT, Asked
from bytebound.errors import QuantityError, RequestError, UnknownNameError

if TYPE_CHECKING:
    from bytebound.documents.lever import LeverRanking
    from bytebound.documents.proof import Proof
    from bytebound.documents.work import Serve
    from bytebound.predict.estimate import Setting


def levers(
    name: Annotated[str, Parameter(help="A lever to explain, or a model to rank the levers for; nothing: list them.")] = "",
    /,
    *,
    on: Annotated[str, Parameter(name="--on", help="Machine to rank on, as for estimate.")] = "",
    asked: Asked = DEFAULT,
    group: Annotated[str, Parameter(help="List one group only, such as precision.")] = "",
    sort: Annotated[Literal["time", "money", "memory", "quality"], Parameter(help="What the ranking is by.")] = "time",
    with_: Annotated[
        list[str] | None, Parameter(name="--with", negative="", help="Levers to apply together, by commas; give it again for another set.")
    ] = None,
    for_: Annotated[str, Parameter(name="--for", help='Objective, such as "ttft<1s,tpot<50ms"; the batch may then grow.')] = "",
    most_batch: Annotated[int, Parameter(help="Most sequences tried with --for; 0: the larger of --batch and 256.")] = 0,
    shared_prefix: Annotated[float, Parameter(help="Share of the prompt that requests have in common.")] = 0.0,
    reused_context: Annotated[float, Parameter(help="Share of the prompt that is an earlier turn's context.")] = 0.0,
    json: Json = False,
    html: Html = None,
    quiet: Quiet = False,
) -> int:  # fmt: skip
    """List what can be changed about a deployment, explain one lever, or rank them all for a model on a machine.

    Ranking re-runs the ledger for every lever: those that help first, then those to prove before use, those of little effect, those
    that hurt, and refusals with their reasons.

    Examples:
        bytebound levers --group precision

        bytebound levers fp8-kv

        bytebound levers llama-3.1-8b --on h100-sxm --batch 32 --prompt 4000

        bytebound levers llama-3.1-70b --on "8x h100-sxm" --tp 8 --for "ttft<1s,tpot<50ms" --with fp8-weights,fp8-kv --sort money
    """
    writable(html)
    sets = [tuple(part.strip() for part in each.split(",") if part.strip()) for each in with_ or ()]
    if not on:
        return _cards(name, group, ranked=bool(sets or for_), json=json, html=bool(html))
    from bytebound.documents.plan import read_objective  # noqa: PLC0415 - heavy imports belong to the verb
    from bytebound.documents.work import COUNT_LIMIT, check_range  # noqa: PLC0415
    from bytebound.plan.rank import case_of, ranking  # noqa: PLC0415

    if group:
        raise RequestError("a ranking is of every group", place="--group", mend="leave --group out, or leave --on out")
    setting, work = _asked(name, on, asked)
    _in_range(shared_prefix=shared_prefix, reused_context=reused_context)
    check_range("most_batch", most_batch, 0, COUNT_LIMIT)
    case = case_of(
        setting, work, objective=read_objective(for_, place="--for"), shared_prefix=shared_prefix, reused_context=reused_context,
        batch_limit=most_batch,
    )  # fmt: skip
    found = ranking(case, sort=sort, sets=[each for each in sets if each], proven=_proven(setting))
    _show(found, json=json)
    if html is not None:
        from bytebound.report.levers_html import ranking_html  # noqa: PLC0415

        write(html, ranking_html(found), quiet=quiet)
    refused = [effect for effect in found.effects[: len(sets)] if effect.outcome == "refused"]
    for effect in refused:
        say(f"{' + '.join(effect.levers)}: {effect.reason}", quiet=quiet)
    return NO if refused else FINE


def _cards(name: str, group: str, *, ranked: bool, json: bool, html: bool) -> int:
    """List the cards, or explain one."""
    from typing import get_args  # noqa: PLC0415

    from bytebound.documents.lever import Group, Levers  # noqa: PLC0415
    from bytebound.plan.cards import CARDS  # noqa: PLC0415

    if ranked or html:
        raise RequestError("a ranking needs a model and a machine", place="--on", mend="such as bytebound levers llama-3.1-8b --on h100-sxm")  # fmt: skip
    if name:
        return _one(name, json=json)
    groups = get_args(Group)
    if group and group not in groups:
        raise UnknownNameError("group", group, groups, place="--group", mend=f"choose one of {', '.join(groups)}")
    cards = tuple(card for card in CARDS.values() if group in {"", card.group})

    def text() -> str:
        from bytebound.report.levers import levers_text  # noqa: PLC0415

        return levers_text(cards, page())

    emit(Levers(cards), json=json, text=text)
    return FINE


def _one(name: str, *, json: bool) -> int:
    """Explain one lever with its published effects predicted."""
    from bytebound.documents.lever import Levers  # noqa: PLC0415
    from bytebound.models import read_model  # noqa: PLC0415
    from bytebound.plan.cards import CARDS, find_card  # noqa: PLC0415
    from bytebound.plan.effects import predicted  # noqa: PLC0415

    if name.strip().lower() not in CARDS:
        try:
            read_model(name)
        except UnknownNameError:
            raise _neither(name) from None
        raise RequestError(
            "a ranking needs a machine", place="--on", mend=f"such as bytebound levers {name} --on h100-sxm"
        )
    card = predicted(find_card(name))

    def text() -> str:
        from bytebound.report.levers import lever_text  # noqa: PLC0415

        return lever_text(card, page())

    emit(Levers((card,)), json=json, text=text)
    return FINE


def _asked(model: str, on: str, asked: Asked) -> tuple[Setting, Serve]:
    """Return the question with its names resolved."""
    from bytebound.plan.cards import CARDS  # noqa: PLC0415
    from bytebound.predict.estimate import check_degrees, settle  # noqa: PLC0415

    if not model:
        raise RequestError(
            "name the model to rank levers for",
            place="MODEL",
            mend=f'such as bytebound levers llama-3.1-8b --on "{on}"',
        )
    if model.strip().lower() in CARDS:
        raise RequestError(
            f"{model} is a lever, and a ranking is for a model", place="MODEL", mend=f"name a model and --with {model}"
        )
    work = asked.work()
    try:
        setting = settle(model, on, work.engine)
    except UnknownNameError as error:
        raise (_neither(model) if error.kind == "model" else error) from None
    check_degrees(setting, work)
    return replace(setting, asked=model), work


def _proven(setting: Setting) -> dict[str, Proof]:
    """Return what was proven before on this device with this engine."""
    from bytebound.prove.known import kept  # noqa: PLC0415

    device, engine = setting.machine.device.id, setting.engine.name
    return {proof.lever: proof for proof in kept() if (proof.machine, proof.engine) == (device, engine)}


def _neither(name: str) -> UnknownNameError:
    """Return the error about a word that is neither lever nor model, with the nearest of both."""
    from bytebound.models.catalogue import model_ids  # noqa: PLC0415
    from bytebound.plan.cards import CARDS  # noqa: PLC0415

    return UnknownNameError(
        "lever or model", name, [*CARDS, *model_ids()], mend="see `bytebound levers` and `bytebound models`"
    )


def _in_range(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise QuantityError(f"{name} is {share:g}, outside 0 … 1", place=f"--{name.replace('_', '-')}")


def _show(found: LeverRanking, *, json: bool) -> None:
    def text() -> str:
        from bytebound.report.levers import ranking_text  # noqa: PLC0415

        return ranking_text(found, page())

    emit(found, json=json, text=text)
