"""One model on one machine: ``estimate``, ``explain``, ``fit``."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from bytebound.cli.output import FINE, NO, Html, Json, Model, On, Quiet, emit, page, writable, write
from bytebound.errors import RequestError

if TYPE_CHECKING:
    from bytebound.documents.estimate import Estimate
    from bytebound.documents.work import Serve


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
    host_weights: Annotated[float, Parameter(help="Share of the layers' weights streamed from host memory.")] = 0.0
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


Calibrate = Annotated[
    str, Parameter(help="Engine to probe here first (llama.cpp): times are then calibrated, seconds of work.")
]


CorrectedBy = Annotated[
    str, Parameter(help="A correction bytebound calibrate made of this deployment: its id, latest, or its file.")
]


def _predicted(
    model: str, on: str, asked: Asked, calibrate: str, *, corrected_by: str = "", quiet: bool = False
) -> Estimate:
    """Return the estimate, after probing the engine or with a correction of the deployment where that was asked for."""
    from bytebound.predict import estimate as predict  # noqa: PLC0415

    if corrected_by:
        from bytebound.cli.calibrating import read_correction  # noqa: PLC0415

        if calibrate:
            raise RequestError(
                "a probed estimate is not corrected by a run", place="--corrected-by", mend="leave --calibrate out"
            )
        return predict(model, on, asked.work(), correction=read_correction(corrected_by))
    if not calibrate:
        return predict(model, on, asked.work())
    from bytebound.cli.observing import calibration_for  # noqa: PLC0415

    found = calibration_for(
        model, on, calibrate, weights=asked.weights, kv=asked.kv, attention=asked.attention,
        depth=max(min(asked.prompt + asked.output, 8192), 512), quiet=quiet,
    )  # fmt: skip
    return predict(model, on, replace(asked, engine=found.engine).work(), calibration=found)


def estimate(
    model: Model,
    /,
    *,
    on: On,
    asked: Asked = DEFAULT,
    calibrate: Calibrate = "",
    corrected_by: CorrectedBy = "",
    json: Json = False,
    html: Html = None,
    quiet: Quiet = False,
) -> int:
    """Say what a model needs on a machine: memory, bytes, time, cost, energy, what binds, and the next wall.

    Examples:
        bytebound estimate llama-3.1-70b --on "4x h100-sxm" --tp 4 --batch 32 --weights fp8

        bytebound estimate qwen3-30b-a3b --on "8x h200-sxm" --tp 8 --ep 8 --batch 256 --json

        bytebound estimate model.gguf --on here --calibrate llama.cpp

        bytebound estimate llama-3.1-8b --on h100-sxm --batch 64 --corrected-by latest
    """
    writable(html)
    found = _predicted(model, on, asked, calibrate, corrected_by=corrected_by, quiet=quiet)
    if html is not None:
        from bytebound.report.html import estimate_html  # noqa: PLC0415

        write(html, estimate_html(found), quiet=quiet)

    def text() -> str:
        from bytebound.report.terminal_estimate import estimate_text  # noqa: PLC0415

        return estimate_text(found, page())

    emit(found, json=json, text=text)
    return FINE


def explain(
    model: Model,
    /,
    *,
    on: On,
    asked: Asked = DEFAULT,
    calibrate: Calibrate = "",
    corrected_by: CorrectedBy = "",
    json: Json = False,
) -> int:
    """Show an estimate operator by operator, with the source of every number.

    Example:
        bytebound explain llama-3.1-8b --on h100-sxm --batch 32
    """
    found = _predicted(model, on, asked, calibrate, corrected_by=corrected_by)

    def text() -> str:
        from bytebound.report.terminal_estimate import explain_text  # noqa: PLC0415

        return explain_text(found, page())

    emit(found, json=json, text=text)
    return FINE


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
