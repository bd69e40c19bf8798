"""Which addresses webhooks reach."""

import pytest

from holdsvc.addresses import parse_networks
from holdsvc.relay.public_addresses import PublicAddresses

INWARD = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.1", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("169.254.169.254", "169.254.0.1", "100.64.0.1", "100.100.100.200", "192.0.0.192", "192.0.2.1", "198.18.0.1"),
    *("198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16"),
    *("::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "fe80::1"),
    *("fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "64:ff9b::10.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
    "192.88.99.1",
]
PUBLIC = ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1", "2002:101:101::1"]


@pytest.mark.parametrize("host", INWARD)
def test_what_is_not_on_the_public_internet_is_refused(host: str) -> None:
    assert not PublicAddresses([]).allows(host, plain=False)
    assert not PublicAddresses([]).allows(host, plain=True)


@pytest.mark.parametrize("host", PUBLIC)
def test_the_public_internet_is_reached_by_tls_alone(host: str) -> None:
    assert PublicAddresses([]).allows(host, plain=False)
    assert not PublicAddresses([]).allows(host, plain=True)


@pytest.mark.parametrize("host", ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "fd00::7"])
def test_the_operators_networks_are_reached_with_and_without_tls(host: str) -> None:
    allowed = PublicAddresses(parse_networks("10.1.0.0/16, fd00::/8"))
    assert allowed.allows(host, plain=False)
    assert allowed.allows(host, plain=True)
    assert not allowed.allows("10.2.0.1", plain=False)
    assert not allowed.allows("1.1.1.1", plain=True)


@pytest.mark.parametrize("text", ["10.1.0.0", "10.1.0.0/16", "", " 10.1.0.0/16 ,fd00::/8,"])
def test_networks_are_read(text: str) -> None:
    assert len(parse_networks(text)) == len([part for part in text.split(",") if part.strip()])


@pytest.mark.parametrize("text", ["10.1.0.1/16", "internal", "10.1.0.0/99", "10.0.0.0/8;fd00::/8"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write networks as in"):
        parse_networks(text)
