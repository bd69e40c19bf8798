"""How the models run: against a service whose time moves only when they say so, for so many examples."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.model.service import StillService

EXAMPLES = int(os.environ.get("HOLDSVC_TEST_MODEL_EXAMPLES", "14"))


@pytest.fixture
def still_service(ledger_dsn: str) -> Iterator[StillService]:
    service = StillService(ledger_dsn)
    yield service
    service.close()


def run(machine: type[RuleBasedStateMachine], steps: int) -> None:
    """Runs a model; a difference prints the blob that repeats it."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=steps, deadline=None, print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
