"""The tree is the architecture: rooms import only from rooms to their left, and the five in the
middle never meet.
"""

import ast
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


def named(tree: ast.AST) -> Iterator[str]:
    """What a file imports: by statement, anywhere in it, or by a text that names a module or an
    object in one.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call):
            words = [word.value for word in node.args if isinstance(word, ast.Constant)]
            texts = [
                word for word in words if isinstance(word, str) and word.startswith("isthmus.")
            ]
            yield from (text.partition(":")[0] for text in texts)


def imports(file: Path) -> set[str]:
    """The modules of the package that a file imports, dynamic imports included."""
    found = set()
    for name in named(ast.parse(file.read_text(encoding="utf-8"))):
        while name.startswith("isthmus") and name not in FILES and f"{name}.__init__" not in FILES:
            name = name.rpartition(".")[0]
        if name.startswith("isthmus") and " " not in name:
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
    files = [entry for entry in ROOT.iterdir() if entry.name != "__pycache__"]
    assert {entry.stem for entry in files} - FACE - {"py"} <= RANK.keys()
    assert len(files) <= len(RANK) + 4  # the rooms, the face of the package and py.typed


def test_rooms_import_only_from_rooms_to_their_left():
    inside = {name: file for name, file in FILES.items() if room(name) not in FACE}
    assert not [breach for name, file in inside.items() for breach in breaches(name, imports(file))]


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
        "app.command('isthmus.cli.train:train')",
        "from isthmus import __version__",
    ],
)
def test_the_rule_sees_a_breach(code, tmp_path):
    file = tmp_path / "x.py"
    file.write_text(code)
    assert len(breaches("isthmus.defenses.x", imports(file))) == 1
