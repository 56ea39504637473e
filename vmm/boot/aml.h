/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes ACPI machine language (ACPI 6.3 chapter 20) to a buffer. An error sticks: look
 * at aml->error at the end. Blocks nest: each aml_*_begin() has its aml_end(). Names are
 * four characters.
 */
#ifndef DROVER_VMM_BOOT_AML_H
#define DROVER_VMM_BOOT_AML_H

#include <stddef.h>
#include <stdint.h>

struct buffer;

#define AML_DEPTH_MAX 8

struct aml {
    struct buffer *out;
    int error;
    unsigned depth;
    size_t length_at[AML_DEPTH_MAX]; /* where the open blocks' lengths stand */
    size_t resource_at; /* where the open resource template's own size stands */
    size_t resource_start;
};

void aml_init(struct aml *aml, struct buffer *out);
/* Scope of an absolute path of one segment, as "\\_SB_". */
void aml_scope_begin(struct aml *aml, const char *path);
void aml_device_begin(struct aml *aml, const char *name);
void aml_package_begin(struct aml *aml, unsigned elements);
void aml_end(struct aml *aml);

/* Name(name, ...): what follows is its value. */
void aml_name(struct aml *aml, const char *name);
void aml_integer(struct aml *aml, uint64_t value);
void aml_string(struct aml *aml, const char *text);
/* A compressed id as "PNP0A08". */
void aml_eisa_id(struct aml *aml, const char *id);

/* Name(_CRS, ResourceTemplate() { ... }) */
void aml_resources_begin(struct aml *aml);
void aml_resources_end(struct aml *aml);
void aml_resource_io(struct aml *aml, uint16_t port, uint8_t size);
void aml_resource_irq(struct aml *aml, unsigned irq);
void aml_resource_memory(struct aml *aml, uint32_t start, uint32_t size);
/* Windows of a bridge: bus numbers, ports and memory that it passes on. Ends are
 * inclusive. */
void aml_resource_bus_window(struct aml *aml, uint16_t first, uint16_t last);
void aml_resource_io_window(struct aml *aml, uint16_t first, uint16_t last);
void aml_resource_memory_window(struct aml *aml, uint32_t first, uint32_t last);
void aml_resource_memory64_window(struct aml *aml, uint64_t first, uint64_t last);

#endif
