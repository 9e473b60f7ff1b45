"""A Flask service that publishes for each request: flask --app flask_app run, or gunicorn --threads 8 flask_app:app."""

from functools import cache
from threading import Lock

from flask import Flask

import rmqkit
from rmqkit import Message

app = Flask(__name__)
connect = cache(rmqkit.connect)
opening = Lock()


def rabbitmq() -> rmqkit.Connection:
    """Return the connection of this process, which all of its threads share.

    The first request opens it, not the import of this module: after the import, a server such as gunicorn may fork.
    """
    with opening:
        return connect(recover_s=None)


@app.post("/orders/<int:number>")
def place(number: int) -> tuple[dict[str, object], int]:
    """Answer 202 once the broker has confirmed the message, and 503 if it did not within two seconds."""
    message = Message.json({"order": number}, "order.placed", "orders", message_id=f"order-{number}")
    try:
        rabbitmq().publish(message, timeout_s=2)
    except rmqkit.BrokerError:
        app.logger.exception("order %d was not published", number)
        return {"error": "the order was not accepted; send it again"}, 503
    return {"order": number}, 202
