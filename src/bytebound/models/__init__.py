"""What is the network: configs, checkpoints and bundled models in, the exact shape of every tensor out."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from bytebound.errors import DocumentError

if TYPE_CHECKING:
    from bytebound.documents.architecture import Architecture

__all__ = ["read_model"]


def read_model(name: str) -> Architecture:
    """Return the architecture named by a bundled id, a path, or a hub id.

    Args:
        name: a bundled model (``meta-llama/Llama-3.1-8B``, any case, a unique ending is enough), a ``config.json``,
            a model folder, a ``.gguf`` or ``.safetensors`` file, or ``hub:org/name``.

    Raises:
        UnknownNameError: no such bundled model, family or format.
        DocumentError: a file that cannot be read.
    """
    if name.startswith("hub:"):
        return read_model(str(fetch(name.removeprefix("hub:"))))
    suffix = Path(name).suffix.lower() if "\0" not in name else ""
    if suffix == ".gguf":
        from bytebound.models.gguf import read_gguf  # noqa: PLC0415  (a reader is loaded where it is used)

        return read_gguf(Path(name))
    if suffix == ".safetensors":
        from bytebound.models.safetensors import read_safetensors  # noqa: PLC0415

        return read_safetensors(Path(name))
    if suffix == ".json":
        from bytebound.models.config import read_config  # noqa: PLC0415

        return read_config(Path(name))
    if is_folder(name):
        return read_folder(Path(name))
    from bytebound.models.catalogue import find_model  # noqa: PLC0415

    return find_model(name)


def is_folder(name: str) -> bool:
    """Tell whether ``name`` is the path of a folder; what cannot be a path is none."""
    try:
        return Path(name).is_dir() and bool(name)
    except (OSError, ValueError):
        return False


def read_folder(folder: Path) -> Architecture:
    """Return the architecture of a model folder: its config with the formats of the checkpoint beside it, if there is one.

    Raises:
        DocumentError: the folder holds no model.
    """
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        from bytebound.models.safetensors import read_safetensors  # noqa: PLC0415

        return read_safetensors(folder)
    for config in ("config.json", "transformer/config.json", "unet/config.json"):
        if (folder / config).is_file():
            return read_model(str(folder / config))
    for index in ("model.safetensors.index.json", "diffusion_pytorch_model.safetensors.index.json"):
        if (folder / index).is_file():
            from bytebound.models.safetensors import read_safetensors  # noqa: PLC0415

            return read_safetensors(folder / index)
    for pattern in ("*.safetensors", "*.gguf"):
        found = sorted(folder.glob(pattern))
        if found:
            return read_model(str(found[0]))
    raise DocumentError(
        "the folder holds no config.json, .safetensors or .gguf", place=str(folder), mend="give a model's folder"
    )


def fetch(repository: str) -> Path:
    """Return the config of a hub repository, downloaded or from the hub's cache.

    Raises:
        DocumentError: the optional package is missing, or the file cannot be had.
    """
    try:
        hub = import_module("huggingface_hub")
        errors = import_module("huggingface_hub.errors")
    except ImportError:
        raise DocumentError(
            "hub: needs the package huggingface-hub", place=f"hub:{repository}", mend="pip install 'bytebound[hub]'"
        ) from None
    try:
        return Path(hub.hf_hub_download(repository, "config.json"))
    except (errors.HfHubHTTPError, errors.HFValidationError, errors.LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DocumentError(
            f"the hub gave no config.json: {reason[:200]}",
            place=f"hub:{repository}",
            mend="check the name and the connection, or download the file and give its path",
        ) from None
