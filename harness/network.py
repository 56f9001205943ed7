"""Whether the host of a download answers, found out in seconds.

Download clients wait and try again, for minutes if they must. Before one is
asked, a connection is opened to where it would connect: the host of the
address, or the proxy that the environment names for it.
"""

import contextlib
import errno
import http.client
import os
import queue
import selectors
import socket
import threading
import time
import urllib.parse
from collections.abc import Sequence

VARIABLE = "PPO_HARNESS_NETWORK_SECONDS"
_SECONDS = 2.0
_PORTS = {"http": 80, "https": 443}
_SOCKS_PORT = 1080

_Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple]


def unreachable(url: str, seconds: float | None = None) -> str | None:
    """Return why the host of an address cannot be reached, or `None` if it can.

    A host that accepts a connection may still refuse the download. Proxies are
    those that `requests` would use (`https_proxy`, `all_proxy`, `no_proxy` and
    so on); of a proxy only host and port are named, since its address may hold
    a password.

    Args:
      url: What would be downloaded.
      seconds: Seconds for name look-up and connection together; by default
        those of the environment variable `PPO_HARNESS_NETWORK_SECONDS`, else 2.

    Returns:
      A clause that names host and reason.
    """
    from requests import utils  # kagglehub's and TFDS's downloads choose the same proxy

    proxy = utils.select_proxy(url, utils.get_environ_proxies(url))
    if proxy:
        proxy = utils.prepend_scheme_if_needed(proxy, "http")
    parts = urllib.parse.urlsplit(proxy or url)
    host = parts.hostname or ""
    port = parts.port or _PORTS.get(parts.scheme.lower(), _SOCKS_PORT)
    name = f"the proxy {host}:{port}" if proxy else host
    limit = _limit() if seconds is None else seconds
    deadline = time.monotonic() + limit
    try:
        reason = _connect(_resolve(host, port, deadline), deadline)
        if reason is None and proxy and parts.scheme == "http":
            reason = _tunnel(proxy, host, port, url, limit)
    except TimeoutError:
        return f"{name}: no answer within {limit:g} s, {VARIABLE}=10 waits longer"
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
    return None if reason is None else f"{name}: {reason}"


def _limit() -> float:
    with contextlib.suppress(ValueError):
        chosen = float(os.environ.get(VARIABLE) or _SECONDS)
        if 0 < chosen < threading.TIMEOUT_MAX:
            return chosen
    return _SECONDS


def _tunnel(proxy: str, host: str, port: int, url: str, seconds: float) -> str | None:
    """Return why a proxy opens no tunnel to the host of an https address, or `None`."""
    from requests import adapters

    target = urllib.parse.urlsplit(url)
    if target.scheme != "https":
        return None
    connection = http.client.HTTPConnection(host, port, timeout=seconds)
    headers = adapters.HTTPAdapter().proxy_headers(proxy)  # the password, if it has one
    connection.set_tunnel(target.hostname or "", target.port or 443, headers)
    try:
        connection.connect()
    except TimeoutError:
        return None  # the proxy is there; it may still be looking for the host
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()
    return None


def _resolve(host: str, port: int, deadline: float) -> Sequence[_Address]:
    """Look a name up in a thread, since the system's look-up takes no time limit."""
    found: queue.SimpleQueue[Sequence[_Address] | OSError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))  # type: ignore[arg-type]
        except OSError as error:
            found.put(error)
        except UnicodeError:
            found.put(OSError(errno.EINVAL, "not a host name"))

    threading.Thread(target=look_up, daemon=True).start()
    try:
        answer = found.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def _connect(addresses: Sequence[_Address], deadline: float) -> str | None:
    """Connect to all addresses at once; return `None` when one accepts, else a reason.

    At once, since a machine may have an IPv6 route that leads nowhere.
    """
    reason: int = errno.EHOSTUNREACH
    with contextlib.ExitStack() as stack:
        waiting = stack.enter_context(selectors.DefaultSelector())
        for family, kind, protocol, _, address in addresses:
            try:
                each = stack.enter_context(socket.socket(family, kind, protocol))
                each.setblocking(False)
                status = each.connect_ex(address)
            except OSError as error:  # a family that this machine does not have
                reason = error.errno or reason
                continue
            if status == 0:
                return None
            if status == errno.EINPROGRESS:
                waiting.register(each, selectors.EVENT_WRITE)
            else:
                reason = status
        while waiting.get_map():
            ready = waiting.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                each = key.fileobj
                assert isinstance(each, socket.socket)
                status = each.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if status == 0:
                    return None
                reason = status
                waiting.unregister(each)
    return os.strerror(reason)
