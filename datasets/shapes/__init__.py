"""Rendered images of filled shapes: the data of `shapes` and its relatives, and of the small CLIPs' pretraining."""
