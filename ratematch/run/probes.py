"""Does a server answer, and is its port free?"""

from __future__ import annotations

import contextlib
import errno
import socket
import urllib.error

from ratematch.errors import PortInUse
from ratematch.loadgen.http import get
from ratematch.plan.launchplan import ProcessSpec, ReadyProbe
from ratematch.store.progress import REFUSED


def probe_ready(ready: ReadyProbe) -> str | None:
    """``None`` when a process answers as it must, else why not, in words."""
    why = probe(ready.url)
    return None if ready.alive and why is not None and why.startswith(ANSWERS) else why


ANSWERS = "answers "


def probe(url: str, timeout_s: float = 2.0) -> str | None:
    """``None`` when GET ``url`` answers 200, else why not, in words."""
    try:
        status = get(url, timeout_s).status
        return None if status == 200 else f"{ANSWERS}{status}"
    except urllib.error.HTTPError as error:
        return f"{ANSWERS}{error.code}"
    except urllib.error.URLError as error:
        reason = error.reason
        return REFUSED if isinstance(reason, ConnectionRefusedError) else str(reason)
    except ConnectionRefusedError:
        return REFUSED
    except OSError as error:
        return str(error) or type(error).__name__


def port_is_free(host: str, port: int) -> bool:
    """May a server of this machine listen there? True too where the address is another machine's."""
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((host, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
        return True


def check_port_free(spec: ProcessSpec) -> None:
    """Raises PortInUse when somebody on this machine already listens where ``spec`` wants to."""
    for port in (spec.port, *spec.further_ports):
        if _is_listened_to(spec.host, port) or not port_is_free(spec.host, port):
            raise PortInUse(
                f"{spec.name}: port {port} on {spec.host} is in use by another program; "
                "stop it, or set another port_base in the cluster profile"
            )


def _is_listened_to(host: str, port: int) -> bool:
    """Does any program, whatever it speaks, take connections there?"""
    with contextlib.suppress(OSError, ValueError), socket.create_connection((host, port), timeout=0.5):
        return True
    return False
