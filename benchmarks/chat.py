"""Time to first token and tokens per second of a chat model beside transformers: `chat.py FOLDER --peer PYTHON`.

Writes a random checkpoint of InternVL2.5-1B's size in the official layout and the same weights in the native one (4 GB
in all), exports the first, and answers the same requests with all contenders in turn, each in a process of its own that
stays loaded. PYTHON is the interpreter of an environment with torch and transformers. The time to first token is that
of an answer of one token; tokens per second follow from answers of 64, whose time to first token is taken off. Every
answer has pictures of its own, so that nothing is taken from a cache.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from export_scale import machine, measured
from native_checkpoint import write_native
from random_checkpoint import write_checkpoint

HERE = Path(__file__).resolve().parent
TILE, TOKENS_PER_TILE = 448, 256
SYSTEM_TOKENS, QUESTION_TOKENS = 40, 20
"""Numbers of text tokens before and after the pictures; the template's system text and a question have about these."""
READ_BYTES = 1 << 30
READ_RUNS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A process that answers requests."""

    label: str
    command: tuple[str, ...]


@dataclass(slots=True)
class Process:
    """A contender's process, loaded and waiting."""

    running: "subprocess.Popen[str]"
    name: str

    @classmethod
    def start(cls, contender: Contender) -> "Process":
        """Start the process and wait until its model is loaded."""
        running = subprocess.Popen(contender.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        process = cls(running, "")
        process.name = process.read()["name"]
        return process

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to `request`."""
        assert self.running.stdin is not None
        self.running.stdin.write(json.dumps(request) + "\n")
        self.running.stdin.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        """Return the next line."""
        assert self.running.stdout is not None
        line = self.running.stdout.readline()
        if not line:
            raise click.ClickException(f"{self.running.args!r}: ended with {self.running.wait()}")
        content: dict[str, Any] = json.loads(line)
        return content

    def peak_gib(self) -> float:
        """Return the peak resident memory of the process, from the kernel."""
        status = Path(f"/proc/{self.running.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 2**20


class Requests:
    """Requests with pictures of their own; files of pictures are written to a folder."""

    def __init__(self, folder: Path, context_token_id: int) -> None:
        self._folder, self._context = folder, context_token_id
        self._made = 0

    def next(self, tiles: int, new_tokens: int) -> dict[str, Any]:
        """Return a request with `tiles` tiles for `new_tokens` new tokens."""
        self._made += 1
        rng = np.random.default_rng(self._made)
        file = self._folder / "pixels.npy"
        np.save(file, rng.normal(size=(tiles, 3, TILE, TILE)).astype(np.float32))
        text = rng.integers(100, 2900, SYSTEM_TOKENS + QUESTION_TOKENS).tolist()
        pictures = [self._context] * (tiles * TOKENS_PER_TILE)
        ids = [*text[:SYSTEM_TOKENS], *pictures, *text[SYSTEM_TOKENS:]]
        return {"pixel_values": str(file), "input_ids": ids, "new_tokens": new_tokens}


def read_bandwidth() -> float:
    """Return GB/s of a plain read of memory by all cores, the best of a few runs."""
    cores = os.cpu_count() or 1
    parts = [np.ones(READ_BYTES // 8 // cores, np.int64) for _ in range(cores)]
    best = 0.0
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(READ_RUNS):
            start = time.perf_counter()
            list(pool.map(np.max, parts))
            best = max(best, sum(part.nbytes for part in parts) / (time.perf_counter() - start) / 1e9)
    return best


def weight_bytes(checkpoint: Path) -> int:
    """Return the stored bytes that a step of the language model reads: its matrices and head, not the embeddings."""
    total = 0
    for file in checkpoint.glob("*.safetensors"):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        total += sum(
            at["data_offsets"][1] - at["data_offsets"][0]
            for name, at in header.items()
            if name.startswith("language_model.") and "embed_tokens" not in name
        )
    return total


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--peer", required=True, help="Python of an environment with torch and transformers.")
@click.option("--preset", default="internvl2_5-1b", show_default=True)
@click.option("--tiles", type=int, multiple=True, default=(1, 5), show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--new-tokens", default=64, show_default=True)
@click.option("--backend", "backends", multiple=True, default=("onnxruntime", "openvino"), show_default=True)
@click.option("--bf16/--no-bf16", default=True, show_default=True, help="Measure our backends with --bf16 as well.")
@click.option("--dtype", default="bf16", show_default=True, help="Type of the exported bundle.")
@click.option("--keep", is_flag=True, help="Keep the checkpoints and the bundle.")
def main(
    folder: Path,
    peer: str,
    preset: str,
    tiles: tuple[int, ...],
    rounds: int,
    new_tokens: int,
    backends: tuple[str, ...],
    bf16: bool,
    dtype: str,
    keep: bool,
) -> None:
    """Print a Markdown table."""
    official, native, bundle = folder / "official", folder / "native", folder / f"bundle-{dtype}"
    if not official.exists():
        write_checkpoint(official, preset, dtype="bfloat16", tokenizer=True)
    context = json.loads((official / "added_tokens.json").read_text())["<IMG_CONTEXT>"]
    if not native.exists():
        write_native(official, native, context)
    if not bundle.exists():
        command = [sys.executable, "-m", "internvl_edge.cli", "export", str(official), "-o", str(bundle)]
        seconds, peak = measured([*command, "--dtype", dtype])
        click.echo(f"export to {dtype}: {seconds:.1f} s, peak {peak:.2f} GiB\n", err=True)
    contenders = list(_contenders(bundle, native, peer, backends, bf16))
    try:
        _compare(contenders, Requests(folder, context), tiles, rounds, new_tokens, weight_bytes(official))
    finally:
        if not keep:
            for path in (official, native, bundle):
                shutil.rmtree(path, ignore_errors=True)


def _contenders(bundle: Path, native: Path, peer: str, backends: tuple[str, ...], bf16: bool) -> list[Contender]:
    threads = os.cpu_count() or 1
    found = []
    for backend in backends:
        for fast in (False, True) if bf16 else (False,):
            options = json.dumps({"threads": threads, "bf16": fast})
            command = (sys.executable, str(HERE / "chat_ours.py"), str(bundle), backend, options)
            found.append(Contender(label=f"{backend}{', --bf16' if fast else ''}", command=command))
    for dtype in ("float32", "bfloat16"):
        command = (peer, str(HERE / "chat_transformers.py"), str(native), dtype, str(threads))
        found.append(Contender(label=f"transformers {dtype}", command=command))
    return found


def _compare(
    contenders: list[Contender],
    requests: Requests,
    tiles: tuple[int, ...],
    rounds: int,
    new_tokens: int,
    needed: int,
) -> None:
    processes = {contender.label: Process.start(contender) for contender in contenders}
    first: dict[tuple[str, int], list[float]] = defaultdict(list)
    whole: dict[tuple[str, int], list[float]] = defaultdict(list)
    answers: dict[tuple[int, int], dict[str, list[int]]] = defaultdict(dict)
    reads = []
    for number in range(-1, rounds):  # the first round warms up
        for count in tiles:
            reads.append(read_bandwidth())
            for length, times in ((1, first), (new_tokens, whole)):
                request = requests.next(count, length)
                for label, process in processes.items():
                    answer = process.ask(request)
                    if number >= 0:
                        times[label, count].append(answer["seconds"])
                        answers[number, count][label] = answer["ids"]
    bandwidth = statistics.median(reads)
    click.echo(f"{machine()}; plain read {bandwidth:.1f} GB/s; {needed / 1e9:.2f} GB of stored weights a token\n")
    click.echo("| tiles | contender | time to first token, s | tokens/s | share of a plain read | peak GiB |")
    click.echo("| ---: | --- | ---: | ---: | ---: | ---: |")
    for count in tiles:
        for label, process in processes.items():
            start = statistics.median(first[label, count])
            rate = (new_tokens - 1) / max(statistics.median(whole[label, count]) - start, 1e-9)
            share = rate * needed / 1e9 / bandwidth
            click.echo(f"| {count} | {label} | {start:.2f} | {rate:.2f} | {share:.0%} | {process.peak_gib():.2f} |")
    click.echo(f"\nnames: {'; '.join(sorted({process.name for process in processes.values()}))}")
    _print_agreement(answers, [contender.label for contender in contenders])


def _print_agreement(answers: dict[tuple[int, int], dict[str, list[int]]], labels: list[str]) -> None:
    """Print which share of the leading ids equals that of transformers in fp32; random weights decide by little."""
    for label in labels:
        shares = [_agreed(by_label[label], by_label["transformers float32"]) for by_label in answers.values()]
        click.echo(f"leading ids equal to transformers in fp32: {label} {statistics.mean(shares):.0%}")


def _agreed(ids: list[int], reference: list[int]) -> float:
    same = next((i for i, (a, b) in enumerate(zip(ids, reference, strict=False)) if a != b), len(reference))
    return same / max(len(reference), 1)


if __name__ == "__main__":
    main()
