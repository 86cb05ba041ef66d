"""No function has more than ten parameters, `*args` and `**options` among them, nor more than six
that a call may pass without a name.
"""

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


FOLLOW_TORCH = ("models/bounds/rules.py", "models/zoo/implicit.py")
"""Functions that torch calls, and networks, whose arguments stand in the order of torch's own."""


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda f: str(f.relative_to(ROOT)))
def test_no_call_passes_more_than_six_arguments_without_a_name(file):
    if file.relative_to(ROOT).as_posix() in FOLLOW_TORCH:
        return
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            named = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args)]
            count = len([name for name in named if name not in ("self", "cls")])
            assert count <= 6, f"{node.name} takes {count} arguments without a name"
