"""Bill each order once, however often its message arrives: python worker.py shop.db, or postgresql://...

The id of each message is stored in the transaction that does its work. If it is already stored, the work is done.
"""

import signal
import sys

import outbox

import rmqkit
from rmqkit import Delivery, Stop

TABLES = (
    "CREATE TABLE IF NOT EXISTS processed (message_id TEXT PRIMARY KEY)",
    "CREATE TABLE IF NOT EXISTS invoices (order_number INTEGER NOT NULL)",
)


def bill(db: outbox.Database, order: Delivery) -> None:
    """Store an invoice, unless it is already stored; the message is acknowledged after the commit."""
    try:
        new = "INSERT INTO processed (message_id) VALUES (?) ON CONFLICT DO NOTHING"
        if outbox.execute(db, new, order.properties.message_id).rowcount == 1:
            outbox.execute(db, "INSERT INTO invoices (order_number) VALUES (?)", order.json()["order"])
        db.commit()
    except Exception:
        db.rollback()
        raise  # the message is retried


def main() -> None:
    """Work until SIGTERM or Ctrl-C."""
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.request())
    topology = rmqkit.load("orders.yaml")
    db = outbox.connect(sys.argv[1])
    for table in TABLES:
        outbox.execute(db, table)
    db.commit()
    with rmqkit.connect(wait_s=60, recover_s=None, stop=stop) as connection:
        connection.apply(topology)
        connection.handle("billing", lambda order: bill(db, order), topology=topology, stop=stop)
    db.close()


if __name__ == "__main__":
    main()
