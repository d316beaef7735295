"""regionjax: vision-language models that understand the region someone points at."""

__version__ = "0.1.0"  # as in pyproject.toml
