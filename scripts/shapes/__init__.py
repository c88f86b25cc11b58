"""Development program: train the two small CLIPs that belong to the dataset `shapes`."""

import trainers as trainers
