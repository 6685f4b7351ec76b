"""A small Kubernetes made of network namespaces: what a client sees of a cluster, on one machine.

`enter()` runs this program again inside namespaces of its own (network, mounts, processes). So no
packet leaves, nothing of the machine is changed, and all of it is gone when the program is, however
it ends. Inside, `Node` is the one node of the cluster:

- every pod has a network namespace and an address of its own, on a veth pair that is routed by the
  node, as kind's own network does it; a pod that is killed takes its namespace with it
- the Service address is translated by nftables, for each connection to a pod chosen at random, as
  kube-proxy's nftables mode does it
- /etc/resolv.conf and the service account's files are where a pod has them

Root is not needed where unprivileged user namespaces are allowed.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from integration.skew.cluster import ClusterError

GATEWAY = "10.244.0.1"
SERVICE_IP = "10.96.0.80"
DNS_IP = "10.96.0.10"
API_IP = "10.96.0.1"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_INSIDE = "GRPCLB_SKEW_INSIDE"
_TOOLS = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
    "ip": "iproute2",
    "nft": "nftables",
}
_NEW = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
_ROOT = Path(__file__).resolve().parents[2]
# Wait for a line, which says that the pod's network is there, then become the program.
_GATE = 'read -r _ && exec "$@"'


def unshare_command() -> list[str]:
    """How to enter namespaces here. ClusterError says what is missing, or what is not allowed."""
    if sys.platform != "linux":
        raise ClusterError("platform: network namespaces exist on Linux only")
    missing = [tool for tool in _TOOLS if shutil.which(tool, path=_path()) is None]
    if missing:
        packages = " ".join(sorted({_TOOLS[tool] for tool in missing}))
        raise ClusterError(f"not installed: {', '.join(missing)} (apt-get install {packages})")
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *as_root, *_NEW, "--"]
    probe = "mount -t tmpfs none /run && nft add table ip probe && nft add chain ip probe nat "
    probe += "'{ type nat hook prerouting priority dstnat; }'"
    run = subprocess.run(
        [*command, "sh", "-c", probe],
        env=os.environ | {"PATH": _path()},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        reason = run.stderr.strip().replace("\n", " ")
        raise ClusterError(f"platform: no network namespaces with NAT here: {reason}")
    return command


def enter(arguments: Sequence[str]) -> NoReturn:
    """Become `python -m integration.skew` with these arguments, inside."""
    command = [*unshare_command(), sys.executable, "-m", "integration.skew", *arguments]
    os.chdir(_ROOT)
    os.execvpe(command[0], command, os.environ | {_INSIDE: "1", "PATH": _path()})


def inside() -> bool:
    """Whether this process is the one that `enter` started."""
    return _INSIDE in os.environ


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # not on every user's path


@dataclass(slots=True)
class Pod:
    """A program in a network namespace of its own."""

    name: str
    host: str
    process: subprocess.Popen[str] = field(repr=False)


@dataclass(slots=True)
class Node:
    """The node: its network, and the pods on it. Only inside of `enter`."""

    _next: int = 10  # of the pods' addresses

    def prepare(self, account: Mapping[str, str], domain: str) -> None:
        """Lay out the network and the files that are the same in all pods."""
        resolv_conf = Path(os.path.realpath("/etc/resolv.conf"))
        _run("mount", "-t", "tmpfs", "none", "/run")
        ours = Path("/run/resolv.conf")
        _, _, parents = domain.partition(".")
        search = f"{domain} {parents} {parents.partition('.')[2]}"
        ours.write_text(f"search {search}\nnameserver {DNS_IP}\noptions ndots:5\n")
        if resolv_conf.is_relative_to("/run"):  # systemd-resolved's, hidden by now
            resolv_conf.parent.mkdir(parents=True, exist_ok=True)
            resolv_conf.touch()
        _run("mount", "--bind", str(ours), str(resolv_conf))
        ACCOUNT.mkdir(parents=True)
        for name, content in account.items():
            (ACCOUNT / name).write_text(content)
        # Pods see these addresses behind their default route: no interface of theirs has them.
        _ip(
            "link set lo up",
            f"addr add {DNS_IP}/32 dev lo",
            f"addr add {API_IP}/32 dev lo",
        )
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    def start(self, name: str, command: Sequence[str], **environment: str) -> Pod:
        """Start `command` in a new pod; it can be reached when this returns."""
        self._next += 1
        host, device = f"10.244.0.{self._next}", f"veth{self._next}"
        process = subprocess.Popen(
            ["unshare", "--net", "--", "sh", "-c", _GATE, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            env=_pod_environment() | environment,
            process_group=0,  # Ctrl-C in a terminal is for the runner alone
        )
        pod = Pod(name, host, process)
        assert process.stdin is not None
        _wait_for_namespace(process.pid)
        _ip(f"link add {device} type veth peer name eth0 netns {process.pid}")
        _ip(
            f"addr add {GATEWAY}/32 dev {device}",
            f"link set {device} up",
            f"route add {host}/32 dev {device}",
        )
        _ip(
            "link set lo up",
            f"addr add {host}/32 dev eth0",
            "link set eth0 up",
            f"route add {GATEWAY} dev eth0 scope link",
            f"route add default via {GATEWAY}",
            inside_of=process.pid,
        )
        process.stdin.write("go\n")
        process.stdin.flush()
        return pod

    def translate(self, port: int, hosts: Iterable[str]) -> None:
        """Have the Service address lead to one of `hosts` at random, for each new connection."""
        backends = [f"{index} : {host} . {port}" for index, host in enumerate(hosts)]
        match = f"ip daddr {SERVICE_IP} tcp dport {port}"
        rules = ["add table ip services", "delete table ip services", "add table ip services"]
        if backends:
            choice = f"numgen random mod {len(backends)} map {{ {', '.join(backends)} }}"
            rules += [
                "add chain ip services nat { type nat hook prerouting priority dstnat; }",
                f"add rule ip services nat {match} dnat to {choice}",
            ]
        else:  # nobody is there: a refusal at once, rather than silence
            rules += [
                "add chain ip services none { type filter hook forward priority filter; }",
                f"add rule ip services none {match} reject with tcp reset",
            ]
        _run("nft", "-f", "-", text="\n".join(rules) + "\n")


def nftables_version() -> str:
    """For the report."""
    return _run("nft", "--version").strip()


def _pod_environment() -> dict[str, str]:
    kept = {
        key: value
        for key, value in os.environ.items()
        if "proxy" not in key.lower() and not key.startswith(("GRPC_", "KUBE"))
    }
    return kept | {"KUBERNETES_SERVICE_HOST": API_IP, "KUBERNETES_SERVICE_PORT": "443"}


def _wait_for_namespace(pid: int) -> None:
    mine = os.readlink("/proc/self/ns/net")
    for _ in range(10_000):
        if os.readlink(f"/proc/{pid}/ns/net") != mine:
            return
        time.sleep(0.001)
    raise ClusterError("a pod did not get a network namespace")


def _ip(*commands: str, inside_of: int | None = None) -> None:
    where = [] if inside_of is None else ["nsenter", "-t", str(inside_of), "-n"]
    _run(*where, "ip", "-batch", "-", text="\n".join(commands) + "\n")


def _run(*command: str, text: str = "") -> str:
    run = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if run.returncode:
        raise ClusterError(f"{' '.join(command)}: {(run.stderr or run.stdout).strip()}\n{text}")
    return run.stdout
