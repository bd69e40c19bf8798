"""The command line: serve, migrate, keys, items, events, relay, verify, config, health."""

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from holdsvc import errors
from holdsvc.commands import item_import, operator, progress
from holdsvc.embedded.data_folder import EmbeddedServerError
from holdsvc.ledger import migrate as migrations
from holdsvc.settings import PREFIX, Settings, SettingsError, parse_duration, shown, unknown_names
from holdsvc.telemetry import logs

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="holdsvc takes inventory holds over gRPC.",
)
migrate_app = typer.Typer(no_args_is_help=True, help="Bring the database's schema up or down.")
keys_app = typer.Typer(no_args_is_help=True, help="Create, list and revoke API keys.")
items_app = typer.Typer(no_args_is_help=True, help="Import and list items.")
app.add_typer(migrate_app, name="migrate")
app.add_typer(keys_app, name="keys")
events_app = typer.Typer(no_args_is_help=True, help="List and export the days of events; begin a new epoch.")
app.add_typer(items_app, name="items")
app.add_typer(events_app, name="events")

Tenant = Annotated[str, typer.Option(help="The tenant that owns it.")]


def main() -> None:
    """Runs the command line; failures that a person can mend are one line on standard error and exit code 1."""
    try:
        app()
    except (
        SettingsError,
        EmbeddedServerError,
        migrations.MigrationError,
        operator.OperatorError,
        errors.HoldError,
    ) as error:
        typer.echo(f"holdsvc: {error}", err=True)
        sys.exit(1)


def _settings_options(command: Callable[[Settings], None]) -> Callable[..., None]:
    """Gives a command one option for each setting; an option goes over the environment."""

    def run(**flags: Any) -> None:
        command(Settings.load(**flags))

    run.__doc__ = command.__doc__
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                Optional[str],  # noqa: UP045 - typer reads annotations of this form
                typer.Option(f"--{name.replace('_', '-')}", help=f"{field.description} [{PREFIX}{name.upper()}]"),
            ],
        )
        for name, field in Settings.model_fields.items()
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


@app.command("serve")
@_settings_options
def serve(settings: Settings) -> None:
    """Run the service until SIGTERM."""
    from holdsvc.process import supervisor

    logs.configure(settings.log_level)
    for name in unknown_names():
        typer.echo(f"holdsvc: {name} is no setting: see `holdsvc config`", err=True)
    sys.exit(supervisor.serve(settings))


@app.command("config")
@_settings_options
def config(settings: Settings) -> None:
    """Print the effective settings, secrets masked."""
    for name, value in shown(settings).items():
        typer.echo(f"{name}={value}")


@app.command("health")
def health(
    address: Annotated[str, typer.Option(help="Where the service listens; default: HOLDSVC_LISTEN.")] = "",
    timeout: Annotated[str, typer.Option(help="The longest to wait for the answer.")] = "3s",
    liveness: Annotated[
        bool, typer.Option("--liveness", help="Ask whether the process works, not the database.")
    ] = False,
) -> None:
    """Ask a running service for its health; exit code 0 only when it is SERVING."""
    from holdsvc.commands import probe

    answer = probe.health(Settings.load(), address, _duration(timeout).total_seconds(), liveness=liveness)
    typer.echo(answer)
    if answer != "SERVING":
        sys.exit(1)


def _duration(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise operator.OperatorError(str(error)) from error


@contextmanager
def _database() -> Iterator[str]:
    """The owner's DSN: of the DSN given, or of the embedded database, started when no service runs on it."""
    settings = Settings.load()
    logs.configure("warning")
    with operator.owner_dsn(settings) as dsn:
        yield dsn


@migrate_app.command("up")
def migrate_up(to: Annotated[Optional[str], typer.Option(help="The last version to apply.")] = None) -> None:  # noqa: UP045
    """Apply the migrations that are pending."""
    with _database() as dsn:
        for migration in migrations.up(dsn, to):
            typer.echo(f"applied {migration.version} {migration.name}")


@migrate_app.command("down")
def migrate_down(steps: Annotated[int, typer.Option(help="How many to take back, data with them.")] = 1) -> None:
    """Take back the newest migrations."""
    with _database() as dsn:
        for migration in migrations.down(dsn, steps):
            typer.echo(f"took back {migration.version} {migration.name}")


@migrate_app.command("status")
def migrate_status() -> None:
    """List every migration and whether it is applied."""
    with _database() as dsn:
        for row in migrations.status(dsn):
            typer.echo(f"{row.version} {row.state:8} {row.name}")


@keys_app.command("create")
def keys_create(
    client: Annotated[str, typer.Option(help="The client that calls with it.")],
    tenant: Tenant = "default",
    scopes: Annotated[
        str, typer.Option(help="What it may do, separated by commas; `all` for every scope.")
    ] = "reserve,confirm,inventory.read",
    pools: Annotated[
        str,
        typer.Option(
            help="The pools that it may see and take from, separated by commas; an empty one among them is the default"
            " pool, as in `,web`. Empty: all."
        ),
    ] = "",
    expires_in: Annotated[str, typer.Option(help="When it ends, from now, as in 90d; empty: never.")] = "",
) -> None:
    """Create an API key and print it: it is shown this once."""
    lifetime = _duration(expires_in) if expires_in else None
    with _database() as dsn:
        typer.echo(operator.create_key(dsn, tenant, client, scopes, pools, lifetime))


@keys_app.command("list")
def keys_list(tenant: Tenant = "default") -> None:
    """List a tenant's API keys, newest first, a JSON object a line."""
    with _database() as dsn:
        for key in operator.list_keys(dsn, tenant):
            typer.echo(json.dumps(key))


@keys_app.command("revoke")
def keys_revoke(key_id: str, tenant: Tenant = "default") -> None:
    """Revoke an API key, by its id or the whole of it."""
    with _database() as dsn:
        typer.echo(f"revoked {operator.revoke_key(dsn, tenant, key_id)}")


@items_app.command("import")
def items_import(
    file: Annotated[
        Path,
        typer.Argument(help="CSV with the columns sku, capacity and, optionally, pool, display_name, oversell_limit."),
    ],
    tenant: Tenant = "default",
    errors_file: Annotated[
        Path | None, typer.Option("--errors", help="Where bad rows go; default: FILE.errors.csv.")
    ] = None,
) -> None:
    """Create the items of a CSV file; rows that cannot be go to a file with the reason."""
    refused = errors_file or file.with_name(f"{file.name}.errors.csv")
    with _database() as dsn, progress.shown() as shown_progress:
        created, bad = item_import.import_items(dsn, tenant, file, refused, shown_progress)
    typer.echo(f"{created} items created, {bad} rows refused")
    if bad:
        typer.echo(f"the refused rows are in {refused}, each with its line and why: mend it and import it", err=True)
        sys.exit(1)


@items_app.command("list")
def items_list(tenant: Tenant = "default", prefix: Annotated[str, typer.Option(help="Begin of the sku.")] = "") -> None:
    """List a tenant's items, a JSON object a line."""
    with _database() as dsn:
        for item in operator.list_items(dsn, tenant, prefix):
            typer.echo(json.dumps(item))


@events_app.command("list")
def events_list() -> None:
    """List the days of which there are events, oldest first, a JSON object a line."""
    from holdsvc.commands import events as archive

    with _database() as dsn:
        for day in archive.list_days(dsn):
            typer.echo(json.dumps(day))


@events_app.command("export")
def events_export(
    day: Annotated[str, typer.Argument(help="The day (UTC), as in 2026-01-31.")],
    file: Annotated[Optional[Path], typer.Option("--to", help="File to write; default: standard output.")] = None,  # noqa: UP045
) -> None:
    """Write a day's events of all tenants as JSON lines, as before retention drops it."""
    from holdsvc.commands import events as archive

    try:
        wanted = date.fromisoformat(day)
    except ValueError:
        raise operator.OperatorError(f"{day!r} is no day: write it as in 2026-01-31") from None
    with _database() as dsn:
        count = archive.export(dsn, wanted, file)
    typer.echo(f"{count} events of {wanted} exported", err=True)


@events_app.command("begin-epoch")
def events_begin_epoch() -> None:
    """Refuse every resume token and relay position of before: for a database that was put back or copied."""
    from holdsvc.commands import events as archive

    with _database() as dsn:
        archive.begin_epoch(dsn)
        typer.echo("tokens and relay positions of before are foreign now")


@app.command("relay")
def relay(
    to: Annotated[str, typer.Option(help="Where to publish: nats://host:port, or stdout for JSON lines.")],
    name: Annotated[
        str, typer.Option(help="Whose place in the feed it is; relays of other names are others.")
    ] = "relay",
    prefix: Annotated[str, typer.Option(help="First word of the NATS subjects.")] = "holdsvc",
    metrics_listen: Annotated[str, typer.Option(help="Address of the relay's Prometheus metrics; empty: off.")] = "",
    from_now: Annotated[
        bool, typer.Option("--from-now", help="Where it has no place yet: not from the oldest.")
    ] = False,
) -> None:
    """Publish every event as CloudEvents JSON, at least once, until SIGTERM."""
    from holdsvc.commands import events as archive

    with _database() as dsn:
        settings = Settings.load()
        # Standard output is for the events.
        logs.configure(settings.log_level, sys.stderr)
        archive.relay(settings, dsn, to, name, prefix, metrics_listen, from_now=from_now)


@app.command("verify")
def verify(tenant: Annotated[str, typer.Option(help="Only this tenant; empty: all.")] = "") -> None:
    """Recount every item's counters from its reservations; exit code 1 when any differs."""
    with _database() as dsn, progress.shown() as shown_progress:
        reports = list(operator.verify(dsn, tenant, shown_progress))
    for report in reports:
        typer.echo(json.dumps(report))
    drifts = sum(len(report["drifts"]) for report in reports)
    items, reservations = (sum(report[name] for report in reports) for name in ("item_count", "reservation_count"))
    counted = f"{items} items of {len(reports)} tenants against {reservations} reservations"
    if drifts:
        typer.echo(f"the ledger has drifted: {drifts} counters differ; recounted {counted}", err=True)
        sys.exit(1)
    typer.echo(f"ok: recounted {counted}")
