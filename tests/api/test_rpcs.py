"""The table of rpcs agrees with the protos, the engine, the metrics and the client's retry policy."""

from google.protobuf.descriptor_pb2 import MethodOptions

from holdsvc.api.rpcs import ALL_SCOPES, RPCS, Effect
from holdsvc.api.services import SERVICES
from holdsvc.client.retries import shipped_policy
from holdsvc.telemetry import metrics
from tests.support.harness import Harness

METHODS = {f"/{service.full_name}/{method.name}": method for service in SERVICES for method in service.methods}


def test_every_rpc_has_one_row_and_every_row_an_rpc() -> None:
    assert set(RPCS) == set(METHODS)
    for path, method in METHODS.items():
        assert (RPCS[path].effect is Effect.STREAM) == method.server_streaming, path
        assert set(RPCS[path].scopes) <= set(ALL_SCOPES), path


def test_a_change_that_is_repeatable_by_request_id_takes_one() -> None:
    for path, method in METHODS.items():
        fields = {field.name for field in method.input_type.fields}
        if RPCS[path].entries:
            [entries] = [field for field in method.input_type.fields if field.name == RPCS[path].entries]
            assert entries.message_type is not None
            fields = {field.name for field in entries.message_type.fields}
        assert ("request_id" in fields) == (RPCS[path].effect is Effect.CHANGE_BY_REQUEST_ID), path


def test_the_clients_retry_policy_repeats_exactly_the_calls_that_may_be_repeated() -> None:
    policy = shipped_policy()
    assert {path for path in RPCS if policy.is_safe(path)} == {
        path for path, rpc in RPCS.items() if rpc.effect.repeatable
    }


async def test_every_lane_of_the_table_is_one_of_the_engine(service: Harness) -> None:
    lanes = {rpc.lane for rpc in RPCS.values() if rpc.lane}
    assert lanes == set(service.cell.engine.queue_depths())


def test_metrics_know_which_rpcs_stream() -> None:
    streams = {rpc.name for rpc in RPCS.values() if rpc.effect is Effect.STREAM}
    assert streams == metrics.STREAMS


def test_the_protos_say_of_exactly_the_reads_that_they_have_no_side_effects() -> None:
    for path, method in METHODS.items():
        says = method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
        assert says == (RPCS[path].effect is Effect.READ), path
