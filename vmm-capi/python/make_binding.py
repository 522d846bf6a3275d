"""Makes vmm/_binding.py of include/vmm.h, for cffi's out-of-line ABI mode."""

import re
from pathlib import Path

from cffi import FFI


def declarations(header):
    """What cffi understands of the header: no comments, directives and C++, constants as numbers."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", header, flags=re.S)
    constants = re.findall(r"^#define (VMM_\w+) (-?\d+|UINT64_MAX)$", text, flags=re.M)
    text = re.sub(r"#ifdef __cplusplus.*?#endif[^\n]*", "", text, flags=re.S)
    text = re.sub(r"^#.*$", "", text, flags=re.M)
    numbers = [
        f"#define {name} {2**64 - 1 if value == 'UINT64_MAX' else value}" for name, value in constants
    ]
    return "\n".join(numbers) + "\n" + text


def write(header, directory):
    """Writes the module into the package's directory."""
    binding = FFI()
    binding.set_source("vmm._binding", None)
    binding.cdef(declarations(Path(header).read_text()))
    binding.emit_python_code(str(Path(directory) / "_binding.py"))
