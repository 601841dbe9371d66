"""All generator families, one module per family.

Classes imported here can be selected by their short name on the command line.
"""

from condgen.generators.base import ConditionalGenerator
from condgen.generators.diffusion import Diffusion
from condgen.generators.dnn import DNN
from condgen.generators.drifting import Drifting
from condgen.generators.gan import GAN
from condgen.generators.vae import VAE

__all__ = ["DNN", "GAN", "VAE", "ConditionalGenerator", "Diffusion", "Drifting"]
