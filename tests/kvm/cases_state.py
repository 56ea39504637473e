# SPDX-License-Identifier: Apache-2.0
"""Save and load of the whole state, also of hostile state (tests/kvm/state.c)."""
import os
import subprocess

from process import BUILD, guest


def test_saved_state_comes_back_and_damaged_state_is_refused(_):
    done = subprocess.run([os.path.join(BUILD, "tests/kvm/state"), guest("hello")], capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
