"""The tree is the architecture: rooms import only from rooms to their left, and the five in the
middle never meet.
"""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "isthmus"
BESIDE = ("attacks", "defenses", "certification", "compression", "detection")
ORDER = (
    "types",
    "runs",
    "data",
    "models",
    "training",
    "curves",
    "metrics",
    BESIDE,
    "evidence",
    "cli",
)
RANK = {
    room: i for i, step in enumerate(ORDER) for room in ([step] if isinstance(step, str) else step)
}
FACE = {"__init__", "__main__"}
FILES = {
    ".".join(file.relative_to(ROOT.parent).with_suffix("").parts): file
    for file in ROOT.rglob("*.py")
}
STUBS = sorted(ROOT.rglob("*.pyi"))
TEXT = re.compile(r"isthmus(\.\w+)+(:\w+)?")
IMPORTERS = ("import_module", "__import__")
COMPUTED = {"cli/app.py", "runs/imports.py", "data/sources/reading.py"}
"""Files that import what a table of commands, or the user, names."""


def named(tree: ast.AST, package: str) -> Iterator[str]:
    """What a file of a package imports: by statement, absolute or relative, anywhere in it, or by a
    text that names a module or an object in one.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(start if node.level else []), *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and TEXT.fullmatch(str(node.value)):
            yield str(node.value).partition(":")[0]


def computed(tree: ast.AST) -> Iterator[str]:
    """The imports of a file whose module is computed, so that nobody can say what they import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in IMPORTERS:
            words = [*node.args, *(word.value for word in node.keywords)]
            if len(words) > 1 or not isinstance(words[0], ast.Constant):
                yield ast.unparse(node)


def imports(file: Path, package: str = "") -> set[str]:
    """The modules of the package that a file imports, dynamic imports included."""
    found = set()
    package = package or ".".join(file.parent.relative_to(ROOT.parent).parts)
    for name in named(ast.parse(file.read_text(encoding="utf-8")), package):
        while name.startswith("isthmus") and name not in FILES and f"{name}.__init__" not in FILES:
            name = name.rpartition(".")[0]
        if name.startswith("isthmus"):
            found.add(name if name in FILES else f"{name}.__init__")
    return found


def room(module: str) -> str:
    return module.split(".")[1]


def breaches(module: str, others: set[str]) -> list[str]:
    """Return what a module may not import: the package's face, and rooms that are not to the left
    of its own.
    """
    here = room(module)
    return [
        f"{module} imports {other}"
        for other in sorted(others)
        if room(other) != here and (room(other) in FACE or RANK[room(other)] >= RANK[here])
    ]


def test_every_entry_at_the_top_is_a_room_of_the_map():
    entries = {entry.name for entry in ROOT.iterdir()} - {"__pycache__", "__init__.pyi", "py.typed"}
    assert {Path(entry).stem for entry in entries} - FACE <= RANK.keys()
    assert len(entries) <= 16


def test_rooms_import_only_from_rooms_to_their_left():
    inside = {name: file for name, file in FILES.items() if room(name) not in FACE}
    assert not [breach for name, file in inside.items() for breach in breaches(name, imports(file))]


def test_rooms_serve_only_their_own_names():
    for stub in STUBS:
        if stub.parent != ROOT:
            here = stub.parent.relative_to(ROOT).parts[0]
            assert {room(name) for name in imports(stub)} <= {here}, stub


def test_no_module_of_an_import_is_computed():
    found = {
        str(file.relative_to(ROOT)): list(computed(ast.parse(file.read_text())))
        for file in FILES.values()
    }
    assert {name for name, calls in found.items() if calls} <= COMPUTED


def test_no_import_comes_round_to_itself():
    TopologicalSorter({name: imports(file) - {name} for name, file in FILES.items()}).prepare()


def test_every_room_says_what_it_is_for():
    rooms = [folder for folder in ROOT.rglob("*") if folder.is_dir() and list(folder.glob("*.py"))]
    silent = [
        str(each)
        for each in rooms
        if not ast.get_docstring(ast.parse((each / "__init__.py").read_text()))
    ]
    assert rooms and not silent


@pytest.mark.parametrize(
    "code",
    [
        "from isthmus.attacks.triggers import patch",
        "import isthmus.attacks",
        "def f():\n    from isthmus.evidence import judge",
        "importlib.import_module('isthmus.attacks.inputs.gradient')",
        "import_module(name='isthmus.attacks')",
        "app.command('isthmus.cli.train:train')",
        "from isthmus import __version__",
        "from ..attacks.inputs.gradient import PGD",
        "from .. import attacks",
    ],
)
def test_the_rule_sees_a_breach(code, tmp_path):
    file = tmp_path / "x.py"
    file.write_text(code)
    assert len(breaches("isthmus.defenses.x", imports(file, "isthmus.defenses"))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "import_module('isthmus.' + 'attacks')",
        "import_module(f'isthmus.attacks.{x}')",
        "importlib.import_module('..attacks', __package__)",
        "__import__(name)",
    ],
)
def test_a_computed_import_is_seen(code):
    assert len(list(computed(ast.parse(code)))) == 1


def test_modules_are_copied_by_view_alone():
    copiers = {  # a part that says how it is copied (__deepcopy__) copies no module
        str(file.relative_to(ROOT))
        for file in FILES.values()
        if re.search(r"\bdeepcopy\b", file.read_text())
    }
    assert copiers == {"models/view.py"}, "copied(module) also copies what hooks have computed"


def test_no_file_takes_a_private_name_of_another():
    taken = {
        f"{module} takes {node.module}.{alias.name}"
        for module, file in FILES.items()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("isthmus")
        for alias in node.names
        if re.match("_[^_]", alias.name)
    }
    assert not taken


def test_no_class_name_is_defined_in_two_files():
    """A name means one thing in the whole tree, private and nested classes included."""
    homes: dict[str, set[str]] = {}
    for module, file in FILES.items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, set()).add(module)
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}
