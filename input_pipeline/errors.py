"""The error that every part of the input raises about data."""


class DataError(ValueError):
    """Data that cannot be read, used or written; the message names the file and the place in it."""
