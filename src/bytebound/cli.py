"""The command line: parse, call the API, render. Everything heavy is imported by the verb that runs."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import traceback
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Group, Parameter

from bytebound.errors import ByteboundError, DocumentError, QuantityError, UnfinishedError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bytebound.documents.work import Serve

FINE, NO, WRONG, BUG, INTERRUPTED = 0, 1, 2, 70, 130

app = App(
    name="bytebound",
    help="Audit the memory wall: what models must move, what machines can move, which workload starves first, and what helps.",
    version_flags=["--version"],
    result_action="return_value",
)
app.register_install_completion_command()

OUTPUT = Group("Output", sort_key=9)
Json = Annotated[bool, Parameter(name="--json", negative="", group=OUTPUT, help="Print the JSON document.")]
Html = Annotated[
    Path | None, Parameter(name="--html", group=OUTPUT, help="Also write one self-contained HTML page to this file.")
]
Quiet = Annotated[
    bool, Parameter(name=["--quiet", "-q"], negative="", group=OUTPUT, help="Say nothing but the result.")
]
Model = Annotated[
    str, Parameter(help="Bundled id (a unique ending will do), config.json, model folder, .gguf or .safetensors file.")
]
On = Annotated[str, Parameter(name="--on", help='Machine: "8x h100-sxm", "2x(8x h100-sxm)", a machine file, or here.')]


def say(text: str, *, quiet: bool = False) -> None:
    """Print what is not the result, on standard error."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is the command line


def show(text: str) -> None:
    """Print the result."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def write(path: Path, text: str, *, quiet: bool) -> None:
    """Write ``text`` to ``path`` whole or not at all.

    Raises:
        UnfinishedError: the folder is missing or not writable.
    """
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(text)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise UnfinishedError(
            f"cannot write: {error.strerror}", place=str(path), mend="name a folder that exists and can be written"
        ) from None
    say(f"Wrote {path}", quiet=quiet)


def emit(document: Any, *, json: bool, text: Callable[[], str]) -> None:
    """Print a document as JSON or as text."""
    if json:
        from bytebound.documents.values import to_json  # noqa: PLC0415 - heavy imports belong to the verb

        show(to_json(document))
    else:
        show(text())


def page() -> Any:
    """Return how wide, coloured and unicode standard output is."""
    from bytebound.report.page import page_for  # noqa: PLC0415

    return page_for(sys.stdout)


@app.command
def audit(
    fleet: Annotated[Path, Parameter(help="The fleet file (TOML); see docs/fleet.md.")],
    /,
    *,
    months: Annotated[int | None, Parameter(help="Horizon; the file's own by default.")] = None,
    draws: Annotated[int, Parameter(help="Samples of growth, slip and model error.")] = 10_000,
    seed: Annotated[int, Parameter(help="Seed; the same seed gives the same audit.")] = 0,
    memory_price: Annotated[float, Parameter(help="Scenario: factor on memory prices, such as 1.5 or 2.")] = 1.0,
    slip_months: Annotated[float, Parameter(help="Scenario: every roadmap addition comes this much later.")] = 0.0,
    fail_on: Annotated[str, Parameter(help="starves-within=MONTHS or never; decides exit code 1.")] = "never",
    json: Json = False,
    html: Html = None,
    sarif: Annotated[Path | None, Parameter(group=OUTPUT, help="Also write SARIF 2.1.0 to this file.")] = None,
    junit: Annotated[Path | None, Parameter(group=OUTPUT, help="Also write JUnit XML to this file.")] = None,
    quiet: Quiet = False,
) -> int:
    """Say which workload of a fleet starves first, on what, in which month, and the cheapest fix.

    Examples:
        bytebound audit examples/fleet.toml --html out/audit.html

        bytebound audit fleet.toml --memory-price 1.5 --slip-months 3 --fail-on starves-within=6
    """
    within = read_fail_on(fail_on)
    for target in (html, sarif, junit):
        writable(target)
    from bytebound.audit import audit_fleet, starving  # noqa: PLC0415

    say(f"auditing {fleet} …", quiet=quiet or not sys.stderr.isatty())
    found = audit_fleet(
        fleet, months=months, draws=draws, seed=seed, memory_price=memory_price, slip_months=slip_months
    )
    if html is not None:
        from bytebound.report.html import audit_html  # noqa: PLC0415

        write(html, audit_html(found), quiet=quiet)
    if sarif is not None:
        from bytebound.report.sarif import audit_sarif  # noqa: PLC0415

        write(sarif, audit_sarif(found), quiet=quiet)
    if junit is not None:
        from bytebound.report.junit import audit_junit  # noqa: PLC0415

        write(junit, audit_junit(found, within=within), quiet=quiet)

    def text() -> str:
        from bytebound.report.terminal import audit_text  # noqa: PLC0415

        return audit_text(found, page())

    emit(found, json=json, text=text)
    hungry = starving(found, within) if within is not None else []
    if hungry:
        say(f"exit 1: {', '.join(hungry)} starve{'s' if len(hungry) == 1 else ''} within {within} months", quiet=quiet)
    return NO if hungry else FINE


def read_fail_on(text: str) -> int | None:
    """Return the months of ``starves-within=MONTHS``, None for ``never``."""
    if text == "never":
        return None
    name, _, value = text.partition("=")
    if name != "starves-within":
        raise UnknownNameError(
            "condition", text, ["starves-within=6", "never"], place="--fail-on", mend="write starves-within=6"
        )
    if not value.isdecimal() or not 0 < int(value) <= 120:
        raise QuantityError(
            f"{value!r} is not a number of months from 1 to 120", place="--fail-on", mend="write starves-within=6"
        )
    return int(value)


def writable(path: Path | None) -> None:
    """Refuse a target before any work is done, when its folder is missing."""
    if path is not None and not path.absolute().parent.is_dir():
        raise DocumentError("no such folder", place=str(path), mend=f"make {path.parent} first")


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Asked:
    """The request every verb about serving takes; the same fields, defaults and meaning as ``bytebound.Serve``."""

    batch: Annotated[int, Parameter(help="Concurrent sequences per replica.")] = 1
    prompt: Annotated[int, Parameter(help="Prompt tokens per request.")] = 1024
    output: Annotated[int, Parameter(help="Output tokens per request.")] = 128
    weights: Annotated[str, Parameter(help="Weight format, or auto: as the checkpoint stores them.")] = "auto"
    kv: Annotated[str, Parameter(help="KV-cache format, or auto.")] = "auto"
    activations: Annotated[str, Parameter(help="Activation dtype.")] = "bf16"
    tp: Annotated[int, Parameter(help="Tensor-parallel degree.")] = 1
    pp: Annotated[int, Parameter(help="Pipeline stages.")] = 1
    ep: Annotated[int, Parameter(help="Expert-parallel degree.")] = 1
    dp: Annotated[int, Parameter(help="Data-parallel replicas.")] = 1
    engine: Annotated[str, Parameter(help="Engine whose reserve and host cost to assume.")] = "vllm"
    chunk: Annotated[int, Parameter(help="Most prompt tokens per step; 0: the engine's limit.")] = 0
    prefix_hit: Annotated[float, Parameter(help="Share of the prompt found in the prefix cache.")] = 0.0
    offload_hit: Annotated[float, Parameter(help="Share of the prompt whose KV is loaded from host memory.")] = 0.0
    attention: Annotated[Literal["flash", "eager"], Parameter(help="Whether scores stay on chip.")] = "flash"
    scheduling: Annotated[Literal["continuous", "static"], Parameter(help="Batching.")] = "continuous"
    disaggregated: Annotated[bool, Parameter(negative="", help="Prefill on devices of its own.")] = False
    draft_tokens: Annotated[int, Parameter(help="Speculative tokens per step; 0: off.")] = 0
    acceptance: Annotated[float, Parameter(help="Chance that a draft token is accepted.")] = 0.7
    draft_cost: Annotated[float, Parameter(help="Time of a draft token as a share of a step.")] = 0.05
    images: Annotated[float, Parameter(help="Images (or clips) per request.")] = 0
    denoise_steps: Annotated[int, Parameter(help="Passes of a diffusion model per image.")] = 28

    def work(self) -> Serve:
        """Return the request."""
        from bytebound.documents.work import Serve  # noqa: PLC0415

        return Serve(**{f.name: getattr(self, f.name) for f in fields(self)})


DEFAULT = Asked()


@app.command
def estimate(
    model: Model, /, *, on: On, asked: Asked = DEFAULT, json: Json = False, html: Html = None, quiet: Quiet = False
) -> int:
    """Say what a model needs on a machine: memory, bytes, time, cost, energy, what binds, and the next wall.

    Examples:
        bytebound estimate llama-3.1-70b --on "4x h100-sxm" --tp 4 --batch 32 --weights fp8

        bytebound estimate qwen3-30b-a3b --on "8x h200-sxm" --tp 8 --ep 8 --batch 256 --json
    """
    writable(html)
    from bytebound.predict import estimate as predict  # noqa: PLC0415

    found = predict(model, on, asked.work())
    if html is not None:
        from bytebound.report.html import estimate_html  # noqa: PLC0415

        write(html, estimate_html(found), quiet=quiet)

    def text() -> str:
        from bytebound.report.terminal_estimate import estimate_text  # noqa: PLC0415

        return estimate_text(found, page())

    emit(found, json=json, text=text)
    return FINE


@app.command
def explain(model: Model, /, *, on: On, asked: Asked = DEFAULT, json: Json = False) -> int:
    """Show an estimate operator by operator, with the source of every number.

    Example:
        bytebound explain llama-3.1-8b --on h100-sxm --batch 32
    """
    from bytebound.predict import estimate as predict  # noqa: PLC0415

    found = predict(model, on, asked.work())

    def text() -> str:
        from bytebound.report.terminal_estimate import explain_text  # noqa: PLC0415

        return explain_text(found, page())

    emit(found, json=json, text=text)
    return FINE


@app.command
def fit(
    model: Model,
    /,
    *,
    on: On,
    asked: Asked = DEFAULT,
    fail_on: Annotated[Literal["does-not-fit", "never"], Parameter(help="Decides exit code 1.")] = "never",
    json: Json = False,
) -> int:
    """Say what fits: the largest batch, the longest context, the fewest devices, the widest weights.

    Example:
        bytebound fit qwen3-32b --on "2x rtx-4090" --tp 2 --weights int4
    """
    from bytebound.predict import fit as find  # noqa: PLC0415

    found = find(model, on, asked.work())

    def text() -> str:
        from bytebound.report.facts import fit_text  # noqa: PLC0415

        return fit_text(found, page())

    emit(found, json=json, text=text)
    return NO if fail_on == "does-not-fit" and not found.fits else FINE


@app.command
def devices(
    query: Annotated[str, Parameter(help="An id, or words to search for.")] = "", /, *, json: Json = False
) -> int:
    """List devices, search them, or show one in full with its sources.

    Examples:
        bytebound devices blackwell

        bytebound devices h100-sxm --json
    """
    from bytebound.facts.devices import aliases, find_device  # noqa: PLC0415
    from bytebound.facts.devices import devices as table  # noqa: PLC0415
    from bytebound.report import facts as render  # noqa: PLC0415

    rows = table()
    wanted = query.strip().lower()
    if wanted in rows or wanted in aliases():
        row = rows[aliases().get(wanted, wanted)]
        if row.missing:
            emit(row, json=json, text=lambda: render.device_row_text(row, page()))
        else:
            device = find_device(wanted)
            emit(device, json=json, text=lambda: render.device_text(device, page()))
        return FINE
    found = [
        row
        for row in rows.values()
        if all(word in f"{row.id} {row.name} {row.vendor} {row.family} {row.kind}".lower() for word in wanted.split())
    ]
    if not found:
        raise UnknownNameError("device", query, [*rows, *aliases()], mend="`bytebound devices` lists every id")
    emit(found, json=json, text=lambda: render.devices_text(found, page()))
    return FINE


@app.command
def models(
    query: Annotated[str, Parameter(help="An id, a path, or words to search for.")] = "",
    /,
    *,
    families: Annotated[bool, Parameter(negative="", help="List the model families that are understood.")] = False,
    json: Json = False,
) -> int:
    """List bundled models, search them, or show one: parameters, KV bytes per token, towers and tensors.

    Examples:
        bytebound models qwen3

        bytebound models deepseek-ai/DeepSeek-V3
    """
    from bytebound.report import facts as render  # noqa: PLC0415

    if families:
        from bytebound.models.families import registry  # noqa: PLC0415

        names = sorted(registry())
        emit(names, json=json, text=lambda: "\n".join(names))
        return FINE
    from bytebound.models.catalogue import model_ids, record  # noqa: PLC0415

    words = query.lower().split()
    found = [name for name in model_ids() if all(word in name.lower() for word in words)]
    exact = [name for name in found if query and name.lower() == query.lower()]
    if query and (exact or len(found) <= 1):
        from bytebound.models import read_model  # noqa: PLC0415

        architecture = read_model(exact[0] if exact else found[0] if found else query)
        emit(render.model_card(architecture), json=json, text=lambda: render.model_text(architecture, page()))
        return FINE
    records = [record(name) for name in found]
    emit(records, json=json, text=lambda: render.models_text(records, page()))
    return FINE


@app.command
def prices(device: Annotated[str, Parameter(help="A device id.")] = "", /, *, json: Json = False) -> int:
    """List rental and purchase prices, or one device's with every offer and source.

    Example:
        bytebound prices h100-sxm
    """
    from bytebound.facts.devices import aliases  # noqa: PLC0415
    from bytebound.facts.devices import devices as table  # noqa: PLC0415
    from bytebound.facts.prices import price_history, purchase, rental  # noqa: PLC0415
    from bytebound.report import facts as render  # noqa: PLC0415

    if device:
        wanted = aliases().get(device.lower(), device.lower())
        if wanted not in table():
            raise UnknownNameError("device", device, [*table(), *aliases()], mend="`bytebound devices` lists every id")
        offers = price_history(wanted)
        summary = {"device": wanted, "rental": rental(wanted), "purchase": purchase(wanted), "offers": offers}
        emit(summary, json=json, text=lambda: render.price_text(wanted, summary, page()))
        return FINE
    found = [(name, rental(name), purchase(name)) for name in table()]
    known = [{"device": name, "rental": rent, "purchase": buy} for name, rent, buy in found if rent or buy]
    emit(known, json=json, text=lambda: render.prices_text(known, page()))
    return FINE


@app.command
def trends(*, json: Json = False, html: Html = None, quiet: Quiet = False) -> int:
    """Redraw the memory-wall figures from the data: model size, memory, compute, bandwidth and links, with claims beside fits.

    Example:
        bytebound trends --html trends.html
    """
    writable(html)
    from bytebound.facts.trends import trends as collect  # noqa: PLC0415

    found = collect()
    if html is not None:
        from bytebound.report.html import trends_html  # noqa: PLC0415

        write(html, trends_html(found), quiet=quiet)

    def text() -> str:
        from bytebound.report.facts import trends_text  # noqa: PLC0415

        return trends_text(found, page())

    emit(found, json=json, text=text)
    return FINE


@app.command
def formats(*, json: Json = False) -> int:
    """List weight and KV formats with their real bits per value."""
    from bytebound.facts.formats import formats as table  # noqa: PLC0415
    from bytebound.report.page import table_text  # noqa: PLC0415

    unique = list({item.name: item for item in table().values()}.values())
    rows = [(item.name, f"{item.bits:.4g}", item.math, item.kind, item.source) for item in unique]
    emit(
        unique,
        json=json,
        text=lambda: table_text(
            title="weight and KV formats",
            columns=(("format", "!"), ("bits per value", "r"), ("multiplies in", ""), ("kind", ""), ("source", "w")),
            rows=rows,
            page=page(),
        ),
    )
    return FINE


@app.command
def engines(*, json: Json = False) -> int:
    """List inference engines with the memory they keep and the host time they cost."""
    from bytebound.facts.engines import engines as table  # noqa: PLC0415
    from bytebound.report.page import table_text  # noqa: PLC0415
    from bytebound.units import show_capacity, show_time  # noqa: PLC0415

    found = list(table().values())
    rows = [
        (
            e.name,
            e.version,
            f"{e.memory_share:.0%}",
            show_capacity(e.reserve_bytes),
            str(e.block_tokens),
            show_time(e.host_s_per_step),
            e.how,
        )
        for e in found
    ]
    emit(
        found,
        json=json,
        text=lambda: table_text(
            title="engines",
            columns=(
                ("engine", "!"),
                ("version", ""),
                ("usable", "r"),
                ("reserve", "r"),
                ("page tokens", "r"),
                ("host per step", "r"),
                ("known", ""),
            ),
            rows=rows,
            page=page(),
        ),
    )
    return FINE


SCHEMAS = {
    "machine": ("bytebound.documents.device", "Device"),
    "fleet": ("bytebound.documents.fleet", "Fleet"),
    "estimate": ("bytebound.documents.estimate", "Estimate"),
    "audit": ("bytebound.documents.audit", "Audit"),
}


@app.command
def schema(name: Annotated[str, Parameter(help="machine, fleet, estimate or audit.")], /) -> int:
    """Print the JSON Schema of a document.

    Example:
        bytebound schema fleet
    """
    if name not in SCHEMAS:
        raise UnknownNameError("document", name, SCHEMAS, place="schema", mend=f"choose one of {', '.join(SCHEMAS)}")
    from importlib import import_module  # noqa: PLC0415
    from json import dumps  # noqa: PLC0415

    from bytebound.documents.values import json_schema  # noqa: PLC0415

    module, kind = SCHEMAS[name]
    show(dumps(json_schema(getattr(import_module(module), kind)), indent=2))
    return FINE


def explain_error(error: ByteboundError) -> str:
    """Return the sentence, the place and the mend, each on its own line."""
    lines = [f"error: {error.message}"]
    if error.place:
        lines.append(f"  at    {error.place}")
    if error.mend:
        lines.append(f"  next  {error.mend}")
    return "\n".join(lines)


def run(tokens: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; nothing escapes.

    0 fine, 1 the answer is no, 2 the request was wrong, 3 could not finish, 70 a bug of ours, 130 interrupted.
    """
    try:
        result = app(tokens, exit_on_error=False, print_error=True)
    except ByteboundError as error:
        say(explain_error(error))
        return error.exit_code
    except CycloptsError:
        return WRONG
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    except Exception as error:  # noqa: BLE001 - the one place that may: exit 1 means "no", so a bug must not exit 1
        if os.environ.get("BYTEBOUND_DEBUG"):
            traceback.print_exc()
        say(
            f"error: a bug of ours: {type(error).__name__}: {error}\n  next  run again with BYTEBOUND_DEBUG=1 and report what it prints"
        )
        return BUG
    return result if isinstance(result, int) else FINE


def main() -> None:
    """Run and exit."""
    sys.exit(run())
