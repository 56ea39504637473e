/* SPDX-License-Identifier: Apache-2.0 */
/* States of devices, kept from one input of a fuzzer to the next. */
#include "tests/fuzz/fuzz_state.h"

#include "base/check.h"
#include "vmm/device.h"
#include "vmm/vm.h"

void fuzz_state_keep(struct fuzz_state *state, struct vm *vm)
{
    for (struct device *device = vm_devices(vm); device != NULL; device = device->next) {
        if (device->ops->save == NULL) {
            continue;
        }
        CHECK(state->count < FUZZ_STATE_DEVICES);
        buffer_init(&state->saved[state->count], 0);
        CHECK(device->ops->save(device, &state->saved[state->count]) == 0);
        state->devices[state->count++] = device;
    }
}

void fuzz_state_restore(struct fuzz_state *state)
{
    for (unsigned i = 0; i < state->count; i++) {
        const struct device_ops *ops = state->devices[i]->ops;
        const struct buffer *saved = &state->saved[i];

        CHECK(ops->load(state->devices[i], ops->version, saved->data, saved->size,
                        NULL) == 0);
    }
}

void fuzz_state_done(struct fuzz_state *state)
{
    for (unsigned i = 0; i < state->count; i++) {
        buffer_done(&state->saved[i]);
    }
    state->count = 0;
}
