"""Credentials outside of a cluster: the kubeconfig, read by the official ``kubernetes`` package.

That package parses the files and runs credential plugins; the requests are ours. It is imported
here, when a kubeconfig is needed, on a thread of its own.
"""

from __future__ import annotations

import os
import ssl
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from grpclb.resolvers.kubernetes.credentials import (
    Access,
    CredentialsError,
    Grant,
    parse_origin,
    tls_context,
)
from grpclb.resolvers.kubernetes.files import changed, read_file
from grpclb.resolvers.thread import off_loop

_DEFAULT = "~/.kube/config"


def require_package() -> None:
    """Raises ImportError that says what to install."""
    if find_spec("kubernetes") is None or find_spec("kubernetes.config") is None:
        raise ImportError(
            "this does not run in a pod (KUBERNETES_SERVICE_HOST is not set), and a kubeconfig "
            "needs the kubernetes package: pip install 'grpclb-client[kubernetes]'"
        )


def paths(access: Access) -> list[str]:
    """The files in use: the argument, KUBECONFIG, or the one in the home directory."""
    text = access.kubeconfig or os.environ.get("KUBECONFIG") or _DEFAULT
    return [os.path.expanduser(part) for part in text.split(os.pathsep) if part]


class KubeconfigCredentials:
    """The chosen context of a kubeconfig. Loaded again when a file changes, and after a 401."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._loaded: Any = None  # kubernetes.client.Configuration
        self._loaded_of: object = None
        self._tls: tuple[object, ssl.SSLContext] | None = None

    async def grant(self) -> Grant:
        return await off_loop(self._grant)

    def reject(self) -> None:
        self._loaded = None

    async def namespace(self) -> str:
        return await off_loop(lambda: namespace(self._access))

    def _grant(self) -> Grant:
        found = self._load()
        token = found.get_api_key_with_prefix("BearerToken") or found.get_api_key_with_prefix(
            "authorization"
        )
        if token and not (token.isascii() and token.isprintable()):
            raise CredentialsError(f"{self._name()}: the token is no printable ASCII")
        url: str = found.host
        if url.startswith("http://"):
            return Grant(parse_origin(url, None), None, "no token over plain http")
        server_name = found.tls_server_name or None
        return Grant(
            parse_origin(url, self._context(found), server_name),
            None if not token else token.removeprefix("Bearer "),
            self._name(),
        )

    def _load(self) -> Any:
        files = paths(self._access)
        now = tuple(changed(path) for path in files)
        if self._loaded is None or now != self._loaded_of:
            _check_files(files)
            self._loaded, self._loaded_of = _load(files, self._access), now
            self._tls = None
        elif self._loaded.refresh_api_key_hook is not None:
            self._loaded.refresh_api_key_hook(self._loaded)  # a plugin's token ends some day
        return self._loaded

    def _context(self, found: Any) -> ssl.SSLContext:
        skip = self._access.insecure_skip_tls_verify
        if not found.verify_ssl and not skip:
            raise CredentialsError(
                f"{self._name()}: insecure-skip-tls-verify is obeyed only together with the "
                "argument insecure_skip_tls_verify=True"
            )
        if found.proxy:
            raise CredentialsError(f"{self._name()}: proxy-url is not supported")
        files = (self._access.ca_file or found.ssl_ca_cert, found.cert_file, found.key_file)
        if self._tls is None or self._tls[0] != files:
            self._tls = (files, tls_context(*files, verify=not skip))
        return self._tls[1]

    def _name(self) -> str:
        context = self._access.context
        files = os.pathsep.join(paths(self._access))
        return f"kubeconfig {files}" + ("" if context is None else f", context {context}")


def namespace(access: Access) -> str:
    """The namespace of the context in use, else ``default``, as is for what cannot be read.

    Reads the YAML only: the package itself takes half a second to be imported.
    """
    try:
        files = _contents(paths(access))
        name = access.context or _current_context(files)
        contexts = [c for raw in files for c in raw.get("contexts") or () if c["name"] == name]
        chosen = contexts[0]["context"].get("namespace")
    except Exception:
        return "default"  # the watch will say what is wrong with the file
    return chosen if isinstance(chosen, str) and chosen else "default"


def _contents(files: list[str]) -> list[dict[str, Any]]:
    yaml = import_module("yaml")  # a dependency of that package
    return [yaml.safe_load(read_file(path)) for path in files if changed(path) is not None]


def _current_context(files: list[dict[str, Any]]) -> str | None:
    """The first file that names one decides, as in kubectl; the package takes the last."""
    return next((raw["current-context"] for raw in files if raw.get("current-context")), None)


def _check_files(files: list[str]) -> None:
    """Raises FileError before somebody less careful opens them."""
    there = [path for path in files if changed(path) is not None]
    for path in there or files[:1]:
        read_file(path)


def _load(files: list[str], access: Access) -> Any:
    config = import_module("kubernetes.config")
    found = import_module("kubernetes.client").Configuration()
    try:
        config.load_kube_config(
            config_file=os.pathsep.join(files),
            context=access.context or _current_context(_contents(files)),
            client_configuration=found,
            persist_config=False,
        )
    except config.ConfigException as error:
        raise CredentialsError(f"{os.pathsep.join(files)}: {error}") from None
    except Exception as error:
        # What it says may quote the file, and so a secret.
        kind = type(error).__name__
        raise CredentialsError(f"{os.pathsep.join(files)}: no kubeconfig ({kind})") from None
    return found
