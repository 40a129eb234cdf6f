"""The page `/docs` of all paths: plain HTML that loads no other resource."""

import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from string import Template

from internvl_edge.runtime.serve.protocol.http.document.openapi import model_words
from internvl_edge.runtime.serve.protocol.http.document.operations import OPERATIONS, Operation
from internvl_edge.runtime.serve.signature import Signature

_TEMPLATE = "templates/docs.html"
_SHOWN = 400
"""Largest number of characters of a model's inputs and outputs: a decoder has tensors for each layer."""


def docs_html(signatures: Mapping[str, Signature], version: str, place: str) -> str:
    """Return the page; `place` is the server's own address, for the example commands."""
    template = Template(files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8"))
    return template.substitute(
        version=escape(version),
        models="\n".join(_model(signature) for signature in signatures.values()),
        operations="\n".join(_section(tag, place) for tag in dict.fromkeys(op.tag for op in OPERATIONS.values())),
    )


def _model(signature: Signature) -> str:
    words = model_words(signature)
    shown = words if len(words) <= _SHOWN else f"{words[:_SHOWN]} ..."
    parameters = "; ".join(f"{name}: {what}" for name, what in signature.parameters.items())
    return f"<tr><td>{escape(signature.name)}<td><code>{escape(shown)}</code><td>{escape(parameters)}"


def _section(tag: str, place: str) -> str:
    rows = [
        _row(method, path, operation, place)
        for (method, path), operation in OPERATIONS.items()
        if operation.tag == tag and "/versions/" not in path
    ]
    return f"<h2>{escape(tag)}</h2>\n<table>\n{chr(10).join(rows)}\n</table>"


def _row(method: str, path: str, operation: Operation, place: str) -> str:
    example = ""
    if operation.example is not None:
        body = json.dumps(operation.example)
        command = f"curl {place}{path.replace('{model}', 'MODEL')} -H 'Content-Type: application/json' -d '{body}'"
        example = f"<pre>{escape(command)}</pre>"
    return f"<tr><td><code>{method}</code><td><code>{escape(path)}</code><td>{escape(operation.summary)}{example}"
