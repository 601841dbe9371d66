"""Untrusted files are data: condgen runs no code from them, imports no class that they name, and limits their size."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from helpers.runs import refused

import condgen
from condgen.checkpoints.build import settings
from condgen.cli.main import main
from condgen.errors import UsageError
from condgen.generators import DNN

ONE_BATCH = ["--trainer.limit_val_batches", "1"]


class Payload:
    """Creates a folder if it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


class Unknown:
    """A class that torch does not allow in checkpoints, but that has no code to run."""


PAYLOAD_PLACES = {  # (checkpoint content, payload) -> content with the payload
    "as the entire file": lambda c, p: p,
    "as an additional entry": lambda c, p: {**c, "extra": p},
    "as the weights": lambda c, p: {**c, "state_dict": p},
    "among the weights": lambda c, p: {**c, "state_dict": {**c["state_dict"], "network.fc.0.bias": p}},
    "as the hyperparameters": lambda c, p: {**c, "hyper_parameters": p},
    "in a hyperparameter": lambda c, p: {**c, "hyper_parameters": {**c["hyper_parameters"], "latent_dim": p}},
    "nested in a hyperparameter": lambda c, p: {
        **c,
        "hyper_parameters": {**c["hyper_parameters"], "lr": [{"x": (1, [p])}]},
    },
    "in the data module's hyperparameters": lambda c, p: {**c, "datamodule_hyper_parameters": {"root": p}},
    "in the optimizer state": lambda c, p: {**c, "optimizer_states": [{"state": {0: {"exp_avg": p}}}]},
    "in a callback's state": lambda c, p: {**c, "callbacks": {"LastAndBestCheckpoint": {"best": p}}},
    "in the loops": lambda c, p: {**c, "loops": {"fit_loop": p}},
    "as the name of a class": lambda c, p: {**c, "condgen": {**c["condgen"], "model": p}},
    "as a key": lambda c, p: {**c, "callbacks": {(1, "x"): {"y": p}}},
}


@pytest.fixture(scope="module")
def content(trained):
    """The content of a checkpoint with tiny weights, because the checks under test run before the weights are read."""
    path = trained / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    return content | {"state_dict": {"network.fc.0.bias": torch.zeros(1)}, "optimizer_states": []}


@pytest.mark.parametrize(
    ("place", "kind", "safety_off"),
    [(place, "reduce", True) for place in PAYLOAD_PLACES]
    + [("in the optimizer state", kind, off) for kind in ("reduce", "global", "old format") for off in (True, False)],
)
def test_checkpoint_with_code_is_rejected_without_running_it(
    place, kind, safety_off, content, tmp_path, monkeypatch, capsys
):
    """Also if TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD disables the safe loading of torch."""
    if safety_off:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    trace, path = tmp_path / "executed", tmp_path / "hostile.ckpt"
    payload = Unknown() if kind == "global" else Payload(trace)
    torch.save(PAYLOAD_PLACES[place](dict(content), payload), path, _use_new_zipfile_serialization=kind != "old format")
    for subcommand in ("fit", "validate", "test", "predict"):
        assert f"{path} contains more than data" in refused([subcommand, "--ckpt_path", str(path)], capsys)
    with pytest.raises(UsageError, match="contains more than data"):
        condgen.load(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["hostile.ckpt"]


@pytest.fixture
def untrusted_module(tmp_path, monkeypatch):
    """The name of an importable module. The fixture fails at the end if the module was imported."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "strangers.py").write_text(
        f"import os\nos.mkdir({str(tmp_path / 'executed')!r})\n"
        "from condgen.generators import DNN\nfrom lightning.pytorch.callbacks import Callback\n"
        "class Net(DNN): pass\nclass Hook(Callback): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    yield "strangers"
    assert "strangers" not in sys.modules
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("key", ["model", "data"])
def test_checkpoint_never_imports_the_class_that_it_names(key, untrusted_module, content, tmp_path, capsys):
    path = tmp_path / "hostile.ckpt"
    torch.save(content | {"condgen": content["condgen"] | {key: f"{untrusted_module}.Net"}}, path)
    for subcommand in ("fit", "validate", "test", "predict"):
        assert "strangers.Net, which condgen does not know" in refused([subcommand, "--ckpt_path", str(path)], capsys)
    if key == "model":
        with pytest.raises(UsageError, match=r"strangers\.Net, which condgen does not know"):
            condgen.load(path)


TRAINER_CLASSES = {
    "a callback": {"callbacks": [{"class_path": "strangers.Hook"}]},
    "a callback by name": {"callbacks": ["strangers.Hook"]},
    "one callback": {"callbacks": {"class_path": "strangers.Hook"}},
    "a logger": {"logger": {"class_path": "strangers.Hook"}},
    "a logger by name": {"logger": "strangers.Hook"},
    "a plugin": {"plugins": [{"class_path": "strangers.Hook"}]},
    "a profiler by name": {"profiler": "strangers.Hook"},
    "a strategy": {"strategy": {"class_path": "strangers.Hook"}},
    "a function": {
        "callbacks": [{"class_path": "LambdaCallback", "init_args": {"on_fit_start": "strangers.Hook"}}]
    },
}  # fmt: skip


@pytest.fixture
def untrusted_run(trained, tmp_path):
    """A function that creates a run directory with a valid checkpoint and a modified config.yaml."""
    finished = trained / "lightning_logs" / "version_0"

    def create(**changes) -> Path:
        run = tmp_path / "run"
        (run / "checkpoints").mkdir(parents=True)
        (run / "checkpoints" / "last.ckpt").symlink_to(finished / "checkpoints" / "last.ckpt")
        settings = yaml.safe_load((finished / "config.yaml").read_text())
        (run / "config.yaml").write_text(yaml.safe_dump(settings | changes))
        return run

    create.trainer = yaml.safe_load((finished / "config.yaml").read_text())["trainer"]
    return create


@pytest.mark.parametrize("trainer", TRAINER_CLASSES.values(), ids=TRAINER_CLASSES)
def test_run_config_never_imports_a_class(trainer, untrusted_module, untrusted_run, capsys):
    run = untrusted_run(trainer=untrusted_run.trainer | trainer)
    if "strategy" not in trainer:  # a resume does not take the strategy from the run
        error = refused(["fit", "--ckpt_path", str(run), "--trainer.max_epochs", "3"], capsys)
        assert f"--config {run / 'config.yaml'}" in error
    assert main(["validate", "--ckpt_path", str(run)]) == 0


@pytest.mark.parametrize("key", ["trainer", "config", "checkpoint", "sample_grids", "model", "data"])
@pytest.mark.parametrize("subcommand", ["fit", "validate", "predict"])
def test_run_config_never_loads_another_config_file(key, subcommand, untrusted_module, untrusted_run, tmp_path):
    hook = {"trainer": {"callbacks": [{"class_path": "strangers.Hook"}]}}
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(hook if key == "config" else hook["trainer"]))
    run = untrusted_run(**{key: str(other)})
    request = {"fit": ["--trainer.max_epochs", "3"], "predict": ["--data.labels", "[1]"]}
    assert main([subcommand, "--ckpt_path", str(run), *request.get(subcommand, []), *ONE_BATCH]) == 0


@pytest.mark.parametrize("key", ["trainer", "config"])
def test_run_config_never_fetches_a_url(key, untrusted_run):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        run = untrusted_run(**{key: f"http://127.0.0.1:{server.getsockname()[1]}/t.yaml"})
        assert main(["validate", "--ckpt_path", str(run), *ONE_BATCH]) == 0
        with pytest.raises(BlockingIOError):
            server.accept()


def test_run_config_never_sets_the_output_folder_of_predict(untrusted_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "manifest.csv").write_text("index,label,seed,noise,file\n")
    (thesis / "chapter.txt").write_text("years of work")
    elsewhere = untrusted_run.trainer | {"default_root_dir": str(thesis)}
    run = untrusted_run(predictions={"dirpath": str(thesis), "overwrite": True}, trainer=elsewhere)
    assert main(["predict", "--ckpt_path", str(run), "--data.labels", "[1]"]) == 0
    assert sorted(path.name for path in thesis.iterdir()) == ["chapter.txt", "manifest.csv"]
    assert (run / "predictions" / "manifest.csv").is_file()


@pytest.mark.parametrize("subcommand", ["fit", "validate", "predict"])
def test_run_config_never_sets_the_number_of_processes(subcommand, untrusted_run, monkeypatch):
    def no_process(*args, **kwargs):
        raise AssertionError("condgen started a process")

    many = {"accelerator": "cpu", "devices": 1000, "num_nodes": 7, "strategy": "ddp"}
    run = untrusted_run(trainer=untrusted_run.trainer | many)
    monkeypatch.setattr("subprocess.Popen", no_process)
    more = ["--trainer.max_epochs", "3"] if subcommand == "fit" else []
    assert main([subcommand, "--ckpt_path", str(run), *more, *ONE_BATCH]) == 0


def test_compressed_checkpoint_is_rejected_before_it_uses_memory(content, tmp_path, capsys):
    torch.save(content | {"state_dict": {"network.fc.0.bias": torch.zeros(10**7)}}, tmp_path / "original.ckpt")
    with zipfile.ZipFile(tmp_path / "original.ckpt") as original, zipfile.ZipFile(tmp_path / "bomb.ckpt", "w") as bomb:
        for entry in original.infolist():
            bomb.writestr(entry.filename, original.read(entry), zipfile.ZIP_DEFLATED)
    assert (tmp_path / "bomb.ckpt").stat().st_size < 100_000
    assert "bomb.ckpt" in refused(["validate", "--ckpt_path", str(tmp_path / "bomb.ckpt")], capsys)


def test_checkpoint_never_sets_the_number_of_samples_of_predict(content, last, tmp_path):
    request = {"labels": [1] * 99, "samples_per_label": 10**9, "sample_seed": 5, "first_index": 7, "shared_noise": True}
    checkpoint = torch.load(last, weights_only=True)
    data = content["datamodule_hyper_parameters"] | request
    torch.save(checkpoint | {"datamodule_hyper_parameters": data}, tmp_path / "odd.ckpt")
    folder = tmp_path / "samples"
    assert main(["predict", "--ckpt_path", str(tmp_path / "odd.ckpt"), "--predictions.dirpath", str(folder)]) == 0
    assert len((folder / "manifest.csv").read_text().splitlines()) == 101


def test_checkpoint_never_sets_loader_workers_and_batch_size_beyond_the_machine(last, tmp_path):
    checkpoint = torch.load(last, weights_only=True)
    data = checkpoint["datamodule_hyper_parameters"] | {"num_workers": 512, "batch_size": 2**20}
    torch.save(checkpoint | {"datamodule_hyper_parameters": data}, tmp_path / "odd.ckpt")
    command = "condgen predict --ckpt_path odd.ckpt --predictions.dirpath samples --data.labels [1]"
    script = "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34)); "
    script += f"from condgen.cli.main import main; sys.exit(main({command.split()[1:]}))"
    assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False).returncode == 0
    saved = settings(torch.load(tmp_path / "odd.ckpt", weights_only=True), tmp_path / "odd.ckpt")
    assert saved["data"]["init_args"]["num_workers"] <= os.cpu_count()


def test_checkpoint_never_sets_the_folder_of_a_download(last, tmp_path, capsys):
    checkpoint = torch.load(last, weights_only=True)
    data = checkpoint["datamodule_hyper_parameters"] | {"root": str(tmp_path / "elsewhere"), "source": "full"}
    torch.save(checkpoint | {"datamodule_hyper_parameters": data}, tmp_path / "odd.ckpt")
    for subcommand in ("validate", "test", "fit"):
        more = ["--trainer.max_epochs", "9"] if subcommand == "fit" else []
        assert "--data.root" in refused([subcommand, "--ckpt_path", str(tmp_path / "odd.ckpt"), *more], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["odd.ckpt"]


def nested(levels: int, width: int) -> list:
    """A nested list of ``width ** levels`` numbers that shares its sublists, so that it uses memory for few of them."""
    value = [1.0] * width
    for _ in range(levels - 1):
        value = [value] * width
    return value


@pytest.mark.parametrize("value", [nested(9, 10), nested(200, 1)], ids=["wide", "deep"])
def test_checkpoint_with_expanding_hyperparameters_is_rejected(value, content, tmp_path, capsys):
    settings = content["hyper_parameters"] | {"betas": value}
    torch.save(content | {"hyper_parameters": settings}, tmp_path / "odd.ckpt")
    assert "odd.ckpt" in refused(["validate", "--ckpt_path", str(tmp_path / "odd.ckpt")], capsys)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
            f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in itertools.pairwise("abcdefghi")
        ),
        "&a [*a, *a]",
        "trainer: {max_epochs: " + "[" * 5000 + "]" * 5000 + "}",
        "x: " + "y" * 2_000_000,
        "trainer: {max_epochs: 1" + ":1" * 400_000 + "}",
        "x: &x " + "y" * 400_000 + "\nz: [" + "*x, " * 90_000 + "]",
    ],
    ids=["billion laughs", "recursive", "deep", "long", "base 60", "repeated long text"],
)  # fmt: skip
def test_expanding_config_is_rejected(text, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(text)
    assert "config.yaml" in refused(["fit", "--config", str(tmp_path / "config.yaml")], capsys)


def test_checkpoint_with_expanded_weights_is_rejected_before_it_uses_memory(last, tmp_path, capsys):
    checkpoint = torch.load(last, weights_only=True)
    settings = checkpoint["hyper_parameters"] | {"latent_dim": 1_000_000}
    with torch.device("meta"):
        shapes = {name: weights.shape for name, weights in DNN(**settings).state_dict().items()}
    expanded = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    odd = checkpoint | {"hyper_parameters": settings, "state_dict": expanded, "optimizer_states": []}
    torch.save(odd, tmp_path / "odd.ckpt")
    assert (tmp_path / "odd.ckpt").stat().st_size < 100_000
    assert "odd.ckpt" in refused(["validate", "--ckpt_path", str(tmp_path / "odd.ckpt")], capsys)


@pytest.mark.parametrize("name", ["checkpoints", "samples"])
def test_resume_never_writes_through_a_symlink_in_the_run_directory(name, untrusted_run, tmp_path, capsys):
    run, linked = untrusted_run(), tmp_path / "linked"
    (run / "checkpoints").rename(linked) if name == "checkpoints" else linked.mkdir()
    (run / name).symlink_to(linked)
    before = sorted(path.name for path in linked.iterdir())
    assert str(run / name) in refused(["fit", "--ckpt_path", str(run), "--trainer.max_epochs", "3"], capsys)
    assert sorted(path.name for path in linked.iterdir()) == before


def test_run_config_with_a_huge_number_is_rejected_in_one_line(untrusted_run, capsys):
    run = untrusted_run(trainer=untrusted_run.trainer | {"limit_val_batches": 10**400})
    assert "limit_val_batches" in refused(["validate", "--ckpt_path", str(run)], capsys)


def test_fifo_instead_of_a_file_never_blocks(untrusted_run, tmp_path, capsys):
    os.mkfifo(tmp_path / "fifo")
    run = untrusted_run()
    (run / "metrics.csv").unlink(missing_ok=True)
    os.mkfifo(run / "metrics.csv")
    assert "fifo" in refused(["fit", "--config", str(tmp_path / "fifo")], capsys)
    assert main(["fit", "--ckpt_path", str(run), "--trainer.max_epochs", "3", *ONE_BATCH]) == 0


def test_config_with_a_python_tag_is_rejected_without_running_it(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(f"trainer: !!python/object/apply:os.mkdir [{str(tmp_path / 'executed')!r}]\n")
    assert "is not YAML" in refused(["fit", "--config", str(config)], capsys)
    assert not (tmp_path / "executed").exists()


def test_pickled_data_file_is_rejected_without_running_it(tmp_path, capsys):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in condgen.data.MNIST.files:
        torch.save(Payload(tmp_path / "executed"), raw / name)
    folder = ["--trainer.default_root_dir", str(tmp_path)]
    assert "is not an IDX file" in refused(["fit", "--data.root", str(tmp_path), *folder], capsys)
    assert not (tmp_path / "executed").exists()
