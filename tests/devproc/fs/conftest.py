"""A shared directory, and a client of it."""

import pytest
from ninep_client import Client


@pytest.fixture
def share(tmp_path):
    directory = tmp_path / "share"
    directory.mkdir()
    return directory


@pytest.fixture
def client(share):
    made = Client(share)
    yield made
    made.close()
