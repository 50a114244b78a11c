"""Where studies are kept: a database that many workers share."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from typing import Any

from jaxdl.core.errors import InputError


@contextmanager
def reaching(url: str):
    """Turns what a storage raises into an InputError that names it, without its password."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        yield
    except ImportError as error:
        raise InputError(
            f"{url.partition(':')[0]} needs a driver ({error}); for PostgreSQL: pip install "
            "'psycopg[binary]' and a URL that starts with postgresql+psycopg://"
        ) from None
    except (StorageInternalError, SQLAlchemyError, ArgumentError) as error:
        with suppress(ArgumentError):
            url = make_url(url).render_as_string(hide_password=True)
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        raise InputError(
            f"the storage {url} does not answer ({cause}); mend it, then run again."
        ) from None


def open_storage(url: str, tries: int = 10) -> Any:
    """The storage; of workers that begin at once only one can make the tables."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    local = url.startswith("sqlite")
    options = {"connect_args": {"timeout": 60}} if local else {}
    try:
        storage = optuna.storages.RDBStorage(url, {"pool_pre_ping": True} | options)
    except SQLAlchemyError as error:
        if tries and ("already exists" in str(error) or "duplicate key" in str(error)):
            time.sleep(0.5)
            return open_storage(url, tries - 1)
        raise
    if local:
        _hasten(storage.engine)
    return storage


def _hasten(engine: Any) -> None:
    """Lets SQLite wait for the disk once in a while, not at each commit."""
    from sqlalchemy import event

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    engine.dispose()  # connections from before
