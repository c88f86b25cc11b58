"""What can be wrong with the data, as two errors."""


class DatasetNotFoundError(FileNotFoundError):
    """A folder or file of a dataset is not where its layout has it."""


class DatasetError(ValueError):
    """The data or the configuration are there, but do not fit together; the message names file and fault."""


class MissingImagesError(DatasetError):
    """Some of the images that a split lists do not exist; `parts` is {part: list of Datum} of those that do."""

    def __init__(self, message, parts):
        super().__init__(message)
        self.parts = parts
