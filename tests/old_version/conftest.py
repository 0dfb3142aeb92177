"""The command line as a function, as the command's own tests have it."""

from tests.llava_rad.conftest import run  # noqa: F401 (a fixture)
