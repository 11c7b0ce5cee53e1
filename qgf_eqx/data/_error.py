"""The one error of this package."""


class DatasetError(ValueError):
    """A dataset cannot be used: the sentence names the file, the field and the next step."""
