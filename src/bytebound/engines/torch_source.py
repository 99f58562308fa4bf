"""Open a model for PyTorch without trusting it: configs are read by us first, weights are safetensors or GGUF only.

Nothing a folder brings along is run: no code of its repository, no pickle, no kernel it names. Sizes are checked against
memory before PyTorch builds anything.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bytebound.engines.torch_limits import TORCH_NAMES
from bytebound.errors import DocumentError
from bytebound.models import is_folder, read_model
from bytebound.models.config import parse, read_config, read_text

if TYPE_CHECKING:
    from os import PathLike

    from bytebound.documents.architecture import Architecture
    from bytebound.measure.gpu import Accelerator


@dataclass(frozen=True, slots=True)
class Described:
    """A source that has been read and not yet built.

    Args:
        values: the config's object; empty for a GGUF file, which is read by its own path.
        weights: the folder or GGUF file that holds weights; None: random ones are made.
    """

    architecture: Architecture
    values: Mapping[str, Any]
    weights: Path | None
    notes: tuple[str, ...] = ()

    @property
    def is_gguf(self) -> bool:
        """Whether the weights are a GGUF file, which PyTorch must expand first."""
        return self.weights is not None and self.weights.suffix.lower() == ".gguf"


def describe(source: str | PathLike[str] | Mapping[str, Any]) -> Described:
    """Read what ``source`` is: a model folder, a GGUF file, a config.json or its object, or a bundled model's id.

    Raises:
        DocumentError: missing, damaged or hostile files; only pickled weights; a quantized checkpoint; a model that needs
            code of its own repository.
        UnknownNameError: no such bundled model.
    """
    if isinstance(source, Mapping):
        return _from_values(dict(source), "config", "", None)
    name = str(source)
    if name.lower().endswith(".gguf"):
        path = Path(name)
        note = "the GGUF's weights were dequantized first: bytes moved are those of the dtype run, not of the file"
        return Described(read_model(name), {}, path, (note,))
    if name.lower().endswith(".json"):
        path = Path(name)
        return _from_values(parse(read_text(path), name), path.parent.name or path.stem, name, None)
    if is_folder(name):
        return _from_folder(Path(name))
    from bytebound.models.catalogue import record  # noqa: PLC0415 - only for bundled models

    found = record(name)
    return _from_values(dict(found.shape), found.id, f"bundled {found.id}", None)


def _from_folder(folder: Path) -> Described:
    config = folder / "config.json"
    if not config.is_file():
        raise DocumentError("the folder holds no config.json", place=str(folder), mend="give a model's folder")
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(path.name for kind in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(kind))
        if pickled:
            raise DocumentError(
                f"its weights are pickled ({pickled[0]}), and a pickle can run code when it is loaded",
                place=str(folder),
                mend="convert them to safetensors, or give the config.json alone to run the shape with random weights",
            )
        raise DocumentError(
            "the folder holds no weights", place=str(folder), mend="give its config.json to run random weights"
        )
    values = parse(read_text(config), str(config))
    found = _from_values(values, folder.name, str(config), folder)
    architecture = read_model(str(folder))  # every header checked to the last byte, every tensor against the config
    return Described(architecture, found.values, folder, found.notes)


def _from_values(values: dict[str, Any], name: str, place: str, weights: Path | None) -> Described:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # noqa: PLC0415 - optional

    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise DocumentError(
            f"transformers has no model of type {str(kind)[:80]!r}, and code that comes with a model is never run",
            place=place or "config",
            mend="use a newer transformers, or observe it in a server",
        )
    if values.get("quantization_config"):
        raise DocumentError(
            "the checkpoint is quantized, and what runs it depends on packages we do not drive",
            place=place or "config",
            mend="observe it in a server such as vLLM, or give an unquantized checkpoint",
        )
    notes = ["its auto_map is ignored: transformers' own class is run"] if values.get("auto_map") else []
    if weights is None:
        notes.append("random weights of this shape: times are a real model's, tokens are noise, experts are evenly hit")
    return Described(read_config(values, name), _harmless(values), weights, tuple(notes))


def _harmless(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config without the keys that make transformers fetch or run something: code, kernels, other configs."""
    dropped = ("auto_map", "custom_pipelines", "attn_implementation", "experts_implementation", "dtype", "torch_dtype")
    return {
        key: _harmless(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if key not in dropped and not key.startswith("_")
    }


def build(found: Described, dtype: str, accelerator: Accelerator, *, attention: str, seed: int) -> Any:
    """Return the model, in evaluation mode, on the device, with its checkpoint's weights or random ones.

    Raises:
        DocumentError: transformers cannot build it, or the checkpoint lacks weights it needs.
    """
    import torch  # noqa: PLC0415 - optional
    from safetensors import SafetensorError  # noqa: PLC0415 - optional

    place = str(found.weights or found.architecture.name)
    kind = getattr(torch, TORCH_NAMES[dtype])
    options = {"dtype": kind, "attn_implementation": attention, "trust_remote_code": False}
    with hushed(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            if found.weights is None:
                config = _config(found.values)
                with torch.device(accelerator.device):
                    model = _class(config, found.architecture).from_config(config, **options)
            else:
                model = _load(found, found.weights, options)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, SafetensorError) as error:
            raise _cannot(error, place) from error
    return model.eval().to(accelerator.device)


def _cannot(error: Exception, place: str) -> DocumentError:
    """Return our error for one that transformers raised while it built a model."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if "attention implementation" in lines[0]:
        return DocumentError("transformers has no fused attention for it", place=place, mend="give --attention eager")
    reason = f"it does not know {lines[0]}" if isinstance(error, KeyError) else lines[0][:300]
    return DocumentError(
        f"transformers cannot build it: {reason}", place=place, mend="check the files, or try another model"
    )


def _load(found: Described, weights: Path, options: Mapping[str, Any]) -> Any:
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - optional

    if found.is_gguf:
        return AutoModelForCausalLM.from_pretrained(
            str(weights.parent.resolve()), gguf_file=weights.name, local_files_only=True, **options
        )
    config = _config(found.values)
    model, report = _class(config, found.architecture).from_pretrained(
        str(weights.resolve()),
        config=config,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
        **options,
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise DocumentError(
            f"the checkpoint lacks {missing[0]!r}" + (f" and {len(missing) - 1} more" if missing[1:] else ""),
            place=str(weights),
            mend="fetch the checkpoint again",
        )
    return model


def _config(values: Mapping[str, Any]) -> Any:
    from huggingface_hub.errors import StrictDataclassError  # noqa: PLC0415 - comes with transformers
    from transformers import AutoConfig  # noqa: PLC0415 - optional

    rest = {key: value for key, value in values.items() if key != "model_type"}
    try:
        return AutoConfig.for_model(values["model_type"], **rest)
    except StrictDataclassError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _class(config: Any, architecture: Architecture) -> Any:
    """Return the class that runs this kind of model.

    Raises:
        DocumentError: an encoder with a decoder behind it, or nothing that reads token ids.
    """
    import transformers  # noqa: PLC0415 - optional
    from transformers.models.auto import modeling_auto as known  # noqa: PLC0415 - optional

    if getattr(config, "is_encoder_decoder", False):
        raise DocumentError(
            "models with an encoder and a decoder are not run here", place=architecture.name, mend="observe a server"
        )
    kind = config.model_type
    if architecture.main.kind == "decoder":
        if kind in known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            return transformers.AutoModelForCausalLM
        if kind in known.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
            return transformers.AutoModelForImageTextToText
    elif architecture.main.kind == "encoder" and kind in known.MODEL_MAPPING_NAMES:
        return transformers.AutoModel
    raise DocumentError(
        f"transformers runs no text through a model of type {kind!r}",
        place=architecture.name,
        mend="give a language model",
    )


def takes(model: Any, argument: str) -> bool:
    """Tell whether the model's ``forward`` takes an argument of this name."""
    return argument in inspect.signature(model.forward).parameters


@contextmanager
def hushed() -> Iterator[None]:
    """Keep transformers' progress bars and advice off the terminal while it builds a model."""
    from transformers.utils import logging as theirs  # noqa: PLC0415 - optional

    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        with redirect_stderr(StringIO()):  # the GGUF loader's bar obeys no setting
            yield
    finally:
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()


@contextmanager
def overheard(notes: list[str]) -> Iterator[None]:
    """Turn what transformers warns of while a model runs, such as a slow stand-in for a kernel, into ``notes``, once each."""

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = f"transformers: {record.getMessage()[:300]}"
            if record.levelno >= logging.WARNING and text not in notes:
                notes.append(text)

    logger = logging.getLogger("transformers")
    handlers, logger.handlers = logger.handlers, [Keep()]
    try:
        yield
    finally:
        logger.handlers = handlers
