"""The undocumented names of uvicorn's protocol that are used exist and have their known meaning."""

import ast
import asyncio
import inspect
import re
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from internvl_edge.runtime.serve.protocol.http.connection import timeouts
from tests.project import ROOT

METHODS = (
    "connection_made",
    "data_received",
    "connection_lost",
    "pause_writing",
    "resume_writing",
    "on_message_begin",
    "on_headers_complete",
    "on_body",
    "on_message_complete",
    "on_response_complete",
    "send_400_response",
)
ATTRIBUTES = (
    "client",
    "cycle",
    "expect_100_continue",
    "flow",
    "headers",
    "loop",
    "parser",
    "pipeline",
    "scope",
    "server_state",
    "timeout_keep_alive_task",
    "transport",
    "url",
)
SOURCE = Path(inspect.getfile(timeouts))


def protocol() -> HttpToolsProtocol:
    async def application(scope: object, receive: object, send: object) -> None:
        pass

    config = uvicorn.Config(application, ws="none", lifespan="off", log_config=None)
    config.load()
    return HttpToolsProtocol(config, ServerState(), {}, asyncio.new_event_loop())


def test_every_name_is_there() -> None:
    made = protocol()
    made.on_message_begin()
    assert not [name for name in METHODS if not callable(getattr(made, name, None))]
    assert not [name for name in ATTRIBUTES if not hasattr(made, name)]
    assert isinstance(made.scope["state"], dict)
    assert {"pause_reading", "resume_reading", "write_paused"} <= set(dir(_flow()))
    assert {"response_complete", "more_body"} <= _assigned(RequestResponseCycle)
    assert isinstance(made.server_state.default_headers, list)
    made.loop.close()


def test_the_lists_are_whole() -> None:
    """The lists hold every name that the class uses of its base, so that tests of an upgrade cover all of them."""
    (made,) = [node for node in ast.walk(ast.parse(SOURCE.read_text())) if isinstance(node, ast.ClassDef)]
    functions = {node.name for node in ast.walk(made) if isinstance(node, ast.FunctionDef)}
    own = {name for name in functions if name.startswith("_")}
    used = {
        node.attr
        for node in ast.walk(made)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    public = {name for name in used | functions if not name.startswith("_")}
    assert public <= {*METHODS, *ATTRIBUTES}
    assert {name for name in used if name.startswith("_")} <= {*own, *_class_names(made), "_coalescing"}


def test_no_private_name_of_a_library_is_used_in_serving() -> None:
    """Private names are those of this package's own classes: they are reached by `self` or in their own module."""
    found = []
    for file in Path(inspect.getfile(timeouts)).parents[3].rglob("*.py"):
        tree = ast.parse(file.read_text())
        own = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                name = node.value.id if isinstance(node.value, ast.Name) else ""
                if name not in ("self", "cls", *own):
                    found.append(f"{file.name}:{node.lineno} {node.attr}")
            if isinstance(node, ast.ImportFrom) and "internvl_edge" not in (node.module or ""):
                parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                found += [f"{file.name}:{node.lineno} {part}" for part in parts if part.startswith("_")]
    assert not found


def test_the_version_is_bounded_on_both_sides_and_the_installed_one_is_within() -> None:
    text = ROOT.joinpath("pyproject.toml").read_text()
    found = re.search(r'"uvicorn>=(\d+)\.(\d+),<(\d+)\.(\d+)"', text)
    assert found is not None
    least, beyond = (tuple(map(int, found.groups()[part : part + 2])) for part in (0, 2))
    assert least <= tuple(map(int, uvicorn.__version__.split(".")[:2])) < beyond


def _flow() -> object:
    from uvicorn.protocols.http.flow_control import FlowControl

    return FlowControl(asyncio.Transport())


def _assigned(kind: type) -> set[str]:
    return {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(kind)))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }


def _class_names(made: ast.ClassDef) -> set[str]:
    targets = [node.target if isinstance(node, ast.AnnAssign) else None for node in made.body]
    plain = [target for node in made.body if isinstance(node, ast.Assign) for target in node.targets]
    return {target.id for target in (*targets, *plain) if isinstance(target, ast.Name)}
