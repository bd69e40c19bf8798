"""A broker that speaks Kafka's protocol over TCP, in a process of its own: that of librdkafka, which its tests use.

Run it as a program; it prints its address and serves until its standard input ends. It checks producer ids and sequence
numbers of idempotent producers and makes topics when they are first named; it keeps records in memory and knows neither
CreateTopics nor TLS and SASL.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PARTITIONS = 4


@contextmanager
def kafka_broker() -> Iterator[str]:
    """Runs one; its address."""
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def main() -> None:
    """Serves."""
    from confluent_kafka.admin import AdminClient

    # The broker lives as long as this client.
    options: dict[str, str | int | float | bool] = {"test.mock.num.brokers": 1}
    client = AdminClient(options)
    [broker] = client.list_topics(timeout=30).brokers.values()
    sys.stdout.write(f"{broker.host}:{broker.port}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
