"""``google_default``: TLS, and a token of Google's Application Default Credentials (A27).

grpcio has C-core's own implementation inside, but no public way to it; google-auth (extra
``xds-google``) knows more kinds of credentials. It has types for a part of itself only, so that
what comes from it is Any here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import grpc

from grpclb.resolvers.xds.errors import BootstrapError

_EXTRA = (
    "xds: google_default credentials need google-auth, which is not installed: "
    "pip install 'grpclb-client[xds-google]'"
)
_WAY_OUT = (
    "GOOGLE_APPLICATION_CREDENTIALS names a file, `gcloud auth application-default login` makes "
    "one, and machines of Google's cloud have a metadata server"
)
_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
# Seconds for one HTTP request; google-auth's own two minutes would keep the next server waiting.
_PATIENCE = 20.0


def require() -> None:
    """Raises ImportError that names the extra, if it is not installed. Loads nothing of it."""
    for module in ("google", "google.auth", "requests"):
        if find_spec(module) is None:
            raise ImportError(_EXTRA, name=module)


def find(uri: str) -> grpc.ChannelCredentials:
    """For the server at `uri`, from what is there now. Raises BootstrapError that says what is not.

    Blocks for seconds: not for a loop. The token is fetched later, by a thread of grpcio's, for
    each call; grpcio sends it over TLS only.
    """
    try:
        auth = importlib.import_module("google.auth")
        plugins = importlib.import_module("google.auth.transport.grpc")
        requests = importlib.import_module("google.auth.transport.requests")
    except ImportError as error:
        raise BootstrapError(f"{_EXTRA} ({error})") from None
    request = _Request(requests.Request())
    try:
        credentials, _ = auth.default(default_scopes=_SCOPES, request=request)
    except Exception as error:  # a file of strangers, read by strangers: also AttributeError
        reason = f"{_text(error)} ({_WAY_OUT})"
        raise BootstrapError(f"xds: google_default credentials: {reason}") from None
    # A service account signs a token for this host by itself, as in every gRPC client.
    plugin = plugins.AuthMetadataPlugin(credentials, request, default_host=_host(uri))
    return grpc.composite_channel_credentials(
        grpc.ssl_channel_credentials(), grpc.metadata_call_credentials(_Plugin(plugin))
    )


def _host(uri: str) -> str:
    """``dns:///host:443`` without what is usual."""
    return uri.rpartition("/")[2].removesuffix(":443")


def _text(error: Exception) -> str:
    """In words. google-auth's errors have a text, and then their reason or a whole response."""
    kind = importlib.import_module("google.auth.exceptions").GoogleAuthError
    if not isinstance(error, kind):
        return f"{type(error).__name__}: {error}"
    said = error.args[:1] + tuple(part for part in error.args[1:] if isinstance(part, Exception))
    return ": ".join(map(str, said)) or type(error).__name__


class _Request:
    """google-auth's transport, with less patience."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self.session = request.session  # google-auth prepares it for some metadata servers

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **more: Any,
    ) -> Any:
        return self._request(url, method, body, headers, timeout or _PATIENCE, **more)


class _Plugin(grpc.AuthMetadataPlugin):
    """google-auth's plugin; what it raises fails the RPC, and is not logged with a traceback."""

    def __init__(self, plugin: Callable[[Any, Any], None]) -> None:
        self._plugin = plugin

    def __call__(
        self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback
    ) -> None:
        try:
            self._plugin(context, callback)
        except Exception as error:
            callback((), RuntimeError(f"google_default credentials: no token: {_text(error)}"))
