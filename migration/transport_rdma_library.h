/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The functions of libibverbs and librdmacm that links use, looked up when somebody asks
 * for RDMA: a process that does not neither loads nor needs them.
 */
#ifndef DROVER_MIGRATION_TRANSPORT_RDMA_LIBRARY_H
#define DROVER_MIGRATION_TRANSPORT_RDMA_LIBRARY_H

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

struct error;

/* X(name without its prefix) */
#define RDMA_VERBS_FUNCTIONS(X)                                                          \
    X(get_device_list)                                                                   \
    X(free_device_list)                                                                  \
    X(alloc_pd)                                                                          \
    X(dealloc_pd)                                                                        \
    X(reg_mr)                                                                            \
    X(dereg_mr)                                                                          \
    X(create_comp_channel)                                                               \
    X(destroy_comp_channel)                                                              \
    X(create_cq)                                                                         \
    X(destroy_cq)                                                                        \
    X(get_cq_event)                                                                      \
    X(ack_cq_events)                                                                     \
    X(modify_qp)                                                                         \
    X(query_qp)

#define RDMA_MANAGER_FUNCTIONS(X)                                                        \
    X(create_id)                                                                         \
    X(destroy_id)                                                                        \
    X(migrate_id)                                                                        \
    X(bind_addr)                                                                         \
    X(listen)                                                                            \
    X(resolve_addr)                                                                      \
    X(resolve_route)                                                                     \
    X(connect)                                                                           \
    X(accept)                                                                            \
    X(reject)                                                                            \
    X(disconnect)                                                                        \
    X(create_qp)                                                                         \
    X(destroy_qp)                                                                        \
    X(get_cm_event)                                                                      \
    X(ack_cm_event)                                                                      \
    X(get_devices)                                                                       \
    X(free_devices)                                                                      \
    X(get_src_port)                                                                      \
    X(set_option)                                                                        \
    X(getaddrinfo)                                                                       \
    X(freeaddrinfo)

struct rdma_library {
#define X(name) __typeof__(ibv_##name) *name;
    struct {
        RDMA_VERBS_FUNCTIONS(X)
    } verbs;
#undef X
#define X(name) __typeof__(rdma_##name) *name;
    struct {
        RDMA_MANAGER_FUNCTIONS(X)
    } manager;
#undef X
};

/* They stay loaded: providers leave threads' data behind. DROVER_ENOTFOUND with what is
 * missing. */
int rdma_library_load(struct rdma_library *ret_library, struct error *err);

#endif
