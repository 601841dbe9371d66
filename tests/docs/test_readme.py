"""The commands, snippets and links of README.md and CONTRIBUTING.md work."""

import pytest
from helpers.pages import ELSEWHERE, ROOT, blocks, commands, links, run


def test_readme_commands_and_snippets_run(mnist_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(ROOT / "README.md", mnist_root, tmp_path) >= 8
    assert (tmp_path / "digits.png").is_file()


@pytest.mark.parametrize(
    ("page", "path"), [(page, path) for page in ("README.md", "CONTRIBUTING.md") for path in links(ROOT / page)]
)
def test_link_leads_to_a_file(page, path):
    assert (ROOT / path).exists()


def test_contributing_names_commands_and_paths_that_exist():
    for block in blocks(ROOT / "CONTRIBUTING.md"):
        for program, *arguments in commands(block.text):
            assert program in ELSEWHERE
            for word in (program, *arguments):
                assert "/" not in word or word.startswith("build/") or (ROOT / word).exists(), word
