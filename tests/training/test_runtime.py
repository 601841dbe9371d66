"""Settings of the process and of its device."""

import platform
import re
import resource
import sys
from itertools import pairwise
from statistics import median

import pytest
import torch
from helpers.processes import condgen_process, finish
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from condgen.data.datasets import MNIST
from condgen.errors import UsageError
from condgen.generators import DNN, GAN, VAE, Diffusion, Drifting
from condgen.training.runtime import adapt_to_mps


class PageFaults(Callback):
    """Prints the median number of page faults per training step of the last epoch."""

    def on_train_epoch_start(self, trainer, pl_module):
        self.faults = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)

    def on_train_end(self, trainer, pl_module):
        steps = [after - before for before, after in pairwise(self.faults)]
        print(f"page faults: {median(steps):.0f}.")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_training_step_reuses_freed_memory(mnist_root, tmp_path):
    images = ["--data.root", str(mnist_root), "--data.batch_size", "64", "--training_scores.every_n_epochs", "null"]
    counting = ["--model", "VAE", "--trainer.callbacks+", "test_runtime.PageFaults", "--trainer.max_epochs", "5"]
    process = condgen_process(["fit", *images, *counting, "--trainer.accelerator", "cpu"], tmp_path)
    faults = re.search(r"page faults: (\d+)\.", finish(process))
    assert faults is not None
    assert int(faults[1]) < 500  # 10,000 if glibc returns freed memory to the system


class Float64Origins(TorchDispatchMode):
    """Collects the innermost condgen modules whose code creates float64 tensors with at least one dimension."""

    def __init__(self):
        super().__init__()
        self.modules = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if any(isinstance(t, torch.Tensor) and t.dtype == torch.float64 and t.ndim for t in tree_leaves(result)):
            frame = sys._getframe()
            while frame and not frame.f_globals.get("__name__", "").startswith("condgen."):
                frame = frame.f_back
            self.modules.add(frame.f_globals["__name__"] if frame else None)
        return result


@pytest.mark.parametrize("family", [DNN, GAN, VAE, Drifting, Diffusion])
def test_training_and_sampling_use_float64_only_on_the_cpu(family, mnist_root, tmp_path):
    """MPS has no float64. Noise and label means are computed on the CPU with any accelerator."""
    data = MNIST(root=str(mnist_root), batch_size=20)
    model = family(num_classes=data.num_classes, image_shape=data.image_shape)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=2, limit_val_batches=2, default_root_dir=tmp_path, accelerator="cpu", **quiet)
    with Float64Origins() as origins:
        trainer.fit(model, data)
        model.generate(torch.arange(4), model.sample_noise(0, range(4)))
    assert origins.modules <= {"condgen.noise", "condgen.data.datamodule"}


def test_mps_model_is_not_channels_last_and_refuses_gradient_scaling():
    model = Diffusion(num_classes=3, image_shape=(1, 16, 16))
    assert not all(parameter.is_contiguous() for parameter in model.parameters())
    adapt_to_mps(model, "bf16-mixed")
    assert all(parameter.is_contiguous() for parameter in model.parameters())
    with pytest.raises(UsageError, match="16-mixed"):
        adapt_to_mps(model, "16-mixed")
