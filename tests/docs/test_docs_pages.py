"""The pages of docs/: what they run, what they quote, where their links lead, and the site that they make."""

import ast
import os
import re
import subprocess
import sys
import textwrap
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers.pages import ROOT, blocks, links, run
from PIL import Image

PAGES = sorted((ROOT / "docs").glob("*.md"))
QUOTES = [(page, block) for page in PAGES for block in blocks(page) if block.is_quoted]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_and_snippet_of_a_page_works(page, mnist_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as `python -m` does
    monkeypatch.setenv("MPLBACKEND", "agg")
    assert run(page, mnist_root, tmp_path) >= 2
    pictures = re.findall(r'savefig\("([^"]+)"', page.read_text())
    assert all((tmp_path / picture).is_file() and (page.parent / picture).is_file() for picture in pictures)
    for word in re.findall(r'open\("(\w+)\.pgm", "wb"\)', page.read_text()):
        with Image.open(tmp_path / f"{word}.pgm") as picture:
            assert picture.size == (len(word) * 28, 28)


def source(path: Path, place: str) -> str:
    """The lines of a file in which ``Class.function`` is defined; all of them where no place is given."""
    text = path.read_text()
    node: ast.AST = ast.parse(text)
    for name in filter(None, place.split(".")):
        node = next(child for child in ast.iter_child_nodes(node) if getattr(child, "name", None) == name)
    if isinstance(node, ast.Module):
        return text
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    return "".join(text.splitlines(keepends=True)[node.lineno - 1 : node.end_lineno])


@pytest.mark.parametrize(("page", "block"), QUOTES, ids=[f"{page.stem}-{block.place}" for page, block in QUOTES])
def test_quoted_lines_stand_where_the_page_says(page, block):
    lines = source(ROOT / block.file, block.place)
    assert any(textwrap.indent(block.text, " " * depth) in lines for depth in range(0, 20, 4))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_of_a_page_leads_somewhere(page):
    assert [path for path in links(page) if not (page.parent / path).exists()] == []


class References(HTMLParser):
    """Of an HTML page what a browser fetches with it, and what it links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.linked: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "srcset", "data", "poster") or (tag == "link" and name == "href"):
                self.fetched.append(value or "")
            elif tag == "a" and name == "href":
                self.linked.append(value or "")


def test_the_site_builds_without_a_warning_and_fetches_nothing_from_other_hosts(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", "docs/mkdocs/mkdocs.yml", "-d", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    pages = {page: References(page.read_text()) for page in tmp_path.glob("*.html")}
    assert len(pages) == len(PAGES) + 1  # and the page for what is not there
    for page, found in pages.items():
        if page.stem == "404":
            continue
        for reference in (*found.fetched, *(link for link in found.linked if not link.startswith("http"))):
            path = reference.split("#")[0].split("?")[0]
            assert not path or (page.parent / path).is_file(), f"{page.name}: {reference}"
    for sheet in tmp_path.rglob("*.css"):
        fetched = re.findall(r"(?:url\(|@import)\s*[\"']?\s*((?:https?:)?//[^\"')]+)", sheet.read_text())
        assert fetched == [], sheet
