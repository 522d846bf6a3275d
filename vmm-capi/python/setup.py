"""Makes the binding of the header; the wheel is for one platform and any Python."""

import re
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import make_binding  # noqa: E402


class PlatformWheel(bdist_wheel):
    """A wheel with a shared library and no extension module."""

    def finalize_options(self):
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


version = re.search(r'^version = "(.*)"', (HERE / "../../Cargo.toml").read_text(), re.M).group(1)
make_binding.write(HERE / "../../include/vmm.h", HERE / "vmm")
setup(version=version, cmdclass={"bdist_wheel": PlatformWheel})
