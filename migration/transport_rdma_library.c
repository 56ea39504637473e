/* SPDX-License-Identifier: Apache-2.0 */
/* The RDMA libraries, by name. */
#include "migration/transport_rdma_library.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"

static int library_open(const char *name, void **ret_handle, struct error *err)
{
    void *handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        return error_set(err, DROVER_ENOTFOUND,
                         "%s can't be loaded: install libibverbs1, librdmacm and "
                         "ibverbs-providers",
                         name);
    }
    *ret_handle = handle;
    return 0;
}

/* `ret_function` is the address of a pointer to a function. */
static int function_find(void *handle, const char *prefix, const char *name,
                         void *ret_function, struct error *err)
{
    char whole[64];
    (void)snprintf(whole, sizeof(whole), "%s%s", prefix, name); /* they are all short */
    void *address = dlsym(handle, whole);
    if (address == NULL) {
        return error_set(err, DROVER_EVERSION,
                         "the RDMA libraries have no %s: install newer ones", whole);
    }
    memcpy(ret_function, &address, sizeof(address));
    return 0;
}

int rdma_library_load(struct rdma_library *ret_library, struct error *err)
{
    struct rdma_library library;
    void *verbs = NULL;
    void *manager = NULL;
    int rv = library_open("libibverbs.so.1", &verbs, err);
    rv = rv != 0 ? rv : library_open("librdmacm.so.1", &manager, err);
#define X(name)                                                                          \
    rv = rv != 0 ? rv : function_find(verbs, "ibv_", #name, &library.verbs.name, err);
    RDMA_VERBS_FUNCTIONS(X)
#undef X
#define X(name)                                                                          \
    rv = rv != 0 ? rv                                                                    \
                 : function_find(manager, "rdma_", #name, &library.manager.name, err);
    RDMA_MANAGER_FUNCTIONS(X)
#undef X
    if (rv == 0) {
        *ret_library = library;
    }
    return rv;
}
