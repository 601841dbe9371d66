"""The files for contributors and services: CI workflow, Dependabot, pre-commit, citation and lightning_logs/."""

import re
import shlex
import subprocess
from pathlib import Path

import yaml
from helpers.pages import ROOT, commands, ran_here

import condgen

EXTRAS = re.findall(r"^(\w+) = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), flags=re.S | re.M)


def read_yaml(path: str) -> dict:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def run_steps() -> list[list[str]]:
    """The commands of the CI workflow."""
    jobs = read_yaml(".github/workflows/ci.yml")["jobs"].values()
    return [command for job in jobs for step in job["steps"] for command in commands(step.get("run", ""))]


def test_ci_workflow_runs_commands_that_work(tmp_path, monkeypatch):
    """On the sample of 5,000 digits, with a few batches."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    assert sum(ran_here(command) for command in run_steps()) == 2


def test_ci_workflow_names_files_and_extras_that_exist():
    for program, *arguments in run_steps():
        if program == "pip":
            assert re.findall(r"\[(\w+)\]", arguments[-1])[0] in dict(EXTRAS)
        elif program == "pytest":
            assert all((ROOT / path).exists() for path in arguments)
        elif program != "condgen":
            assert (ROOT / program).stat().st_mode & 0o100  # executable


def test_dependabot_names_directories_that_exist():
    updates = read_yaml(".github/dependabot.yml")["updates"]
    assert [update["package-ecosystem"] for update in updates] == ["pip", "github-actions"]
    assert all(Path(ROOT, update["directory"].lstrip("/")).is_dir() for update in updates)


def test_pre_commit_hooks_run_programs_of_the_dev_extra_as_ci_does():
    ci = (ROOT / ".ci" / "run").read_text()
    for repository in read_yaml(".pre-commit-config.yaml")["repos"]:
        for hook in repository["hooks"]:
            program, *arguments = shlex.split(hook["entry"])
            assert f'"{program}>=' in dict(EXTRAS)["dev"]
            assert " ".join([program, *arguments[:1]]) in ci


def test_citation_has_the_version_of_the_package():
    citation = read_yaml("CITATION.cff")
    assert citation["version"] == condgen.__version__
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # the format requires these


def test_lightning_logs_is_in_the_repository_and_its_runs_are_ignored():
    def is_ignored(path: str) -> bool:
        return (
            subprocess.run(["git", "check-ignore", "--quiet", "--no-index", path], cwd=ROOT, check=False).returncode
            == 0
        )

    assert is_ignored("lightning_logs/version_0/config.yaml")
    assert not is_ignored("lightning_logs/.gitignore")
    assert (ROOT / "lightning_logs" / ".gitignore").is_file()
