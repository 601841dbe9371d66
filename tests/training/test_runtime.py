"""Process-wide settings that speed up the training."""

import platform
import re
import resource
from itertools import pairwise
from statistics import median

import pytest
from helpers.processes import condgen_process, finish
from lightning.pytorch.callbacks import Callback


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
