"""The keyring: who calls with a key, remembered for a moment and no longer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from holdsvc.engine import keyring as keyrings
from holdsvc.engine.engine import Engine
from holdsvc.engine.keyring import Keyring, NewKey, make_key
from holdsvc.errors import HoldError
from holdsvc.ledger import keys
from holdsvc.ledger.database import Connection, Database
from holdsvc.settings import Settings
from tests.engine.lanes import Observed, soon


class CountingEngine(Engine):
    """Counts how often the database was asked."""

    reads = 0

    async def read(self, run: Callable[[Connection], Awaitable[Any]], deadline: float) -> Any:
        self.reads += 1
        return await super().read(run, deadline)


@pytest.fixture
async def engine(settings: Settings, database: Database, observed: Observed) -> AsyncIterator[CountingEngine]:
    engine = CountingEngine(settings, database, observed)
    yield engine
    await engine.close()


async def store(database: Database, new: NewKey, lifetime: timedelta | None = None) -> None:
    async with database.connection() as connection:
        await keys.create(
            connection,
            tenant="acme",
            key_id=new.key_id,
            client="web",
            secret_hash=new.secret_hash,
            scopes=["reserve"],
            pools=["b2b"],
            expire_time=None if lifetime is None else datetime.now(UTC) + lifetime,
        )


async def refusal(keyring: Keyring, secret: str) -> str:
    with pytest.raises(HoldError) as refused:
        await keyring.caller(secret, soon())
    return refused.value.reason


async def test_a_key_tells_tenant_client_scopes_and_pools_and_is_remembered(
    engine: CountingEngine, database: Database
) -> None:
    new = make_key()
    await store(database, new)
    keyring = Keyring(engine)
    for _ in range(3):
        caller = await keyring.caller(new.secret, soon())
        assert (caller.tenant, caller.client, caller.key_id) == ("acme", "web", new.key_id)
        assert (list(caller.scopes), list(caller.pools)) == (["reserve"], ["b2b"])
    assert engine.reads == 1


async def test_a_revoked_key_works_no_longer_than_the_memory_lasts(
    engine: CountingEngine, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyrings, "CACHE_S", 0.05)
    new = make_key()
    await store(database, new)
    keyring = Keyring(engine)
    await keyring.caller(new.secret, soon())
    async with database.connection() as connection:
        await keys.revoke(connection, "acme", new.key_id)
    await asyncio.sleep(0.06)
    assert await refusal(keyring, new.secret) == "UNAUTHENTICATED"


async def test_keys_that_are_wrong_expired_or_malformed_are_refused_alike(
    engine: CountingEngine, database: Database
) -> None:
    new, old = make_key(), make_key()
    await store(database, new)
    await store(database, old, timedelta(seconds=-1))
    keyring = Keyring(engine)
    for secret in (
        new.secret[:-1],
        new.secret + "x",
        old.secret,
        make_key().secret,
        "",
        "holdsvc",
        "holdsvc__",
        "é_x_y",
    ):
        assert await refusal(keyring, secret) == "UNAUTHENTICATED"


async def test_a_bad_key_is_looked_up_once_however_often_it_comes(engine: CountingEngine) -> None:
    keyring = Keyring(engine)
    secret = make_key().secret
    for _ in range(3):
        assert await refusal(keyring, secret) == "UNAUTHENTICATED"
    assert engine.reads == 1


async def test_a_flood_of_bad_keys_does_not_push_out_the_good_ones(
    engine: CountingEngine, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyrings, "CACHE_MAX", 5)
    new = make_key()
    await store(database, new)
    keyring = Keyring(engine)
    await keyring.caller(new.secret, soon())
    for _ in range(10):
        await refusal(keyring, make_key().secret)
    reads = engine.reads
    await keyring.caller(new.secret, soon())
    assert engine.reads == reads
    assert len(keyring._bad) == 5
