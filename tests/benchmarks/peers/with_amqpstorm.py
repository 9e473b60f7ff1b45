from __future__ import annotations

from pathlib import Path

import amqpstorm
from client import PREFETCH, QUEUE, clock, port, run_action


def publish(url: str, count: int) -> None:
    connection = amqpstorm.Connection("127.0.0.1", "guest", "guest", port=port(url))
    channel = connection.channel()
    channel.confirm_deliveries()
    with clock():
        for number in range(count):
            channel.basic.publish(b"%d" % number, QUEUE, properties={"delivery_mode": 2})
        connection.close()


def consume(url: str, count: int, file: str) -> None:
    connection = amqpstorm.Connection("127.0.0.1", "guest", "guest", port=port(url))
    channel = connection.channel()
    channel.basic.qos(PREFETCH)
    missing = count

    with Path(file).open("wb") as out:

        def on_message(message: amqpstorm.Message) -> None:
            nonlocal missing
            out.write(message.body + b"\n")
            message.ack()
            missing -= 1
            if not missing:
                channel.stop_consuming()

        with clock():
            channel.basic.consume(on_message, QUEUE)
            channel.start_consuming(auto_decode=False)
            connection.close()


if __name__ == "__main__":
    run_action(publish, consume)
