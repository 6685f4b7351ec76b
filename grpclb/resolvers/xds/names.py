"""Resource names: plain ones, and ``xdstp://authority/type/id?params`` (A47)."""

from __future__ import annotations

from urllib.parse import quote, unquote

_SCHEME = "xdstp:"
# What a path may hold beside letters and digits (RFC 3986, pchar and slash).
_PATH = "/-._~!$&'()*+,;=:@"


def canonical(name: str) -> str:
    """Equal names get equal texts: the parameters of an xdstp name in order, no fragment."""
    if not name.startswith(_SCHEME):
        return name
    path, question, query = name.partition("#")[0].partition("?")
    return f"{path}?{'&'.join(sorted(query.split('&')))}" if question and query else path


def authority_of(name: str) -> str | None:
    """The authority of an xdstp name, maybe empty; None of a plain name."""
    if not name.startswith(_SCHEME):
        return None
    rest = name.removeprefix(_SCHEME)
    if not rest.startswith("//"):
        return ""
    return unquote(rest[2:].partition("/")[0])


def fill(template: str, service: str) -> str:
    """A listener's name from a bootstrap's template, in which ``%s`` stands for the service.

    In an xdstp name the service is percent-encoded.
    """
    if template.startswith(_SCHEME):
        service = quote(service, safe=_PATH)
    return template.replace("%s", service)
