"""What the pages name is there: every module, file and name of the package that a page mentions."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
MOVED = "Import paths have moved"  # the one entry of the changelog that names what is gone


def text_of(page: Path) -> str:
    entries = re.split(r"\n(?=- )", page.read_text(encoding="utf-8"))
    return "\n".join(entry for entry in entries if MOVED not in entry)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_of_the_project_that_a_page_names_exist(page):
    named = re.findall(r"`((?:isthmus|tests|experiments|benchmarks|docs)/[\w./]+)`", text_of(page))
    assert [name for name in named if "NAME" not in name and not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_of_the_package_that_a_page_mentions_can_be_imported(page):
    named = re.findall(r"(?<![\w./])isthmus((?:\.[A-Za-z_]\w*)+)", text_of(page))
    named += [f".{n}" for n in re.findall(r"^from isthmus import ([\w, ]+)$", text_of(page), re.M)]
    for name in {part.strip(" .") for each in named for part in each.split(",")}:
        value = importlib.import_module("isthmus")
        for word in name.split("."):
            try:
                value = getattr(value, word)
            except AttributeError:
                value = importlib.import_module(f"{value.__name__}.{word}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
