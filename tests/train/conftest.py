"""What several tests of training share."""

import pytest

from jaxdl.core.loading import load_file

small = load_file(__file__.replace("conftest", "small"))


@pytest.fixture(scope="module")
def shared_programs():
    """Every `fit` of the module compiles an experiment once; a file asks for it by `pytestmark`."""
    with small.shared_programs():
        yield
