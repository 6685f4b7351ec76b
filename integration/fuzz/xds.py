"""What a management server or a bootstrap may say: any bytes at all (FIGURES F45).

    python -m integration.fuzz.xds FOLDER -max_total_time=60

The first byte of an input chooses what is read. Passes: a value, or a reason in words; nothing may
be raised, and the net that catches our own mistakes must catch nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["grpclb.resolvers.xds", "grpclb.policies"]):
    from grpclb.control.registries import POLICIES
    from grpclb.resolvers.xds import messages as m
    from grpclb.resolvers.xds.bootstrap import load_bootstrap
    from grpclb.resolvers.xds.errors import BootstrapError
    from grpclb.resolvers.xds.kinds import Kinds, ResourceKind
    from grpclb.resolvers.xds.wire import decode_response

from tests.resolvers.xds.test_any_bytes import SEEDS
from tests.support.xds_resources import pack, wrapped

KINDS = Kinds.of(POLICIES)
_BY_URL = KINDS.by_url
_BOOTSTRAP = b"""{"xds_servers": [{"server_uri": "a:1", "channel_creds": [{"type": "tls",
"config": {"ca_certificate_file": "/ca"}}], "server_features": ["fail_on_data_errors"]}],
"node": {"id": "n", "metadata": {"a": [1]}, "locality": {"zone": "z"}},
"authorities": {"x": {"client_listener_resource_name_template": "xdstp://x/%s"}}}"""


def _resource(kind: ResourceKind, url: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        parsed = kind.parse(url, data)
        assert (parsed.resource is None) == bool(parsed.error), parsed
        assert "grpclb could not read it" not in parsed.error, parsed.error

    return read


def _response(data: bytes) -> None:
    response = decode_response(data)
    if response is not None:
        kind = _BY_URL.get(response.type_url)
        for url, value in response.resources if kind is not None else ():
            assert kind is not None
            _resource(kind, url)(value)


def _bootstrap(data: bytes) -> None:
    try:
        load_bootstrap("{" + data.decode(errors="replace"))
    except BootstrapError as error:
        if not str(error):
            raise


READERS = (
    *(_resource(kind, kind.type_url) for kind in _BY_URL.values()),
    *(_resource(kind, m.TYPE_PREFIX + m.RESOURCE_WRAPPER) for kind in _BY_URL.values()),
    _response,
    _bootstrap,
)


def one_input(data: bytes) -> None:
    if data:
        READERS[data[0] % len(READERS)](data[1:])


def write_seeds(folder: Path) -> None:
    kinds = list(_BY_URL.values())
    found: list[bytes] = [bytes([len(READERS) - 1]) + _BOOTSTRAP[1:]]
    response: Any = m.message("envoy.service.discovery.v3.DiscoveryResponse")(
        type_url=KINDS.eds.type_url, version_info="1", nonce="n"
    )
    for kind, message in SEEDS:
        number = [k.short for k in kinds].index(kind.short)
        found.append(bytes([number]) + pack(message).value)
        found.append(bytes([number + len(kinds)]) + wrapped(message, "name").value)
        packed = pack(message)
        response.resources.add(type_url=packed.type_url, value=packed.value)
        response.type_url = kind.type_url
        found.append(bytes([2 * len(kinds)]) + response.SerializeToString())
    for number, data in enumerate(found):
        (folder / str(number)).write_bytes(data)


def main() -> None:
    folders = [Path(word) for word in sys.argv[1:] if not word.startswith("-")]
    if len(folders) != 1 or not folders[0].is_dir():
        sys.exit("name a folder; it gets the inputs to begin with, and those that are found")
    write_seeds(folders[0])
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
