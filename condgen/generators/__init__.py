"""The generator families: a file each. Importing one here makes its short name known to the command line."""

from condgen.generators.base import ConditionalGenerator
from condgen.generators.diffusion import Diffusion
from condgen.generators.dnn import DNN
from condgen.generators.drifting import Drifting
from condgen.generators.gan import GAN
from condgen.generators.vae import VAE

__all__ = ["DNN", "GAN", "VAE", "ConditionalGenerator", "Diffusion", "Drifting"]
