"""What stands beside Dynamo's own processes: etcd, NATS, and nginx in front of several frontends; argument lists.

etcd and NATS keep their data on a node's own disk, in a folder that goes with them: on a shared file system a slow
write makes etcd lose the workers' leases.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from ratematch.errors import PlacementError
from ratematch.plan.launchplan import START

LOOPBACK = "127.0.0.1"

_IN_A_FOLDER = (
    'd="${TMPDIR:-/tmp}/ratematch-$1.$2"; mkdir -m 700 "$d" || exit 1; trap \'rm -rf "$d"\' EXIT; trap : TERM INT; '
    'shift 2; "$@" "$d" & p=$!; wait $p; c=$?; kill $p 2>/dev/null; wait $p 2>/dev/null; exit $c'
)
"""A shell that gives a program a fresh folder as its last argument, ends with it and takes the folder along. Where it
cannot, whoever ends the servers does, by the name of their start (:mod:`ratematch.run.guard`)."""

_HOST = re.compile(r"[A-Za-z0-9_.-]+|\[?[0-9A-Fa-f:]+\]?")


def bind_address(host: str) -> str:
    """Where a server listens that is reached at ``host``: a name may be another address on the node itself."""
    return host if host == LOOPBACK else "0.0.0.0"


def etcd_argv(program: str, host: str, port: int, peer_port: int) -> tuple[str, ...]:
    """etcd alone, without peers. It takes addresses to listen on, not names."""
    listen = bind_address(host)
    own = f"http://{host}:{peer_port}"
    return (
        *("sh", "-c", _IN_A_FOLDER, "sh", "etcd", START, program),
        *("--listen-client-urls", f"http://{listen}:{port}", "--advertise-client-urls", f"http://{host}:{port}"),
        *("--listen-peer-urls", f"http://{listen}:{peer_port}", "--initial-advertise-peer-urls", own),
        *("--initial-cluster", f"default={own}", "--data-dir"),
    )


NATS_FILE = "nats.conf"


def nats_config(max_payload_mb: int) -> str:
    """What a NATS server takes in its file only: bytes of one message."""
    return f"max_payload: {max_payload_mb * 2**20}\n"


def nats_argv(
    program: str, host: str, port: int, monitor_port: int, max_payload_mb: int | None = None
) -> tuple[str, ...]:
    """A NATS server with JetStream; it says on its monitoring port whether it is well. ``max_payload_mb``: it reads
    :data:`NATS_FILE` too."""
    return (
        *("sh", "-c", _IN_A_FOLDER, "sh", "nats", START, program),
        *(("-c", NATS_FILE) if max_payload_mb else ()),
        *("-js", "-a", bind_address(host), "-p", str(port), "-m", str(monitor_port), "-sd"),
    )


NGINX_FILE = "nginx.conf"


def nginx_argv(program: str) -> tuple[str, ...]:
    """nginx in the foreground, with its files in the launch folder."""
    return (program, "-p", ".", "-c", NGINX_FILE, "-e", "stderr")


def nginx_config(host: str, port: int, frontends: Sequence[tuple[str, int]]) -> str:
    """One public port in front of ``frontends``: (host, port) of each.

    Nothing is buffered, so that tokens arrive as they are sent; a request that a frontend did not take is not sent to
    another one, which would hide that it failed.

    Raises:
        PlacementError: a host is no name or address.
    """
    servers = "".join(f"    server {_quoted(name, number)} max_fails=0;\n" for name, number in frontends)
    return f"""\
daemon off;
pid nginx.pid;
error_log stderr warn;
worker_processes auto;
events {{
  worker_connections 16384;
}}
http {{
  access_log off;
  client_body_temp_path nginx-body;
  proxy_temp_path nginx-proxy;
  fastcgi_temp_path nginx-fastcgi;
  uwsgi_temp_path nginx-uwsgi;
  scgi_temp_path nginx-scgi;
  upstream frontends {{
{servers}    keepalive 4096;
  }}
  server {{
    listen {_quoted(bind_address(host), port)} backlog=4096;
    client_max_body_size 0;
    keepalive_requests 1000000;
    location / {{
      proxy_pass http://frontends;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_next_upstream off;
      proxy_read_timeout 7200s;
      proxy_send_timeout 7200s;
    }}
  }}
}}
"""


def _quoted(host: str, port: int) -> str:
    if _HOST.fullmatch(host) is None:
        raise PlacementError(f"{host!r} is no name or address that nginx could be given")
    return json.dumps(f"{host}:{port}")
