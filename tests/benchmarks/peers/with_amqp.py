from __future__ import annotations

from pathlib import Path

import amqp
from client import PREFETCH, QUEUE, clock, port, run_action


def publish(url: str, count: int) -> None:
    connection = amqp.Connection(f"127.0.0.1:{port(url)}", confirm_publish=True)
    connection.connect()
    channel = connection.channel()
    with clock():
        for number in range(count):
            channel.basic_publish(amqp.Message(b"%d" % number, delivery_mode=2), routing_key=QUEUE)
        connection.close()


def consume(url: str, count: int, file: str) -> None:
    connection = amqp.Connection(f"127.0.0.1:{port(url)}")
    connection.connect()
    channel = connection.channel()
    channel.basic_qos(0, PREFETCH, a_global=False)
    missing = count

    with Path(file).open("wb") as out:

        def on_message(message: amqp.Message) -> None:
            nonlocal missing
            body = message.body
            out.write((body if isinstance(body, bytes) else body.encode()) + b"\n")
            channel.basic_ack(message.delivery_tag)
            missing -= 1

        with clock():
            channel.basic_consume(QUEUE, callback=on_message)
            while missing:
                connection.drain_events()
            connection.close()


if __name__ == "__main__":
    run_action(publish, consume)
