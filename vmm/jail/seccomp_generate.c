/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Build tool: prints vmm/jail/seccomp_filters.h, the filters of seccomp.h as arrays. So
 * the VMM neither carries libseccomp nor spends time and memory on it. Why each call is
 * there: docs/jail.md.
 */
#include "vmm/jail/seccomp_generate.h"

#include <errno.h>
#include <linux/filter.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void seccomp_generate_check(int result, const char *what)
{
    if (result != 0) {
        (void)fprintf(stderr, "seccomp_generate: %s: %s\n", what, strerror(-result));
        exit(EXIT_FAILURE);
    }
}

void seccomp_generate_allow_if(scmp_filter_ctx filter, int number,
                               struct scmp_arg_cmp condition)
{
    seccomp_generate_check(
        seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, number, 1, &condition),
        "conditional rule");
}

/* libseccomp writes what it made to a descriptor only. */
static void print_filter(const char *name, scmp_filter_ctx filter)
{
    FILE *file = tmpfile();
    seccomp_generate_check(file == NULL ? -errno : 0, "temporary file");
    seccomp_generate_check(seccomp_export_bpf(filter, fileno(file)), "export");
    rewind(file);
    (void)printf("static const struct sock_filter seccomp_filter_%s[] = {\n", name);
    struct sock_filter step;
    while (fread(&step, sizeof(step), 1, file) == 1) {
        (void)printf("    {0x%02x, %u, %u, 0x%08x},\n", step.code, step.jt, step.jf,
                     step.k);
    }
    (void)printf("};\n");
    (void)fclose(file); /* only read */
    seccomp_release(filter);
}

static void print(const char *name, unsigned set)
{
    print_filter(name, seccomp_generate_vmm(set));
}

int main(void)
{
    (void)printf("/* Made by vmm/seccomp_generate: do not edit. */\n");
    print("main", SET_ALL);
    print("io", SET_IO);
    print("vcpu", SET_VCPU);
    print("move", SET_MOVE);
    print("main_rdma", SET_ALL | SET_RDMA);
    print("move_rdma", SET_MOVE | SET_RDMA);
    print_filter("storage", seccomp_generate_storage(false));
    print_filter("storage_network", seccomp_generate_storage(true));
    print_filter("launcher", seccomp_generate_launcher());
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
