"""The API server of the namespaces' cluster: one EndpointSlice, as its controller would keep it."""

from collections.abc import Mapping

from integration.skew.cluster import HEADLESS, NAMESPACE, PORT
from integration.skew.namespaces import API_IP
from tests.support.kubernetes_objects import endpoint_object, slice_object
from tests.support.kubernetes_tls import TlsServer

_TOKEN = "token-of-the-clients"


class ControlPlane:
    """Tells those who watch of every change at once; `account` is what its clients need."""

    def __init__(self) -> None:
        self._server = TlsServer({_TOKEN}, host=API_IP, port=443)

    @property
    def account(self) -> Mapping[str, str]:
        """The files of a service account, by name."""
        return {"token": _TOKEN, "ca.crt": self._server.ca_pem, "namespace": NAMESPACE}

    def start(self) -> None:
        """Serve at the address that pods know from their environment."""
        self._server.__enter__()
        self._server.do(lambda api: api.services.add((NAMESPACE, HEADLESS)))

    def stop(self) -> None:
        """End the server and its connections."""
        self._server.__exit__(None, None, None)

    def publish(self, ready: Mapping[str, str], leaving: Mapping[str, str]) -> None:
        """The pods and their addresses; those that leave still serve."""
        endpoints = [
            endpoint_object(host, ready=True, serving=True, terminating=False, pod=name)
            for name, host in ready.items()
        ] + [
            endpoint_object(host, ready=False, serving=True, terminating=True, pod=name)
            for name, host in leaving.items()
        ]
        ports = (("grpc", PORT),)
        found = slice_object(f"{HEADLESS}-1", HEADLESS, endpoints, namespace=NAMESPACE, ports=ports)
        self._server.do(lambda api: api.put(found))
