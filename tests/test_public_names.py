"""The names that the package promises exist, and asking for help loads neither PyTorch nor TVM."""

import subprocess
import sys

import pytest

import qsearch


@pytest.mark.parametrize("name", qsearch.__all__)
def test_public_name_exists(name: str) -> None:
    assert getattr(qsearch, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        qsearch.quantise  # noqa: B018


def test_help_is_quick_because_it_loads_no_framework() -> None:
    code = "import sys, qsearch.cli; sys.exit('torch' in sys.modules or 'tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
