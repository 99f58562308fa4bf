"""A database of the PostgreSQL server that ``conftest.py`` starts."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = "sesam/öffne dich"


def new_database(server: Path) -> str:
    """Make an empty database on the server and return its URL."""
    from sqlalchemy import URL, create_engine, text

    def url(name: str) -> URL:
        return URL.create("postgresql", "keeper", PASSWORD, database=name, query={"host": str(server)})

    name = f"t{uuid.uuid4().hex}"
    engine = create_engine(url("postgres").set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return url(name).render_as_string(hide_password=False)
