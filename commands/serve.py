"""`serve`: answer requests of the Open Inference Protocol with a bundle."""

from pathlib import Path
from typing import Any

import click

from internvl_edge.commands.options.batching import DEADLINE, MAX_BATCH, MAX_DELAY_MS, QUEUE
from internvl_edge.commands.options.numbers import LENGTH, PROCESS_COUNT, SECONDS, Number
from internvl_edge.commands.options.sections import SectionedCommand
from internvl_edge.commands.options.shared import BACKEND, BF16, BUNDLE, GRAPHS, max_new_tokens, threads
from internvl_edge.commands.options.value_types import FILE, ByteSize
from internvl_edge.commands.output.printing import show

_PORT = click.IntRange(-1, 65535)
_MIB = 1 << 20
_BODY = ByteSize(unit="MiB", least=_MIB)
_CACHE = ByteSize(unit="MiB", least=_MIB, zero=True)
_SECTIONS = {
    "Addresses": ("--host", "--http", "--grpc"),
    "Model": ("--graphs", "--backend", "--threads", "--bf16", "--workers"),
    "Batches of requests": ("--max-batch", "--max-delay-ms", "--queue", "--deadline-ms", "--answer-deadline-s"),
    "Limits": ("--max-new-tokens", "--max-answer-tokens", "--max-body-mb", "--cache-mb", "--stall-s", "--drain-s"),
    "Access": ("--api-key-file", "--tls-cert", "--tls-key", "--cors-origin"),
    "Observability": ("--access-log", "--traces"),
}


@click.command(cls=SectionedCommand, sections=_SECTIONS)
@BUNDLE
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0: all addresses.")
@click.option(
    "--http", type=_PORT, default=8000, show_default=True, help="Port of HTTP; 0: any free port, -1: no HTTP."
)
@click.option(
    "--grpc", type=_PORT, default=8001, show_default=True, help="Port of gRPC; 0: any free port, -1: no gRPC."
)
@GRAPHS
@BACKEND
@threads(default="an equal part of the cores for each of several workers, else one for a small graph or all cores")
@BF16
@click.option(
    "--workers", type=PROCESS_COUNT, default=1, show_default=True, help="Number of processes that each hold the model."
)
@MAX_BATCH
@MAX_DELAY_MS
@QUEUE
@DEADLINE
@max_new_tokens(256)
@click.option(
    "--max-answer-tokens",
    type=LENGTH,
    default=None,
    show_default="the bundle's context",
    help="Largest number of tokens in an answer of a chat model.",
)
@click.option(
    "--answer-deadline-s",
    type=SECONDS,
    default=300.0,
    show_default=True,
    help="Deadline in seconds of a chat model's answers; of a streamed answer, of its first piece.",
)
@click.option(
    "--max-body-mb",
    type=_BODY,
    default="64",
    show_default=True,
    help="Largest size of a request, in MiB or with a unit, as 1GiB.",
)
@click.option(
    "--cache-mb",
    type=_CACHE,
    default="256",
    show_default=True,
    help="Size of the cache of features, in MiB or with a unit, as 1GiB; 0: no cache.",
)
@click.option(
    "--stall-s",
    type=SECONDS,
    default=300.0,
    show_default=True,
    help="Time in seconds without a sign of a worker after which it is ended.",
)
@click.option(
    "--drain-s",
    type=Number(0, 86_400),
    default=30.0,
    show_default=True,
    help="Longest time in seconds to finish accepted requests when the server ends.",
)
@click.option(
    "--api-key-file", type=FILE, metavar="F", help="File of keys, one a line, of which clients must send one."
)
@click.option("--tls-cert", type=FILE, metavar="F", help="Certificate chain in PEM, for TLS.")
@click.option("--tls-key", type=FILE, metavar="F", help="Private key of --tls-cert in PEM.")
@click.option(
    "--cors-origin",
    multiple=True,
    metavar="URL",
    help="Origin whose web pages may send requests, or `*` for all; repeat for each.",
)
@click.option(
    "--access-log/--no-access-log",
    default=True,
    show_default=True,
    help="Write a line of JSON to stderr for each request.",
)
@click.option("--traces", is_flag=True, help="Send OpenTelemetry spans to where the environment variables OTEL_* say.")
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
    """Serve BUNDLE over HTTP and gRPC until SIGTERM or Ctrl-C, after which accepted requests are still answered."""
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
