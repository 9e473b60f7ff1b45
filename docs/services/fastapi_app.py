"""A FastAPI service that publishes for each request, and consumes in the same process: uvicorn fastapi_app:app."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypedDict

from fastapi import FastAPI, HTTPException, Request

import rmqkit.aio
from rmqkit import Delivery, Message, Stop

TOPOLOGY = rmqkit.load(str(Path(__file__).with_name("orders.yaml")))
billed: set[int] = set()


class State(TypedDict):
    """The state that all requests share; Starlette passes it to each."""

    rabbitmq: rmqkit.aio.AsyncConnection


async def bill(order: Delivery) -> None:
    """Handle one message; it is acknowledged when this returns, and retried if this raises."""
    billed.add(order.json()["order"])


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[State]:
    """Connect before the first request; after the last, wait for running handlers and confirms, and disconnect."""
    stop = Stop()
    async with rmqkit.aio.connect(wait_s=30, recover_s=None) as connection, asyncio.TaskGroup() as workers:
        await connection.apply(TOPOLOGY)
        workers.create_task(connection.handle("billing", bill, topology=TOPOLOGY, concurrency=10, stop=stop))
        try:
            yield {"rabbitmq": connection}
        finally:
            stop.request()


app = FastAPI(lifespan=lifespan)


@app.post("/orders/{number}", status_code=202)
async def place(number: int, request: Request) -> dict[str, int]:
    """Answer 202 once the broker has confirmed the message, and 503 if it did not within two seconds."""
    connection: rmqkit.aio.AsyncConnection = request.state.rabbitmq
    message = Message.json({"order": number}, "order.placed", "orders", message_id=f"order-{number}")
    try:
        await connection.publish(message, timeout_s=2)
    except rmqkit.BrokerError as error:
        raise HTTPException(503, "the order was not accepted; send it again") from error
    return {"order": number}


@app.get("/billed")
async def show() -> list[int]:
    """Return the numbers of the orders billed so far."""
    return sorted(billed)
