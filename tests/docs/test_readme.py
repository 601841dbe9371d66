"""The README's commands, snippets and links work."""

import pytest
from helpers.pages import ROOT, links, run


def test_every_command_and_snippet_works(mnist_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(ROOT / "README.md", mnist_root, tmp_path) >= 8
    assert (tmp_path / "digits.png").is_file()


@pytest.mark.parametrize("path", links(ROOT / "README.md"))
def test_every_link_leads_somewhere(path):
    assert (ROOT / path).exists()
