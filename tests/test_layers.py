"""The map cannot rot: a file imports only from layers above its own in docs/design.md."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in ROOT.glob("isthmus/**/*.py")}


def layers() -> dict[str, int]:
    """The layer of each file or folder on the map, counted from the top."""
    found, layer = {}, 0
    for line in re.search(r"## Layers.*?```\n(.*?)```", (ROOT / "docs/design.md").read_text(), re.S)[1].splitlines():
        layer += line.startswith("──")
        if place := re.match(r"  (\w+)(\.py|/)", line):
            found[place[1]] = layer
    return found


def imports(file: Path) -> Iterator[str]:
    """The modules of the package that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        for name in names if isinstance(node, ast.Import) else [f"{node.module}.{name}" for name in names]:
            while name.startswith("isthmus") and name not in FILES and f"{name}.__init__" not in FILES:
                name = name.rpartition(".")[0]
            if name.startswith("isthmus"):
                yield name if name in FILES else f"{name}.__init__"


def test_every_file_has_its_place_on_the_map():
    assert layers().keys() == {name.split(".")[1] for name in FILES}


def test_a_file_imports_only_from_layers_above_its_own():
    layer = layers()
    wrong = [
        f"{name} imports {other}"
        for name, file in FILES.items()
        for other in imports(file)
        if name.split(".")[1] != other.split(".")[1] and layer[other.split(".")[1]] >= layer[name.split(".")[1]]
    ]
    assert not wrong


def test_no_import_comes_round_to_itself():
    TopologicalSorter({name: set(imports(file)) for name, file in FILES.items()}).prepare()


def test_the_rule_would_see_a_breach(tmp_path):
    (tmp_path / "x.py").write_text(
        "def f():\n    from isthmus import plot, __version__\n    import isthmus.models.vgg\n"
    )
    assert list(imports(tmp_path / "x.py")) == ["isthmus.plot", "isthmus.__init__", "isthmus.models.vgg"]
