"""condgen's generators and data modules work with a plain Lightning Trainer, as in a notebook."""

from __future__ import annotations

import pickle

import pytest
import torch
from helpers.runs import FAMILIES, SMALL
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.tuner import Tuner
from torch.utils.data import DataLoader, TensorDataset

import condgen.generators
from condgen.cli.main import main
from condgen.data.datasets import MNIST
from condgen.generators import DNN, VAE

QUIET = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "limit_train_batches": 3, "limit_val_batches": 1,
}  # fmt: skip
LONGER = {"max_epochs": 2, "limit_train_batches": 20}
ARGUMENTS = {"Diffusion": {"unet_channels": (8, 16)}, "VAE": {"flow_steps": 2}}
OVERRIDES = {"DNN": {"lr": 3e-4}, "GAN": {"penalty": 0.1}, "VAE": {"lr": 3e-4}, "Drifting": {"lr": 3e-4}}
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*logging interval")


@pytest.fixture
def data(mnist_root):
    return MNIST(str(mnist_root), batch_size=16)


def images_of(generator):
    with torch.no_grad():
        return generator.eval().generate(torch.arange(4), generator.sample_noise(0, range(4)))


@pytest.mark.parametrize("written_by", ["Lightning", "condgen"])
@pytest.mark.parametrize("family", FAMILIES)
def test_load_from_checkpoint_restores_the_trained_generator(family, written_by, data, fit_args, tmp_path):
    generator_class = getattr(condgen.generators, family)
    if written_by == "condgen":
        small = ["--model", family, *SMALL.get(family, []), "--trainer.max_epochs", "1"]
        assert main([*fit_args, *small, "--trainer.default_root_dir", str(tmp_path)]) == 0
        path = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    else:
        path = tmp_path / "notebook.ckpt"
        trainer = Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET)
        trainer.fit(generator_class(**ARGUMENTS.get(family, {})), datamodule=data)
        trainer.save_checkpoint(path)
    loaded = generator_class.load_from_checkpoint(path)
    assert torch.equal(images_of(loaded), images_of(condgen.load(path)))
    name, value = next(iter(OVERRIDES.get(family, {"guidance": 3.0}).items()))
    assert generator_class.load_from_checkpoint(path, **{name: value}).hparams[name] == value


def test_load_from_checkpoint_restores_the_data_module(last, mnist_root):
    data = MNIST.load_from_checkpoint(last)
    assert (data.root, data.batch_size) == (mnist_root, 16)


def test_second_fit_in_one_process_uses_the_changed_learning_rate(data, tmp_path):
    trainer = Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET)
    trainer.fit(generator := DNN(lr=1e-3), datamodule=data)
    generator.hparams.lr = 1e-5
    trainer = Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET)
    trainer.fit(generator, datamodule=data)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 1e-5


@pytest.mark.parametrize("finder", [BatchSizeFinder, LearningRateFinder])
def test_finder_callback_changes_its_hyperparameter_and_the_training_completes(finder, data, tmp_path):
    callback = BatchSizeFinder(max_trials=2) if finder is BatchSizeFinder else LearningRateFinder(num_training_steps=30)
    generator = DNN(lr=1e-4)
    trainer = Trainer(callbacks=[callback], default_root_dir=tmp_path, **{**QUIET, **LONGER})
    trainer.fit(generator, datamodule=data)
    assert (data.batch_size != 16) if finder is BatchSizeFinder else (generator.hparams.lr != 1e-4)
    assert trainer.global_step == 2 * trainer.num_training_batches
    assert trainer.optimizers[0].param_groups[0]["lr"] == generator.hparams.lr


def test_tuner_lr_find_tries_the_requested_learning_rates(data, tmp_path):
    trainer = Trainer(default_root_dir=tmp_path, **{**QUIET, **LONGER})
    found = Tuner(trainer).lr_find(DNN(), datamodule=data, num_training=8, update_attr=False)
    assert len(found.results["lr"]) >= 8


@pytest.mark.parametrize("finder", ["BatchSizeFinder", "LearningRateFinder"])
def test_fit_command_trains_with_a_finder_callback(finder, fit_args, tmp_path):
    short = {"BatchSizeFinder": ["--trainer.callbacks.max_trials", "1"], "LearningRateFinder": []}[finder]
    options = ["--trainer.callbacks", finder, *short, "--trainer.default_root_dir", str(tmp_path)]
    assert main([*fit_args, *options, "--trainer.limit_train_batches", "20", "--trainer.max_epochs", "1"]) == 0
    run = tmp_path / "lightning_logs" / "version_0"
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] in (10, 20)
    assert [path.name for path in tmp_path.iterdir()] == ["lightning_logs"]


class UserData(LightningDataModule):
    """A data module without any class of condgen."""

    def train_dataloader(self):
        return loader()

    def val_dataloader(self):
        return loader()


def loader():
    return DataLoader(TensorDataset(torch.rand(48, 1, 28, 28), torch.arange(48) % 10), batch_size=16)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"Diffusion"}))
@pytest.mark.parametrize("kind", ["loaders", "data module"])
def test_trainer_fits_with_plain_loaders_or_a_plain_data_module(kind, family, tmp_path):
    generator = getattr(condgen.generators, family)(**ARGUMENTS.get(family, {}))
    trainer = Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET)
    trainer.fit(
        generator,
        *([loader(), loader()] if kind == "loaders" else []),
        datamodule=UserData() if kind == "data module" else None,
    )
    assert {"val_loss", "variance_ratio"} <= trainer.callback_metrics.keys()
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    assert torch.equal(images_of(condgen.load(tmp_path / "own.ckpt")), images_of(generator))


def test_data_module_without_a_trainer_yields_batches(data):
    data.prepare_data()
    data.setup("fit")
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (16, 1, 28, 28)
    assert labels.dtype == torch.int64
    assert sum(len(labels) for _, labels in data.val_dataloader()) == 70
    assert len(next(iter(data.predict_dataloader())).labels) == 16


def test_data_module_without_a_trainer_shuffles_by_the_global_seed(data, monkeypatch):
    data.setup("fit")
    orders = []
    for seed in (1, 1, 2):
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        seed_everything(seed)
        orders.append(next(iter(data.train_dataloader()))[1].tolist())
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("family", FAMILIES)
def test_pickled_generator_generates_the_same_images(family, data, tmp_path):
    generator = getattr(condgen.generators, family)(**ARGUMENTS.get(family, {}))
    Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET).fit(generator, datamodule=data)
    assert torch.equal(images_of(pickle.loads(pickle.dumps(generator))), images_of(generator))


def test_vae_reconstructs_after_load_from_checkpoint(data, tmp_path):
    trainer = Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET)
    trainer.fit(VAE(flow_steps=2), datamodule=data)
    trainer.save_checkpoint(tmp_path / "vae.ckpt")
    images = torch.rand(2, 1, 28, 28)
    assert (
        VAE.load_from_checkpoint(tmp_path / "vae.ckpt").eval().reconstruct(images, torch.tensor([1, 2])).shape
        == images.shape
    )
