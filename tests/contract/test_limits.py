"""LimitService: limits that are set, changed, listed and deleted."""

from datetime import timedelta
from typing import Any

from inventoryhold.v1 import limit_service_pb2 as pb
from tests.support.harness import Harness, StartService, refused
from tests.support.limits import limit, set_limit
from tests.support.partners import new_partner


async def _listed(service: Harness, **call: Any) -> list[str]:
    page = await service.limits.ListLimits(pb.ListLimitsRequest(), **call)
    return [found.limit_id for found in page.limits]


async def test_a_new_limit_is_active_in_its_answer_and_is_listed_as_it_was_set(service: Harness) -> None:
    terms = {"counts": "COUNTS_HELD_AND_CONFIRMED", "pool": "", "window": timedelta(days=1)}
    made = await set_limit(service, "four-each", 4, sku_prefix="tour-", **terms)
    assert (made.limit_id, made.sku_prefix, made.max_quantity, made.state) == (
        "four-each", "tour-", 4, pb.Limit.STATE_ACTIVE
    )  # fmt: skip
    assert made.HasField("pool")
    assert made.window.ToTimedelta() == timedelta(days=1)
    assert made.create_time == made.update_time
    unbounded = await set_limit(service, "all", 100, per="PER_CLIENT")
    assert not unbounded.HasField("pool")
    assert not unbounded.HasField("window")
    page = await service.limits.ListLimits(pb.ListLimitsRequest())
    assert list(page.limits) == [unbounded, made]


async def test_limits_are_listed_in_pages(service: Harness) -> None:
    for number in range(5):
        await set_limit(service, f"limit-{number}", 1)
    seen, token = [], ""
    while True:
        page = await service.limits.ListLimits(pb.ListLimitsRequest(page_size=2, page_token=token))
        seen.append([found.limit_id for found in page.limits])
        if not (token := page.next_page_token):
            break
    assert seen == [["limit-0", "limit-1"], ["limit-2", "limit-3"], ["limit-4"]]


async def test_the_maximum_and_the_window_can_be_changed_and_nothing_else(service: Harness) -> None:
    terms = {"sku_prefix": "tour-", "pool": "web", "counts": "COUNTS_HELD_AND_CONFIRMED"}
    made = await set_limit(service, "four-each", 4, **terms)
    same = await set_limit(service, "four-each", 4, **terms)
    assert same == made
    changed = await set_limit(service, "four-each", 6, window=timedelta(hours=1), **terms)
    assert (changed.max_quantity, changed.window.ToTimedelta()) == (6, timedelta(hours=1))
    assert changed.update_time.ToDatetime() > made.update_time.ToDatetime()
    others: list[tuple[str, dict[str, Any]]] = [
        ("sku_prefix", {"sku_prefix": "bed-"}),
        ("pool", {"pool": ""}),
        ("per", {"per": "PER_CLIENT", "counts": "COUNTS_HELD"}),
        ("counts", {"counts": "COUNTS_HELD"}),
    ]
    for field, other in others:
        refusal = await refused(set_limit(service, "four-each", 7, **terms | other))
        assert (refusal.reason, refusal.metadata) == ("INVALID_FIELD", {"fields": f"limit.{field}"})
    no_pool = {name: value for name, value in terms.items() if name != "pool"}
    refusal = await refused(set_limit(service, "four-each", 7, **no_pool))
    assert refusal.metadata == {"fields": "limit.pool"}
    page = await service.limits.ListLimits(pb.ListLimitsRequest())
    assert list(page.limits) == [changed]


async def test_a_tenant_has_at_most_100_limits(service: Harness) -> None:
    for number in range(100):
        await set_limit(service, f"limit-{number}", 1, sku_prefix="none")
    refusal = await refused(set_limit(service, "one-more", 1))
    assert (refusal.reason, refusal.metadata) == ("INVALID_FIELD", {"fields": "limit"})
    await service.limits.DeleteLimit(pb.DeleteLimitRequest(limit_id="limit-0"))
    assert (await set_limit(service, "one-more", 1)).state == pb.Limit.STATE_ACTIVE


async def test_a_deleted_limit_is_gone_and_its_name_is_free_for_another(service: Harness) -> None:
    await set_limit(service, "four-each", 4)
    await service.limits.DeleteLimit(pb.DeleteLimitRequest(limit_id="four-each"))
    assert await _listed(service) == []
    for call in (
        service.limits.DeleteLimit(pb.DeleteLimitRequest(limit_id="four-each")),
        service.limits.GetLimitUsage(pb.GetLimitUsageRequest(limit_id="four-each", holder="ann")),
    ):
        refusal = await refused(call)
        assert (refusal.reason, refusal.metadata) == ("LIMIT_NOT_FOUND", {"limit_id": "four-each"})
    assert (await set_limit(service, "four-each", 2, per="PER_CLIENT")).per == pb.Limit.PER_CLIENT


async def test_fields_that_do_not_go_together_are_named_at_once(service: Harness) -> None:
    wanted = limit("a", 1, per="PER_CLIENT", counts="COUNTS_HELD_AND_CONFIRMED")
    refusal = await refused(service.limits.SetLimit(pb.SetLimitRequest(limit=wanted)))
    assert refusal.metadata == {"fields": "limit.counts"}
    wanted = limit("a", 1, window=timedelta(hours=1))
    refusal = await refused(service.limits.SetLimit(pb.SetLimitRequest(limit=wanted)))
    assert refusal.metadata == {"fields": "limit.window"}


async def test_a_key_with_pools_sets_limits_of_these_pools_and_sees_those_that_concern_them(
    start_service: StartService,
) -> None:
    service = await start_service(auth="api-key")
    root = await new_partner(service, "root", scopes=["limits.write"])
    web = await new_partner(service, "web", scopes=["limits.write", "reserve"], pools="web")
    for limit_id, pool in (("all", None), ("desk", "desk"), ("web", "web")):
        await set_limit(service, limit_id, 4, pool=pool, metadata=root.metadata)
    assert await _listed(service, metadata=web.metadata) == ["all", "web"]
    for limit_id, pool, required in (("all", None, "*"), ("mine", "desk", "desk")):
        refusal = await refused(set_limit(service, limit_id, 9, pool=pool, metadata=web.metadata))
        assert (refusal.reason, refusal.metadata) == ("PERMISSION_DENIED", {"required_pool": required})
    delete = service.limits.DeleteLimit
    refusal = await refused(delete(pb.DeleteLimitRequest(limit_id="all"), metadata=web.metadata))
    assert (refusal.reason, refusal.metadata) == ("PERMISSION_DENIED", {"required_pool": "*"})
    refusal = await refused(delete(pb.DeleteLimitRequest(limit_id="desk"), metadata=web.metadata))
    assert refusal.reason == "LIMIT_NOT_FOUND"
    await delete(pb.DeleteLimitRequest(limit_id="web"), metadata=web.metadata)
    assert await _listed(service, metadata=root.metadata) == ["all", "desk"]


async def test_tenants_have_limits_of_their_own(start_service: StartService) -> None:
    service = await start_service(auth="api-key")
    ours = await new_partner(service, "a", tenant="ours", scopes=["limits.write", "reserve"])
    theirs = await new_partner(service, "a", tenant="theirs", scopes=["limits.write", "reserve"])
    await set_limit(service, "four-each", 4, metadata=ours.metadata)
    assert await _listed(service, metadata=theirs.metadata) == []
    refusal = await refused(
        service.limits.DeleteLimit(pb.DeleteLimitRequest(limit_id="four-each"), metadata=theirs.metadata)
    )
    assert refusal.reason == "LIMIT_NOT_FOUND"
    await set_limit(service, "four-each", 9, per="PER_CLIENT", metadata=theirs.metadata)
    page = await service.limits.ListLimits(pb.ListLimitsRequest(), metadata=ours.metadata)
    assert [(found.max_quantity, found.per) for found in page.limits] == [(4, pb.Limit.PER_HOLDER)]
