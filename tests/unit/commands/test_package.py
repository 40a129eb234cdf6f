"""`package`: what its two forms pass on, and what they print."""

from pathlib import Path

from internvl_edge.commands.package import package
from internvl_edge.runtime.package.options import RepositoryOptions
from internvl_edge.runtime.package.ray_config import RayServeOptions
from internvl_edge.runtime.serve.options import ServeOptions
from tests.unit.commands.conftest import Invoke, Replace

TRITON = "internvl_edge.runtime.package.repository.write_repository"
RAY = "internvl_edge.runtime.package.ray_config.write_config"


def test_triton_gets_every_option(replace: Replace, invoke: Invoke) -> None:
    write = replace(TRITON, ["vision", "classify"])
    asked = (
        "triton b -o out --platform tensorrt --target l4 --backend openvino --weights link --max-batch 4"
        " --max-delay-ms 1.5 --instances 2 --task-instances 3 --device gpu --gpus 0,2 -i a.png -i b.png -t cat"
    )
    done = invoke(package, asked)
    bundle, output, options, _progress = write.call_args.args
    assert (bundle, output) == (Path("b"), Path("out"))
    assert options == RepositoryOptions(
        platform="tensorrt",
        target="l4",
        backend="openvino",
        weights="link",
        max_batch=4,
        max_delay_ms=1.5,
        instances=2,
        task_instances=3,
        device="gpu",
        gpus=(0, 2),
        images=(Path("a.png"), Path("b.png")),
        texts=("cat",),
    )
    assert done.stdout == "out: 2 models: vision, classify\n"


def test_defaults_are_those_of_the_repository(replace: Replace, invoke: Invoke) -> None:
    write = replace(TRITON, [])
    invoke(package, "triton", "b", "-o", "out")
    assert write.call_args.args[2] == RepositoryOptions()


def test_ray_gets_the_engine_apart_from_where_replicas_run(replace: Replace, invoke: Invoke) -> None:
    write = replace(RAY)
    asked = (
        "ray b -o r.yaml --replicas 3 --cpus 2 --gpus 0.5 --http 9000 --backend onnxruntime --threads 2"
        " --bf16 --max-batch 4 --max-delay-ms 1.5 --queue 9 --deadline-ms 70"
    )
    done = invoke(package, asked)
    write.assert_called_once_with(
        Path("b"),
        Path("r.yaml"),
        ServeOptions(
            backend="onnxruntime", threads=2, bf16=True, max_batch=4, max_delay_ms=1.5, queue=9, deadline_ms=70.0
        ),
        RayServeOptions(replicas=3, cpus=2.0, gpus=0.5, http=9000),
    )
    assert done.stdout == "r.yaml: 3 replicas of b; start them with `serve deploy r.yaml`\n"


def test_defaults_are_those_of_the_engine(replace: Replace, invoke: Invoke) -> None:
    write = replace(RAY)
    invoke(package, "ray", "b", "-o", "r.yaml")
    assert write.call_args.args[2:] == (ServeOptions(), RayServeOptions())
