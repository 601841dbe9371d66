"""The pages of docs/: their commands, snippets, quotations and links, and the site that mkdocs builds from them."""

import ast
import functools
import os
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers.pages import ROOT, blocks, links, run
from PIL import Image
from playwright.sync_api import Page

PAGES = sorted((ROOT / "docs").rglob("*.md"))
QUOTES = [(page, block) for page in PAGES for block in blocks(page) if block.is_quoted]
CHINESE = ROOT / "docs" / "README.zh.md"
RUNNABLE = [page for page in PAGES if page != CHINESE and any(not block.is_quoted for block in blocks(page))]


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.stem)
def test_page_commands_and_snippets_run(page, mnist_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as `python -m` does
    monkeypatch.setenv("MPLBACKEND", "agg")
    run(page, mnist_root, tmp_path)
    pictures = re.findall(r'savefig\("([^"]+)"', page.read_text())
    assert all((tmp_path / picture).is_file() and (page.parent / picture).is_file() for picture in pictures)
    for word in re.findall(r'open\("(\w+)\.pgm", "wb"\)', page.read_text()):
        with Image.open(tmp_path / f"{word}.pgm") as picture:
            assert picture.size == (len(word) * 28, 28)


def test_chinese_readme_has_commands_and_snippets_that_other_pages_run():
    def code(page: Path) -> set[str]:
        lines = "\n".join(block.text for block in blocks(page)).splitlines()
        return {line.partition("#")[0].rstrip() for line in lines}

    assert code(CHINESE) <= set().union(*map(code, [ROOT / "README.md", *RUNNABLE]))


def source(path: Path, place: str) -> str:
    """The lines of a file that define ``Class.function``, or all lines if no place is given."""
    text = path.read_text()
    node: ast.AST = ast.parse(text)
    for name in filter(None, place.split(".")):
        node = next(child for child in ast.iter_child_nodes(node) if getattr(child, "name", None) == name)
    if isinstance(node, ast.Module):
        return text
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    return "".join(text.splitlines(keepends=True)[node.lineno - 1 : node.end_lineno])


@pytest.mark.parametrize(("page", "block"), QUOTES, ids=[f"{page.stem}-{block.place}" for page, block in QUOTES])
def test_page_quotes_lines_of_the_source(page, block):
    lines = source(ROOT / block.file, block.place)
    assert any(textwrap.indent(block.text, " " * depth) in lines for depth in range(0, 20, 4))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_links_lead_to_files(page):
    assert [path for path in links(page) if not (page.parent / path).exists()] == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_page_names_tests_that_exist(page):
    files = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    for name, ending in re.findall(r"\b(test_\w+)(\.py)?\b", page.read_text(encoding="utf-8")):
        assert f"{name}.py" in files if ending else any(f"def {name}(" in text for text in files.values()), name


class References(HTMLParser):
    """The files that a browser loads with an HTML page, and those that the page links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "srcset", "data", "poster") or (tag == "link" and name == "href"):
                self.loaded.append(value or "")
            elif tag == "a" and name == "href":
                self.linked.append(value or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder of the site, which builds without a warning and without a network."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", "docs/mkdocs/mkdocs.yml", "-d", str(folder)]
    nobody = "http://127.0.0.1:9"  # a proxy that does not answer
    environment = {**os.environ, "HTTP_PROXY": nobody, "HTTPS_PROXY": nobody, "ALL_PROXY": nobody}
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert built.returncode == 0, built.stderr
    return folder


def test_site_has_every_page_and_its_references_are_files_of_the_site(site):
    pages = {page: References(page.read_text()) for page in site.rglob("*.html") if page.name != "404.html"}
    expected = {page.relative_to(ROOT / "docs").with_suffix("") for page in PAGES if page.name != "README.zh.md"}
    found = {page.relative_to(site).with_suffix("") for page in pages}
    assert found == {*expected, Path("tour"), Path("index")} - {Path("README")}
    for page, references in pages.items():
        for reference in (*references.loaded, *(link for link in references.linked if not link.startswith("http"))):
            path = reference.split("#")[0].split("?")[0]
            assert not path or path.startswith("data:") or (page.parent / path).is_file(), f"{page.name}: {reference}"


def test_site_style_sheets_load_nothing_from_other_hosts(site):
    for sheet in site.rglob("*.css"):
        loaded = re.findall(r"(?:url\(|@import)\s*[\"']?\s*((?:https?:)?//[^\"')]+)", sheet.read_text())
        assert loaded == [], sheet


def test_site_api_reference_has_functions_links_and_examples(site):
    text = (site / "api" / "metrics.html").read_text()
    assert 'id="condgen.metrics.Novelty"' in text
    assert 'href="#condgen.metrics.frechet.frechet_distance"' in text
    assert 'href="https://arxiv.org/abs/1706.08500"' in text
    assert '<span class="gp">&gt;&gt;&gt; </span>' in text  # a doctest as a highlighted code block
    assert ":func:" not in text


@pytest.fixture(scope="module")
def address(site) -> Iterator[str]:
    """The address at which the site is served."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def page(chromium, address) -> Iterator[Page]:
    """The site's first page in a dark system. It loads nothing from other hosts and logs no error."""
    page = chromium.new_page(color_scheme="dark")
    elsewhere, errors = [], []
    page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else elsewhere.append(r.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{address}index.html")
    yield page
    page.close()
    assert elsewhere == []
    assert errors == []


def test_site_search_finds_a_function(page, address):
    page.goto(f"{address}index.html?q=slerp")
    result = page.locator(".md-search-result__link").first
    result.wait_for(timeout=60_000)
    assert "api/noise.html" in result.get_attribute("href")


def test_site_follows_the_dark_mode_of_the_system(page):
    page.locator("body[data-md-color-scheme=slate]").wait_for(timeout=60_000)
