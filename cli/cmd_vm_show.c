/* SPDX-License-Identifier: Apache-2.0 */
/* What people are shown of a VM. */
#include "cli/cmd_vm.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void print_text(const json_t *object, const char *before, const char *field)
{
    const char *text = json_string_value(json_object_get(object, field));
    if (text != NULL && text[0] != '\0') {
        (void)printf("%s%s", before, text);
    }
}

static void print_number(const json_t *object, const char *before, const char *field)
{
    if (cli_number(object, field) != 0) {
        (void)printf("%s%" PRIu64, before, cli_number(object, field));
    }
}

static void print_flag(const json_t *object, const char *text, const char *field)
{
    if (json_is_true(json_object_get(object, field))) {
        (void)printf("%s", text);
    }
}

static void print_disk(const json_t *disk)
{
    bool cdrom = json_is_true(json_object_get(disk, "cdrom"));
    (void)printf("%s%s", cdrom ? "CD-ROM    " : "disk      ", cli_text(disk, "path"));
    print_text(disk, ", ", "format");
    print_flag(disk, ", read-only", "readonly");
    print_flag(disk, ", direct", "direct");
    print_text(disk, ", serial ", "serial");
    print_number(disk, ", queues ", "queues");
    print_number(disk, ", IOPS at most ", "iops");
    print_text(disk, ", bytes a second at most ", "bandwidth");
    print_number(disk, ", boot ", "boot");
    print_text(disk, ", key in ", "key_file");
    (void)printf("\n");
}

static void print_nic(const json_t *nic)
{
    (void)printf("network   bridge %s, %s", cli_text(nic, "bridge"),
                 cli_text(nic, "mac"));
    print_number(nic, ", queues ", "queues");
    print_number(nic, ", MTU ", "mtu");
    print_text(nic, ", bytes a second at most ", "bandwidth");
    print_flag(nic, ", any MAC", "any_mac");
    print_number(nic, ", boot ", "boot");
    print_text(nic, ", vhost ", "vhost");
    (void)printf("\n");
}

static void print_guest_memory(const json_t *vm)
{
    char size[CLI_SIZE_SIZE];
    const json_t *seen = json_object_get(vm, "guest_memory");
    const char *wanted = cli_text(vm, "memory_wanted");
    if (strcmp(wanted, cli_text(json_object_get(vm, "spec"), "memory")) != 0) {
        (void)printf("balloon   %s wanted", wanted);
        if (json_is_object(seen)) {
            (void)printf(", %s now", cli_size(cli_number(seen, "actual_bytes"), size));
        }
        (void)printf("\n");
    }
    if (cli_number(seen, "total_bytes") != 0) {
        (void)printf("in guest  %s free", cli_size(cli_number(seen, "free_bytes"), size));
        (void)printf(", %s available",
                     cli_size(cli_number(seen, "available_bytes"), size));
        (void)printf(" of %s\n", cli_size(cli_number(seen, "total_bytes"), size));
    }
}

static void print_spec(const json_t *spec)
{
    size_t index;
    json_t *item;
    (void)printf("memory    %s", cli_text(spec, "memory"));
    print_flag(spec, ", huge pages", "huge_pages");
    print_flag(spec, ", mergeable", "mergeable");
    print_flag(spec, ", preallocated", "prealloc");
    (void)printf("\nCPUs      %" PRIu64, cli_number(spec, "cpus"));
    print_text(spec, ", ", "cpu_model");
    print_number(spec, ", weight ", "cpu_weight");
    print_number(spec, ", percent at most ", "cpu_quota");
    print_text(spec, ", on processors ", "cpu_affinity");
    (void)printf("\nHA        %s\n",
                 json_is_true(json_object_get(spec, "ha")) ? "yes" : "no");
    if (strcmp(cli_text(spec, "firmware"), "-") != 0) {
        (void)printf("firmware  %s", cli_text(spec, "firmware"));
        print_text(spec, ", variables in ", "vars");
        (void)printf("\n");
    } else {
        (void)printf("kernel    %s\n", cli_text(spec, "kernel"));
        (void)printf("initrd    %s\n", cli_text(spec, "initrd"));
        (void)printf("cmdline   %s\n", cli_text(spec, "cmdline"));
    }
    json_array_foreach(json_object_get(spec, "disks"), index, item)
    {
        print_disk(item);
    }
    json_array_foreach(json_object_get(spec, "nics"), index, item)
    {
        print_nic(item);
    }
    if (cli_number(spec, "vsock_cid") != 0) {
        (void)printf("vsock     CID %" PRIu64 "\n", cli_number(spec, "vsock_cid"));
    }
    if (strcmp(cli_text(spec, "on_panic"), "-") != 0) {
        (void)printf("on panic  %s\n", cli_text(spec, "on_panic"));
    }
}

/* Which agents of older versions, and moves that met one, do not tell. */
static void print_encryption(const json_t *encryption, const char *title)
{
    const char *source = cli_text(encryption, "source");
    const char *target = cli_text(encryption, "target");
    bool known = strcmp(source, "kernel") == 0 || strcmp(source, "relay") == 0 ||
                 strcmp(target, "kernel") == 0 || strcmp(target, "relay") == 0;
    if (known) {
        (void)printf("%s encrypted at its source by: %s, at its target by: %s\n", title,
                     source, target);
    }
}

void cli_vm_show_figures(const json_t *figures, const char *title)
{
    char sent[CLI_SIZE_SIZE];
    (void)printf(
        "%s total %" PRIu64 " ms, downtime %.1f ms (predicted %.1f ms), %s sent, %" PRIu64
        " rounds\n",
        title, cli_number(figures, "total_ms"),
        json_number_value(json_object_get(figures, "downtime_ms")),
        json_number_value(json_object_get(figures, "predicted_downtime_ms")),
        cli_size(cli_number(figures, "bytes_sent"), sent), cli_number(figures, "rounds"));
    if (cli_number(figures, "postcopy_pages") != 0) {
        (void)printf("%s after the guest ran on its target: %" PRIu64 " pages\n", title,
                     cli_number(figures, "postcopy_pages"));
    }
    if (strcmp(cli_text(figures, "transport"), "rdma") == 0) {
        (void)printf("%s over RDMA: this move was not encrypted\n", title);
    } else {
        print_encryption(json_object_get(figures, "encryption"), title);
    }
    if (strcmp(cli_text(figures, "notice"), "-") != 0) {
        (void)printf("%s notice: %s\n", title, cli_text(figures, "notice"));
    }
}

int cli_vm_show_answer(struct cli *cli, const json_t *vm)
{
    if (cli->json) {
        cli_print_json(vm);
        return CLI_OK;
    }
    (void)printf("name      %s (id %" PRIu64 ")\n", cli_text(vm, "name"),
                 cli_number(vm, "id"));
    (void)printf("state     %s, wanted %s\n", cli_text(vm, "state"),
                 cli_text(vm, "wanted"));
    if (strcmp(cli_text(vm, "reason"), "-") != 0) {
        (void)printf("reason    %s\n", cli_text(vm, "reason"));
    }
    (void)printf("host      %s, epoch %" PRIu64 "\n", cli_text(vm, "host"),
                 cli_number(vm, "epoch"));
    print_number(vm, "crashes   ", "panics");
    (void)printf("%s", cli_number(vm, "panics") != 0 ? "\n" : "");
    print_spec(json_object_get(vm, "spec"));
    print_guest_memory(vm);
    const json_t *migration = json_object_get(vm, "migration");
    if (json_is_object(migration)) {
        (void)printf("migration %s -> %s, %s, %" PRIu64 " %%\n",
                     cli_text(migration, "source"), cli_text(migration, "target"),
                     cli_text(migration, "phase"),
                     cli_number(migration, "progress_percent"));
    }
    const json_t *postcopy = json_object_get(vm, "postcopy");
    if (json_is_object(postcopy)) {
        char left[CLI_SIZE_SIZE];
        (void)printf("post-copy memory is still on %s%s: %s\n",
                     cli_text(postcopy, "source"),
                     json_is_true(json_object_get(postcopy, "lost")) ? ", which is lost"
                     : json_is_true(json_object_get(postcopy, "interrupted"))
                         ? ", the connection is lost"
                         : "",
                     cli_size(cli_number(postcopy, "bytes_remaining"), left));
    }
    const json_t *figures = json_object_get(vm, "last_migration");
    if (json_is_object(figures)) {
        cli_vm_show_figures(figures, "last move");
    }
    return CLI_OK;
}
