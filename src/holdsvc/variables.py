"""The variables HOLDSVC_* as people read them: with their defaults, as a process has them, and misspelt."""

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from holdsvc.postgres import masked_dsn
from holdsvc.settings import PREFIX, Settings

CALLER_VARIABLES: Mapping[str, str] = {
    "API_KEY": "The key to call with.",
    "TLS_CA": "Authorities to trust, PEM file; setting it, or TLS_CERT, turns TLS on.",
    "TLS_CLIENT_CERT": "Certificate to show to a service that asks for one, PEM file.",
    "TLS_CLIENT_KEY": "Private key of that certificate, PEM file.",
}
"""What callers read besides LISTEN: no settings of the service, but no misspelt ones either."""


@dataclass(frozen=True)
class SettingRow:
    """One setting as people read it."""

    env_name: str
    default: str
    description: str


def rows() -> Iterator[SettingRow]:
    """Yields every setting with its default and description, in the order of the class."""
    defaults = Settings.model_construct()
    for name, value in shown(defaults).items():
        description = Settings.model_fields[name.removeprefix(PREFIX).lower()].description
        yield SettingRow(name, value, description or "")


def shown(settings: Settings) -> dict[str, str]:
    """Returns the settings as environment variables with passwords masked: what `holdsvc config` prints."""
    plain = settings.model_dump(mode="json")
    for name in ("dsn", "migrate_dsn"):
        plain[name] = masked_dsn(getattr(settings, name).get_secret_value())
    return {PREFIX + name.upper(): _text(value) for name, value in plain.items()}


def unknown_names(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Returns the HOLDSVC_* variables that no setting reads, most likely misspelt."""
    known = _known_names()
    return sorted(name for name in environment if name.upper().startswith(PREFIX) and name.upper() not in known)


def about_unknown_name(name: str) -> str:
    """Says that a variable is no setting, and which one may be meant."""
    near = difflib.get_close_matches(name.upper(), _known_names(), n=1)
    return f"{name} is no setting: " + (f"did you mean {near[0]}?" if near else "see `holdsvc config`")


def _known_names() -> list[str]:
    return [PREFIX + name.upper() for name in (*Settings.model_fields, *CALLER_VARIABLES)]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value)
