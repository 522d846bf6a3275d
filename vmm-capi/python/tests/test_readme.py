"""What the READMEs say works as it is pasted, with and without /dev/kvm."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(os.environ["VMM_ROOT"])
INCLUDE = os.environ["VMM_GUEST_INCLUDE"]


def pasted(readme):
    """The blocks of a README that are Python and need no more than the program `hostcall`."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / readme).read_text(), re.S)
    return [block for block in blocks if "./hostcall" in block]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("readme")
    source = ROOT / "examples/guests/hostcall.c"
    command = ["cc", "-static", "-O1", f"-I{INCLUDE}", str(source), "-o", str(directory / "hostcall")]
    subprocess.run(command, check=True)
    return directory


@pytest.mark.parametrize("readme", ["README.md", "vmm-capi/python/README.md"])
@pytest.mark.parametrize("kvm", ["as it is", "hidden"] if os.path.exists("/dev/kvm") else ["none"])
def test_what_a_readme_says_works(readme, kvm, directory):
    blocks = pasted(readme)
    assert blocks, readme
    hide = "mount --bind /dev/null /dev/kvm"
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    if kvm == "hidden" and subprocess.run([*alone, "sh", "-c", hide], capture_output=True).returncode:
        print(f"skipped: test_what_a_readme_says_works[{readme}]: no mount namespace to be had here")
        pytest.skip("no mount namespace to be had here")
    for block in blocks:
        command = [sys.executable, "-c", block]
        if kvm == "hidden":
            command = [*alone, "sh", "-c", hide + ' && exec "$@"', "sh", *command]
        ran = subprocess.run(command, cwd=directory, capture_output=True, text=True)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert "16" in ran.stdout.split()
