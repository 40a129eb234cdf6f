"""`serve`: which options go to the engine, the ports and what is around them."""

from pathlib import Path

from internvl_edge.commands.output.printing import show
from internvl_edge.commands.serve import serve
from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.run import Extras
from internvl_edge.runtime.serve.server import ServerOptions
from tests.unit.commands.conftest import Invoke, Replace

WORK = "internvl_edge.runtime.serve.run.run_server"


def test_defaults_are_those_of_the_server(replace: Replace, invoke: Invoke) -> None:
    work = replace(WORK)
    invoke(serve, "b")
    work.assert_called_once_with(Path("b"), ServeOptions(), ServerOptions(), Extras(), show)


def test_every_option_reaches_its_place(replace: Replace, invoke: Invoke, tmp_path: Path) -> None:
    work = replace(WORK)
    keys = tmp_path / "keys"
    keys.write_text("one-key-of-16-characters\n")
    asked = (
        "b --host 0.0.0.0 --http -1 --grpc 0 --backend openvino --graphs vision,text --workers 2 --threads 3"
        " --bf16 --max-batch 4 --max-delay-ms 1.5 --queue 9 --deadline-ms 70 --stall-s 5 --max-new-tokens 8"
        " --max-answer-tokens 9 --answer-deadline-s 2.5"
        " --max-body-mb 2 --cache-mb 1GiB --drain-s 3 --tls-cert c.pem --tls-key k.pem --cors-origin https://a"
        " --cors-origin https://b --no-access-log --traces"
    )
    invoke(serve, asked, "--api-key-file", keys)
    bundle, engine, ports, extras, _announce = work.call_args.args
    assert bundle == Path("b")
    assert engine == ServeOptions(
        backend="openvino",
        graphs=("vision", "text"),
        workers=2,
        threads=3,
        bf16=True,
        max_batch=4,
        max_delay_ms=1.5,
        queue=9,
        deadline_ms=70.0,
        stall_s=5.0,
        max_new_tokens=8,
        max_answer_tokens=9,
        answer_deadline_s=2.5,
        max_body_bytes=2 << 20,
        cache_bytes=1 << 30,
    )
    assert ports == ServerOptions(
        host="0.0.0.0",
        http=None,
        grpc=0,
        tls_cert=Path("c.pem"),
        tls_key=Path("k.pem"),
        cors_origins=("https://a", "https://b"),
    )
    assert (tuple(extras.keys), extras.drain_s) == (("one-key-of-16-characters",), 3.0)
    assert (extras.access_log, extras.traces) == (False, True)


def test_no_cache_is_allowed_and_no_body_is_not(replace: Replace, invoke: Invoke) -> None:
    work = replace(WORK)
    invoke(serve, "b", "--cache-mb", "0")
    assert work.call_args.args[1].cache_bytes == 0
    done = invoke(serve, "b", "--max-body-mb", "0")
    assert done.exit_code == 2
    assert "--max-body-mb" in done.stderr
