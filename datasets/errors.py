"""Errors that readers raise about data and configuration."""

from dassl.data.datasets import Datum


class DatasetNotFoundError(FileNotFoundError):
    """A folder or file of a dataset does not exist."""


class DatasetError(ValueError):
    """Existing data or the configuration is invalid.

    The message names the file or key.
    """


class MissingImagesError(DatasetError):
    """Some images that a split lists do not exist.

    Attributes:
        parts: {part: list of Datum} of the images that exist.
    """

    def __init__(self, message: str, parts: dict[str, list[Datum]]) -> None:
        super().__init__(message)
        self.parts = parts
