"""Write the names that a version of torch has, read from the Python files of a wheel: nothing is installed or run.

    pip download --no-deps --only-binary :all: --platform macosx_11_0_arm64 --python-version 3.11 torch==2.9.0
    python tests/data/torch_names/make.py torch-2.9.0-*.whl > tests/data/torch_names/2.9.txt

The wheels for macOS hold the same Python files as all others, and no CUDA.
"""

import ast
import sys
import zipfile
from collections.abc import Iterator

MODULES = (
    "torch", "torch.cpu", "torch.export", "torch.library", "torch.linalg", "torch.nn", "torch.nn.functional",
    "torch.nn.utils", "torch.onnx", "torch.onnx.errors", "torch.onnx.ops", "torch.overrides", "torch.serialization",
    "torch.testing", "torch.utils", "torch._dynamo.exc", "torch._subclasses",
)  # fmt: skip
ELSEWHERE = {
    "torch/functional.py": "torch",
    "torch/_C/__init__.pyi": "torch",
    "torch/_C/_VariableFunctions.pyi": "torch",
    "torch/_C/_nn.pyi": "torch.nn.functional",
    "torch/nn/modules/__init__.py": "torch.nn",
}
"""Files whose names a module takes over by `*`, or from the compiled part."""


def main(wheel: str) -> None:
    """Print one dotted name a line."""
    found: set[str] = set()
    with zipfile.ZipFile(wheel) as files:
        names = set(files.namelist())
        for module in MODULES:
            place = module.replace(".", "/")
            for file in (f"{place}.py", f"{place}/__init__.py"):
                if file in names:
                    found |= {f"{module}.{name}" for name in _names(files.read(file).decode())}
        for file, module in ELSEWHERE.items():
            found |= {f"{module}.{name}" for name in _names(files.read(file).decode())}
        modules = (name for name in names if name.startswith("torch/") and name.endswith("/__init__.py"))
        found |= {name.removesuffix("/__init__.py").replace("/", ".") for name in modules}
    print(*sorted(name for name in found if "._" not in name.removeprefix("torch._")), sep="\n")


def _names(text: str) -> Iterator[str]:
    """Yield what a module defines, imports or declares, also under `if` and `try`."""
    waiting: list[ast.stmt] = list(ast.parse(text).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((each.asname or each.name).split(".")[0] for each in node.names)
        else:
            waiting += [each for each in ast.iter_child_nodes(node) if isinstance(each, ast.stmt)]


if __name__ == "__main__":
    main(sys.argv[1])
