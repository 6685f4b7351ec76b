"""The server of a pod: it answers every call with the pod's name.

    python -m integration.skew.pod [--port PORT] [--name NAME]

The name is POD_NAME unless given. It serves gRPC health checks too (the readiness probe), prints
``ready`` once it serves, and on SIGTERM ends as a pod should: no longer ready, no new calls, the
running ones end within `GRACE`. What must happen before that (no new calls are *sent*) is for the
preStop hook, and for the time it gives.
"""

import argparse
import os
import signal
import threading
import time
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2_grpc

METHOD = "/grpclb.skew.Pod/Name"
PORT = 50051
SERVICE_TIME = 0.002  # seconds that an answer takes, so that some calls are in flight at any moment
GRACE = 5.0


def serve(name: str, port: int) -> None:
    """Serve until SIGTERM."""

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        time.sleep(SERVICE_TIME)
        return name.encode()

    _, service, method = METHOD.split("/")
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(service, {method: handler})]
    )
    healthy = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    server.add_insecure_port(f"0.0.0.0:{port}")
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    server.start()
    print("ready", flush=True)
    stopping.wait()
    healthy.enter_graceful_shutdown()
    server.stop(GRACE).wait()


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m integration.skew.pod")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--name", default=os.environ.get("POD_NAME", "pod"))
    arguments = parser.parse_args()
    serve(arguments.name, arguments.port)


if __name__ == "__main__":
    main()
