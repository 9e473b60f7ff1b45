"""Publish the rows of an outbox table, at least once each: python outbox.py shop.db, or postgresql://...

A service writes a row in the transaction that changes its data. So there is a message for each change that was
committed, and for no other, whatever happens to the service or to the broker.
"""

import signal
import sqlite3
import sys
import uuid
from logging import getLogger
from typing import Any

import psycopg

import rmqkit
from rmqkit import Message, Properties, Stop

log = getLogger("outbox")
Database = sqlite3.Connection | psycopg.Connection[Any]
TABLE = """
    CREATE TABLE IF NOT EXISTS outbox (
        id {serial}, message_id TEXT NOT NULL UNIQUE,
        exchange TEXT NOT NULL, routing_key TEXT NOT NULL, body TEXT NOT NULL
    )
"""
ROWS = "SELECT id, message_id, exchange, routing_key, body FROM outbox ORDER BY id LIMIT 500"


def connect(url: str) -> Database:
    """Open a database, and create the table."""
    if not url.startswith("postgresql:"):
        db: Database = sqlite3.connect(url, timeout=30)
        execute(db, TABLE.format(serial="INTEGER PRIMARY KEY"))
    else:
        db = psycopg.connect(url)
        execute(db, TABLE.format(serial="BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"))
    db.commit()
    return db


def execute(db: Database, statement: str, *parameters: object) -> Any:
    """Run a statement: its parameters are ? in SQLite, %s in psycopg."""
    if isinstance(db, sqlite3.Connection):
        return db.execute(statement, parameters)
    return db.execute(statement.replace("?", "%s").encode(), parameters)


def add(db: Database, exchange: str, routing_key: str, body: str) -> None:
    """Add a message to the transaction in progress; its id is what consumers recognize a second copy by."""
    statement = "INSERT INTO outbox (message_id, exchange, routing_key, body) VALUES (?, ?, ?, ?)"
    execute(db, statement, str(uuid.uuid4()), exchange, routing_key, body)


def relay(db: Database, connection: rmqkit.Connection) -> int:
    """Publish the oldest rows, and delete those that the broker has confirmed; return their number.

    If the relay dies in between, the next one publishes the rows again. PostgreSQL lets several relays run: each skips
    the rows that another one has locked.
    """
    rows = execute(db, ROWS if isinstance(db, sqlite3.Connection) else f"{ROWS} FOR UPDATE SKIP LOCKED").fetchall()
    messages = [Message(row[4].encode(), row[3], row[2], Properties(message_id=row[1])) for row in rows]
    report = connection.publish(messages, check=False)
    failed = {failure.index for failure in report.failures}
    for index, row in enumerate(rows):
        if index not in failed:
            execute(db, "DELETE FROM outbox WHERE id = ?", row[0])
    db.commit()
    if error := report.error():  # such as a missing binding; all other rows were deleted
        log.error("rows stay in the outbox: %s", error)
    return len(rows) - len(failed)


def main() -> None:
    """Relay until SIGTERM or Ctrl-C."""
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.request())
    db = connect(sys.argv[1])
    with rmqkit.connect(wait_s=60, recover_s=None, stop=stop) as connection:
        while not stop.requested:
            if relay(db, connection) == 0:
                stop.wait(0.2)
    db.close()


if __name__ == "__main__":
    main()
