/* SPDX-License-Identifier: Apache-2.0 */
/* Capabilities that outlive a change of user and of program. */
#include "vmm/jail/rights.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CAPABILITY_MAX 63 /* what the kernel's masks can hold */

static int bounds_set(void)
{
    for (unsigned long capability = 0; capability <= CAPABILITY_MAX; capability++) {
        if (capability != CAP_DAC_OVERRIDE &&
            prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0) {
            if (errno != EINVAL || capability == 0) {
                return -errno;
            }
            break; /* this kernel has none of that number, nor above */
        }
    }
    /* Root's number gives nothing, and a change of user takes nothing. */
    return prctl(PR_SET_SECUREBITS,
                 SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
                     SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED,
                 0, 0, 0) < 0
               ? -errno
               : 0;
}

int rights_keep_files(uid_t uid, gid_t gid)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    const struct __user_cap_data_struct one[2] = {{
        .effective = 1u << CAP_DAC_OVERRIDE,
        .permitted = 1u << CAP_DAC_OVERRIDE,
        .inheritable = 1u << CAP_DAC_OVERRIDE,
    }};
    int ret = bounds_set();
    if (ret < 0) {
        return ret;
    }
    return setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 ||
                   setresuid(uid, uid, uid) < 0 ||
                   syscall(SYS_capset, &header, one) < 0 ||
                   prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0) < 0
               ? -errno
               : 0;
}
