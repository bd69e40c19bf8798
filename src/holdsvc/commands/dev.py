"""`holdsvc dev`: a service to try things on, with demo items and a little traffic, that leaves nothing behind."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from holdsvc.commands import CommandError
from holdsvc.settings import PREFIX, Settings

START_S = 120.0
"""The longest that the service may take to start."""

STOP_S = 30.0
"""The longest that it may take to end."""

POLL_S = 0.1

RATE_MAX = 1000.0

_LISTENERS = {"serving": "gRPC", "metrics.serving": "metrics", "http.serving": "HTTP"}
"""Lines of the log that tell a port, and what listens there."""


def dev(
    *,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the service listens, on loopback. Port 0: a free one.")
    ] = "127.0.0.1:50051",
    metrics_listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where its metrics are. Port 0: a free one.")
    ] = "127.0.0.1:9464",
    http_listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where HTTP is, on loopback. Port 0: a free one.")
    ] = "127.0.0.1:8080",
    rate: Annotated[
        float, typer.Option(min=0.0, max=RATE_MAX, help="Buyers per second. 0: demo items without traffic.")
    ] = 3.0,
) -> None:
    """Run a service with demo items and a little traffic until Ctrl-C; keys are off, its data is removed at the end.

    Settings of the environment (HOLDSVC_*) are left aside, so no database of yours is touched.
    """
    from holdsvc.commands.demo import Visitors, create_items
    from holdsvc.commands.endpoint import Endpoint

    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    with _folder() as folder, _service(folder, listen, metrics_listen, http_listen) as service:
        addresses = service.addresses()
        endpoint = Endpoint.load(addresses["gRPC"], {})
        with endpoint.called(START_S) as client:
            create_items(client)
            _say(addresses)
            visitors = Visitors(client, random.Random())
            while True:
                service.check()
                if rate:
                    visitors.step()
                time.sleep(1 / rate if rate else 1.0)


class _Service:
    """A `holdsvc serve` of its own process group, so that Ctrl-C reaches only this process, which then ends it."""

    def __init__(self, folder: Path, listen: str, metrics_listen: str, http_listen: str) -> None:
        from holdsvc.embedded.server import dying_with_parent

        self._log = folder / "service.log"
        settings = {
            "auth": "off",
            "data_dir": folder / "data",
            "listen": listen,
            "metrics_listen": metrics_listen,
            "http_listen": http_listen,
        }
        own = {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "holdsvc", "serve"],
                env={**own, **{f"{PREFIX}{name.upper()}": str(value) for name, value in settings.items()}},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # A kill -9 of this process leaves no service behind.
                preexec_fn=dying_with_parent(),  # noqa: PLW1509 - there are no other threads yet
            )

    def addresses(self) -> Mapping[str, str]:
        """Where it listens, by protocol, once it serves. Raises CommandError where it does not start."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            found = dict(self._listeners())
            if "gRPC" in found:
                return found
            self.check()
            time.sleep(POLL_S)
        raise CommandError(f"the service does not start within {START_S:g} s:\n{self._end_of_log()}")

    def _listeners(self) -> Iterator[tuple[str, str]]:
        for line in self._log.read_text(errors="replace").splitlines():
            if line.startswith("{") and line.endswith("}"):
                entry = json.loads(line)
                if entry.get("event") in _LISTENERS:
                    yield _LISTENERS[entry["event"]], f"{entry.get('host', '127.0.0.1')}:{entry['port']}"

    def check(self) -> None:
        """Raises CommandError, with the end of its log, where it has ended."""
        if self._process.poll() is not None:
            raise CommandError(f"the service has ended:\n{self._end_of_log()}")

    def stop(self) -> None:
        """Ends it, with its database."""
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _end_of_log(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-5:])


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="holdsvc-dev-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _service(folder: Path, listen: str, metrics_listen: str, http_listen: str) -> Iterator[_Service]:
    typer.echo(f"starting a service with a PostgreSQL of its own in {folder}", err=True)
    service = _Service(folder, listen, metrics_listen, http_listen)
    try:
        yield service
    finally:
        # A second Ctrl-C must not leave the data behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        typer.echo("ending it, and removing its data", err=True)
        service.stop()


def _say(addresses: Mapping[str, str]) -> None:
    at = addresses["gRPC"]
    default = Settings.model_fields["listen"].default
    option = "" if at == default else f" --address {at}"
    typer.echo(f"gRPC     {at} (keys are off)")
    if "HTTP" in addresses:
        typer.echo(f"console  http://{addresses['HTTP']}/ (and every call as JSON)")
    if "metrics" in addresses:
        typer.echo(f"metrics  http://{addresses['metrics']}/metrics")
    typer.echo(
        f"""
Try in another terminal:
  holdsvc top{option}
  holdsvc watch --all{option}
  holdsvc reserve museum-10h=2 --ttl 2m --reference mine{option}
  holdsvc confirm mine{option}

Ctrl-C ends it and removes its data."""
    )


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
