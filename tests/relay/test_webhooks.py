"""Webhooks: every event reaches its endpoint, signed, at least once and in order, and no endpoint delays another."""

import asyncio
import base64
import itertools
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook as Verifier

from holdsvc.ledger import webhooks as ledger
from holdsvc.relay import endpoint
from holdsvc.relay import webhooks as sending
from inventoryhold.v1 import event_pb2, item_pb2
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import reservation_service_pb2 as pb
from inventoryhold.v1 import webhook_service_pb2 as wb
from tests.support.certificates import Authority
from tests.support.harness import Harness, StartService, loop_failures, refused
from tests.support.partners import new_partner
from tests.support.polling import until
from tests.support.receiver import Answer, Receiver, answering, never

NETWORKS = "127.0.0.0/8"
Made = wb.CreateWebhookResponse


@pytest.fixture
async def hooked(start_service: StartService) -> Harness:
    return await start_service(webhook_networks=NETWORKS)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as listening:
        yield listening


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses, so that what is waited for comes soon."""
    monkeypatch.setattr(sending, "PAUSE_MIN_S", 0.05)
    monkeypatch.setattr(sending, "CLAIM_S", 0.02)
    monkeypatch.setattr(sending, "RENEW_S", 0.05)
    monkeypatch.setattr("holdsvc.api.webhooks.TESTS_PER_SECOND", 1000.0)


async def create(service: Any, receiver: Receiver, **fields: Any) -> Made:
    made: Made = await service.webhooks.CreateWebhook(wb.CreateWebhookRequest(url=receiver.url, **fields))
    return made


async def state_of(service: Any, made: Made) -> wb.Webhook:
    listed = await service.webhooks.ListWebhooks(wb.ListWebhooksRequest())
    [found] = [webhook for webhook in listed.webhooks if webhook.webhook_id == made.webhook.webhook_id]
    return found  # type: ignore[no-any-return]


async def until_state(service: Any, made: Made, state: int) -> wb.Webhook:
    async def reached() -> bool:
        return (await state_of(service, made)).state == state

    await until(reached)
    return await state_of(service, made)


async def test_an_event_is_a_signed_cloud_event(hooked: Harness, receiver: Receiver) -> None:
    made = await create(hooked, receiver)
    assert made.webhook.state == wb.Webhook.STATE_ACTIVE
    await hooked.create_item("a", 10)
    held = await hooked.reserve({"a": 2})
    item, reserved = await receiver.wait_for(2)
    assert receiver.types == ["item_created", "reserved"]
    for message in (item, reserved):
        # A library of others checks signature and time.
        assert Verifier(made.secret).verify(message.body, message.headers) == message.event
        assert message.headers["webhook-id"] == message.event["id"]
        assert message.headers["Content-Type"] == "application/cloudevents+json"
    with pytest.raises(Exception, match="No matching signature"):
        Verifier(f"whsec_{base64.b64encode(b'another').decode()}").verify(item.body, item.headers)
    event = reserved.event
    assert (event["specversion"], event["source"], event["subject"]) == ("1.0", "/holdsvc/default", held.reservation_id)
    assert event["data"]["reservation"]["reservation_id"] == held.reservation_id
    assert event["data"]["lines"] == [{"sku": "a", "quantity": "2"}]
    listed = await state_of(hooked, made)
    assert made.secret not in str(listed)


async def test_an_event_of_the_waitlist_has_its_entry_as_subject(hooked: Harness, receiver: Receiver) -> None:
    await create(hooked, receiver)
    await hooked.create_item("a", 1, waitlist_policy=item_pb2.Item.WAITLIST_POLICY_STRICT)
    await hooked.reserve({"a": 1})
    entry = await hooked.join({"a": 1}, "ann")
    await receiver.wait_for(3)
    assert [event["subject"] for event in receiver.events if "waitlist_joined" in event["type"]] == [entry.entry_id]


async def test_events_of_a_reservation_arrive_in_order_and_none_is_missing_when_a_sender_dies(
    hooked: Harness, start_service: StartService, receiver: Receiver
) -> None:
    await create(hooked, receiver)
    await hooked.create_item("a", 1000)
    held = [await hooked.reserve({"a": 1}) for _ in range(20)]
    await receiver.wait_for(5)
    # As if killed: its loops and senders end, and nothing tells the database.
    senders = hooked.cell.sender
    for task in (*senders._tasks, *(sender.task for sender in senders._senders)):
        task.cancel()
    for reservation in held:
        await hooked.reservations.Cancel(pb.CancelRequest(reservation_id=reservation.reservation_id))
    await start_service(webhook_networks=NETWORKS)
    hooked.clock.advance(timedelta(seconds=sending.LEASE_S + 1))
    await until(lambda: len({event["id"] for event in receiver.events}) == 41)
    for reservation in held:
        told = [event["type"] for event in receiver.events if event["subject"] == reservation.reservation_id]
        once = [kind for kind, _ in itertools.groupby(told)]
        assert [kind.rpartition(".")[2] for kind in once[-2:]] == ["reserved", "cancelled"]


async def test_a_restart_hands_webhooks_over_at_once_and_sends_nothing_twice(
    hooked: Harness, start_service: StartService, receiver: Receiver
) -> None:
    await create(hooked, receiver)
    await hooked.create_item("a", 10)
    await receiver.wait_for(1)
    # The receiver has it before its sender has the answer.
    [sender] = hooked.cell.sender._senders
    await until(lambda: sender._proven)
    await hooked.cell.sender.stop()
    await hooked.reserve({"a": 1})
    await start_service(webhook_networks=NETWORKS)
    await receiver.wait_for(2)
    assert receiver.types == ["item_created", "reserved"]


async def test_two_processes_never_send_to_one_webhook_at_once(
    hooked: Harness, start_service: StartService, receiver: Receiver
) -> None:
    await start_service(webhook_networks=NETWORKS)
    for _ in range(4):
        await create(hooked, receiver)
    await hooked.create_item("a", 100)
    for _ in range(10):
        await hooked.reserve({"a": 1})
    await receiver.wait_for(44)
    await hooked.create_item("last", 1)
    await until(lambda: receiver.types.count("item_created") == 8)
    assert len(receiver.messages) == 48


async def test_what_fails_is_repeated_with_growing_pauses_and_nothing_overtakes_it(
    hooked: Harness, receiver: Receiver
) -> None:
    receiver.answer = answering(500)
    made = await create(hooked, receiver)
    await hooked.create_item("a", 10)
    await hooked.create_item("b", 10)
    await receiver.wait_for(4)
    failing = await until_state(hooked, made, wb.Webhook.STATE_FAILING)
    assert failing.failure_count >= 3
    assert (failing.last_error, failing.last_status) == ("STATUS", 500)
    assert failing.failing_since.ToDatetime() < failing.next_attempt_time.ToDatetime()
    receiver.answer = answering(200)
    await until(lambda: receiver.events[-1]["subject"] == "b")
    assert {event["subject"] for event in receiver.events[:-1]} == {"a"}
    assert len({message.headers["webhook-id"] for message in receiver.messages}) == 2
    healthy = await until_state(hooked, made, wb.Webhook.STATE_ACTIVE)
    assert (healthy.failure_count, healthy.last_error, healthy.HasField("failing_since")) == (0, "", False)


async def test_after_a_success_pauses_begin_anew(
    hooked: Harness, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PAUSE_MIN_S", 10.0)
    receiver.answer = answering(500)
    made = await create(hooked, receiver)
    await hooked.create_item("a", 10)

    async def failed_twice() -> bool:
        return (await state_of(hooked, made)).failure_count == 2

    await until_state(hooked, made, wb.Webhook.STATE_FAILING)
    hooked.clock.advance(timedelta(seconds=60))
    await until(failed_twice)
    receiver.answer = answering(200)
    hooked.clock.advance(timedelta(seconds=60))
    await until_state(hooked, made, wb.Webhook.STATE_ACTIVE)
    receiver.answer = answering(500)
    await hooked.create_item("b", 10)
    failing = await until_state(hooked, made, wb.Webhook.STATE_FAILING)
    assert failing.next_attempt_time.ToDatetime() - failing.failing_since.ToDatetime() <= timedelta(seconds=10)


def test_pauses_double_with_jitter_up_to_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "PAUSE_MIN_S", 1.0)
    for failures, longest in ((1, 1), (2, 2), (5, 16), (12, 2048), (13, 3600), (500, 3600)):
        pauses = [sending.pause_s(failures, 0.0) for _ in range(200)]
        assert longest / 2 <= min(pauses) < max(pauses) <= longest
        assert len(set(pauses)) > 100
    assert sending.pause_s(1, 120.0) == 120.0
    assert sending.pause_s(1, 10.0**9) == sending.RETRY_AFTER_MAX_S


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_honoured(hooked: Harness, receiver: Receiver, form: str) -> None:
    later = (datetime.now(UTC) + timedelta(seconds=121)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    receiver.answer = answering(503, Retry_After="120" if form == "seconds" else later)
    made = await create(hooked, receiver)
    await hooked.create_item("a", 10)
    failing = await until_state(hooked, made, wb.Webhook.STATE_FAILING)
    pause = failing.next_attempt_time.ToDatetime() - failing.failing_since.ToDatetime()
    assert timedelta(seconds=118) < pause < timedelta(seconds=123)
    assert len(receiver.messages) == 1
    receiver.answer = answering(200)
    hooked.clock.advance(timedelta(seconds=121))
    await receiver.wait_for(2)


async def test_a_webhook_that_fails_for_too_long_is_disabled_until_a_test_succeeds_and_then_misses_nothing(
    hooked: Harness, receiver: Receiver
) -> None:
    receiver.answer = answering(500)
    made = await create(hooked, receiver)
    await hooked.create_item("a", 10)
    await receiver.wait_for(2)
    hooked.clock.advance(timedelta(hours=73))
    disabled = await until_state(hooked, made, wb.Webhook.STATE_DISABLED)
    assert disabled.disable_reason == "FAILING"
    count = len(receiver.messages)
    await hooked.reserve({"a": 1})
    test = wb.TestWebhookRequest(webhook_id=made.webhook.webhook_id)
    failed = await hooked.webhooks.TestWebhook(test)
    assert (failed.delivered, failed.status_code, failed.error) == (False, 500, "STATUS")
    assert (await state_of(hooked, made)).state == wb.Webhook.STATE_DISABLED
    receiver.answer = answering(200)
    assert (await hooked.webhooks.TestWebhook(test)).delivered
    await until(lambda: receiver.types[count:].count("reserved") == 1)
    assert "item_created" in receiver.types[count:]
    assert receiver.types[count] == "webhook_test"
    assert (await state_of(hooked, made)).state == wb.Webhook.STATE_ACTIVE


async def test_tests_of_a_tenant_are_limited(
    start_service: StartService, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdsvc.api.webhooks.TESTS_PER_SECOND", 0.001)
    service = await start_service(webhook_networks=NETWORKS)
    made = await create(service, receiver)
    test = wb.TestWebhookRequest(webhook_id=made.webhook.webhook_id)
    assert (await service.webhooks.TestWebhook(test)).delivered
    assert (await refused(service.webhooks.TestWebhook(test))).reason == "RATE_LIMITED"
    assert len(receiver.messages) == 1


async def test_an_endpoint_that_is_gone_is_disabled_at_once(hooked: Harness, receiver: Receiver) -> None:
    receiver.answer = answering(410)
    made = await create(hooked, receiver)
    await hooked.create_item("a", 10)
    disabled = await until_state(hooked, made, wb.Webhook.STATE_DISABLED)
    assert (disabled.disable_reason, disabled.last_status, len(receiver.messages)) == ("GONE", 410, 1)


async def test_a_redirect_is_a_failure_and_is_not_followed(hooked: Harness, receiver: Receiver) -> None:
    async with Receiver() as inside:
        receiver.answer = answering(307, Location=inside.url)
        made = await create(hooked, receiver)
        answer = await hooked.webhooks.TestWebhook(wb.TestWebhookRequest(webhook_id=made.webhook.webhook_id))
        assert (answer.delivered, answer.status_code, answer.error) == (False, 307, "REDIRECT")
        assert inside.messages == []


async def _endless(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x" * 65536)


async def _compressed(_request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=b"\x1f\x8b" + b"\x00" * 100, headers={"Content-Encoding": "gzip"})


async def _many_headers(_request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(headers={"X-Large": "x" * 100_000})


@pytest.mark.parametrize(
    ("answer", "error"),
    [(_endless, ""), (_compressed, ""), (_many_headers, "CONNECTION"), (never, "TIMEOUT"), (answering(500), "STATUS")],
    ids=["endless body", "compressed body", "large headers", "silence", "refusal"],
)
async def test_what_an_endpoint_answers_is_bounded(
    start_service: StartService, receiver: Receiver, answer: Answer, error: str
) -> None:
    service = await start_service(webhook_networks=NETWORKS, webhook_timeout="500ms")
    receiver.answer = answer
    made = await create(service, receiver)
    answered = await service.webhooks.TestWebhook(wb.TestWebhookRequest(webhook_id=made.webhook.webhook_id))
    assert (answered.error, answered.delivered) == (error, not error)
    assert answered.duration.ToTimedelta() < timedelta(seconds=1.9)


async def test_dead_endpoints_of_one_tenant_delay_no_other_webhook(
    start_service: StartService, receiver: Receiver
) -> None:
    service = await start_service(auth="api-key", webhook_networks=NETWORKS)
    crowd = await new_partner(service, "crowd", tenant="crowd")
    await crowd.inventory.CreateItem(inventory.CreateItemRequest(item={"sku": "a", "capacity": 10}))
    partner = await new_partner(service, "partner")
    async with Receiver(never) as dead:
        for _ in range(19):
            await create(crowd, dead)
        await create(partner, dead)
        await create(partner, receiver)
        await crowd.reservations.Reserve(pb.ReserveRequest(lines=[{"sku": "a", "quantity": 1}]))
        await dead.wait_for(19)
        for number in range(5):
            await partner.inventory.CreateItem(inventory.CreateItemRequest(item={"sku": f"s{number}", "capacity": 1}))
            await until(partial(_has, receiver, number + 1), timeout_s=5)
        # While it is not known to be alive, an endpoint is asked once.
        assert len(dead.messages) == 20


def _has(receiver: Receiver, count: int) -> bool:
    return len(receiver.messages) >= count


async def test_tenants_clients_pools_types_and_prefixes_see_their_own_events_only(start_service: StartService) -> None:
    service = await start_service(auth="api-key", webhook_networks=NETWORKS)
    back = await new_partner(service, "back office")
    web_ = await new_partner(service, "shop", scopes=["reserve", "webhooks.manage"], pools="web")
    other = await new_partner(service, "other", tenant="other")
    for partner, pool in ((back, "web"), (back, "till"), (other, "web")):
        await partner.inventory.CreateItem(
            inventory.CreateItemRequest(item={"sku": f"seat-{pool}", "pool": pool, "capacity": 10})
        )
    async with Receiver() as all_, Receiver() as shop, Receiver() as typed, Receiver() as prefixed, Receiver() as far:
        await create(back, all_)
        await create(web_, shop)
        await create(back, typed, types=[event_pb2.EVENT_TYPE_CANCELLED])
        await create(back, prefixed, sku_prefix="seat-t")
        await create(other, far)
        own = await _held(web_, "web")
        await _held(back, "web")
        await _held(back, "till")
        await web_.reservations.Cancel(pb.CancelRequest(reservation_id=own))
        await all_.wait_for(4)
        await shop.wait_for(2)
        await typed.wait_for(1)
        await prefixed.wait_for(1)
        # An item's event of the pool: the last of all for those who see it.
        await back.inventory.AdjustCapacity(inventory.AdjustCapacityRequest(sku="seat-web", pool="web", delta=1))
        await all_.wait_for(5)
        await shop.wait_for(3)
        assert sorted(all_.types) == ["cancelled", "capacity_adjusted", "reserved", "reserved", "reserved"]
        assert [event["subject"] for event in shop.events[:2]] == [own, own]
        assert shop.types == ["reserved", "cancelled", "capacity_adjusted"]
        assert typed.types == ["cancelled"]
        assert [event["data"]["lines"][0]["sku"] for event in prefixed.events] == ["seat-till"]
        assert far.messages == []


async def _held(partner: Any, pool: str) -> str:
    lines = [{"sku": f"seat-{pool}", "pool": pool, "quantity": 1}]
    return str((await partner.reservations.Reserve(pb.ReserveRequest(lines=lines))).reservation.reservation_id)


async def test_a_webhook_is_seen_by_its_client_and_by_admins_within_their_pools(start_service: StartService) -> None:
    service = await start_service(auth="api-key", webhook_networks=NETWORKS)
    owner = await new_partner(service, "owner", scopes=["webhooks.manage"])
    stranger = await new_partner(service, "stranger", scopes=["webhooks.manage"])
    limited = await new_partner(service, "limited", scopes=["webhooks.manage", "admin"], pools="web")
    admin = await new_partner(service, "admin", scopes=["webhooks.manage", "admin"])
    far = await new_partner(service, "far", tenant="far")
    async with Receiver() as receiver:
        made = await create(owner, receiver)
        id_ = made.webhook.webhook_id
        for partner in (stranger, limited, far):
            assert not (await partner.webhooks.ListWebhooks(wb.ListWebhooksRequest())).webhooks
            for call, request in (
                (partner.webhooks.DeleteWebhook, wb.DeleteWebhookRequest(webhook_id=id_)),
                (partner.webhooks.TestWebhook, wb.TestWebhookRequest(webhook_id=id_)),
            ):
                refusal = await refused(call(request))
                assert (refusal.reason, refusal.metadata) == ("WEBHOOK_NOT_FOUND", {"webhook_id": id_})
        assert (await state_of(admin, made)).client == "owner"
        await admin.webhooks.DeleteWebhook(wb.DeleteWebhookRequest(webhook_id=id_))
        assert not (await owner.webhooks.ListWebhooks(wb.ListWebhooksRequest())).webhooks


async def test_a_webhook_lives_as_long_as_its_client_has_a_key_with_its_rights(start_service: StartService) -> None:
    service = await start_service(auth="api-key", webhook_networks=NETWORKS)
    admin = await new_partner(service, "admin")
    scopes = ["webhooks.manage", "reservations.read_all"]
    first = await new_partner(service, "partner", scopes=scopes)
    async with Receiver() as receiver:
        made = await create(first, receiver)
        second = await new_partner(service, "partner", scopes=scopes)
        await new_partner(service, "partner", scopes=["webhooks.manage"])
        service.sql("UPDATE holdsvc.api_key SET revoke_time = now() WHERE key_id = %s", (first.key_id,))
        await admin.inventory.CreateItem(inventory.CreateItemRequest(item={"sku": "a", "capacity": 10}))
        await receiver.wait_for(1)
        # The last key that reads all: the third one of the client has fewer rights.
        service.sql("UPDATE holdsvc.api_key SET revoke_time = now() WHERE key_id = %s", (second.key_id,))
        disabled = await until_state(admin, made, wb.Webhook.STATE_DISABLED)
        assert disabled.disable_reason == "KEY_ENDED"
        await admin.inventory.CreateItem(inventory.CreateItemRequest(item={"sku": "b", "capacity": 10}))
        third = await new_partner(service, "partner", scopes=scopes)
        test = wb.TestWebhookRequest(webhook_id=made.webhook.webhook_id)
        assert (await third.webhooks.TestWebhook(test)).delivered
        await until(lambda: receiver.events[-1]["subject"] == "b")
        # At least once: its end may have come before the place of the first event was written.
        told = {event["id"]: event["subject"] for event in receiver.events if event["type"].endswith("item_created")}
        assert list(told.values()) == ["a", "b"]


async def test_a_webhook_whose_key_has_ended_goes_on_with_no_more_rights_than_the_key_that_tests_it(
    start_service: StartService,
) -> None:
    service = await start_service(auth="api-key", webhook_networks=NETWORKS)
    admin = await new_partner(service, "admin")
    first = await new_partner(service, "partner", scopes=["webhooks.manage", "reservations.read_all"])
    async with Receiver() as receiver:
        made = await create(first, receiver)
        service.sql("UPDATE holdsvc.api_key SET revoke_time = now() WHERE key_id = %s", (first.key_id,))
        await until_state(admin, made, wb.Webhook.STATE_DISABLED)
        weak = await new_partner(service, "partner", scopes=["webhooks.manage", "reserve"])
        test = wb.TestWebhookRequest(webhook_id=made.webhook.webhook_id)
        assert (await weak.webhooks.TestWebhook(test)).delivered
        await admin.inventory.CreateItem(inventory.CreateItemRequest(item={"sku": "seat-", "capacity": 10}))
        await _held(admin, "")
        own = await _held(weak, "")
        await until(lambda: own in {event["subject"] for event in receiver.events})
        assert receiver.types == ["webhook_test", "item_created", "reserved"]


async def test_a_deleted_webhook_is_sent_nothing_more(hooked: Harness, receiver: Receiver) -> None:
    made = await create(hooked, receiver)
    await hooked.create_item("a", 10)
    await receiver.wait_for(1)
    await hooked.webhooks.DeleteWebhook(wb.DeleteWebhookRequest(webhook_id=made.webhook.webhook_id))
    await until(lambda: not hooked.cell.sender._senders)
    async with Receiver() as other:
        await create(hooked, other)
        await hooked.create_item("b", 10)
        await other.wait_for(1)
    assert len(receiver.messages) == 1


async def test_a_tenant_has_so_many_webhooks_at_most_however_many_calls_come_at_once(
    start_service: StartService, receiver: Receiver
) -> None:
    service = await start_service(webhook_networks=NETWORKS, webhooks_max=3)
    outcomes = await asyncio.gather(*(create(service, receiver) for _ in range(6)), return_exceptions=True)
    assert sum(isinstance(outcome, Made) for outcome in outcomes) == 3
    refusal = await refused(create(service, receiver))
    assert (refusal.reason, refusal.metadata) == ("TOO_MANY_WEBHOOKS", {"max": "3"})
    pages: list[list[str]] = []
    token = ""
    while token or not pages:
        page = await service.webhooks.ListWebhooks(wb.ListWebhooksRequest(page_size=2, page_token=token))
        pages.append([webhook.webhook_id for webhook in page.webhooks])
        token = page.next_page_token
    assert [len(page) for page in pages] == [2, 1]
    assert sorted(itertools.chain(*pages)) == sorted(o.webhook.webhook_id for o in outcomes if isinstance(o, Made))


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://example.org/", "//example.org/", "/hooks", "https://", "https://me:hunter2@example.org/"),
        *("https://example.org/#part", "https://example.org:99999/", "https://exämple.org/", "https://a b/"),
        *("https://[::1/", "https://" + "x" * 2048, "javascript:alert(1)", "file:///etc/passwd"),
        *("https://example.org\\@example.com/", "https://example\\.org/", "https://xn--/", "https://xn--a-ecp.org/"),
    ],
)
async def test_what_is_no_url_of_an_endpoint_is_refused(hooked: Harness, url: str) -> None:
    refusal = await refused(hooked.webhooks.CreateWebhook(wb.CreateWebhookRequest(url=url)))
    assert (refusal.reason, refusal.metadata) == ("INVALID_FIELD", {"fields": "url"})


async def test_events_that_retention_dropped_unsent_disable_a_webhook_and_a_test_goes_on_after_them(
    hooked: Harness, receiver: Receiver
) -> None:
    receiver.answer = answering(503, Retry_After="60")
    made = await create(hooked, receiver)
    await hooked.create_item("a", 10)
    await until_state(hooked, made, wb.Webhook.STATE_FAILING)
    [[event_id]] = hooked.sql("SELECT max(event_id) FROM holdsvc.event")
    hooked.sql("UPDATE holdsvc.feed_state SET floor_event_id = %s", (event_id,))
    hooked.clock.advance(timedelta(seconds=61))
    disabled = await until_state(hooked, made, wb.Webhook.STATE_DISABLED)
    assert disabled.disable_reason == "EVENTS_DROPPED"
    receiver.answer = answering(200)
    test = wb.TestWebhookRequest(webhook_id=made.webhook.webhook_id)
    assert (await hooked.webhooks.TestWebhook(test)).delivered
    await hooked.create_item("b", 10)
    await until(lambda: receiver.events[-1]["subject"] == "b")


async def test_in_another_history_of_events_a_webhook_goes_on_by_time(hooked: Harness, receiver: Receiver) -> None:
    await create(hooked, receiver)
    await hooked.create_item("old", 10)
    await receiver.wait_for(1)
    hooked.sql("UPDATE holdsvc.feed_state SET restore_mark = restore_mark + 1")
    await hooked.create_item("new", 10)
    await until(lambda: receiver.events[-1]["subject"] == "new")
    assert [event["subject"] for event in receiver.events] in (["old", "new"], ["old", "old", "new"])


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:{}/", "https://127.0.0.1:{}/", "https://localhost:{}/", "https://[::ffff:127.0.0.1]:{}/"),
        *("https://127.1:{}/", "https://2130706433:{}/", "https://0x7f000001:{}/", "https://0:{}/"),
    ],
)
async def test_what_leads_inward_is_refused_when_it_is_created_and_again_where_it_connects(
    service: Harness, receiver: Receiver, url: str
) -> None:
    url = url.format(receiver.port)
    refusal = await refused(service.webhooks.CreateWebhook(wb.CreateWebhookRequest(url=url)))
    assert (refusal.reason, refusal.metadata) == ("INVALID_FIELD", {"fields": "url"})
    opened = await service.cell.sender.endpoints.open("default", url, b"secret")
    try:
        attempt = await opened.send("id", b"{}")
    finally:
        await opened.close()
    # aiohttp itself refuses IPv4 addresses in old spellings.
    assert attempt.error in ("ADDRESS_REFUSED", "CONNECTION")
    assert receiver.messages == []


async def test_only_a_certificate_that_is_trusted_is_sent_to(
    start_service: StartService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority("an authority")
    chain, key = authority.issue("endpoint").write(tmp_path)
    (tmp_path / "authority.pem").write_bytes(authority.certificate)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(chain, key)
    async with Receiver(tls=tls) as receiver:
        errors = []
        for known in (False, True):
            if known:
                # The next service is another process: it reads anew what to trust.
                monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
                monkeypatch.setattr(endpoint, "trusted", ssl.create_default_context)
            service = await start_service(webhook_networks=NETWORKS)
            made = await create(service, receiver)
            test = wb.TestWebhookRequest(webhook_id=made.webhook.webhook_id)
            errors.append((await service.webhooks.TestWebhook(test)).error)
    assert errors == ["TLS", ""]
    assert len(receiver.messages) == 1


def _model(made: Made) -> Any:
    return type("Named", (), {"webhook_id": made.webhook.webhook_id, "url": made.webhook.url})


async def test_a_name_that_comes_to_mean_another_address_is_refused_where_it_connects(
    start_service: StartService, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await start_service(webhook_networks="127.0.0.1/32")
    meant = "127.0.0.1"
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, **named: Any) -> Any:
        return real(meant if host == "rebound.example" else host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    made = await service.webhooks.CreateWebhook(wb.CreateWebhookRequest(url=f"http://rebound.example:{receiver.port}/"))
    assert not (await service.cell.sender.test("default", _model(made), b"secret")).error
    meant = "127.0.0.2"
    async with Receiver(host="127.0.0.2") as inside:
        made.webhook.url = f"http://rebound.example:{inside.port}/"
        answer = await service.cell.sender.test("default", _model(made), b"secret")
        assert (answer.error, inside.messages) == ("ADDRESS_REFUSED", [])
    assert len(receiver.messages) == 1


async def test_the_loops_of_webhooks_go_on(
    hooked: Harness, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [ValueError("a fault of ours"), MemoryError()]
    before = loop_failures("webhooks"), loop_failures("webhook_leases")

    def failing(real: Any) -> Any:
        faults = list(failures)

        async def call(*arguments: Any) -> Any:
            if faults:
                raise faults.pop()
            return await real(*arguments)

        return call

    await create(hooked, receiver)
    await hooked.create_item("a", 10)
    await receiver.wait_for(1)
    monkeypatch.setattr(ledger, "claim", failing(ledger.claim))
    monkeypatch.setattr(ledger, "renew", failing(ledger.renew))
    await until(lambda: loop_failures("webhooks") - before[0] == 2 and loop_failures("webhook_leases") - before[1] == 2)
    await create(hooked, receiver)
    await hooked.create_item("b", 10)
    await receiver.wait_for(3)
