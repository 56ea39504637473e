# SPDX-License-Identifier: Apache-2.0
"""Unit programs (tests/unit) in a host, for what this machine's kernel may not have and the hosts' has."""
import os
import subprocess
import tempfile

from . import paths
from .paths import LabError

FOLDER = "/run/lab-unit"


def _libraries(path):
    """name -> file, as this machine's linker finds them: hosts have the same release."""
    out = subprocess.run(["ldd", path], check=True, capture_output=True, text=True).stdout
    words = [line.split() for line in out.splitlines() if "=> /" in line]
    return {word[0]: word[2] for word in words}


def put(host, name):
    """The program and the libraries that the host lacks. Returns the command that runs it there."""
    path = os.path.join(paths.build_dir(), "tests", "unit", name)
    if not os.path.exists(path):
        raise LabError(f"no {path}: `make check` builds it")
    host.run(["mkdir", "-p", FOLDER])
    with tempfile.TemporaryDirectory() as work:
        subprocess.run(["strip", "--strip-debug", "-o", f"{work}/{name}", path], check=True)
        host.put(f"{work}/{name}", f"{FOLDER}/{name}")
    libraries = _libraries(path)
    for line in host.run(["ldd", f"{FOLDER}/{name}"]).out.splitlines():
        if "not found" in line:
            library = line.split()[0]
            host.put(libraries[library], f"{FOLDER}/{library}")
    return f"LD_LIBRARY_PATH={FOLDER} {FOLDER}/{name}"


def check_cases(s, host, name, argument, cases):
    """Runs some cases of a unit program in the host: each of them, and nothing else, must have run and passed."""
    s.say(f"{name} {argument}, in {host.name}")
    result = host.run(f"{put(host, name)} {argument} 2>&1", timeout=180, check=False)
    passed = [line.split("] ")[1].strip() for line in result.out.splitlines() if line.startswith("[       OK ]")]
    s.check(result.status == 0 and sorted(passed) == sorted(cases),
            f"{name} {argument} in {host.name}: exit {result.status}, these passed: {passed}; {result.out[-800:]!r}")
    host.run(["rm", "-rf", FOLDER])
