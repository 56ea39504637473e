/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of drover-vmm, judged. Pure but for the help's text. */
#ifndef DROVER_VMM_OPTIONS_OPTIONS_H
#define DROVER_VMM_OPTIONS_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"
#include "vmm/cpu/cpu_model.h"
#include "vmm/devices/panic.h"
#include "vmm/options/options_cdrom.h"
#include "vmm/options/options_cpu.h"
#include "vmm/options/options_disk.h"
#include "vmm/options/options_net.h"
#include "vmm/options/options_vsock.h"

struct error;

enum options_action {
    OPTIONS_ACTION_RUN,
    OPTIONS_ACTION_HELP,
    OPTIONS_ACTION_VERSION,
};

/* Strings that are not arrays are those of argv. */
struct options {
    enum options_action action;
    const char *name;
    uint64_t memory_bytes;
    unsigned cpus;
    unsigned machine; /* vmm/machine.h */
    enum cpu_model cpu_model;
    unsigned cpu_weight; /* 0: not given, as the next */
    unsigned cpu_quota_percent;
    struct options_cpu_set cpu_affinity;
    enum panic_policy on_panic;
    bool huge_pages;
    bool mergeable;
    bool preallocated;
    const char *kernel;
    const char *initrd;
    const char *cmdline;
    const char *firmware; /* "bios", "uefi", or a file; NULL: boots `kernel` */
    const char *vars;
    const char *firmware_log;
    const char *uuid;
    const char *serial;
    const char *console; /* hvc0 */
    const char *control;
    const char *incoming; /* NULL: none */
    const char *incoming_rdma; /* beside it; NULL: not */
    bool rdma;            /* moves may go over RDMA */
    bool paused;
    bool ha;
    uint64_t vm_id;
    uint64_t epoch;
    uint64_t patience_ms; /* 0: the default */
    bool no_jail;
    bool jail_log;    /* what the jail's filters forbid is logged and passes */
    const char *user; /* NULL: one of the VM's own */
    unsigned disk_count;
    struct options_disk disks[LIMIT_VM_DISKS];
    unsigned cdrom_count;
    struct options_cdrom cdroms[OPTIONS_CDROMS_MAX];
    unsigned net_count;
    struct options_net nets[LIMIT_VM_NICS];
    struct options_vsock vsock; /* cid 0: none */
};

/* DROVER_EBADINPUT with one line. */
int options_parse(int argc, char **argv, struct options *ret_options, struct error *err);
/* "512M", "2G", "65536K", plain bytes; 0 is refused. */
int options_size_parse(const char *text, uint64_t *ret_bytes);
/* One after the other: no string may be longer than 4095 bytes. */
extern const char options_help[];
extern const char options_help_rest[];

#endif
