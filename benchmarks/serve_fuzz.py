"""Send thousands of mutated requests to a server of a bundle.

    python benchmarks/serve_fuzz.py BUNDLE [--count 10000] [--seed 0]

Every answer must be a 2xx or a 4xx with one sentence, come in time, and leave the server ready and no larger.
"""

import argparse
import copy
import http.client
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

TIMEOUT_S = 10.0
_ODD: Any = (None, True, -1, 0, 2**31, 2**63, 1e308, "", "x", "\ud800", "\0", "../../etc/passwd", [], {}, [[]], [None])
_DATATYPES = ("BOOL", "UINT8", "INT8", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES", "BF16")
_HEADERS = {
    "Inference-Header-Content-Length": ("0", "1", "-1", "x", "99999999999999999999", "\xff"),
    "Content-Encoding": ("gzip", "deflate", "br", "gzip, gzip", ""),
    "Content-Type": ("application/octet-stream", "text/plain", ""),
    "traceparent": ("00-00-00-00", "x" * 500),
    "Expect": ("100-continue", "nonsense"),
}


@dataclass(frozen=True)
class Sent:
    """An HTTP request."""

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    method: str = "POST"


def mutated(request: Sent, random: random.Random) -> Sent:
    """Return a request with one to three mutations."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        request = random.choice((_tree, _tree, _tree, _bytes, _header, _path))(request, random)
    return request


def mutated_bytes(raw: bytes, random: random.Random) -> bytes:
    """Return the bytes with some of them cut, doubled, exchanged or replaced."""
    start = random.randrange(len(raw) + 1)
    stop = min(start + random.choice((0, 1, 4, 100)), len(raw))
    new = random.choice((b"", raw[start:stop] * 2, bytes(random.randrange(256) for _ in range(random.randrange(9)))))
    return raw[:start] + new + raw[stop:]


def complaint(status: int, body: bytes) -> str:
    """Return the fault of an answer; empty if it has none."""
    if 200 <= status < 300:
        return ""
    if not 400 <= status < 500:
        return f"status {status}: {body[:200]!r}"
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return f"no error in JSON: {body[:200]!r}"
    sentence = error["message"] if isinstance(error, dict) else error
    wrong = re.search(r"\n|Traceback|/usr/|/tmp/|\.py\b", sentence)  # the client's own words come back quoted
    return f"not one plain sentence: {sentence!r}" if wrong else ""


def requests_for(text_model: str = "encode_text", image_model: str = "encode_image", png: bytes = b"x") -> list[Sent]:
    """Return valid requests to the models of tasks."""
    text = {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["a red kite", "gem stone"]}
    plain = {"id": "1", "inputs": [text], "outputs": [{"name": "embedding"}], "parameters": {"priority": 1}}
    elements = len(png).to_bytes(4, "little") + png
    picture = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(elements)}}
    head = json.dumps({"inputs": [picture], "parameters": {"binary_data_output": True}}).encode()
    lengths = (("Inference-Header-Content-Length", str(len(head))),)
    return [
        Sent(f"/v2/models/{text_model}/infer", json.dumps(plain).encode()),
        Sent(f"/v2/models/{image_model}/versions/1/infer", head + elements, lengths),
        Sent(f"/v2/models/{text_model}/generate", json.dumps({"text": ["gem stone"], "id": "1"}).encode()),
        Sent(f"/v2/models/{text_model}/generate_stream", json.dumps({"text": "gem stone"}).encode()),
        Sent("/v1/embeddings", json.dumps({"model": "internvl-c", "input": ["gem", "stone"]}).encode()),
        Sent("/v2/repository/index", b"{}"),
    ]


def _tree(request: Sent, random: random.Random) -> Sent:
    """Change one place of the JSON, and keep what follows it."""
    length = next((int(v) for k, v in request.headers if k.startswith("Inference") and v.isdigit()), len(request.body))
    try:
        tree = json.loads(request.body[:length])
    except ValueError:
        return _bytes(request, random)
    head = json.dumps(_changed(tree, random)).encode()
    headers = tuple((k, str(len(head)) if k.startswith("Inference") else v) for k, v in request.headers)
    return replace(request, body=head + request.body[length:], headers=headers)


def _changed(tree: Any, random: random.Random) -> Any:
    tree = copy.deepcopy(tree)
    places = list(_places(tree))
    if not places:
        return random.choice(_ODD)
    holder, key = random.choice(places)
    if random.random() < 0.2 and isinstance(holder, dict):
        del holder[key]
    elif random.random() < 0.2:
        holder[key] = [holder[key]] * random.choice((0, 2, 50))
    else:
        holder[key] = random.choice((*_ODD, *_DATATYPES))
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        yield tree, key
        yield from _places(value)


def _bytes(request: Sent, random: random.Random) -> Sent:
    return replace(request, body=mutated_bytes(request.body, random))


def _header(request: Sent, random: random.Random) -> Sent:
    name = random.choice(tuple(_HEADERS))
    others = tuple(pair for pair in request.headers if pair[0] != name)
    return replace(request, headers=(*others, (name, random.choice(_HEADERS[name]))))


def _path(request: Sent, random: random.Random) -> Sent:
    parts = request.path.split("/")
    parts[random.randrange(1, len(parts))] = random.choice(
        ("", "x", "..", "%2e%2e%2f", "1", "models", "%ff", "a" * 999)
    )
    return replace(request, path="/".join(parts), method=random.choice(("POST", "POST", "GET", "PUT", "HEAD")))


def exchanged(connection: http.client.HTTPConnection, request: Sent) -> tuple[int, bytes]:
    """Return the status and body of the answer."""
    connection.request(request.method, request.path, request.body, dict(request.headers))
    answer = connection.getresponse()
    body = answer.read()
    return answer.status, body or b'{"error": "the answer to HEAD has no body"}'


@contextmanager
def server(bundle: Path) -> Iterator[tuple[int, int]]:
    """Serve a bundle on a free port; yields the port and the process."""
    command = [sys.executable, "-m", "internvl_edge.cli", "serve", str(bundle), "--http", "0", "--grpc", "-1"]
    process = subprocess.Popen([*command, "--no-access-log"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        place = process.stdout.readline()
        assert process.stdout.readline().startswith("Ready"), place
        yield int(place.strip().rsplit(":", 1)[1]), process.pid
    finally:
        process.terminate()
        process.wait(60)


def fuzz(port: int, seeds: list[Sent], count: int, random: random.Random, seen: Callable[[int], None]) -> list[str]:
    """Return the faults of the answers to `count` mutated requests."""
    complaints = []
    for _ in range(count):
        request = mutated(random.choice(seeds), random)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        try:
            status, body = exchanged(connection, request)
        except (OSError, http.client.HTTPException) as error:
            complaints.append(f"{error!r}: {request}")
            continue
        finally:
            connection.close()
        seen(status)
        if wrong := complaint(status, body):
            complaints.append(f"{wrong}: {request}")
    return complaints


def main() -> None:
    """Print how the mutations were answered; exit with 1 where one was answered wrongly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    statuses: Counter[int] = Counter()

    def seen(status: int) -> None:
        statuses[status] += 1

    with server(arguments.bundle) as (port, pid):
        seeds = requests_for(png=_png())
        warm = fuzz(port, seeds, arguments.count // 10, random.Random(arguments.seed + 1), seen)
        before, start = _resident_mb(pid), time.monotonic()
        complaints = warm + fuzz(port, seeds, arguments.count, random.Random(arguments.seed), seen)
        seconds, after = time.monotonic() - start, _resident_mb(pid)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        ready, _ = exchanged(connection, Sent("/v2/health/ready", b"", method="GET"))
    print(f"{sum(statuses.values())} mutations: {dict(sorted(statuses.items()))}")
    print(
        f"{seconds:.1f} s, {before:.0f} MB before and {after:.0f} MB after the last {arguments.count}, ready: {ready}"
    )
    for line in complaints[:20]:
        print(line)
    print(f"answered wrongly: {len(complaints)}")
    sys.exit(bool(complaints) or ready != 200)


def _png() -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 40)).save(file, "PNG")
    return file.getvalue()


def _resident_mb(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1e3 if found else 0.0


if __name__ == "__main__":
    main()
