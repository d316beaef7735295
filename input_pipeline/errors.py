"""The error that every part of the input raises about data."""


class DataError(ValueError):
    """Data that cannot be used; the message names the file and the place in it."""
