"""Declare what a definitions file holds with pika's BlockingConnection, one after the other: `URL FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pika

url, file = sys.argv[1:]
found = json.loads(Path(file).read_text())
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
for each in found["exchanges"]:
    channel.exchange_declare(each["name"], each["type"], durable=True)
for each in found["queues"]:
    channel.queue_declare(each["name"], durable=True, arguments=each["arguments"])
for each in found["bindings"]:
    channel.queue_bind(each["destination"], each["source"], each["routing_key"])
connection.close()
