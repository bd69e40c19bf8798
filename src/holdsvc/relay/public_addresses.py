"""Which addresses a webhook may reach: a caller names the endpoint, and must not reach into the operator's networks.

It is asked for the address that a socket is about to connect to, so a name that resolves inward, at first or later,
gains nothing.
"""

import ipaddress
from collections.abc import Sequence

from holdsvc.addresses import Network

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_IPV4_COMPATIBLE = ipaddress.IPv6Network("::/96")

REFUSED = tuple(
    ipaddress.ip_network(text)
    for text in (
        "168.63.129.16/32",  # Azure's host, which looks public
        "192.0.0.0/24",  # protocols of the network itself
        "192.88.99.0/24",  # relays of 6to4
        "64:ff9b:1::/48",  # NAT64 of local use
        "2001::/32",  # Teredo, which carries IPv4
        "fec0::/10",  # site-local, of old
    )
)
"""Networks that are refused although some releases of Python count them as global."""


class PublicAddresses:
    """The public internet, and the networks that the operator allows besides."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = allowed

    @property
    def some_plain(self) -> bool:
        """Whether any address may be reached without TLS."""
        return bool(self._allowed)

    def allows(self, host: str, *, plain: bool) -> bool:
        """Whether an address may be reached; `plain`, without TLS, in the operator's networks only."""
        address = ipaddress.ip_address(host.partition("%")[0])
        carried = _carried(address)
        if any(carried in network for network in self._allowed):
            return True
        return not plain and _is_public(carried)


def _carried(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, where it does."""
    if isinstance(address, ipaddress.IPv6Address):
        if (inner := address.ipv4_mapped or address.sixtofour) is not None:
            return inner
        if address in _NAT64 or (address in _IPV4_COMPATIBLE and int(address) > 1):
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _is_public(address: Address) -> bool:
    return (
        address.is_global
        and not (address.is_multicast or address.is_private or address.is_reserved or address.is_unspecified)
        and not any(address in network for network in REFUSED)
    )
