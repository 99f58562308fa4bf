"""Where results are kept unless the user says otherwise: the data folder and the history in it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

DATA_VARIABLE = "BYTEBOUND_DATA"
DATABASE_VARIABLE = "BYTEBOUND_DB"
FILE_NAME = "history.sqlite"


def data_folder() -> Path:
    """Return the folder where measured machines are kept: ``BYTEBOUND_DATA``, or the platform's user data folder."""
    if os.environ.get(DATA_VARIABLE):
        return Path(os.environ[DATA_VARIABLE]).expanduser()
    if os.environ.get("XDG_DATA_HOME"):
        return Path(os.environ["XDG_DATA_HOME"]) / "bytebound"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "bytebound"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "bytebound"
    return Path.home() / ".local" / "share" / "bytebound"


def database_url() -> tuple[str, bool]:
    """Return the database that holds the history, and whether it is the default.

    ``BYTEBOUND_DB`` (an SQLAlchemy URL or the path of an SQLite file), or by default ``history.sqlite`` in the data folder.
    """
    given = os.environ.get(DATABASE_VARIABLE, "")
    return (given, False) if given else (str(data_folder() / FILE_NAME), True)
