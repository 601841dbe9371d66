"""The diffusion's training targets, guidance, number of function evaluations and sampling settings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.runs import refused, resumed_and_uninterrupted
from lightning.pytorch import LightningDataModule, Trainer
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

import condgen
from condgen.cli.main import main
from condgen.data import MNIST, ImageDataModule
from condgen.errors import UsageError
from condgen.evaluation.compare import scored_generator
from condgen.generators import Diffusion


def diffusion(**settings) -> Diffusion:
    torch.manual_seed(0)
    generator = Diffusion(unet_channels=[8, 16], **settings).eval()
    for weights in generator.parameters():  # because those that start at zero would hide the effect of t and label
        torch.nn.init.normal_(weights, std=0.1)
    return generator


@pytest.mark.parametrize(
    ("settings", "nfe"),
    [
        ({"guidance": 1.0}, 6),
        ({"guidance": 1.0, "sampling_steps": 5, "solver": "heun"}, 9),
        ({"guidance": 1.0, "sampling_steps": 3, "solver": "euler"}, 3),
        ({"guidance": 2.0}, 9),  # guided at t = 1/6, 2/6 and 3/6
        ({"guidance": 2.0, "sampling_steps": 5, "solver": "heun"}, 13),  # guided twice each at t = 0.2 and 0.4
        ({"guidance": 2.0, "guidance_interval": (0, 1)}, 12),
        ({"guidance": 2.0, "sampling_steps": 7, "solver": "heun"}, 19),
        ({"guidance": 2.0, "sampling_steps": 10, "solver": "euler", "guidance_interval": (0.2, 0.4)}, 13),
        ({"guidance": 2.0, "objective": "noise", "sampling_steps": 10, "guidance_interval": (0, 1)}, 20),
        ({"guidance": 1.0, "objective": "noise", "sampling_steps": 10}, 10),
    ],
)
def test_nfe_equals_the_evaluations_of_the_network(settings, nfe):
    generator = diffusion(**settings)
    batch_sizes = []
    generator.ema.module.register_forward_hook(lambda module, inputs, output: batch_sizes.append(len(output)))
    with torch.no_grad():
        generator.generate(torch.tensor([1, 2]), generator.sample_noise(0, range(2)))
    assert sum(batch_sizes) / 2 == generator.nfe == nfe


def test_unet_output_is_equal_for_one_shared_time_and_a_time_per_image():
    generator, random = diffusion(), torch.Generator().manual_seed(0)
    x, labels = torch.randn(5, 1, 28, 28, generator=random), torch.tensor([3, 10, 0, 3, 9])
    with torch.no_grad():
        for time in (0.0, 0.3):
            shared, per_image = (
                generator.predict(generator.ema, x, times, labels)
                for times in (torch.tensor(time), torch.full((5,), time))
            )
            assert torch.allclose(shared, per_image, rtol=1e-4, atol=1e-5)


def test_unet_costs_at_most_100_mflop():
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        Diffusion().network(torch.zeros(1, 1, 28, 28), torch.zeros(1), torch.zeros(1, dtype=torch.long))
    assert 50e6 < counter.get_total_flops() < 100e6


def test_guidance_extrapolates_from_the_unconditional_prediction():
    def images(guidance):
        generator = diffusion(guidance=guidance, guidance_interval=(0, 1), sampling_steps=1, solver="euler")
        with torch.no_grad():
            return generator.generate(torch.tensor([1, 2]), 0.1 * generator.sample_noise(0, range(2)))

    unconditional, conditional, guided = (images(guidance) for guidance in (0.0, 1.0, 1.5))
    not_clamped = torch.stack([(x > 0) & (x < 1) for x in (unconditional, conditional, guided)]).all(0)
    assert not_clamped.float().mean() > 0.5
    assert not torch.allclose(unconditional, conditional, atol=1e-3)
    expected = unconditional + 1.5 * (conditional - unconditional)
    assert torch.allclose(guided[not_clamped], expected[not_clamped], atol=1e-4)


@pytest.mark.parametrize("setting", [{"solver": "rk4"}, {"objective": "Noise"}, {"sampling_steps": 2.5}])
def test_diffusion_constructor_rejects_settings_of_a_wrong_type(setting):
    ((name, value),) = setting.items()
    with pytest.raises(UsageError, match=rf"model.{name} is .*{value}"):
        Diffusion(**setting)


class DiffusionWithoutTrainer(Diffusion):
    """Trains without a Trainer, in one process. Noise and times depend only on the batch index."""

    def noise_and_times(self, rows, batch_idx):
        random = torch.Generator().manual_seed(batch_idx)
        t = self.path.training_times(torch.randn(rows, generator=random))
        return torch.randn(rows, *self.image_shape, generator=random), t, torch.rand(rows, 11, generator=random)

    def of_all_processes(self, rows):
        return rows

    def log_train_loss(self, loss, **parts):
        self.logged_loss = loss


def train(generator: DiffusionWithoutTrainer, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Runs one training step. Returns its loss, and the inputs x, t and labels of the network."""
    recorded = {}

    def record(module, inputs, output):
        recorded["x"], recorded["t"], recorded["labels"] = inputs

    with generator.network.register_forward_hook(record):
        recorded["loss"] = generator.training_step((images, labels), 0)
    return recorded


def trained_on(
    images: torch.Tensor, labels: torch.Tensor, **settings
) -> tuple[DiffusionWithoutTrainer, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    generator = DiffusionWithoutTrainer(unet_channels=[8, 16], image_shape=images.shape[1:], **settings)
    return generator, train(generator, images, labels)


@pytest.mark.parametrize("objective", ["flow", "noise"])
def test_training_step_without_posterior_images_equals_the_plain_method(objective):
    images, labels = torch.rand(50, 1, 8, 8), torch.arange(50) % 10
    generator, recorded = trained_on(images, labels, objective=objective, posterior_images=0, label_dropout=0.0)
    noise, t, _ = generator.noise_and_times(50, 0)
    x = 2 * images - 1
    x_t = generator.path.add_noise(x, noise, t)
    prediction = generator.predict(generator.network, x_t, t, labels)
    assert torch.equal(recorded["labels"], labels)
    assert torch.allclose(recorded["loss"], F.mse_loss(prediction, x - noise if objective == "flow" else noise))
    assert torch.allclose(generator.logged_loss, recorded["loss"])
    assert not hasattr(generator, "posterior")


@pytest.mark.parametrize("objective", ["flow", "noise"])
def test_posterior_target_is_the_conditional_mean_of_the_plain_target(objective):
    random = torch.Generator().manual_seed(0)
    images, targets, plain_targets, x_ts, times = 0.4 * torch.randn(3, 1, 4, 4, generator=random), [], [], [], []
    for number in range(3):  # each image is equally often in the batch, with the other two in the buffer
        generator = DiffusionWithoutTrainer(
            unet_channels=[8, 16], image_shape=(1, 4, 4), objective=objective, mismatched_labels=False
        )
        generator.posterior.add(images[torch.arange(3) != number], torch.ones(2, dtype=torch.long))
        x, labels = images[number].expand(7000, 1, 4, 4), torch.ones(7000, dtype=torch.long)
        noise = torch.randn(x.shape, generator=random)
        t = generator.path.training_times(torch.randn(7000, generator=random) - 1)
        condition, target = generator.posterior_target(x, noise, t, labels, labels, torch.rand(7000, 10))
        assert torch.equal(condition, labels)
        targets.append(target)
        plain_targets.append(generator.path.target(x, noise))
        x_ts.append(generator.path.add_noise(x, noise, t))
        times.append(t)
    target, plain_target, x_t, t = map(torch.cat, (targets, plain_targets, x_ts, times))
    alpha_t, sigma_t = generator.path.coefficients(t)
    noisy = sigma_t > alpha_t
    assert 5000 < noisy.sum() < 21_000
    assert torch.equal(plain_target[~noisy], target[~noisy])
    error, x_t, target = (x[noisy].flatten(1) for x in (plain_target - target, x_t, target))
    assert error.square().mean() > 0.001
    # the error of a conditional mean is uncorrelated with x_t and with the mean itself
    for known in (torch.ones_like(x_t), x_t, target):
        assert (error.T @ known / len(x_t)).abs().max() < 0.02


def test_mismatched_labels_are_used_only_at_high_noise_levels_and_can_be_turned_off():
    random = torch.Generator().manual_seed(0)
    images, labels = torch.rand(400, 1, 8, 8, generator=random), torch.arange(400) % 10
    for mismatched in (True, False):
        generator, _ = trained_on(images, labels, mismatched_labels=mismatched)
        recorded = train(generator, images, labels)  # the second step, because the buffer is empty in the first
        _, t, _ = generator.noise_and_times(400, 0)
        mismatched_labels = (recorded["labels"] != labels) & (recorded["labels"] != 10)
        assert mismatched_labels[t < 0.5].any() == mismatched
        assert not mismatched_labels[t >= 0.5].any()
        assert 0.02 < (recorded["labels"] == 10).float().mean() < 0.09  # label dropout


def test_training_step_uses_the_augmented_batch_of_the_data_module(mnist_root, monkeypatch):
    """The network and the posterior's buffer get only augmented images: here the augmentation inverts them."""
    medians, training_step, after_transfer = [], Diffusion.training_step, ImageDataModule.on_after_batch_transfer

    def inverted(self, batch, dataloader_idx):
        images, labels = after_transfer(self, batch, dataloader_idx)
        return 1 - images, labels

    def recorded_step(self, batch, batch_idx):
        def record(module, inputs, output):
            t = inputs[1][:, None, None, None]
            _, _, c_in = self.path.preconditioning(inputs[1])
            noise, _, _ = self.noise_and_times(len(t), batch_idx)
            x = (inputs[0] / c_in - (1 - t) * noise) / t
            medians.append((x / 2 + 0.5).median().item())
            medians.append(((self.posterior.images[self.posterior.labels >= 0] + 1) / 2).median().item())

        with self.network.register_forward_hook(record):
            return training_step(self, batch, batch_idx)

    monkeypatch.setattr(Diffusion, "training_step", recorded_step)
    monkeypatch.setattr(ImageDataModule, "on_after_batch_transfer", inverted)
    data = MNIST(root=str(mnist_root), batch_size=32)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    Trainer(max_steps=3, limit_val_batches=0, use_distributed_sampler=False, **quiet).fit(
        Diffusion(unet_channels=[8, 16]), datamodule=data
    )
    assert len(medians) == 6
    assert min(medians) > 0.95  # most pixels of a digit are black, so most pixels of its inverse are white


class PlainDataModule(LightningDataModule):
    """A data module that uses nothing of condgen."""

    def train_dataloader(self):
        images, labels = torch.rand(64, 1, 8, 8), torch.arange(64) % 10
        return DataLoader(list(zip(images, labels, strict=True)), batch_size=16)


def test_diffusion_trains_with_a_data_module_not_from_condgen():
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    generator = Diffusion(unet_channels=[8, 16], image_shape=(1, 8, 8))
    Trainer(max_steps=4, **quiet).fit(generator, datamodule=PlainDataModule())
    assert generator.posterior.added == 64


def test_diffusion_resumed_mid_epoch_restores_the_posterior_images(fit_args, tmp_path):
    common = [*fit_args, "--model", "Diffusion", "--model.unet_channels", "[8,16]", "--model.posterior_images", "50"]
    resumed, whole = (
        torch.load(path, weights_only=True)["state_dict"] for path in resumed_and_uninterrupted(common, tmp_path)
    )
    assert whole["posterior.added"] == 160
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_posterior_images_cannot_be_changed_after_training(fit_args, tmp_path, capsys):
    common = [*fit_args, "--model", "Diffusion", "--model.unet_channels", "[8,16]", "--trainer.limit_val_batches", "1"]
    common += ["--trainer.max_epochs", "1", "--trainer.default_root_dir", str(tmp_path)]
    assert main(common) == 0
    error = refused(["fit", "--ckpt_path", "last", *common[-2:], "--model.posterior_images", "9"], capsys)
    assert "model.posterior_images is 9" in error


def test_diffusion_sampling_settings_can_be_changed_after_training(fit_args, tmp_path):
    common = ["--trainer.default_root_dir", str(tmp_path)]
    few = ["--trainer.max_epochs", "1", "--trainer.limit_val_batches", "1"]
    assert main([*fit_args, "--model", "Diffusion", "--model.unet_channels", "[8,16]", *few, *common]) == 0
    grids = []
    for name, options in (("a", []), ("b", ["--model.sampling_steps", "1"]), ("c", ["--model.guidance", "3"])):
        folder = tmp_path / name
        assert main(["predict", *common, *options, "--predictions.dirpath", str(folder)]) == 0
        grids.append((folder / "grid.png").read_bytes())
    assert len(set(grids)) == 3
    run, first = tmp_path / "lightning_logs" / "version_0", next((tmp_path / "b").glob("*000000*.png"))
    predicted = torch.from_numpy(np.array(Image.open(first))) / 255
    # the part of scores.json that scored_generator reads
    scores = {"checkpoint": {"path": "last.ckpt", "steps": 5}, "settings": {"sampling_steps": 1}}
    for generator, same in (
        (condgen.load(run), False),
        (condgen.load(run, sampling_steps=1), True),
        (scored_generator(run, scores), True),
    ):
        with torch.no_grad():
            image = generator.generate(torch.tensor([0]), generator.sample_noise(0, [0]))
        assert torch.allclose(image[0, 0], predicted, atol=0.01) is same
    with pytest.raises(UsageError, match=r"Diffusion has no setting guide, but .*guidance"):
        condgen.load(run, guide=3.0)
