# SPDX-License-Identifier: Apache-2.0
"""An unmodified Debian disk boots by OVMF and GRUB, answers, moves to another host while it runs, with its variables, and
shuts down at its power button. Firmware that is missing or none is refused."""
from lab import alone, whole

CLUSTER, MEDIA = False, True
DISK = 3
VARS, TEMPLATE = "/run/uefi.nvram", "/usr/share/OVMF/OVMF_VARS_4M.fd"


def refuse(s, host):
    options = ["--name", "bad", "--memory", "256M", "--cpus", "1", "--control", "/run/bad.control"]
    for firmware, pattern in (("/nowhere/OVMF_CODE.fd", "No such file|does not exist"),
                              (TEMPLATE, "variables"),
                              ("/opt/drover/guest/vmlinuz", "give it with --kernel")):
        alone.check_refused(s, host, ["drover-vmm", *options, "--firmware", firmware], pattern)
    host.run("cp /opt/drover/guest/vmlinuz /run/no.vars")
    alone.check_refused(s, host, ["drover-vmm", *options, "--firmware", "uefi", "--vars",
                                  "/run/no.vars"], "--vars /run/no.vars .*no store of UEFI")
    alone.check_refused(s, host, ["drover-vmm", *options, "--firmware", "bios", "--vars", VARS],
                        "--vars")


def run(s):
    source, target = s.lab.hosts[:2]
    refuse(s, source)
    s.lab.install_shared_disk(DISK)
    s.vmm = alone.Vmm(s, "uefi", 8, ["--firmware", "uefi", "--vars", VARS,
                                     "--disk", f"/dev/disk/by-id/virtio-shared{DISK}"])
    console, _ = whole.boot_and_move(s, s.vmm, s.lab.shared_disk(DISK))
    s.check("GRUB for x86_64-efi" in console.text, "it was not UEFI")
    changed = source.run(f"cmp -s {VARS} {TEMPLATE}", check=False).status != 0
    s.check(changed, "OVMF has written no variable")
    sums = [host.run(f"sha256sum < {VARS}").out for host in (source, target)]
    s.check(sums[0] == sums[1], "the variables did not come along")
    s.check_no_resets()


def end(s):
    whole.end(getattr(s, "vmm", None))
    for host in s.lab.hosts[:2]:
        host.run(f"rm -f {VARS}")
