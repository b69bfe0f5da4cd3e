"""What to do about a server that cannot be reached, by the message of the driver."""

from __future__ import annotations

import re
from collections.abc import Mapping

_URI = "MONGO_URI (or MIGRATE_MONGO_URI, if it is set)"

_REMEDIES: Mapping[str, str] = {
    r"certificate|hostname .*match": f"The certificate of the server is not trusted. Name the file of its CA in {_URI}: tlsCAFile=PATH.",
    r"SSL|TLS": f"The TLS handshake failed. If the server does not use TLS, remove tls=true from {_URI}.",
    r"(?i)name or service|nodename|getaddrinfo|name resolution|no address associated": f"The name of the host cannot be resolved. Check it in {_URI}, and the network.",
    r"(?i)refused": f"No server listens there. Check that the server is running, and that host and port are right in {_URI}.",
    r"(?i)connection closed|reset by peer": f"The server closed the connection. If it requires TLS, add tls=true to {_URI}.",
    r"(?i)replica set": f"Check replicaSet in {_URI}, and that the set has a primary: rs.status().",
    r"(?i)timed out|nothing was heard": f"Check host and port in {_URI}, the firewall (in Atlas: the IP access list), and that tls=true is set if, and only if, the server uses TLS.",
}
"""What to type or check next, by a pattern that the driver's message matches."""


def remedy_of(message: str) -> str:
    """Find what to do about an outage; empty if nothing special is known."""
    return next((what for pattern, what in _REMEDIES.items() if re.search(pattern, message)), "")


def remedy_of_set_up(message: str) -> str:
    """Find what to do about a client that cannot be made; `mongodb+srv://` asks the DNS for the servers."""
    if re.search(r"DNS query|_mongodb\._tcp|SRV record|resolution lifetime", message):
        return f"The SRV record of a mongodb+srv:// host cannot be read. Check the name of the host in {_URI}, and the network. Or name the servers themselves, with mongodb://."
    return "Write it as mongodb://user:password@localhost:27017/shop, with special characters of user and password percent-encoded."
