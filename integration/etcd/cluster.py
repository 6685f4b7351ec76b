"""etcd clusters on 127.0.0.1, with faults at hand.

    with Cluster(find()[0]) as etcd:
        etcd.api.put("service/a", "127.0.0.1:50051")
        etcd.members[0].kill()
        etcd.members[0].start()

Data is kept below a temporary directory, which goes with the cluster. Every process is ended by
its own id.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from integration.etcd.api import Api, ApiError
from integration.etcd.install import Install
from tests.support.tls import Authority

_PATIENCE = 30.0
ROOT, PASSWORD = "root", "integration"


def reserved_port() -> tuple[socket.socket, int]:
    """A port that nobody else is given while the socket is open.

    It does not listen, so that a server may, which names the port and sets SO_REUSEADDR, as Go's
    do; whoever connects is refused until then.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return holder, holder.getsockname()[1]


class Member:
    """One etcd process, which may be ended and started again with the same data and ports."""

    def __init__(self, name: str, command: Sequence[str], port: int, log: Path, api: Api) -> None:
        self.name = name
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self.api = api  # asks this member alone
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, wait: bool = True) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, start_new_session=True
            )
        if wait:
            self.wait_listening()

    def wait_listening(self) -> None:
        """Until it accepts connections, be it without a leader."""
        end = time.monotonic() + _PATIENCE
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            if not self.alive or time.monotonic() > end:
                raise RuntimeError(f"etcd {self.name} did not start:\n{self.log()[-2000:]}")
            time.sleep(0.02)

    def wait_leader(self) -> None:
        """Until it can write."""
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                return self.api.touch()
            except (ApiError, OSError) as error:
                if not self.alive or time.monotonic() > end:
                    text = self.log()[-2000:]
                    raise RuntimeError(
                        f"etcd {self.name} has no leader ({error}):\n{text}"
                    ) from None
                time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL, and wait for the end. Harmless when repeated."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        self._signal(number)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)


class Cluster:
    """So many members, started together. With `auth` there is a user ROOT with PASSWORD."""

    def __init__(
        self,
        install: Install,
        members: int = 1,
        *,
        tls: Authority | None = None,
        auth: bool = False,
        token_ttl: int | None = None,
    ) -> None:
        self.install = install
        self.tls = tls
        self._auth = auth
        self._token_ttl = token_ttl
        self._dir = Path(tempfile.mkdtemp(prefix="grpclb-etcd-"))
        self.ca_file = str(self._dir / "ca.pem")
        if tls is not None:
            pair = tls.server("127.0.0.1", "localhost")
            for name, text in (("ca", tls.pem), ("cert", pair["cert"]), ("key", pair["key"])):
                (self._dir / f"{name}.pem").write_text(text or "")
        self.scheme = "http" if tls is None else "https"
        reserved = [reserved_port() for _ in range(2 * members)]
        self._holders = [holder for holder, _ in reserved]
        numbers = iter(port for _, port in reserved)
        ports = [(f"m{i}", next(numbers), next(numbers)) for i in range(members)]
        self._peers = ",".join(f"{name}=http://127.0.0.1:{peer}" for name, _, peer in ports)
        self.members = [self._member(*ports_of) for ports_of in ports]
        self.api = self.members[0].api

    def _member(self, name: str, client: int, peer: int) -> Member:
        url = f"{self.scheme}://127.0.0.1:{client}"
        many = "," in self._peers
        command = [
            self.install.etcd, "--name", name, "--data-dir", str(self._dir / name),
            "--listen-client-urls", url, "--advertise-client-urls", url,
            "--listen-peer-urls", f"http://127.0.0.1:{peer}",
            "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
            "--initial-cluster", self._peers, "--log-level", "error",
            # A member alone elects itself at once; three on a busy machine need more patience.
            "--heartbeat-interval", "100" if many else "10",
            "--election-timeout", "1000" if many else "100",
            # What is written outlives the process, and more is not asked of it; a disk that others
            # keep busy would take seconds for each write.
            "--unsafe-no-fsync",
            # Nor are its passwords to be kept from anyone: a hash took seconds on a busy machine.
            "--bcrypt-cost", "4",
        ]  # fmt: skip
        if self.tls is not None:
            command += ["--cert-file", str(self._dir / "cert.pem")]
            command += ["--key-file", str(self._dir / "key.pem")]
        if self._token_ttl is not None:
            command += ["--auth-token-ttl", str(self._token_ttl)]
        ca = None if self.tls is None else self.ca_file
        return Member(name, command, client, self._dir / f"{name}.log", Api(url, ca))

    @property
    def addresses(self) -> str:
        """``host:port,...`` of all members, as a target has them."""
        return ",".join(member.address for member in self.members)

    def target(self, service: str) -> str:
        return f"etcd://{self.addresses}/{service}"

    def leader(self) -> Member:
        """Who leads, as the first member that answers sees it."""
        for member in self.members:
            with contextlib.suppress(ApiError, OSError):
                ids = {m.api.member_id(): m for m in self.members if m.alive}
                return ids[member.api.leader_id()]
        raise RuntimeError("no member knows a leader")

    def followers(self) -> list[Member]:
        leader = self.leader()
        return [member for member in self.members if member is not leader]

    def start(self) -> Self:
        for member in self.members:
            member.start(wait=False)
        for member in self.members:
            member.wait_listening()
        for member in self.members:
            member.wait_leader()
        if self._auth:
            self.api.enable_auth(ROOT, PASSWORD)
            for member in self.members:
                member.api.log_in(ROOT, PASSWORD)
        return self

    def etcdctl(self, *arguments: str) -> str:
        """What etcdctl says. Raises CalledProcessError, and LookupError where there is none."""
        if self.install.etcdctl is None:
            raise LookupError("etcdctl is not installed")
        command = [self.install.etcdctl, f"--endpoints={self.scheme}://{self.members[0].address}"]
        if self.tls is not None:
            command.append(f"--cacert={self.ca_file}")
        if self._auth:
            command.append(f"--user={ROOT}:{PASSWORD}")
        environment = {**os.environ, "ETCDCTL_API": "3"}
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, env=environment, check=True,
            timeout=30,
        )  # fmt: skip
        return done.stdout

    def close(self) -> None:
        for member in self.members:
            member.kill()
        for holder in self._holders:
            holder.close()
        shutil.rmtree(self._dir, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
