"""The two ways to train a diffusion, and their samplers, where the right answer is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

import condgen
from condgen.cli.main import main
from condgen.errors import UsageError
from condgen.evaluation.side_by_side import scored_generator
from condgen.generators import Diffusion
from condgen.generators.diffusion import DDPM, IMAGE_VARIANCE, Candidates, RectifiedFlow

IMAGE = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)  # in the range of the U-Net
NOISE = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("solver", ["euler", "heun", "multistep"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_where_there_is_one_image_the_flow_ends_in_it(steps, solver):
    def velocity(x, time):
        return (IMAGE - x) / (1 - time)

    assert torch.allclose(RectifiedFlow(solver).sample(velocity, NOISE, steps), IMAGE, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_where_there_is_one_image_ddim_ends_in_it(steps):
    ddpm = DDPM()

    def noise_in(x, time):
        of_image, of_noise = ddpm.parts(torch.tensor(time, dtype=torch.float64))
        return (x - of_image * IMAGE) / of_noise

    assert torch.allclose(ddpm.sample(noise_in, NOISE, steps).float(), IMAGE, atol=1e-4)


def error(solver: str, steps: int) -> float:
    """Of the flow to images that are normally distributed, for which the velocity and the way are known."""
    mean, std, noise = 0.3, 2.0, NOISE.double()

    def velocity(x, time):
        variance = (1 - time) ** 2 + (time * std) ** 2
        return mean + (time * std**2 - (1 - time)) / variance * (x - time * mean)

    return float((RectifiedFlow(solver).sample(velocity, noise, steps) - (mean + std * noise)).abs().max())


def test_euler_is_of_first_order_and_heun_of_second_so_that_a_step_is_worth_its_two_evaluations():
    assert error("euler", 40) == pytest.approx(error("euler", 20) / 2, rel=0.2)
    assert error("heun", 40) == pytest.approx(error("heun", 20) / 4, rel=0.2)
    assert error("heun", 20) < error("euler", 39) / 2


def test_multistep_is_of_second_order_and_takes_half_of_heuns_evaluations():
    assert error("multistep", 40) == pytest.approx(error("multistep", 20) / 4, rel=0.2)
    assert error("multistep", 20) < 2 * error("heun", 20)


@pytest.mark.parametrize("objective", ["flow", "noise"])
def test_the_mixture_begins_as_noise_and_ends_as_the_image(objective):
    generator = diffusion(objective=objective)
    of_image, of_noise = generator.objective.parts(torch.tensor([0.0, 1.0]))
    assert torch.allclose(of_image, torch.tensor([0.0, 1.0]), atol=0.01)
    assert torch.allclose(of_noise, torch.tensor([1.0, 0.0]), atol=1e-3)
    begin, end = (generator.mix(IMAGE, NOISE, torch.tensor([time])) for time in (0.0, 1.0))
    assert torch.allclose(begin, NOISE, atol=0.01)
    assert torch.allclose(end, IMAGE, atol=1e-6)


def test_what_is_left_of_the_image_is_what_a_thousand_steps_of_ddpm_leave():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)  # Ho et al. 2020
    left = (1 - betas).cumprod(0).sqrt()
    of_image, of_noise = DDPM().parts(1 - torch.arange(1, 1001, dtype=torch.float64) / 1000)
    assert torch.allclose(of_image, left, atol=2e-3)
    assert torch.allclose(of_image**2 + of_noise**2, torch.ones(1000, dtype=torch.float64))


@pytest.mark.parametrize("objective", ["flow", "noise"])
def test_the_network_sees_and_learns_numbers_of_variance_1_and_nothing_that_a_pixel_itself_tells(objective):
    generator, numbers = diffusion(objective=objective), torch.Generator().manual_seed(0)
    images, noise = torch.randn(2, 50_000, 1, 1, 1, generator=numbers)
    images *= IMAGE_VARIANCE**0.5
    for time in (0.05, 0.4, 0.9):
        seen = []

        def network(x, times, labels, seen=seen):
            seen.append(x)
            return torch.full_like(x, len(seen) - 1)

        x, times = generator.mix(images, noise, torch.tensor([time])), torch.tensor([time])
        guess, beyond = (generator.answer(network, x, times, torch.tensor([0])) for _ in range(2))
        left = (generator.target(images, noise) - guess) / (beyond - guess)
        assert float(seen[0].var()) == pytest.approx(1, abs=0.02)
        assert float(left.var()) == pytest.approx(1, abs=0.02)
        assert abs(float((left * seen[0]).mean())) < 0.02


def diffusion(**settings) -> Diffusion:
    torch.manual_seed(0)
    generator = Diffusion(channels=[8, 16], **settings).eval()
    for weights in generator.parameters():  # some begin at zero, so that nothing would hang on label and time
        torch.nn.init.normal_(weights, std=0.1)
    return generator


@pytest.mark.parametrize(
    ("settings", "evaluations"),
    [
        ({"guidance": 1.0}, 6),
        ({"guidance": 1.0, "sampling_steps": 5, "solver": "heun"}, 9),
        ({"guidance": 1.0, "sampling_steps": 3, "solver": "euler"}, 3),
        ({"guidance": 2.0}, 9),  # twice at 1/6, 2/6 and 3/6
        ({"guidance": 2.0, "sampling_steps": 5, "solver": "heun"}, 13),  # twice each at 0.2 and 0.4
        ({"guidance": 2.0, "guidance_interval": (0, 1)}, 12),
        ({"guidance": 2.0, "sampling_steps": 7, "solver": "heun"}, 19),
        ({"guidance": 2.0, "sampling_steps": 10, "solver": "euler", "guidance_interval": (0.2, 0.4)}, 13),
        ({"guidance": 2.0, "objective": "noise", "sampling_steps": 10, "guidance_interval": (0, 1)}, 20),
        ({"guidance": 1.0, "objective": "noise", "sampling_steps": 10}, 10),
    ],
)
def test_its_evaluations_are_those_that_it_says(settings, evaluations):
    generator = diffusion(**settings)
    asked = []
    generator.ema.module.register_forward_hook(lambda module, inputs, output: asked.append(len(output)))
    with torch.no_grad():
        generator.generate(torch.tensor([1, 2]), generator.draw_noise(0, range(2)))
    assert sum(asked) / 2 == generator.nfe == evaluations


def test_one_time_for_all_is_that_time_for_each():
    generator, numbers = diffusion(), torch.Generator().manual_seed(0)
    x, labels = torch.randn(5, 1, 28, 28, generator=numbers), torch.tensor([3, 10, 0, 3, 9])
    with torch.no_grad():
        for time in (0.0, 0.3):
            of_all, of_each = (
                generator.answer(generator.ema, x, times, labels)
                for times in (torch.tensor(time), torch.full((5,), time))
            )
            assert torch.allclose(of_all, of_each, rtol=1e-4, atol=1e-5)


def test_an_evaluation_costs_at_most_100_mflop():
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        Diffusion().network(torch.zeros(1, 1, 28, 28), torch.zeros(1), torch.zeros(1, dtype=torch.long))
    assert 50e6 < counter.get_total_flops() < 100e6


def test_guidance_goes_from_the_answer_without_label_through_that_with_it_and_beyond():
    def images(guidance):
        generator = diffusion(guidance=guidance, guidance_interval=(0, 1), sampling_steps=1, solver="euler")
        with torch.no_grad():
            return generator.generate(torch.tensor([1, 2]), 0.1 * generator.draw_noise(0, range(2)))

    without, with_label, beyond = (images(guidance) for guidance in (0.0, 1.0, 1.5))
    inside = (beyond > 0) & (beyond < 1) & (without > 0) & (without < 1) & (with_label > 0) & (with_label < 1)
    assert inside.float().mean() > 0.5
    assert not torch.allclose(without, with_label, atol=1e-3)
    assert torch.allclose(beyond[inside], (without + 1.5 * (with_label - without))[inside], atol=1e-4)


@pytest.mark.parametrize("block_size", [2, 5, 500])
def test_what_a_noised_image_could_have_been_follows_from_bayes(block_size):
    numbers = torch.Generator().manual_seed(0)
    candidates = torch.rand(5, 16, generator=numbers) * 2 - 1
    of_image, of_noise = torch.tensor([[0.3], [0.4]]), torch.tensor([[0.7], [0.6]])
    x = of_image * candidates[[1, 4]] + of_noise * torch.randn(2, 16, generator=numbers)
    density = torch.distributions.Normal(of_image[:, None] * candidates, of_noise[:, None])
    expected = density.log_prob(x[:, None]).sum(-1)  # (2, 5)
    known = Candidates(candidates, block_size)
    likelihood = known.likelihood(x, of_image, of_noise)
    assert torch.allclose(likelihood[:, :5].log(), expected.log_softmax(1), atol=1e-4)
    assert torch.allclose(known.mean(likelihood), expected.softmax(1) @ candidates, atol=1e-5)
    assert expected.std(1).min() > 0.5


def mixtures(generator: Diffusion, images: torch.Tensor, label: int, times: torch.Tensor, numbers: torch.Generator):
    """What ``question_and_answer`` takes: images (N, 4) of a label and of 2 x 2 pixels, mixed with noise."""
    images = (images / 127.5 - 1).view(-1, 1, 2, 2)
    noise = torch.randn(images.shape, generator=numbers)
    labels = torch.full((len(images),), label)
    target = generator.target(images, noise)
    return generator.mix(images, noise, times), times, labels, target, torch.rand(len(images), 11, generator=numbers)


@pytest.mark.parametrize("objective", ["flow", "noise"])
def test_the_mean_target_agrees_in_the_mean_with_each_image_s_own_and_varies_less(objective):
    generator, numbers = diffusion(objective=objective), torch.Generator().manual_seed(0)
    images = torch.randint(256, (3, 4), generator=numbers, dtype=torch.uint8)
    generator.know(images, torch.ones(3, dtype=torch.long))
    times = generator.objective.times(torch.randn(20_000, generator=numbers) - 1)
    chosen = images[torch.randint(3, (20_000,), generator=numbers)]
    x, _, labels, single, uniform = mixtures(generator, chosen, 1, times, numbers)
    asked, means = generator.question_and_answer(x, times, labels, single, uniform)
    of_image, of_noise = generator.objective.parts(times)
    where = (of_noise > of_image) & (asked == 1)
    assert 5000 < where.sum() < (asked == 1).sum()  # some have more image than noise
    assert torch.equal(single[~where], means[~where])
    error, x, means = ((single - means)[where].flatten(1), x[where].flatten(1), means[where].flatten(1))
    assert error.square().mean() > 0.005
    for known in (torch.ones_like(x), x, means):  # an error that hangs on what is known would be none of a mean
        assert (error.T @ known / len(x)).abs().max() < 0.02


@pytest.mark.parametrize("objective", ["flow", "noise"])
def test_it_is_asked_for_what_a_noised_image_could_be_and_the_answer_is_of_that_label(objective):
    generator, numbers = diffusion(objective=objective), torch.Generator().manual_seed(0)
    images, labels = torch.randint(256, (7, 4), generator=numbers, dtype=torch.uint8), [1, 1, 4, 4, 4, 7, 7]
    generator.know(images, torch.tensor(labels))
    rows, time = 3_000, torch.tensor([0.4])
    x, _, _, target, _ = mixtures(generator, images[:1], 1, time, numbers)
    many, uniform = (rows, 1, 2, 2), torch.rand(rows, 11, generator=numbers)
    asked, targets = generator.question_and_answer(
        x.expand(many), time.expand(rows), torch.ones(rows, dtype=torch.long), target.expand(many), uniform
    )
    of_image, of_noise = (part.item() for part in generator.objective.parts(time))
    candidates = images.double() / 127.5 - 1
    distances = (x.view(1, 4) - of_image * candidates).square().sum(1)
    likely = (-distances / (2 * of_noise**2)).softmax(0)
    of_labels = {label: torch.tensor(labels) == label for label in (1, 4, 7)}
    chances = {label: float(likely[of_label].mean()) ** 0.7 for label, of_label in of_labels.items()}
    for label, of_label in of_labels.items():
        chance = 0.95 * chances[label] / sum(chances.values())
        assert float((asked == label).float().mean()) == pytest.approx(chance, abs=0.03)
        mean = (likely[of_label] @ candidates[of_label] / likely[of_label].sum()).float().view(1, 1, 2, 2)
        expected = generator.target(mean, (x - of_image * mean) / of_noise)
        assert torch.allclose(targets[asked == label], expected.expand_as(targets[asked == label]), atol=1e-3)
    assert torch.allclose(targets[asked == 10], target.expand_as(targets[asked == 10]))
    assert set(asked.tolist()) == {1, 4, 7, 10}


def test_a_label_is_asked_for_however_few_its_images_are():
    generator, numbers = diffusion(), torch.Generator().manual_seed(0)
    images = torch.randint(256, (5_001, 4), generator=numbers, dtype=torch.uint8)
    generator.know(images, torch.tensor([1] * 5_000 + [7]))
    rows = mixtures(generator, images[:500], 1, torch.full((500,), 0.05), numbers)
    asked, _ = generator.question_and_answer(*rows)
    assert (asked == 7).float().mean() > 0.3


@pytest.mark.parametrize("setting", [{"solver": "rk4"}, {"objective": "Noise"}, {"sampling_steps": 2.5}])
def test_settings_that_come_by_no_command_line_are_checked_too(setting):
    ((name, value),) = setting.items()
    with pytest.raises(UsageError, match=f"model.{name} is {value}: give"):
        Diffusion(**setting)


def test_one_label_in_twenty_is_hidden_in_training_and_none_in_validation(monkeypatch):
    generator, numbers = diffusion(), torch.Generator().manual_seed(0)
    images = torch.randint(256, (1, 4), generator=numbers, dtype=torch.uint8)
    generator.know(images, torch.tensor([7]))
    *rows, _ = mixtures(generator, images.expand(100, 4), 7, torch.linspace(0.1, 0.9, 100), numbers)
    asked, _ = generator.question_and_answer(*rows, torch.linspace(0.005, 0.995, 100)[:, None].expand(100, 11))
    assert (asked == 10).sum() == 5  # 10 stands for any label
    seen = []
    generator.ema.module.register_forward_hook(lambda module, inputs, output: seen.append(inputs[2]))
    monkeypatch.setattr(generator, "batch_normal", lambda *_, **__: (torch.randn(100, 785), torch.rand(100, 11)))
    generator.trainer = SimpleNamespace(datamodule=SimpleNamespace(val_images=range(10_000)))
    with torch.no_grad():
        generator.evaluate((torch.rand(100, 1, 28, 28), torch.full((100,), 7)), 98)
    assert (seen[0] == 7).all()


def test_each_step_learns_from_the_images_of_its_batch(fit_args, tmp_path, monkeypatch):
    step, agree, asked = Diffusion.training_step, [], []

    def checked(self, batch, batch_idx):
        with self.network.register_forward_hook(lambda module, inputs, output: asked.append(inputs[2])):
            loss = step(self, batch, batch_idx)
        lesson = self.lessons[self.current_epoch, batch_idx]
        images = lesson.x + (1 - lesson.times)[:, None, None, None] * lesson.own_target  # what the noise is taken from
        agree.append(torch.allclose(images / 2 + 0.5, batch[0], atol=1e-5) and torch.equal(asked[-1], lesson.labels))
        return loss

    monkeypatch.setattr(Diffusion, "training_step", checked)
    small = ["--model", "Diffusion", "--model.channels", "[8,16]", "--trainer.limit_val_batches", "1"]
    few = [
        "--data.batch_size",
        "30",
        "--trainer.limit_train_batches",
        "11",
        "--trainer.default_root_dir",
        str(tmp_path),
    ]
    assert main([*fit_args, *small, *few]) == 0
    assert (torch.cat(asked) == 10).any()  # hidden labels reach the network
    assert agree == [True] * 22  # two epochs of 11 batches, whose lessons are prepared for all at once


def test_sampling_is_changed_without_training_again(fit_args, tmp_path):
    common = ["--trainer.default_root_dir", str(tmp_path)]
    few = ["--trainer.max_epochs", "1", "--trainer.limit_val_batches", "1"]
    assert main([*fit_args, "--model", "Diffusion", "--model.channels", "[8,16]", *few, *common]) == 0
    grids = []
    for name, options in (("a", []), ("b", ["--model.sampling_steps", "1"]), ("c", ["--model.guidance", "3"])):
        folder = tmp_path / name
        assert main(["predict", *common, *options, "--predictions.dirpath", str(folder)]) == 0
        grids.append((folder / "grid.png").read_bytes())
    assert len(set(grids)) == 3
    run, first = tmp_path / "lightning_logs" / "version_0", next((tmp_path / "b").glob("*000000*.png"))
    drawn = torch.from_numpy(np.array(Image.open(first))) / 255
    # as `condgen test` leaves it
    scores = {"checkpoint": {"path": "last.ckpt", "steps": 5}, "settings": {"sampling_steps": 1}}
    for generator, same in (
        (condgen.load(run), False),
        (condgen.load(run, sampling_steps=1), True),
        (scored_generator(run, scores), True),
    ):
        with torch.no_grad():
            image = generator.generate(torch.tensor([0]), generator.draw_noise(0, [0]))
        assert torch.allclose(image[0, 0], drawn, atol=0.01) is same
    with pytest.raises(UsageError, match=r"Diffusion has no setting guide, but .*guidance"):
        condgen.load(run, guide=3.0)
