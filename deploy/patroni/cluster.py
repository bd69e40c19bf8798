"""etcd and three nodes of Patroni on loopback, to see what a failover does.

    .venv/bin/python deploy/patroni/cluster.py FOLDER

prints the connection strings for the service and reads commands, one a line: `list`, `kill` (the leader, or a node that
is named), `crash` (its PostgreSQL alone), `orphan` (its Patroni alone), `start NODE`, `switchover`. At the end of its
input, or with Ctrl-C, it ends all that it started. It needs Debian's packages patroni, etcd-server and postgresql;
FOLDER must be new or empty.
"""

import argparse
import base64
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from holdsvc.embedded.server import AS_NOBODY, dying_with_parent

HERE = Path(__file__).resolve().parent
PROGRAMS = Path("/usr/lib/postgresql")
NAMES = ("pg1", "pg2", "pg3")

START_TIMEOUT_S = 120.0
CHANGE_TIMEOUT_S = 60.0
END_TIMEOUT_S = 20.0
_POLL_S = 0.05


def missing() -> list[str]:
    """What is not installed of what a cluster needs."""
    programs = [name for name in ("patroni", "etcd") if shutil.which(name) is None]
    return programs + ([] if any(PROGRAMS.glob("*/bin/postgres")) else ["postgresql"])


class NotNow(Exception):
    """The cluster is in no state for it."""


class Node:
    """One node: Patroni and the PostgreSQL that it runs."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.port = _free_port()
        self.rest_port = _free_port()
        self.data_dir = folder / name
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def postgres_pid(self) -> int | None:
        """The process id of its PostgreSQL; None: it does not run."""
        with suppress(FileNotFoundError, ValueError, IndexError):
            pid = int((self.data_dir / "postmaster.pid").read_text().split()[0])
            if Path(f"/proc/{pid}/cmdline").read_bytes().find(str(self.data_dir).encode()) >= 0:
                return pid
        return None

    def kill(self) -> None:
        """What a power failure does: Patroni, PostgreSQL and its sessions end in the middle of what they do."""
        self.orphan()
        self.crash()

    def orphan(self) -> None:
        """Kills Patroni alone: its PostgreSQL goes on, and does not learn that another is the leader."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def crash(self) -> None:
        """Kills PostgreSQL alone, with its sessions."""
        main = self.postgres_pid
        if main is not None:
            sessions = Path(f"/proc/{main}/task/{main}/children").read_text().split()
            for pid in (main, *map(int, sessions)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            _wait(lambda: self.postgres_pid is None, END_TIMEOUT_S, f"{self.name} does not end")


class Cluster:
    """etcd and three nodes in a folder; `timeouts` replaces settings of patroni.yml: ttl, loop_wait, retry_timeout.

    Must be started in the main thread, since all ends with the thread that started it.
    """

    def __init__(self, folder: Path, timeouts: Mapping[str, int] | None = None) -> None:
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        if any(self.folder.iterdir()):
            raise SystemExit(f"{self.folder} is not empty")
        self.nodes = {name: Node(self.folder, name) for name in NAMES}
        self._etcd: subprocess.Popen[bytes] | None = None
        self._etcd_ports = (_free_port(), _free_port())
        self._passwords = {name: secrets.token_hex(16) for name in ("superuser", "replication", "rest", "owner", "app")}
        self._configuration = self.folder / "patroni.yml"
        self._configuration.write_text(_configuration(timeouts or {}))

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def dsn(self) -> str:
        """What the service connects with."""
        return self._dsn("holdsvc_app", self._passwords["app"])

    @property
    def migrate_dsn(self) -> str:
        """What migrations connect with."""
        return self._dsn("holdsvc_owner", self._passwords["owner"])

    @property
    def rest_urls(self) -> list[str]:
        """Where each node's Patroni answers."""
        return [f"http://127.0.0.1:{node.rest_port}" for node in self.nodes.values()]

    def start(self) -> None:
        """Starts everything; returns when two nodes follow a leader and one of them is its synchronous standby."""
        client, peer = (f"http://127.0.0.1:{port}" for port in self._etcd_ports)
        listen = ["--listen-client-urls", client, "--advertise-client-urls", client]
        listen += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command = ["etcd", "--name=one", f"--data-dir={self.folder / 'etcd'}", f"--initial-cluster=one={peer}", *listen]
        self._etcd = self._spawn(command, "etcd", {})
        _wait(self._etcd_answers, START_TIMEOUT_S, f"etcd does not answer, see {self.folder / 'etcd.log'}")
        for name in self.nodes:
            self.start_node(name)
        self.wait_complete(START_TIMEOUT_S)

    def start_node(self, name: str) -> None:
        """Starts a node that is not running."""
        node = self.nodes[name]
        if node.process is not None and node.process.poll() is None:
            raise NotNow(f"{name} is running")
        listen, rest = f"127.0.0.1:{node.port}", f"127.0.0.1:{node.rest_port}"
        environment = {
            "PATRONI_NAME": name,
            "PATRONI_ETCD3_HOSTS": f"'127.0.0.1:{self._etcd_ports[0]}'",
            "PATRONI_POSTGRESQL_LISTEN": listen,
            "PATRONI_POSTGRESQL_CONNECT_ADDRESS": listen,
            "PATRONI_RESTAPI_LISTEN": rest,
            "PATRONI_RESTAPI_CONNECT_ADDRESS": rest,
            "PATRONI_POSTGRESQL_DATA_DIR": str(node.data_dir),
            "PATRONI_POSTGRESQL_BIN_DIR": str(max(PROGRAMS.glob("*/bin"), key=lambda each: int(each.parent.name))),
            "PATRONI_POSTGRESQL_PGPASS": str(self.folder / f"{name}.pgpass"),
            "PATRONI_SUPERUSER_USERNAME": "postgres",
            "PATRONI_SUPERUSER_PASSWORD": self._passwords["superuser"],
            "PATRONI_REPLICATION_USERNAME": "replicator",
            "PATRONI_REPLICATION_PASSWORD": self._passwords["replication"],
            "PATRONI_RESTAPI_USERNAME": "patroni",
            "PATRONI_RESTAPI_PASSWORD": self._passwords["rest"],
            "OWNER_PASSWORD": self._passwords["owner"],
            "APP_PASSWORD": self._passwords["app"],
        }
        node.process = self._spawn(["patroni", str(self._configuration)], name, environment)

    def stop(self) -> None:
        """Kills everything: no second start follows."""
        for node in self.nodes.values():
            node.kill()
        if self._etcd is not None:
            self._etcd.kill()
            self._etcd.wait()

    def members(self) -> dict[str, dict[str, Any]]:
        """What Patroni says of each node, from the first that answers: `role`, `state`, `timeline`, `lag`."""
        for url in self.rest_urls:
            with suppress(OSError, ValueError):
                return {member["name"]: member for member in _http(f"{url}/cluster")["members"]}
        return {}

    def named(self, role: str) -> str:
        """The name of the node in a role, empty without one."""
        return next((name for name, member in self.members().items() if member["role"] == role), "")

    @property
    def leader(self) -> Node:
        """The node that takes writes."""
        name = self.named("leader")
        if not name:
            raise NotNow("there is no leader")
        return self.nodes[name]

    def wait_complete(self, timeout_s: float = CHANGE_TIMEOUT_S) -> None:
        """Returns when there are a leader and two that follow it on its timeline, one of them synchronous."""

        def complete() -> bool:
            members = self.members().values()
            states = sorted(member["state"] for member in members)
            follows = states in (["running"] * 3, ["running", "streaming", "streaming"])
            one_timeline = len({member.get("timeline") for member in members}) == 1
            return follows and one_timeline and bool(self.named("sync_standby")) and bool(self.named("leader"))

        try:
            _wait(complete, timeout_s, "the nodes do not come together")
        except TimeoutError as error:
            told = {name: [member.get("role"), member.get("state")] for name, member in self.members().items()}
            raise TimeoutError(f"{error}: {told}; see the logs in {self.folder}") from None

    def switchover(self) -> None:
        """Makes the synchronous standby the leader; returns when Patroni says that it is."""
        leader, candidate = self.named("leader"), self.named("sync_standby")
        if not leader or not candidate:
            raise NotNow("there is no leader with a synchronous standby")
        body = json.dumps({"leader": leader, "candidate": candidate}).encode()
        login = base64.b64encode(f"patroni:{self._passwords['rest']}".encode()).decode()
        headers = {"authorization": f"Basic {login}", "content-type": "application/json"}
        url = f"http://127.0.0.1:{self.nodes[leader].rest_port}/switchover"
        _http(url, body, headers, CHANGE_TIMEOUT_S)
        _wait(lambda: self.named("leader") == candidate, CHANGE_TIMEOUT_S, f"{candidate} does not become the leader")

    def _etcd_answers(self) -> bool:
        with suppress(OSError, ValueError):
            return str(_http(f"http://127.0.0.1:{self._etcd_ports[0]}/health").get("health")) == "true"
        return False

    def _dsn(self, user: str, password: str) -> str:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes.values())
        return f"postgresql://{user}:{password}@{hosts}/holdsvc?target_session_attrs=read-write"

    def _spawn(self, command: Sequence[str], name: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        own = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "PATRONI_", "ETCD_"))}
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                # PostgreSQL refuses to run as root.
                [*AS_NOBODY, *command] if os.geteuid() == 0 else command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**own, **environment},
                start_new_session=True,  # Ctrl-C is for this program
                preexec_fn=dying_with_parent(),  # noqa: PLW1509 - touches nothing that another thread may hold
            )


def _configuration(timeouts: Mapping[str, int]) -> str:
    """patroni.yml for a trial on this machine."""
    found = yaml.safe_load((HERE / "patroni.yml").read_text())
    bootstrap, postgresql = found["bootstrap"], found["postgresql"]
    bootstrap["dcs"] |= timeouts
    bootstrap["post_bootstrap"] = bootstrap["post_bootstrap"].replace("/etc/patroni", str(HERE))
    # What is thrown away need not be flushed while it is made; commits are.
    bootstrap["initdb"].append("no-sync")
    postgresql["basebackup"].append("no-sync")
    postgresql["parameters"]["unix_socket_directories"] = ""
    found["watchdog"]["mode"] = "off"  # containers seldom have one
    return str(yaml.safe_dump(found))


def _http(url: str, body: bytes | None = None, headers: Mapping[str, str] = {}, timeout_s: float = 2.0) -> Any:
    request = urllib.request.Request(url, body, dict(headers))  # noqa: S310 - an address of this program's
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
        text = answer.read()
    return json.loads(text) if text.startswith(b"{") else text


def _free_port() -> int:
    """A free port outside of the range for outgoing connections, so that it stays free while a node is down."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", 10_000 + secrets.randbelow(20_000)))
            return int(probe.getsockname()[1])


def _wait(condition: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(otherwise)
        time.sleep(_POLL_S)


def _obey(cluster: Cluster, verb: str, name: str) -> None:
    node = cluster.nodes[name] if name else cluster.leader
    if verb in ("kill", "crash", "orphan"):
        getattr(node, verb)()
    elif verb == "start":
        cluster.start_node(node.name)
    elif verb == "switchover":
        cluster.switchover()
    for each, member in cluster.members().items():
        print(each, member["role"], member["state"], f"timeline {member.get('timeline', '-')}", sep="\t")


def main() -> int:
    """Runs a cluster until its input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fast", action="store_true", help="ttl 5 s, loop_wait 1 s, retry_timeout 2 s: for a trial")
    arguments = parser.parse_args()
    if missing():
        print(f"Not installed: {', '.join(missing())}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    fast = {"ttl": 5, "loop_wait": 1, "retry_timeout": 2}
    with Cluster(arguments.folder, fast if arguments.fast else {}) as cluster, suppress(KeyboardInterrupt):
        print(f"export HOLDSVC_DSN='{cluster.dsn}'\nexport HOLDSVC_MIGRATE_DSN='{cluster.migrate_dsn}'", flush=True)
        print(f"Patroni: {' '.join(cluster.rest_urls)}", flush=True)
        for line in sys.stdin:
            verb, _, name = line.strip().partition(" ")
            try:
                _obey(cluster, verb, name)
            except (KeyError, NotNow, OSError) as error:
                print(f"not done: {error!r}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
