"""A shop's checkout with FastAPI: hold, pay, confirm, and live stock for its pages.

    pip install holdsvc fastapi uvicorn
    uvicorn --app-dir examples/fastapi app:app

If the service requires a key, set HOLDSVC_API_KEY. A caller that got no answer sends its request again with the same
`Idempotency-Key`: it is the request_id of the hold and of its confirmation, so nothing is held or sold twice.
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException
from fastapi.responses import StreamingResponse

from holdsvc.client import AsyncClient, errors
from inventoryhold.v1 import inventory_service_pb2, item_pb2

client = AsyncClient(
    os.environ.get("HOLDSVC_LISTEN", "127.0.0.1:50051"), api_key=os.environ.get("HOLDSVC_API_KEY") or None
)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Closes the client with the application."""
    async with client:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/checkout/{sku}")
async def checkout(
    sku: str, quantity: int, idempotency_key: Annotated[str, Header(min_length=8, max_length=100)]
) -> dict[str, str]:
    """Holds units, takes the payment, and sells them; a payment that fails gives the units back."""
    try:
        async with client.hold({sku: quantity}, ttl=300, request_id=f"{idempotency_key}-hold") as hold:
            await pay(quantity)
            sold = await hold.confirm(request_id=f"{idempotency_key}-confirm")
    except errors.CapacityExceeded as error:
        raise HTTPException(409, f"only {error.shortfall[0].available} left") from error
    except errors.ItemNotFound as error:
        raise HTTPException(404, f"no item {sku}") from error
    return {"order_id": sold.order_id, "reservation_id": sold.reservation_id}


async def pay(quantity: int) -> None:
    """Stands for the payment."""
    if quantity > 10:
        raise HTTPException(402, "the payment was declined")


@app.get("/stock/{sku}")
async def stock(sku: str) -> StreamingResponse:
    """Server-sent events with the stock as it changes; after a break the client reads it anew and goes on."""
    request = inventory_service_pb2.WatchInventoryRequest(items=[item_pb2.ItemKey(sku=sku)])

    async def changes() -> AsyncIterator[str]:
        async for message in client.watch_inventory(request):
            for item in message.items:
                yield f"data: {json.dumps({'sku': item.sku, 'remaining': item.remaining})}\n\n"

    return StreamingResponse(changes(), media_type="text/event-stream")
