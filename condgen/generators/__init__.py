"""The generator families, with one file per family.

The command line accepts the short names of all classes that are imported here.
"""

from condgen.generators.base import ConditionalGenerator
from condgen.generators.diffusion import Diffusion
from condgen.generators.dnn import DNN
from condgen.generators.drifting import Drifting
from condgen.generators.gan import GAN
from condgen.generators.vae import VAE

__all__ = ["DNN", "GAN", "VAE", "ConditionalGenerator", "Diffusion", "Drifting"]
