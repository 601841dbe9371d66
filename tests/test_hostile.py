"""Files from strangers are data: nothing that they contain is run, nothing that they name is imported."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
import yaml
from test_cli import refused

import condgen
from condgen.errors import UsageError

HERE = Path(__file__).parent


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
    "in a callback's state": lambda c, p: {**c, "callbacks": {"RunCheckpoint": {"best": p}}},
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


@pytest.mark.parametrize("trainer", TRAINER_CLASSES.values(), ids=TRAINER_CLASSES)
def test_no_class_is_imported_on_the_word_of_a_runs_settings(trainer, module_that_tells, trained, tmp_path, capsys):
    """A run directory from a stranger is gone on with, or measured, without what its config.yaml would import."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").symlink_to(
        trained / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    )
    settings = yaml.safe_load((trained / "lightning_logs" / "version_0" / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(settings | {"trainer": settings["trainer"] | trainer}))
    said = refused(["fit", "--ckpt_path", str(run), "--trainer.max_epochs", "3"], capsys)
    assert f"to use them give --config {run / 'config.yaml'}" in said
    assert condgen.__main__.main(["validate", "--ckpt_path", str(run)]) == 0


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
