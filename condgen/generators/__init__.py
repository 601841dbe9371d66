"""The generator families: a file each. Importing one here makes its short name known to the command line."""

from condgen.generators.base import ConditionalGenerator
from condgen.generators.dnn import DNN

__all__ = ["DNN", "ConditionalGenerator"]
