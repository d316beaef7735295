"""Data folders as fixtures; data_folder.py makes them.

It is a module of its own because a spawned child that imports `conftest` finds another folder's.
"""

import pytest
from data_folder import write_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A data folder with a train split of 12 and a val split of 4 images; not to be changed."""
    root = write_folder(tmp_path_factory.mktemp("data"), 12)
    return write_folder(root, 4, "val", 1001)


@pytest.fixture
def own_folder(tmp_path):
    """A data folder of 3 train images that a test may break."""
    return write_folder(tmp_path / "data", 3)
