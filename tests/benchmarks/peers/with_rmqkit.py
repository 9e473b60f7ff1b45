from __future__ import annotations

from pathlib import Path

from client import QUEUE, clock, run_action

from rmqkit import Message, Verdict, connect


def publish(url: str, count: int) -> None:
    with connect(url) as connection, clock():
        connection.publish(Message(b"%d" % number, QUEUE) for number in range(count))


def consume(url: str, count: int, file: str) -> None:
    with connect(url) as connection, Path(file).open("wb", buffering=0) as out, clock():
        consumer = connection.consume(QUEUE, count=count)
        for batch in consumer.batches():
            out.write(b"".join([delivery.body + b"\n" for delivery in batch]))
            consumer.settle(batch, Verdict.ACK)
        consumer.close()


if __name__ == "__main__":
    run_action(publish, consume)
