from __future__ import annotations

from pathlib import Path
from typing import Any

import pika
from client import PREFETCH, QUEUE, clock, run_action

PERSISTENT = pika.BasicProperties(delivery_mode=2)


def publish(url: str, count: int, *, confirms: bool = True) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    if confirms:
        channel.confirm_delivery()
    with clock():
        for number in range(count):
            channel.basic_publish("", QUEUE, b"%d" % number, PERSISTENT)
        connection.close()


def publish_unconfirmed(url: str, count: int) -> None:
    publish(url, count, confirms=False)


def consume(url: str, count: int, file: str) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=PREFETCH)
    missing = count

    with Path(file).open("wb") as out:

        def on_message(channel: Any, method: Any, _properties: Any, body: bytes) -> None:
            nonlocal missing
            out.write(body + b"\n")
            channel.basic_ack(method.delivery_tag)
            missing -= 1
            if not missing:
                channel.stop_consuming()

        with clock():
            channel.basic_consume(QUEUE, on_message)
            channel.start_consuming()
            connection.close()


if __name__ == "__main__":
    run_action(publish, publish_unconfirmed, consume)
