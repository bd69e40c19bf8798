"""`make smoke`: the calls of the quick start against a running service, each answer checked.

It calls with `buf curl` through server reflection, as a person would, with names of its own, and removes what it made:
the item is deleted, its reservation stays as history. Address, key and TLS come from HOLDSVC_LISTEN, HOLDSVC_API_KEY,
HOLDSVC_TLS_CA, HOLDSVC_TLS_CLIENT_CERT and HOLDSVC_TLS_CLIENT_KEY. The exit code is 0 only if every answer was the one
shown.
"""

import argparse
import json
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from quickstart import decoded, differences, read
from target import Target

from holdsvc.commands import CommandError

ITEMS = ("tour", "room")
"""Ends of the names of the items that the quick start makes."""

CALL_TIMEOUT_S = 60.0


class Caller:
    """Calls a service with `buf curl`."""

    def __init__(self, target: Target, name: str) -> None:
        self._target = target
        self.name = name
        beside_python = Path(sys.executable).with_name("buf")
        self._command = [str(beside_python if beside_python.exists() else shutil.which("buf")), "curl"]
        self._command += ["--protocol", "grpc", "--connect-timeout", "5"]
        for option, file in (
            ("--cacert", target.authorities),
            ("--cert", target.certificate),
            ("--key", target.private_key),
        ):
            if file:
                self._command += [option, str(file)]
        if target.api_key:
            # On standard input: every user of the machine can read arguments.
            self._command += ["--header", "@-"]

    def call(self, rpc: str, request: str) -> Any:
        """Returns the answer, or the error, as JSON; raises CommandError if buf prints neither."""
        scheme = "https" if self._target.tls else "http"
        url = f"{scheme}://{self._target.address}/inventoryhold.v1.{rpc}"
        try:
            done = subprocess.run(
                [*self._command, "--data", request, url],
                input=f"x-api-key: {self._target.api_key}\n" if self._target.api_key else "",
                capture_output=True,
                text=True,
                timeout=CALL_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CommandError(f"{rpc} was not answered within {CALL_TIMEOUT_S:g} s") from None
        try:
            return json.loads(done.stdout or done.stderr)
        except ValueError:
            raise CommandError(f"{rpc}: {(done.stderr or done.stdout).strip()}") from None

    def clear(self) -> list[str]:
        """Removes what the calls made; returns what could not be removed."""
        return [problem for noun in ITEMS for problem in self._clear(f"{self.name}-{noun}")]

    def _clear(self, sku: str) -> list[str]:
        found = self.call("ReservationService/ListReservations", json.dumps({"sku": sku}))
        for reservation in found.get("reservations", []):
            rpc = {"STATE_HELD": "Cancel", "STATE_CONFIRMED": "Refund"}.get(reservation["state"])
            if rpc:
                request = json.dumps({"reservationId": reservation["reservationId"], "reason": "smoke test"})
                self.call(f"ReservationService/{rpc}", request)
        answer = self.call("InventoryService/DeleteItem", json.dumps({"sku": sku}))
        return [] if answer == {} else [f"item {sku} is left: {answer}"]


def main() -> int:
    """Calls and compares; returns the exit code."""
    argparse.ArgumentParser(prog="make smoke", description=__doc__).parse_args()
    name = f"smoke-{secrets.token_hex(4)}"
    problems: list[str] = []
    try:
        target = Target.load()
        target.check("smoke")
        caller = Caller(target, name)
        try:
            for step in read():
                wanted = step.named(name)
                answer = decoded(caller.call(wanted.rpc, wanted.request))
                found = differences(wanted.answer, answer)
                if "code" in answer and not wanted.refused:
                    found = [f"{answer['code']}: {answer.get('message', '')}"]
                print(f"{'FAILED' if found else 'ok    '} {wanted.rpc} {' '.join(wanted.request.split())}")
                for difference in found:
                    print(f"       {difference}")
                problems += found
        finally:
            problems += caller.clear()
    except CommandError as error:
        print(error, file=sys.stderr)
        return 1
    verdict = f"{len(problems)} problems" if problems else "every answer is the one that the quick start shows"
    print(f"{target.address}: {verdict}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
