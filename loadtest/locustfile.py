"""Buyers of one item that is too small for them all, for locust.

`make load` runs this for 20 seconds and judges what came of it. To watch it in a browser, with any number of buyers:

    .venv/bin/locust -f loadtest/locustfile.py

Address and key come from HOLDSVC_LISTEN and HOLDSVC_API_KEY. A sale opens with each test and is judged at its end: the
checks are in the terminal, and locust's exit code is 1 when one has failed.
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
from target import Target, TargetError, reason_of
from verdict import Check, summary

grpc_gevent.init_gevent()

UNITS = 60
RUSH = 100
STOP_TIMEOUT_S = 30
"""Buyers may finish their purchase."""


class Stand:
    """Where the sale of the present test is."""

    sale: Sale | None = None


class BuyerUser(User):
    """Reserves; then confirms, cancels or walks away."""

    wait_time = between(0, 0.05)

    buyer: Buyer | None = None

    def on_start(self) -> None:
        """Opens a connection."""
        if Stand.sale is None:
            raise StopUser
        self.buyer = Buyer(Stand.sale, _heard(self.environment))
        self.purchase = gevent.spawn(lambda: None)

    def on_stop(self) -> None:
        """Lets the purchase end and closes the connection."""
        if self.buyer is not None:
            self.purchase.join(STOP_TIMEOUT_S)
            self.buyer.close()

    @task
    def buy(self) -> None:
        """One purchase."""
        # In a greenlet of its own: locust may kill a user in the middle of a call (stop races with the end of a wait,
        # stop_timeout or not), and then nobody would know whether the call took units.
        self.purchase = gevent.spawn(_buy, self.buyer)
        self.purchase.get()


def _buy(buyer: Buyer) -> None:
    # A call that failed is counted; the next purchase is another one.
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
    """Adds options of the sale; they are in the web page too."""
    parser.add_argument("--units", type=int, default=UNITS, help="units of the item")
    parser.add_argument("--rush", type=int, default=RUSH, help="callers at once, before and after the buyers")


@events.test_start.add_listener
def open_sale(environment: Environment, **_: Any) -> None:
    """Creates the item and lets the first rush at it."""
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
    except TargetError as error:
        print(error)
    except grpc.RpcError as error:
        print(f"the sale cannot open: {reason_of(error)}: {error.details()}")
    if Stand.sale is None:
        # Not from here: this is one of the greenlets that it ends.
        gevent.spawn(environment.runner.quit)


@events.test_stop.add_listener
def judge_sale(environment: Environment, **_: Any) -> None:
    """Lets the last rush at the item, checks every promise, prints what came of it."""
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
