"""RabbitMQ's tutorials 1 to 6 with pika, as one program: see test_tutorials.py for its arguments."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable
from typing import Any

import pika

PERSISTENT = pika.BasicProperties(delivery_mode=2)
channel: Any = None


def say(body: bytes) -> None:
    sys.stdout.buffer.write(body + b"\n")
    sys.stdout.flush()


def consume(queue: str, count: int, handle: Callable[[Any, Any, bytes], None], *, auto_ack: bool = False) -> None:
    for number, (method, properties, body) in enumerate(channel.consume(queue, auto_ack=auto_ack), 1):
        handle(method, properties, body)
        if not auto_ack:
            channel.basic_ack(method.delivery_tag)
        if number == count:
            return


def send(queue: str, *bodies: str) -> None:
    channel.queue_declare(queue=queue)
    for body in bodies:
        channel.basic_publish(exchange="", routing_key=queue, body=body)


def receive(queue: str, count: str) -> None:
    channel.queue_declare(queue=queue)
    consume(queue, int(count), lambda _method, _properties, body: say(body), auto_ack=True)


def new_task(queue: str, *bodies: str) -> None:
    channel.queue_declare(queue=queue, durable=True)
    for body in bodies:
        channel.basic_publish(exchange="", routing_key=queue, body=body, properties=PERSISTENT)


def worker(queue: str, count: str) -> None:
    channel.queue_declare(queue=queue, durable=True)
    channel.basic_qos(prefetch_count=1)
    consume(queue, int(count), lambda _method, _properties, body: say(body))


def emit_log(exchange: str, kind: str, key: str, body: str) -> None:
    channel.exchange_declare(exchange=exchange, exchange_type=kind, durable=True)
    channel.basic_publish(exchange=exchange, routing_key=key, body=body)


def receive_logs(exchange: str, kind: str, count: str, *keys: str) -> None:
    channel.exchange_declare(exchange=exchange, exchange_type=kind, durable=True)
    queue = channel.queue_declare(queue="", exclusive=True).method.queue
    for key in keys:
        channel.queue_bind(exchange=exchange, queue=queue, routing_key=key)
    consume(queue, int(count), lambda _method, _properties, body: say(body), auto_ack=True)


def rpc_client(queue: str, number: str) -> None:
    wanted = str(uuid.uuid4())
    replies = channel.queue_declare(queue="", exclusive=True).method.queue
    properties = pika.BasicProperties(reply_to=replies, correlation_id=wanted)
    channel.basic_publish(exchange="", routing_key=queue, properties=properties, body=number)
    for _, got, body in channel.consume(replies, auto_ack=True):
        if got.correlation_id == wanted:
            say(body)
            return


def rpc_server(queue: str, count: str) -> None:
    def reply(_method: Any, request: Any, body: bytes) -> None:
        properties = pika.BasicProperties(correlation_id=request.correlation_id)
        answer = b"%d" % (2 * int(body))
        channel.basic_publish(exchange="", routing_key=request.reply_to, properties=properties, body=answer)

    channel.queue_declare(queue=queue, durable=True)
    channel.basic_qos(prefetch_count=1)
    consume(queue, int(count), reply)


if __name__ == "__main__":
    with pika.BlockingConnection(pika.URLParameters(os.environ["RABBITMQ_URL"])) as connection:
        channel = connection.channel()
        globals()[sys.argv[1]](*sys.argv[2:])
