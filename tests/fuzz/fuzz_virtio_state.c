/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of the devices' load: the first byte chooses the device, the rest is its
 * section's payload. What is accepted must be loadable again after a save, and must do no
 * harm when the device goes on with it.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/buffer.h"
#include "base/check.h"
#include "tests/fuzz/fuzz_vm.h"
#include "vmm/device.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* With DROVER_FUZZ_SEEDS=FOLDER: writes an input for each device as it is after its
 * driver has started. */
static void seeds_write(struct fuzz_vm *fuzz, const char *folder)
{
    for (unsigned i = 0; i < fuzz->count; i++) {
        struct device *device = fuzz->devices[i];
        uint8_t index = (uint8_t)i;
        char path[256];
        struct buffer saved;
        FILE *file;

        CHECK(driver_start(&fuzz->drivers[i], 0, 1, 16));
        fuzz_vm_quiet(fuzz, i);
        buffer_init(&saved, 0);
        CHECK(buffer_append(&saved, &index, 1) == 0 &&
              device->ops->save(device, &saved) == 0);
        (void)snprintf(path, sizeof(path), "%s/seed-%s-%u", folder, device->ops->name, i);
        file = fopen(path, "we");
        CHECK(file != NULL && fwrite(saved.data, saved.size, 1, file) == 1 &&
              fclose(file) == 0);
        buffer_done(&saved);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_vm *fuzz = fuzz_vm_fresh();
    struct device *device;
    struct buffer saved;
    unsigned index;

    if (getenv("DROVER_FUZZ_SEEDS") != NULL) {
        seeds_write(fuzz, getenv("DROVER_FUZZ_SEEDS"));
        exit(0);
    }
    if (size < 1) {
        return 0;
    }
    index = data[0] % fuzz->count;
    device = fuzz->devices[index];
    fuzz_vm_quiet(fuzz, index);
    if (device->ops->load(device, device->ops->version, data + 1, size - 1, NULL) < 0) {
        return 0;
    }
    buffer_init(&saved, 0);
    CHECK(device->ops->save(device, &saved) == 0);
    CHECK(device->ops->load(device, device->ops->version, saved.data, saved.size, NULL) ==
          0);
    buffer_done(&saved);
    device->ops->io_start(device);
    fake_vm_run_ms(fuzz->vm, 0);
    return 0;
}
