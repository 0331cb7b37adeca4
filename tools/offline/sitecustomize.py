"""Refuse every connection that leaves this machine.

Python imports a module of this name at start-up. `conftest.py` puts this folder on
PYTHONPATH, so that the kernels that run the notebooks have no network, wherever the tests run.
"""

import ipaddress
import sys


def _is_local(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(name)).is_loopback
    except ValueError:
        return False


def _refuse_network(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    if not _is_local(host):
        raise PermissionError(f"the book runs without a network, but {event} asked for {host!r}")


sys.addaudithook(_refuse_network)
