"""kubectl, kind and docker as they look from outside, for tests of what drives them.

    python integration/fake_tools.py kubectl --context kind-grpclb get pods ...

A folder, $FAKE_CLUSTER, is the cluster: `calls` has every command line, `state.json` when each pod
becomes ready, leaves and is gone. So each command tells at any moment what it should; `logs -f`
prints what a client would have seen. Files there make trouble: `no-engine`, `no-cluster`,
`never-ready`, `cut-logs` (the first `logs` of each client breaks off), `client-fails`.
"""

import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STATE = Path(os.environ["FAKE_CLUSTER"])
READY_AFTER, PRE_STOP, DNS_LAG, WATCH_LAG = 0.2, 0.6, 0.3, 0.05
TICK, RATE = 0.05, 60  # seconds, calls in a tick: shared evenly by 3 and by 6


def main(tool: str, arguments: list[str]) -> int:
    """Carry out one command; its exit code."""
    with (STATE / "calls").open("a") as calls:
        calls.write(" ".join([tool, *arguments]) + "\n")
    match tool, arguments:
        case "docker", ["version", *_]:
            return int(trouble("no-engine"))
        case "docker", ["build", *_]:
            print("building")
        case "kind", ["get", "clusters"]:
            print("" if trouble("no-cluster") else "other\ngrpclb")
        case "kind", ["create" | "delete" | "load", *_]:
            print("Thanks for using kind!")
        case "kubectl", ["--context", _, *rest]:
            return kubectl([word for word in rest if word not in ("--namespace", "grpclb-skew")])
        case _:
            sys.exit(f"unknown command: {tool} {arguments}")
    return 0


def kubectl(arguments: list[str]) -> int:
    """kubectl, without --context and --namespace."""
    match arguments:
        case ["version", *_]:
            print(json.dumps({"serverVersion": {"gitVersion": "v1.99.0"}}))
        case ["apply", "-f", "-"]:
            apply(sys.stdin.read())
        case ["rollout", "status", *_]:
            if trouble("never-ready"):
                print("error: timed out waiting for the condition", file=sys.stderr)
                return 1
            time.sleep(READY_AFTER)
        case ["scale", *_] | ["rollout", "restart", _] | ["delete", "pod", *_]:
            with cluster() as state:
                change(state, arguments)
        case ["delete", "job", *_]:
            (STATE / "stop").touch()
        case ["delete", *_]:
            pass
        case ["logs", "--follow", job]:
            return logs(job[-1])
        case ["get", *what]:
            return get(what)
        case _:
            sys.exit(f"unknown command: kubectl {arguments}")
    return 0


def change(state: dict[str, Any], arguments: list[str]) -> None:
    """What is done to pods."""
    match arguments:
        case ["scale", _, replicas]:
            state["replicas"] = int(replicas.partition("=")[2])
            fill(state)
        case ["rollout", *_]:
            roll(state)
        case [_, _, "--all", *_]:
            state["pods"] = {}
        case [_, _, name, *_]:
            state["pods"][name] |= {"leaves": time.time(), "gone": time.time()}
            fill(state)


def apply(manifest: str) -> None:
    """A manifest, kept for the test to look at."""
    name = manifest.partition("kind: ")[2].split()[0]
    (STATE / f"{name}.yaml").write_text(manifest)


def get(what: list[str]) -> int:
    """`kubectl get`."""
    if what[0] == "namespace":
        print("namespace/grpclb-skew")
    elif what[0] == "nodes":
        print(json.dumps({"items": [{}, {}, {}]}))
    elif what[0] == "events":
        print("LAST SEEN   TYPE   REASON\n3s   Warning   ErrImagePull")
    elif what[0].startswith("job/"):
        print("1" if trouble("client-fails") else "", end="")
    elif "--watch" in what:
        watch()
    elif "json" in what:
        now = time.time()
        pods = {name: pod for name, pod in read()["pods"].items() if now < pod["gone"]}
        print(json.dumps({"items": [document(name, pod, now) for name, pod in pods.items()]}))
    else:
        print("NAME   READY   STATUS\napi-1   0/1   ErrImagePull")
    return 0


def watch() -> None:
    """Print an event for each change until killed."""
    told: dict[str, str] = {}
    while True:
        now = time.time()
        for name, pod in read()["pods"].items():
            known = "MODIFIED" if name in told else "ADDED"
            kind = "DELETED" if now >= pod["gone"] else known
            event = json.dumps({"type": kind, "object": document(name, pod, now)})
            if told.get(name) != event and (kind != "DELETED" or name in told):
                print(event, flush=True)
                told[name] = event
        time.sleep(0.02)


def document(name: str, pod: dict[str, float], now: float) -> dict[str, Any]:
    """A pod as the API shows it."""
    metadata = {"name": name}
    if now >= pod["leaves"]:
        metadata["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    status = "True" if now >= pod["ready"] else "False"
    return {
        "kind": "Pod",
        "metadata": metadata,
        "status": {"conditions": [{"type": "Ready", "status": status}]},
    }


def logs(side: str) -> int:
    """What the client of a side prints; the same from the start each time it is asked."""
    if trouble("client-fails"):
        print("Traceback (most recent call last):\nSomeError: a reason", flush=True)
        return 0
    once = STATE / f"cut-{side}"
    cut = trouble("cut-logs") and not once.exists()
    once.touch()
    with cluster() as state:
        began = state.setdefault(f"began-{side}", time.time())
    first = {} if side != "a" else {"connections": dict.fromkeys(read()["pods"], 10)}
    say(side, 0, began, ready=True, workers=4, grpcio="1.99.0", ttl=1.0, **first)
    number = 1
    while True:
        at = began + number * TICK
        time.sleep(max(0.0, at - time.time()))
        pods = seen(side, read()["pods"], began, at)
        calls = {pod: RATE // len(pods) for pod in pods}
        say(side, number, at, calls=calls, errors={})
        if (STATE / "stop").exists():
            say(side, number + 1, at, end=True)
            return 0
        if cut and number == 5:
            print('{"side": "cut in the mid', flush=True)
            return 0
        number += 1


def say(side: str, number: int, at: float, **fields: Any) -> None:
    """One line of a client."""
    print(json.dumps({"side": side, "n": number, "at": at, **fields}), flush=True)


def seen(side: str, pods: dict[str, Any], began: float, at: float) -> list[str]:
    """The pods that a client of this side calls at a time."""
    lag = {"c": DNS_LAG, "d": WATCH_LAG}.get(side, 0.0)
    alive = [name for name, pod in pods.items() if pod["ready"] + lag <= at < pod["leaves"]]
    if side == "a":
        return alive[:1]
    first = [name for name in alive if pods[name]["ready"] < began]
    return first or alive if side == "b" else alive


def fill(state: dict[str, Any]) -> None:
    """Start pods until there are as many as wanted."""
    now = time.time()
    count = sum(1 for pod in state["pods"].values() if now < pod["leaves"])
    for _ in range(state["replicas"] - count):
        state["last"] += 1
        pod = {"ready": now + READY_AFTER, "leaves": 1e12, "gone": 1e12}
        state["pods"][f"api-5d9c-p{state['last']}"] = pod


def roll(state: dict[str, Any]) -> None:
    """Replace all pods."""
    leaves = time.time() + READY_AFTER + 0.1
    for pod in state["pods"].values():
        if pod["leaves"] > leaves:
            pod |= {"leaves": leaves, "gone": leaves + PRE_STOP}
    now = time.time()
    for _ in range(state["replicas"]):
        state["last"] += 1
        pod = {"ready": now + READY_AFTER, "leaves": 1e12, "gone": 1e12}
        state["pods"][f"api-77ff-p{state['last']}"] = pod


def trouble(name: str) -> bool:
    """Whether the test asked for it."""
    return (STATE / name).exists()


def read() -> dict[str, Any]:
    """The state now."""
    with cluster() as state:
        return state


@contextmanager
def cluster() -> Iterator[dict[str, Any]]:
    """The state, locked, and written back."""
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = STATE / "state.json"
        text = file.read_text() if file.exists() else '{"replicas": 0, "last": 0, "pods": {}}'
        state: dict[str, Any] = json.loads(text)
        yield state
        if (after := json.dumps(state)) != text:
            file.write_text(after)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
