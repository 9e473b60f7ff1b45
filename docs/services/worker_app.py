"""All workers of the shop in one process, until SIGTERM or Ctrl-C: python worker_app.py."""

import asyncio
import logging

import rmqkit
from rmqkit import App, Delivery, Message, Queue, Target, Topology

log = logging.getLogger("shop")
app = App()
TOPOLOGY = rmqkit.merge(rmqkit.load("orders.yaml"), Topology(queues=(Queue("invoices"), Queue("prices"))))
PRICES = {"tea": 7, "coffee": 9}


@app.pipe("billing", to=Target("", "invoices"))
def bill(order: Delivery) -> Message:
    """Make an invoice of an order; the order is acknowledged once the broker has confirmed the invoice."""
    return Message.json({"invoice": order.json()["order"]}, message_id=order.properties.message_id)


@app.handler("invoices", concurrency=10)
async def send(invoice: Delivery) -> None:
    """Send an invoice, ten at a time; an invoice is acknowledged when this returns."""
    await asyncio.sleep(0.01)  # a request to the mail service
    log.info("sent invoice %d", invoice.json()["invoice"])


@app.server("prices")
def price(request: Delivery) -> str:
    """Answer a request; the message of a HandlerError reaches the caller."""
    if (article := request.body.decode()) not in PRICES:
        raise rmqkit.HandlerError(f"no such article: {article}")
    return str(PRICES[article])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    app.run(topology=TOPOLOGY, apply=True)
