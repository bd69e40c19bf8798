"""WebhookService: where events are sent by HTTP."""

import secrets
from base64 import b64encode
from collections.abc import Awaitable
from datetime import datetime
from urllib.parse import urlsplit
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from yarl import URL

from holdsvc import errors, outages
from holdsvc.api import convert, validation
from holdsvc.api.calls import Call
from holdsvc.api.pages import Pages, Position, whole
from holdsvc.engine.limits import RateLimit
from holdsvc.errors import HoldError, unwrap
from holdsvc.ledger import webhooks
from holdsvc.ledger.database import Connection
from holdsvc.ledger.feed import Filter
from holdsvc.ledger.webhooks import Place, Sight, Webhook
from holdsvc.model import Answer, Done, Part, Violation
from holdsvc.settings import Settings
from inventoryhold.v1 import webhook_service_pb2 as pb

SECRET_BYTES = 32

TESTS_PER_SECOND = 1.0
"""TestWebhook calls of each tenant, in each worker: each is a request to a place of the caller's choice."""


_NOT_REACHED = "must lead to a public address by https, or to one that the operator allows"


class WebhookServicer:
    """One coroutine each rpc; the proto documents them."""

    def __init__(self, settings: Settings, pages: Pages) -> None:
        self._settings = settings
        self._pages = pages
        self._tests = RateLimit(TESTS_PER_SECOND)

    async def CreateWebhook(self, request: pb.CreateWebhookRequest, call: Call) -> pb.CreateWebhookResponse:
        """Stores a webhook that begins now."""
        caller = call.caller
        validation.check(request, _url_violation(request.url))
        if not await call.cell.sender.reaches(caller.tenant, request.url):
            raise HoldError(errors.invalid_field("url", _NOT_REACHED, "URL_ADDRESS"))
        hub = call.cell.streams.events
        identity, last = await hub.look(caller.tenant)
        begun = await hub.begin(last, Filter(caller.tenant))
        if begun is None:
            # This process began during a transaction that still runs: nothing says yet where now is.
            raise HoldError(outages.database_unavailable())
        secret, webhook_id = secrets.token_bytes(SECRET_BYTES), call.cell.engine.new_id()

        async def create(connection: Connection) -> Answer[Webhook]:
            return await webhooks.create(
                connection,
                tenant=caller.tenant,
                webhook_id=UUID(webhook_id),
                client=caller.client,
                key_id=caller.key_id,
                url=request.url,
                types=[int(type_) for type_ in request.types],
                sku_prefix=request.sku_prefix,
                reads_all=caller.reads_all,
                pools=sorted(caller.pools),
                secret=secret,
                place=Place(identity.history, begun.place, last.read_time),
                webhooks_max=self._settings.webhooks_max,
            )

        made = unwrap(await call.cell.engine.change(caller.tenant, create, call.deadline)).value
        return pb.CreateWebhookResponse(webhook=convert.webhook(made), secret=f"whsec_{b64encode(secret).decode()}")

    async def ListWebhooks(self, request: pb.ListWebhooksRequest, call: Call) -> pb.ListWebhooksResponse:
        """Lists the webhooks that the caller sees, newest first."""
        page = await self._pages.begin(request, call)
        response = pb.ListWebhooksResponse()

        def read(connection: Connection, after: Position | None, limit: int) -> Awaitable[Part[Webhook]]:
            before = (datetime.fromisoformat(after[0]), UUID(after[1])) if after else None
            return whole(webhooks.list_page(connection, _sight(call), before, limit))

        response.next_page_token = await page.fill(
            response.webhooks.append,
            read,
            convert.webhook,
            lambda found: [found.create_time.isoformat(), found.webhook_id],
        )
        return response

    async def DeleteWebhook(self, request: pb.DeleteWebhookRequest, call: Call) -> pb.DeleteWebhookResponse:
        """Deletes a webhook."""
        validation.check(request)
        unwrap(
            await call.cell.engine.change(
                call.caller.tenant,
                lambda connection: webhooks.delete(connection, _sight(call), request.webhook_id),
                call.deadline,
            )
        )
        return pb.DeleteWebhookResponse()

    async def TestWebhook(self, request: pb.TestWebhookRequest, call: Call) -> pb.TestWebhookResponse:
        """Sends a test event; a success lets the webhook go on."""
        validation.check(request)
        caller, webhook_id = call.caller, request.webhook_id
        self._tests.take(caller.tenant, "tests of webhooks per second of a tenant")

        async def find(connection: Connection) -> tuple[Webhook, bytes] | None:
            found = await webhooks.find(connection, _sight(call), webhook_id)
            secret = await webhooks.secret(connection, caller.tenant, webhook_id)
            return (found, secret) if found is not None and secret is not None else None

        found = await call.cell.engine.read(caller.tenant, find, call.deadline)
        if found is None:
            raise HoldError(errors.webhook_not_found(webhook_id))
        attempt = await call.cell.sender.test(caller.tenant, *found)
        if not attempt.error:

            async def enable(connection: Connection) -> Answer[None]:
                await webhooks.enable(connection, caller, webhook_id)
                return Done(None, replayed=False)

            unwrap(await call.cell.engine.change(caller.tenant, enable, call.deadline))
        duration = Duration()
        duration.FromMilliseconds(int(attempt.seconds * 1000))
        return pb.TestWebhookResponse(
            delivered=not attempt.error, status_code=attempt.status, error=attempt.error, duration=duration
        )


def _sight(call: Call) -> Sight:
    caller = call.caller
    return Sight(caller.tenant, None if "admin" in caller.scopes else caller.client, sorted(caller.pools) or None)


def _url_violation(url: str) -> Violation | None:
    """What is wrong with a URL as far as that is visible without looking up its name."""
    if not url:
        return None
    try:
        parts = urlsplit(url)
        # The sender's own reading, too: it takes no backslash, and no xn-- that stands for no name.
        host, _, _ = parts.hostname, parts.port, URL(url, encoded=True).host
    except ValueError:
        return Violation("url", "must be a URL, as in https://example.org/hooks", "URL")
    if parts.scheme not in ("https", "http") or not host:
        return Violation("url", "must be an absolute URL of https", "URL_SCHEME")
    if "@" in parts.netloc or parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        return Violation("url", "must be ASCII without user name, fragment and blanks", "URL_PARTS")
    return None
