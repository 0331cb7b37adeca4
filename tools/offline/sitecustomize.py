"""Refuse every connection that leaves this machine.

Python imports a module of this name at start-up. `tests/conftest.py` puts this folder on
PYTHONPATH, so that the kernels that run the notebooks have no network, wherever the tests run.
"""

import ipaddress
import sys


def _is_local(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode()
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refuse_network(event: str, arguments: tuple) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    if not _is_local(host):
        raise PermissionError(f"the book runs without a network, but {event} asked for {host!r}")


sys.addaudithook(_refuse_network)
