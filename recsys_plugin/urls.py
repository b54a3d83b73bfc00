"""URLs of servers in messages: nothing is shown of them that could be a password, however the URL was mistyped.

What stands before an ``@`` is a login, and a mistyped URL may have its password anywhere else: in place of the host
(``redis://password``), of the port (``redis://user:password``), of the path or of an option. Shown are therefore the
scheme, hosts that are such beyond doubt, ports and numbers.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

__all__ = ["is_certain_host", "is_host", "shown_url"]

#: Shown as they are; anything else before ``://`` may be something else.
_SCHEMES = (
    *(f"redis{tls}{kind}" for tls in ("", "s") for kind in ("", "-cluster", "-sentinel")),
    *("unix", "grpc", "grpcs"),
)
_HOST = re.compile(r"[\w.-]{1,253}")
_SERVER = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[\w.-]{1,253})(?P<port>:[0-9]{1,5})?")
_NUMBER = re.compile(r"[0-9]{1,5}")


def is_host(host: str) -> bool:
    """Whether a text has the form of a host: an address, or a name."""
    return _is_address(host) or _HOST.fullmatch(host) is not None


def is_certain_host(host: str) -> bool:
    """Whether a text is a host and nothing else, even where neither port nor login says so."""
    return host == "localhost" or _is_address(host)


def shown_url(url: str) -> str:
    """A URL of Redis or Triton as messages show it, ``redis://***@shop:6379/0?***``; the path only of ``unix``."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        return "***"
    body = rest.partition("?")[0]
    option = "?***" if "?" in rest else ""
    if scheme == "unix":
        return f"unix://{body if body.startswith('/') and '@' not in rest else '***'}{option}"
    _, at, location = rest.rpartition("@")
    option = "?***" if "?" in location else ""
    servers, path = re.findall(r"^([^/?#]*)([^?#]*)", location)[0]
    shown = ",".join(_shown_server(server, known=bool(at)) for server in servers.split(","))
    parts = "/".join(part if not part or _NUMBER.fullmatch(part) else "***" for part in path.split("/"))
    return f"{scheme}://{'***@' if at else ''}{shown}{parts}{option}"


def _shown_server(server: str, *, known: bool) -> str:
    """A host and its port. ``known``: a login says that it is one."""
    found = _SERVER.fullmatch(server)
    if not server or found is None:
        return "***" if server else ""
    certain = known or found["port"] is not None or is_certain_host(found["host"].strip("[]"))
    return server if certain else "***"


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
