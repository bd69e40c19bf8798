"""Addresses as people write them: `host:port`, `[ipv6]:port`, networks, and origins of pages."""

import ipaddress
import re
from urllib.parse import urlsplit

_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?", re.ASCII)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def split_address(address: str) -> tuple[str, int]:
    """Splits `host:port` or `[ipv6]:port`; raises ValueError when it is neither."""
    host, colon, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    bracketed = bare != host
    if not colon or not bare or (":" in bare) != bracketed or not (port.isascii() and port.isdigit()):
        raise ValueError(f"{address!r} is not an address: write host:port, as in 127.0.0.1:50051 or [::1]:50051")
    if int(port) > 65535:
        raise ValueError(f"{address!r} has no valid port: ports go from 0 (any free one) to 65535")
    return bare, int(port)


def join_address(host: str, port: int) -> str:
    """The opposite of `split_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(address: str) -> bool:
    """Tells whether only programs on this machine reach the address."""
    host, _ = split_address(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_networks(text: str) -> list[Network]:
    """Reads networks with commas between them; raises ValueError."""
    try:
        return [ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ValueError(f"{error}: write networks as in 10.1.0.0/16,fd00::/8") from None


def origins_of(text: str) -> frozenset[str]:
    """Reads origins separated by commas, as a browser writes them; raises ValueError."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    for origin in found:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is not an origin: write scheme and host, as in https://shop.example.com")
    return frozenset(found)


def check_urls(text: str) -> None:
    """Raises ValueError for what is no list of http addresses separated by commas."""
    for url in filter(None, (part.strip() for part in text.split(","))):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("write http://host:8008, several separated by commas")
