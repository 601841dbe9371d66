"""Files from strangers are data: nothing that they contain is run, nothing that they name is imported."""

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

FEW = ["--trainer.limit_val_batches", "1"]


class Payload:
    """Makes a file when it is unpickled, if anything lets it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


class Unknown:
    """A global that torch does not take for data, without anything to call."""


HIDING_PLACES = {
    "as the whole file": lambda c, p: p,
    "beside everything": lambda c, p: {**c, "extra": p},
    "as the weights": lambda c, p: {**c, "state_dict": p},
    "among the weights": lambda c, p: {**c, "state_dict": {**c["state_dict"], "network.fc.0.bias": p}},
    "as the settings": lambda c, p: {**c, "hyper_parameters": p},
    "in a setting": lambda c, p: {**c, "hyper_parameters": {**c["hyper_parameters"], "latent_dim": p}},
    "deep in a setting": lambda c, p: {**c, "hyper_parameters": {**c["hyper_parameters"], "lr": [{"x": (1, [p])}]}},
    "in the data's settings": lambda c, p: {**c, "datamodule_hyper_parameters": {"root": p}},
    "in the optimiser's state": lambda c, p: {**c, "optimizer_states": [{"state": {0: {"exp_avg": p}}}]},
    "in a callback's state": lambda c, p: {**c, "callbacks": {"LastAndBestCheckpoint": {"best": p}}},
    "in the loops": lambda c, p: {**c, "loops": {"fit_loop": p}},
    "as the name of a class": lambda c, p: {**c, "condgen": {**c["condgen"], "model": p}},
    "as a key": lambda c, p: {**c, "callbacks": {(1, "x"): {"y": p}}},
}


@pytest.fixture(scope="module")
def content(trained):
    """A checkpoint's content, with weights of no size: what is refused is refused before they are looked at."""
    path = trained / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    return content | {"state_dict": {"network.fc.0.bias": torch.zeros(1)}, "optimizer_states": []}


@pytest.mark.parametrize(
    ("place", "kind", "safety_off"),
    [(place, "reduce", True) for place in HIDING_PLACES]
    + [("in the optimiser's state", kind, off) for kind in ("reduce", "global", "old format") for off in (True, False)],
)
def test_no_checkpoint_is_run(place, kind, safety_off, content, tmp_path, monkeypatch, capsys):
    """Neither as torch is, nor where the variable that switches its safe loading off is set."""
    if safety_off:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    trace, path = tmp_path / "executed", tmp_path / "hostile.ckpt"
    payload = Unknown() if kind == "global" else Payload(trace)
    torch.save(HIDING_PLACES[place](dict(content), payload), path, _use_new_zipfile_serialization=kind != "old format")
    for verb in ("fit", "validate", "test", "predict"):
        said = refused([verb, "--ckpt_path", str(path)], capsys)
        assert f"{path} holds more than data" in said
    with pytest.raises(UsageError, match="holds more than data"):
        condgen.load(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["hostile.ckpt"]


@pytest.fixture
def module_that_tells(tmp_path, monkeypatch):
    """A module that can be imported, and leaves a trace when it is."""
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


@pytest.mark.parametrize("where", ["model", "data"])
def test_no_class_is_imported_on_a_checkpoints_word(where, module_that_tells, content, tmp_path, capsys):
    path = tmp_path / "hostile.ckpt"
    torch.save(content | {"condgen": content["condgen"] | {where: f"{module_that_tells}.Net"}}, path)
    for verb in ("fit", "validate", "test", "predict"):
        assert "strangers.Net, which condgen does not know" in refused([verb, "--ckpt_path", str(path)], capsys)
    if where == "model":
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
def strangers_run(trained, tmp_path):
    """Makes a run directory with a good checkpoint, and with these changes to its config.yaml."""
    finished = trained / "lightning_logs" / "version_0"

    def make(**changes) -> Path:
        run = tmp_path / "run"
        (run / "checkpoints").mkdir(parents=True)
        (run / "checkpoints" / "last.ckpt").symlink_to(finished / "checkpoints" / "last.ckpt")
        settings = yaml.safe_load((finished / "config.yaml").read_text())
        (run / "config.yaml").write_text(yaml.safe_dump(settings | changes))
        return run

    make.trainer = yaml.safe_load((finished / "config.yaml").read_text())["trainer"]
    return make


@pytest.mark.parametrize("trainer", TRAINER_CLASSES.values(), ids=TRAINER_CLASSES)
def test_run_config_never_imports_a_class(trainer, module_that_tells, strangers_run, capsys):
    run = strangers_run(trainer=strangers_run.trainer | trainer)
    if "strategy" not in trainer:  # which a resume does not inherit
        said = refused(["fit", "--ckpt_path", str(run), "--trainer.max_epochs", "3"], capsys)
        assert f"--config {run / 'config.yaml'}" in said
    assert main(["validate", "--ckpt_path", str(run)]) == 0


@pytest.mark.parametrize("key", ["trainer", "config", "checkpoint", "sample_grids", "model", "data"])
@pytest.mark.parametrize("verb", ["fit", "validate", "predict"])
def test_run_config_never_loads_another_file(key, verb, module_that_tells, strangers_run, tmp_path):
    hook = {"trainer": {"callbacks": [{"class_path": "strangers.Hook"}]}}
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(hook if key == "config" else hook["trainer"]))
    run = strangers_run(**{key: str(other)})
    request = {"fit": ["--trainer.max_epochs", "3"], "predict": ["--data.labels", "[1]"]}
    assert main([verb, "--ckpt_path", str(run), *request.get(verb, []), *FEW]) == 0


@pytest.mark.parametrize("key", ["trainer", "config"])
def test_run_config_never_fetches_a_url(key, strangers_run):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        run = strangers_run(**{key: f"http://127.0.0.1:{server.getsockname()[1]}/t.yaml"})
        assert main(["validate", "--ckpt_path", str(run), *FEW]) == 0
        with pytest.raises(BlockingIOError):
            server.accept()


def test_run_config_never_decides_where_predict_writes(strangers_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "manifest.csv").write_text("index,label,seed,noise,file\n")
    (thesis / "chapter.txt").write_text("years of work")
    elsewhere = strangers_run.trainer | {"default_root_dir": str(thesis)}
    run = strangers_run(predictions={"dirpath": str(thesis), "overwrite": True}, trainer=elsewhere)
    assert main(["predict", "--ckpt_path", str(run), "--data.labels", "[1]"]) == 0
    assert sorted(path.name for path in thesis.iterdir()) == ["chapter.txt", "manifest.csv"]
    assert (run / "predictions" / "manifest.csv").is_file()


@pytest.mark.parametrize("verb", ["fit", "validate", "predict"])
def test_run_config_never_decides_the_number_of_processes(verb, strangers_run, monkeypatch):
    def no_process(*args, **kwargs):
        raise AssertionError("a process is started")

    many = {"accelerator": "cpu", "devices": 1000, "num_nodes": 7, "strategy": "ddp"}
    run = strangers_run(trainer=strangers_run.trainer | many)
    monkeypatch.setattr("subprocess.Popen", no_process)
    more = ["--trainer.max_epochs", "3"] if verb == "fit" else []
    assert main([verb, "--ckpt_path", str(run), *more, *FEW]) == 0


def test_checkpoint_that_is_compressed_is_refused_before_it_takes_memory(content, tmp_path, capsys):
    torch.save(content | {"state_dict": {"network.fc.0.bias": torch.zeros(10**7)}}, tmp_path / "whole.ckpt")
    with zipfile.ZipFile(tmp_path / "whole.ckpt") as whole, zipfile.ZipFile(tmp_path / "bomb.ckpt", "w") as bomb:
        for entry in whole.infolist():
            bomb.writestr(entry.filename, whole.read(entry), zipfile.ZIP_DEFLATED)
    assert (tmp_path / "bomb.ckpt").stat().st_size < 100_000
    assert "bomb.ckpt" in refused(["validate", "--ckpt_path", str(tmp_path / "bomb.ckpt")], capsys)


def test_checkpoint_never_decides_how_many_samples_predict_writes(content, last, tmp_path):
    request = {"labels": [1] * 99, "samples_per_label": 10**9, "sample_seed": 5, "first_index": 7, "shared_noise": True}
    whole = torch.load(last, weights_only=True)
    data = content["datamodule_hyper_parameters"] | request
    torch.save(whole | {"datamodule_hyper_parameters": data}, tmp_path / "odd.ckpt")
    folder = tmp_path / "samples"
    assert main(["predict", "--ckpt_path", str(tmp_path / "odd.ckpt"), "--predictions.dirpath", str(folder)]) == 0
    assert len((folder / "manifest.csv").read_text().splitlines()) == 101


def test_checkpoint_never_decides_how_many_processes_and_how_much_memory_a_command_takes(last, tmp_path):
    whole = torch.load(last, weights_only=True)
    data = whole["datamodule_hyper_parameters"] | {"num_workers": 512, "batch_size": 2**20}
    torch.save(whole | {"datamodule_hyper_parameters": data}, tmp_path / "odd.ckpt")
    command = "condgen predict --ckpt_path odd.ckpt --predictions.dirpath samples --data.labels [1]"
    script = "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34)); "
    script += f"from condgen.cli.main import main; sys.exit(main({command.split()[1:]}))"
    assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False).returncode == 0
    saved = settings(torch.load(tmp_path / "odd.ckpt", weights_only=True), tmp_path / "odd.ckpt")
    assert saved["data"]["init_args"]["num_workers"] <= os.cpu_count()


def test_checkpoint_never_decides_where_a_data_set_is_downloaded(last, tmp_path, capsys):
    whole = torch.load(last, weights_only=True)
    data = whole["datamodule_hyper_parameters"] | {"root": str(tmp_path / "elsewhere"), "source": "full"}
    torch.save(whole | {"datamodule_hyper_parameters": data}, tmp_path / "odd.ckpt")
    for verb in ("validate", "test", "fit"):
        more = ["--trainer.max_epochs", "9"] if verb == "fit" else []
        assert "--data.root" in refused([verb, "--ckpt_path", str(tmp_path / "odd.ckpt"), *more], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["odd.ckpt"]


def nested(levels: int, width: int) -> list:
    """A list of ``width ** levels`` numbers, of which the computer keeps only ``levels * width``."""
    value = [1.0] * width
    for _ in range(levels - 1):
        value = [value] * width
    return value


@pytest.mark.parametrize("value", [nested(9, 10), nested(200, 1)], ids=["wide", "deep"])
def test_checkpoint_whose_settings_expand_is_refused(value, content, tmp_path, capsys):
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
    ids=["billion laughs", "inside itself", "deep", "long", "base 60", "long text many times"],
)  # fmt: skip
def test_config_that_expands_is_refused(text, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(text)
    assert "config.yaml" in refused(["fit", "--config", str(tmp_path / "config.yaml")], capsys)


def test_checkpoint_with_expanded_weights_is_refused_before_it_takes_memory(last, tmp_path, capsys):
    whole = torch.load(last, weights_only=True)
    settings = whole["hyper_parameters"] | {"latent_dim": 1_000_000}
    with torch.device("meta"):
        shapes = {name: weights.shape for name, weights in DNN(**settings).state_dict().items()}
    expanded = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    odd = whole | {"hyper_parameters": settings, "state_dict": expanded, "optimizer_states": []}
    torch.save(odd, tmp_path / "odd.ckpt")
    assert (tmp_path / "odd.ckpt").stat().st_size < 100_000
    assert "odd.ckpt" in refused(["validate", "--ckpt_path", str(tmp_path / "odd.ckpt")], capsys)


@pytest.mark.parametrize("name", ["checkpoints", "samples"])
def test_run_with_a_folder_that_is_a_link_is_not_resumed_into_it(name, strangers_run, tmp_path, capsys):
    run, mine = strangers_run(), tmp_path / "mine"
    (run / "checkpoints").rename(mine) if name == "checkpoints" else mine.mkdir()
    (run / name).symlink_to(mine)
    before = sorted(path.name for path in mine.iterdir())
    assert str(run / name) in refused(["fit", "--ckpt_path", str(run), "--trainer.max_epochs", "3"], capsys)
    assert sorted(path.name for path in mine.iterdir()) == before


def test_run_config_with_a_huge_number_is_one_line(strangers_run, capsys):
    run = strangers_run(trainer=strangers_run.trainer | {"limit_val_batches": 10**400})
    assert "limit_val_batches" in refused(["validate", "--ckpt_path", str(run)], capsys)


def test_fifo_in_place_of_a_file_is_refused_without_waiting(strangers_run, tmp_path, capsys):
    os.mkfifo(tmp_path / "fifo")
    run = strangers_run()
    (run / "metrics.csv").unlink(missing_ok=True)
    os.mkfifo(run / "metrics.csv")
    assert "fifo" in refused(["fit", "--config", str(tmp_path / "fifo")], capsys)
    assert main(["fit", "--ckpt_path", str(run), "--trainer.max_epochs", "3", *FEW]) == 0


def test_a_config_with_code_is_refused(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(f"trainer: !!python/object/apply:os.mkdir [{str(tmp_path / 'executed')!r}]\n")
    assert "is not YAML" in refused(["fit", "--config", str(config)], capsys)
    assert not (tmp_path / "executed").exists()


def test_a_data_file_with_code_is_refused(tmp_path, capsys):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in condgen.data.MNIST.files:
        torch.save(Payload(tmp_path / "executed"), raw / name)
    folder = ["--trainer.default_root_dir", str(tmp_path)]
    assert "is not an IDX file" in refused(["fit", "--data.root", str(tmp_path), *folder], capsys)
    assert not (tmp_path / "executed").exists()
