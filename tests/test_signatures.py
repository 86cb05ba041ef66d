"""No function has more than ten parameters, `*args` and `**options` among them."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "isthmus"


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda f: str(f.relative_to(ROOT)))
def test_no_function_has_more_than_ten_parameters(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            args = node.args
            named = [*args.posonlyargs, *args.args, *args.kwonlyargs]
            count = len(named) + (args.vararg is not None) + (args.kwarg is not None)
            assert count <= 10, f"{node.name} has {count}"
