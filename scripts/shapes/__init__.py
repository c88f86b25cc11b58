"""Development program: train the two small CLIPs that belong to the dataset `shapes`."""

from trainers import compat

compat.ensure_torchvision()
compat.ensure_dassl()
