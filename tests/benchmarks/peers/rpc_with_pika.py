"""The client and the server of RabbitMQ's tutorial 6, with pika: `client URL QUEUE COUNT` prints its seconds."""

from __future__ import annotations

import sys
import time
from typing import Any

import pika


def serve(url: str, queue: str) -> None:
    """Answer each request with its body, one at a time, until the process is ended."""
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()

    def on_request(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        reply = pika.BasicProperties(correlation_id=properties.correlation_id)
        channel.basic_publish("", properties.reply_to, body, reply)
        channel.basic_ack(method.delivery_tag)

    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(queue, on_request)
    channel.start_consuming()


def call(url: str, queue: str, count: int) -> None:
    """Ask one question after the other, with a callback queue; print the seconds it took."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    callback_queue = channel.queue_declare("", exclusive=True).method.queue
    responses: dict[str, bytes] = {}

    def on_response(_channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        responses[properties.correlation_id] = body

    channel.basic_consume(callback_queue, on_response, auto_ack=True)
    begun = time.perf_counter()
    for number in range(count):
        properties = pika.BasicProperties(reply_to=callback_queue, correlation_id=str(number))
        channel.basic_publish("", queue, b"%d" % number, properties)
        while str(number) not in responses:
            connection.process_data_events(time_limit=None)
        assert responses.pop(str(number)) == b"%d" % number
    print(time.perf_counter() - begun)
    connection.close()


if __name__ == "__main__":
    role, url, queue, *count = sys.argv[1:]
    if role == "serve":
        serve(url, queue)
    else:
        call(url, queue, int(count[0]))
