"""Buyers of one item with too few units, for locust.

`make load` runs this for 20 seconds and checks the result. To watch it in a browser, with any number of buyers:

    .venv/bin/locust -f loadtest/locustfile.py

Address and key come from HOLDSVC_LISTEN and HOLDSVC_API_KEY. Each test opens a sale and checks it at the end; the
checks are printed, and locust's exit code is 1 if one failed.
"""

from contextlib import suppress
from typing import Any

import gevent
import grpc
import grpc.experimental.gevent as grpc_gevent
from locust import User, between, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner
from sale import Buyer, CallFailed, Heard, Sale
from target import Target, reason_of
from verdict import Check, summary

from holdsvc.commands import CommandError

grpc_gevent.init_gevent()

UNITS = 60
RUSH = 100
STOP_TIMEOUT_S = 30
"""Time for buyers to finish their purchase."""


class Stand:
    """Holds the sale of the current test."""

    sale: Sale | None = None


class BuyerUser(User):
    """Reserves, then confirms, cancels or abandons the hold."""

    wait_time = between(0, 0.05)

    buyer: Buyer | None = None

    def on_start(self) -> None:
        """Opens a connection."""
        if Stand.sale is None:
            raise StopUser
        self.buyer = Buyer(Stand.sale, _heard(self.environment))
        self.purchase = gevent.spawn(lambda: None)

    def on_stop(self) -> None:
        """Waits for the purchase and closes the connection."""
        if self.buyer is not None:
            self.purchase.join(STOP_TIMEOUT_S)
            self.buyer.close()

    @task
    def buy(self) -> None:
        """One purchase."""
        # In a greenlet of its own: locust may kill a user in the middle of a call, whatever its stop_timeout, and the
        # tally would then miss what the call took.
        self.purchase = gevent.spawn(_buy, self.buyer)
        self.purchase.get()


def _buy(buyer: Buyer) -> None:
    # The failure is counted; the next purchase starts anew.
    with suppress(CallFailed):
        buyer.buy()


def _heard(environment: Environment) -> Heard:
    def heard(rpc: str, outcome: str, milliseconds: float, failure: Exception | None) -> None:
        environment.events.request.fire(
            request_type=outcome, name=rpc, response_time=milliseconds, response_length=0, exception=failure, context={}
        )

    return heard


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    """Adds the options of the sale, to the web page too."""
    parser.add_argument("--units", type=int, default=UNITS, help="units of the item")
    parser.add_argument("--rush", type=int, default=RUSH, help="callers at once, before and after the buyers")


@events.test_start.add_listener
def open_sale(environment: Environment, **_: Any) -> None:
    """Creates the item and runs the first rush."""
    Stand.sale = None
    if environment.runner is None or isinstance(environment.runner, MasterRunner):
        # Each worker of a master has a sale of its own.
        return
    environment.process_exit_code = 1
    options: Any = environment.parsed_options
    try:
        target = Target.load()
        target.check("load")
        sale = Sale(target, options.units)
        sale.open()
        sale.rush("first rush", options.rush, _heard(environment))
        sale.cancel_holds()
        sale.start_clock()
        Stand.sale = sale
    except CommandError as error:
        print(error)
    except grpc.RpcError as error:
        print(f"the sale cannot open: {reason_of(error)}: {error.details()}")
    if Stand.sale is None:
        # In another greenlet, because quit ends this one.
        gevent.spawn(environment.runner.quit)


@events.test_stop.add_listener
def judge_sale(environment: Environment, **_: Any) -> None:
    """Runs the last rush, checks every promise, prints the result."""
    sale, Stand.sale = Stand.sale, None
    if sale is None:
        return
    sale.stop_clock()
    options: Any = environment.parsed_options
    try:
        sale.rush("last rush", options.rush, _heard(environment))
        sale.judge()
        sale.clear()
    except grpc.RpcError as error:
        sale.checks.append(Check(False, f"the sale cannot be judged: {reason_of(error)}: {error.details()}"))
    sale.close()
    print(summary(sale.tally, sale.checks))
    environment.process_exit_code = 0 if all(check.ok for check in sale.checks) else 1
