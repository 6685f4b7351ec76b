"""One pod of the demo: a real gRPC server that answers every call with its own name.

    python -m integration.demo.backend NAME HOST:PORT

Prints ``ready`` once it serves. SIGTERM stops it as Kubernetes stops a pod (no new calls, running
ones end, GOAWAY to the clients); it also ends when its standard input does, and so never outlives
the demo.
"""

import os
import signal
import sys
import threading
import time
from concurrent import futures

import grpc

METHOD = "/demo.Greeter/WhoAreYou"
SERVICE_TIME = 0.002  # seconds that an answer takes, so that some calls are in flight at any moment
GRACE = 5.0


def serve(name: str, address: str) -> None:
    """Serve `METHOD` at `address` until SIGTERM or the end of standard input."""

    def who_are_you(request: bytes, context: grpc.ServicerContext) -> bytes:
        time.sleep(SERVICE_TIME)
        return name.encode()

    _, service, method = METHOD.split("/")
    # Without this, a server could share its port with another program that has it already.
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=32), options=[("grpc.so_reuseport", 0)]
    )
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                service, {method: grpc.unary_unary_rpc_method_handler(who_are_you)}
            )
        ]
    )
    server.add_insecure_port(address)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is for the demo itself
    server.start()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    print("ready", flush=True)
    stopping.wait()
    server.stop(GRACE).wait()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    serve(*sys.argv[1:])
