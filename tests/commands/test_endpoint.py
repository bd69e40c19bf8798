"""The service that commands call, `make load` and `make smoke` too, as the environment names it."""

from pathlib import Path

import pytest

from holdsvc.commands import CommandError
from holdsvc.commands.endpoint import Endpoint


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("", "127.0.0.1:50051"),
        ("0.0.0.0:7", "127.0.0.1:7"),
        ("[::]:7", "[::1]:7"),
        ("shop.example:443", "shop.example:443"),
    ],
)
def test_calls_go_where_the_service_listens(listen: str, address: str) -> None:
    assert Endpoint.load(environment={"HOLDSVC_LISTEN": listen}).address == address


def test_an_address_of_the_option_replaces_that_of_the_environment() -> None:
    assert Endpoint.load("other.example:1", {"HOLDSVC_LISTEN": "shop.example:443"}).address == "other.example:1"


@pytest.mark.parametrize("name", ["HOLDSVC_TLS_CA", "HOLDSVC_TLS_CLIENT_KEY"])
def test_a_missing_file_of_tls_is_told_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(CommandError, match=f"{name}: there is no file"):
        Endpoint.load(environment={name: str(tmp_path / "absent.pem")})


def test_a_certificate_without_its_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "client.pem").touch()
    with pytest.raises(CommandError, match="set both or none"):
        Endpoint.load(environment={"HOLDSVC_TLS_CLIENT_CERT": str(tmp_path / "client.pem")})
