"""API keys: their form, what is stored, how they are sent, and how they end."""

import asyncio
import re
import time
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from holdsvc import errors
from holdsvc.api.auth import keyring as rings
from holdsvc.api.auth.keyring import BAD_S, REFRESH_S, TRUST_S, UNHEARD_S, Keyring, make_key
from holdsvc.api.cells import Cells
from inventoryhold.v1 import admin_service_pb2 as admin
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.endless import endless_streams
from tests.support.harness import Harness, StartService, outcome, refusal_of, refused
from tests.support.partners import new_partner, new_secret
from tests.support.polling import until

FORM = re.compile(r"holdsvc_[0-9a-f]{16}_[A-Za-z0-9_-]{43}")
NO_KEY = f"holdsvc_{'0' * 16}_{'A' * 43}"


@pytest.fixture
async def guarded(start_service: StartService) -> Harness:
    return await start_service(auth="api-key")


async def list_items(service: Harness, *metadata: tuple[str, str | bytes]) -> object:
    return await service.inventory.ListItems(inventory.ListItemsRequest(), metadata=metadata, timeout=60)


# How a key looks and what is kept of it.


def test_a_key_has_a_readable_part_and_256_bits_of_randomness() -> None:
    keys = [make_key("shop") for _ in range(100)]
    assert len({key.secret for key in keys} | {key.key_id for key in keys}) == 200
    for key in keys:
        assert FORM.fullmatch(key.secret)
        assert key.secret.startswith(f"holdsvc_{key.key_id}_")
        assert key.secret_hash == sha256(key.secret.encode()).digest()


def test_a_keys_readable_part_begins_with_a_tag_of_its_tenant() -> None:
    assert {make_key("shop").key_id[:4] for _ in range(9)} == {sha256(b"shop").hexdigest()[:4]}


async def test_only_a_hash_of_a_key_is_stored(guarded: Harness) -> None:
    boss = await new_partner(guarded, "boss")
    made = await boss.admin.CreateApiKey(admin.CreateApiKeyRequest(client="partner", scopes=["reserve"]))
    rows = guarded.sql("SELECT to_jsonb(k)::text FROM holdsvc.api_key k")
    assert len(rows) == 2
    for secret in (boss.secret, made.secret):
        kept = secret.rpartition(made.api_key.key_id)[2][1:] or secret
        assert not any(secret in row[0] or kept in row[0] for row in rows)
        assert any(sha256(secret.encode()).hexdigest() in row[0] for row in rows)


# How it is sent.


async def test_a_key_is_taken_from_either_header(guarded: Harness) -> None:
    secret = await new_secret(guarded, "partner")
    await list_items(guarded, ("x-api-key", secret))
    await list_items(guarded, ("authorization", f"Bearer {secret}"))
    await list_items(guarded, ("authorization", f"bearer  {secret} "))
    # A gateway may need `authorization` for itself.
    await list_items(guarded, ("authorization", "Basic Zm9vOmJhcg=="), ("x-api-key", secret))


async def test_what_is_no_key_is_told_so_and_nothing_of_it_is_repeated(guarded: Harness) -> None:
    secret = await new_secret(guarded, "partner")
    for metadata in (
        (),
        (("x-api-key", ""),),
        (("x-api-key", "garbage"),),
        (("x-api-key", NO_KEY),),
        (("x-api-key", secret[:-1] + ("A" if secret[-1] != "A" else "B")),),
        (("x-api-key", secret + "A"),),
        (("x-api-key", secret.upper()),),
        (("x-api-key", f"Bearer {secret}"),),
        (("x-api-key", "'; DROP TABLE api_key; --"),),
        (("x-api-key", "x" * 8000),),
        (("authorization", ""),),
        (("authorization", secret),),
        (("authorization", f"Basic {secret}"),),
        (("authorization", "Bearer"),),
        (("authorization", "Bearer " + "x" * 8000),),
        (("authorization-bin", secret.encode()),),
        (("x-api-key-bin", secret.encode()),),
        (("x-api-key", secret), ("x-api-key", secret)),
        (("x-api-key", secret), ("x-api-key", NO_KEY)),
        (("authorization", f"Bearer {secret}"), ("authorization", f"Bearer {NO_KEY}")),
        (("x-api-key", "garbage"), ("authorization", f"Bearer {secret}")),
    ):
        refusal = await refused(list_items(guarded, *metadata))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"), metadata
        assert "x-api-key: <key>" in refusal.message
        for name, value in metadata:
            assert len(value) < 8 or str(value) not in refusal.message, name
    await list_items(guarded, ("x-api-key", secret))


async def test_headers_beyond_all_measure_are_refused_and_the_server_lives(guarded: Harness) -> None:
    secret = await new_secret(guarded, "partner")
    async with guarded.new_channel() as channel:
        method: Any = channel.unary_unary("/inventoryhold.v1.InventoryService/ListItems")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await method(b"", metadata=(("x-api-key", "x" * 200_000),), timeout=60)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await list_items(guarded, ("x-api-key", secret))


# How it ends.


async def test_an_expired_key_is_refused(guarded: Harness) -> None:
    secret = await new_secret(guarded, "partner", lifetime=timedelta(minutes=1))
    guarded.clock.advance(timedelta(minutes=2))
    assert (await refused(list_items(guarded, ("x-api-key", secret)))).reason == "UNAUTHENTICATED"


class Asked:
    """The engine, with a count of what is read."""

    def __init__(self, service: Harness) -> None:
        self._engine = service.cell.engine
        self.count = 0

    async def look_up(self, run: Any, deadline: float) -> Any:
        self.count += 1
        return await self._engine.look_up(run, deadline)


class Time:
    """A monotonic clock that is put forward by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def ring_of(service: Harness) -> tuple[Keyring, Asked, Time]:
    asked, clock = Asked(service), Time()
    cell = SimpleNamespace(name="", engine=asked)
    return Keyring(Cells([cell]), clock), asked, clock


def deadline() -> float:
    return asyncio.get_running_loop().time() + 60


async def is_refused(ring: Keyring, secret: str) -> bool:
    try:
        await ring.caller(secret, deadline())
    except errors.HoldError as error:
        if error.reason != "UNAUTHENTICATED":
            raise
        return True
    return False


async def settle(ring: Keyring) -> None:
    """Waits for the look-ups that run behind the calls."""
    while ring._looking:
        await asyncio.wait(list(ring._looking.values()))


async def test_a_remembered_key_ends_at_its_time_to_the_microsecond(guarded: Harness) -> None:
    secret = await new_secret(guarded, "partner", lifetime=timedelta(seconds=1))
    ring, _, clock = ring_of(guarded)
    await ring.caller(secret, deadline())
    [known] = ring._good.values()
    assert 0 < known.ends - clock.now <= 1.0
    clock.now = known.ends - 1e-6
    await ring.caller(secret, deadline())
    clock.now = known.ends
    guarded.clock.advance(timedelta(seconds=1))
    assert await is_refused(ring, secret)


async def test_a_key_whose_cell_is_silent_is_refused_at_once_and_looked_for_in_no_other(guarded: Harness) -> None:
    secret = await new_secret(guarded, "partner")
    asked, clock = Asked(guarded), Time()
    own, other = (SimpleNamespace(name=name, engine=asked, away=False) for name in ("a", "b"))
    ring = Keyring(Cells([own, other]), clock)
    await ring.caller(secret, deadline())
    count, own.away = asked.count, True
    clock.now += TRUST_S
    for _ in range(10):
        with pytest.raises(errors.HoldError, match="the database does not answer"):
            await ring.caller(secret, deadline())
    assert asked.count == count
    # One that nobody knows yet is looked for once in a while.
    late = make_key("late").secret
    for _ in range(10):
        with pytest.raises(errors.HoldError, match="the database does not answer"):
            await ring.caller(late, deadline())
    assert asked.count == count + 1
    clock.now += UNHEARD_S
    with pytest.raises(errors.HoldError, match="the database does not answer"):
        await ring.caller(late, deadline())
    assert asked.count == count + 2


async def test_calls_with_one_key_ask_the_database_once_in_two_seconds_and_never_wait_for_it_again(
    guarded: Harness,
) -> None:
    secret = await new_secret(guarded, "partner")
    ring, asked, clock = ring_of(guarded)
    await asyncio.gather(*(ring.caller(secret, deadline()) for _ in range(100)))
    assert asked.count == 1
    for step in range(1, 11):
        clock.now += REFRESH_S
        # The answer is there without a pause: the caller's coroutine ends at its first step.
        with pytest.raises(StopIteration):
            ring.caller(secret, deadline()).send(None)
        await asyncio.gather(*(ring.caller(secret, deadline()) for _ in range(100)))
        await settle(ring)
        assert asked.count == 1 + step


async def test_a_bad_key_is_asked_for_once(guarded: Harness) -> None:
    ring, asked, clock = ring_of(guarded)
    assert all(await asyncio.gather(*(is_refused(ring, NO_KEY) for _ in range(100))))
    assert asked.count == 1
    clock.now += BAD_S - 0.001
    assert await is_refused(ring, NO_KEY)
    assert await is_refused(ring, "no key at all, which nobody needs to ask for")
    assert asked.count == 1
    clock.now += 0.002
    assert await is_refused(ring, NO_KEY)
    assert asked.count == 2


async def test_a_revoked_key_is_believed_for_less_than_five_seconds(guarded: Harness) -> None:
    secret = await new_secret(guarded, "partner")
    ring, _, clock = ring_of(guarded)
    await ring.caller(secret, deadline())
    guarded.sql("UPDATE holdsvc.api_key SET revoke_time = now()")
    # Used all the time: the first look-up behind a call finds out.
    clock.now += REFRESH_S
    await ring.caller(secret, deadline())
    await settle(ring)
    assert await is_refused(ring, secret)
    # Not used for a while: a call waits for the word.
    other = await new_secret(guarded, "partner")
    await ring.caller(other, deadline())
    guarded.sql("UPDATE holdsvc.api_key SET revoke_time = now()")
    clock.now += TRUST_S
    assert await is_refused(ring, other)
    assert TRUST_S < 5


async def test_memory_of_keys_is_bounded(guarded: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rings, "CACHE_MAX", 3)
    ring, _, _ = ring_of(guarded)
    good = [await new_secret(guarded, f"partner {n}") for n in range(5)]
    for secret in good:
        await ring.caller(secret, deadline())
    for n in range(5):
        assert await is_refused(ring, f"holdsvc_{n:016x}_{'A' * 43}")
    assert (len(ring._good), len(ring._bad)) == (3, 3)
    assert {known.caller.client for known in ring._good.values()} == {"partner 2", "partner 3", "partner 4"}


async def test_who_tries_keys_out_keeps_neither_good_keys_nor_the_database_waiting(
    guarded: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rings, "UNKNOWN_WAITING_MAX", 10)
    secret = await new_secret(guarded, "partner")
    ring, asked, clock = ring_of(guarded)
    await ring.caller(secret, deadline())
    clock.now += TRUST_S
    inside, most = 0, 0
    look_up, go_on = asked.look_up, asyncio.Event()

    async def slow(run: Any, until: float) -> Any:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await go_on.wait()
        inside -= 1
        return await look_up(run, until)

    asked.look_up = slow  # type: ignore[method-assign,assignment]
    tries = [asyncio.ensure_future(is_refused(ring, f"holdsvc_{n:016x}_{'A' * 43}")) for n in range(1, 11)]
    while ring._unknown_waiting < 10 or inside < rings.UNKNOWN_MAX:
        await asyncio.sleep(0)
    asked.look_up = look_up  # type: ignore[method-assign]
    await ring.caller(secret, deadline())
    with pytest.raises(errors.HoldError) as refusal:
        await ring.caller(NO_KEY, deadline())
    assert refusal.value.reason == "OVERLOADED"
    asked.look_up = slow  # type: ignore[method-assign,assignment]
    go_on.set()
    assert all(await asyncio.gather(*tries))
    assert most == rings.UNKNOWN_MAX


async def test_a_revoked_key_ends_on_every_replica_within_five_seconds_and_its_streams_too(
    start_service: StartService, guarded: Harness
) -> None:
    replica = await start_service(auth="api-key")
    boss = await new_partner(guarded, "boss")
    secret = await new_secret(guarded, "partner")
    async with endless_streams(replica) as streams:
        stream = await streams.open(secret)
        for service in (guarded, replica):
            await list_items(service, ("x-api-key", secret))
        revoked = time.monotonic()
        await boss.admin.RevokeApiKey(admin.RevokeApiKeyRequest(key_id=secret.split("_")[1]))
        for service in (guarded, replica):

            async def refused_at(service: Harness = service) -> bool:
                answer = await outcome(list_items(service, ("x-api-key", secret)))
                assert answer == "UNAUTHENTICATED" or not isinstance(answer, str)
                return bool(answer == "UNAUTHENTICATED")

            await until(refused_at, pause_s=0.05)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await stream.read()
        assert refusal_of(ended.value).reason == "UNAUTHENTICATED"
        assert time.monotonic() - revoked < 5


# Making, listing and revoking them.


async def test_two_keys_of_a_client_live_side_by_side_and_share_what_it_owns(guarded: Harness) -> None:
    old, new = await new_partner(guarded, "partner"), await new_partner(guarded, "partner")
    await old.inventory.CreateItem(inventory.CreateItemRequest(item={"sku": "seat", "capacity": 2}))
    request = pb.ReserveRequest(request_id="once", lines=[{"sku": "seat", "quantity": 1}])
    made = await old.reservations.Reserve(request)
    again = await new.reservations.Reserve(request)
    assert again.replayed
    assert again.reservation.reservation_id == made.reservation.reservation_id
    await new.admin.RevokeApiKey(admin.RevokeApiKeyRequest(key_id=old.key_id))
    confirm = pb.ConfirmRequest(reservation_id=made.reservation.reservation_id)
    assert (await new.reservations.Confirm(confirm)).reservation.client == "partner"


async def test_what_a_key_did_is_on_record_with_its_client_and_its_id(guarded: Harness) -> None:
    owner, agent = await new_partner(guarded, "owner"), await new_partner(guarded, "agent")
    await owner.inventory.CreateItem(inventory.CreateItemRequest(item={"sku": "seat", "capacity": 2}))
    made = await owner.reservations.Reserve(pb.ReserveRequest(lines=[{"sku": "seat", "quantity": 1}]))
    target = {"reservation_id": made.reservation.reservation_id}
    await owner.reservations.Extend(pb.ExtendRequest(**target))
    await agent.reservations.Confirm(pb.ConfirmRequest(**target))
    await agent.reservations.Refund(pb.RefundRequest(**target))
    trail = await owner.reservations.ListReservationEvents(pb.ListReservationEventsRequest(**target))
    assert [(event.client, event.key_id) for event in trail.events] == [
        ("owner", owner.key_id),
        ("owner", owner.key_id),
        ("agent", agent.key_id),
        ("agent", agent.key_id),
    ]
    rows = guarded.sql("SELECT client, key_id FROM holdsvc.event WHERE reservation_id IS NULL")
    assert rows == [("owner", owner.key_id)]


async def test_a_key_never_gives_more_than_it_has(guarded: Harness) -> None:
    boss = await new_partner(guarded, "boss", scopes=["admin", "reserve", "inventory.read"], pools="web,")
    for scope in ("confirm", "reservations.read_all"):
        refusal = await refused(
            boss.admin.CreateApiKey(admin.CreateApiKeyRequest(client="partner", scopes=["reserve", scope]))
        )
        assert (refusal.reason, refusal.metadata) == ("PERMISSION_DENIED", {"required_scope": scope})
    refusal = await refused(
        boss.admin.CreateApiKey(admin.CreateApiKeyRequest(client="partner", scopes=["reserve"], pools=["web", "tour"]))
    )
    assert (refusal.reason, refusal.metadata) == ("PERMISSION_DENIED", {"required_pool": "tour"})
    made = await boss.admin.CreateApiKey(admin.CreateApiKeyRequest(client="partner", scopes=["reserve"]))
    assert list(made.api_key.pools) == ["", "web"]
    made = await boss.admin.CreateApiKey(
        admin.CreateApiKeyRequest(client="partner", scopes=["inventory.read"], pools=["web"])
    )
    assert list(made.api_key.pools) == ["web"]
    assert FORM.fullmatch(made.secret)
    await list_items(guarded, ("x-api-key", made.secret))
    assert len(guarded.sql("SELECT key_id FROM holdsvc.api_key")) == 3


async def test_a_revoked_key_makes_no_other_in_the_seconds_in_which_it_is_believed(guarded: Harness) -> None:
    boss = await new_partner(guarded, "boss")
    request = admin.CreateApiKeyRequest(client="partner", scopes=["reserve"])
    await boss.admin.CreateApiKey(request)
    guarded.sql("UPDATE holdsvc.api_key SET revoke_time = now() WHERE client = 'boss'")
    await list_items(guarded, ("x-api-key", boss.secret))
    assert (await refused(boss.admin.CreateApiKey(request))).reason == "UNAUTHENTICATED"
    assert len(guarded.sql("SELECT key_id FROM holdsvc.api_key")) == 2


async def test_a_key_is_made_for_a_time_in_the_future_of_the_ledgers_clock(guarded: Harness) -> None:
    guarded.clock.advance(timedelta(days=1))
    boss = await new_partner(guarded, "boss")
    end = Timestamp()
    end.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    for expire_time in (end, Timestamp(seconds=0), Timestamp(seconds=10**15), Timestamp(seconds=-(10**15))):
        refusal = await refused(
            boss.admin.CreateApiKey(
                admin.CreateApiKeyRequest(client="partner", scopes=["reserve"], expire_time=expire_time)
            )
        )
        assert (refusal.reason, refusal.metadata) == ("INVALID_FIELD", {"fields": "expire_time"})
    end.FromDatetime(datetime.now(UTC) + timedelta(hours=25))
    made = await boss.admin.CreateApiKey(
        admin.CreateApiKeyRequest(client="partner", scopes=["inventory.read"], expire_time=end)
    )
    assert made.api_key.expire_time == end
    await list_items(guarded, ("x-api-key", made.secret))


async def test_the_list_shows_every_key_of_the_tenant_and_no_secret(guarded: Harness) -> None:
    boss = await new_partner(guarded, "boss")
    for n in range(4):
        await boss.admin.CreateApiKey(admin.CreateApiKeyRequest(client=f"partner {n}", scopes=["reserve"]))
    found: list[Any] = []
    token = ""
    while True:
        page = await boss.admin.ListApiKeys(admin.ListApiKeysRequest(page_size=2, page_token=token))
        found += page.api_keys
        token = page.next_page_token
        if not token:
            break
    assert [key.client for key in found] == ["partner 3", "partner 2", "partner 1", "partner 0", "boss"]
    assert boss.secret not in str(found)


async def test_revoking_twice_changes_nothing_and_the_last_admin_may_go(guarded: Harness) -> None:
    boss = await new_partner(guarded, "boss")
    request = admin.RevokeApiKeyRequest(key_id=boss.key_id)
    first = await boss.admin.RevokeApiKey(request)
    second = await boss.admin.RevokeApiKey(request)
    assert first.api_key.HasField("revoke_time")
    assert first == second
    refusal = await refused(boss.admin.RevokeApiKey(admin.RevokeApiKeyRequest(key_id="0" * 16)))
    assert (refusal.reason, refusal.metadata) == ("API_KEY_NOT_FOUND", {"key_id": "0" * 16})
    # An operator can still create keys with the command.
    await list_items(guarded, ("x-api-key", await new_secret(guarded, "boss")))
