"""`serve`: a bundle behind the Open Inference Protocol."""

from pathlib import Path
from typing import Any

import click

from internvl_edge.commands.options.batching import DEADLINE, MAX_BATCH, MAX_DELAY_MS
from internvl_edge.commands.options.numbers import (
    LENGTH,
    PROCESSES,
    QUEUE,
    SECONDS,
    THREADS,
    Number,
)
from internvl_edge.commands.options.parameters import BACKEND, BF16, BUNDLE, ByteSize, Names
from internvl_edge.commands.output.printing import show

_FILE = click.Path(dir_okay=False, path_type=Path)
_PORT = click.IntRange(-1, 65535)
_MIB = 1 << 20
_BODY = ByteSize(unit="MiB", least=_MIB)
_CACHE = ByteSize(unit="MiB", least=_MIB, zero=True)


@click.command()
@BUNDLE
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--http", type=_PORT, default=8000, show_default=True, help="Port of HTTP; 0: any, -1: none.")
@click.option("--grpc", type=_PORT, default=8001, show_default=True, help="Port of gRPC; 0: any, -1: none.")
@BACKEND
@click.option("--graphs", type=Names(), help="Graphs to serve, as `vision,text`.  [default: all]")
@click.option("--workers", type=PROCESSES, default=1, show_default=True, help="Processes that hold the model.")
@click.option("--threads", type=THREADS, help="Of a CPU backend in each worker.  [default: its part of the cores]")
@BF16
@MAX_BATCH
@MAX_DELAY_MS
@click.option("--queue", type=QUEUE, default=256, show_default=True, help="Requests that may wait; others get 429.")
@DEADLINE
@click.option(
    "--stall-s",
    type=SECONDS,
    default=300.0,
    show_default=True,
    help="Silence after which a worker is ended.",
)
@click.option("--max-new-tokens", type=LENGTH, default=256, show_default=True, help="Tokens of a caption at most.")
@click.option("--max-body-mb", type=_BODY, default="64", show_default=True, help="Largest request, MiB, or as 1GiB.")
@click.option(
    "--cache-mb", type=_CACHE, default="256", show_default=True, help="Features kept, MiB, or as 1GiB; 0: none."
)
@click.option("--drain-s", type=Number(0, 86_400), default=30.0, show_default=True, help="Time to finish at the end.")
@click.option("--api-key-file", type=_FILE, metavar="F", help="Keys that clients must send, one a line.")
@click.option("--tls-cert", type=_FILE, metavar="F", help="Certificate chain in PEM.")
@click.option("--tls-key", type=_FILE, metavar="F", help="Its private key in PEM.")
@click.option("--cors-origin", multiple=True, metavar="URL", help="Whose pages may ask; repeatable; `*`: all pages.")
@click.option("--access-log/--no-access-log", default=True, show_default=True, help="A line of JSON each on stderr.")
@click.option("--traces", is_flag=True, help="Send OpenTelemetry spans as the OTEL_* variables say.")
def serve(
    bundle: Path,
    host: str,
    http: int,
    grpc: int,
    max_body_mb: int,
    cache_mb: int,
    drain_s: float,
    api_key_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    cors_origin: tuple[str, ...],
    access_log: bool,
    traces: bool,
    **engine: Any,
) -> None:
    """Serve BUNDLE over HTTP and gRPC until SIGTERM or Ctrl-C; accepted requests finish."""
    from internvl_edge.runtime.serve.options import ServeOptions
    from internvl_edge.runtime.serve.protocol.credentials import read_keys
    from internvl_edge.runtime.serve.run import Extras, run_server
    from internvl_edge.runtime.serve.server import ServerOptions

    run_server(
        bundle,
        ServeOptions(**engine, max_body_bytes=max_body_mb, cache_bytes=cache_mb),
        ServerOptions(
            host=host,
            http=None if http < 0 else http,
            grpc=None if grpc < 0 else grpc,
            tls_cert=tls_cert,
            tls_key=tls_key,
            cors_origins=cors_origin,
        ),
        Extras(
            keys=read_keys(api_key_file) if api_key_file else (),
            drain_s=drain_s,
            access_log=access_log,
            traces=traces,
        ),
        show,
    )
