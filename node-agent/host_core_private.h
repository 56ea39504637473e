/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the host core share. Not for others. */
#ifndef DROVER_NODE_AGENT_HOST_CORE_PRIVATE_H
#define DROVER_NODE_AGENT_HOST_CORE_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/id.h"
#include "fencing/lease_holder.h"
#include "fencing/timing.h"
#include "node-agent/host_core.h"

#define HOST_VMMS_MAX                                                                    \
    8 /* of one VM on one host: the right one, and old ones that end                     \
       */
#define HOST_BACKOFF_MAX     5 /* doublings of retry_ms: 32 times */
#define HOST_PANIC_RENEWALS  60 /* of the lease, between two crashes of a guest that are told */
#define HOST_CRASHES_TO_TELL 3 /* crashes of a VM that ran, until the cluster is told */

enum host_order {
    HOST_ORDER_LEASE,
    HOST_ORDER_PAUSE,
    HOST_ORDER_RESUME,
    HOST_ORDER_POWER_BUTTON,
    HOST_ORDER_QUIT,
    HOST_ORDER_MIGRATE,
    HOST_ORDER_MIGRATE_CANCEL,
    HOST_ORDER_MIGRATE_LIMIT,
    HOST_ORDER_MIGRATE_LINKS,
    HOST_ORDER_RECLAIM,
    HOST_ORDER_BALLOON,
    HOST_ORDER_COUNT,
};

/* One VMM process, from its start or its first status until it is certainly gone. */
struct host_vmm {
    uint64_t epoch;
    uint64_t since_ms;
    Drover__VmStatus *status;              /* its last; NULL: none yet */
    bool got_go;                           /* an incoming one: it has the guest */
    bool failed;                           /* said so itself: it will never have it */
    uint64_t lease_ms;                     /* last deadline sent; 0: none */
    uint64_t ordered_ms[HOST_ORDER_COUNT]; /* when last; 0: never */
    uint64_t unheard_ms;      /* when the first of these was given; 0: none */
    unsigned unheard;         /* leases that it got and has not answered */
    uint64_t bandwidth;    /* of its move, as last ordered, in bytes/s; 0: no limit */
    Drover__MoveEncryption source_encryption, target_encryption; /* of its guest's way here */
    uint64_t
        lost_ms; /* since when the rest of its guest's memory is lost; 0: it is not */
    uint64_t give_up_ms;   /* since when it is told to give its guest up; 0: it was not */
    unsigned cancels;      /* how often its migration was told to end */
    unsigned cancels_seen; /* that many, when its last status came */
    uint64_t
        pressed_ms; /* its power button, also for a stop that was taken back; 0: never */
};

/* What is remembered of a VMM that is gone, as long as its epoch may matter. */
struct host_gone {
    uint64_t epoch; /* 0: none */
    bool had_guest, failed;
    bool sent;        /* a guest that left it has all its memory */
    bool powered_off; /* by the guest's own wish: nobody had pressed the button */
    char reason[ERROR_TEXT_SIZE];
};

/* One VM that this host owns, receives, or has a VMM of. */
struct host_vm {
    uint64_t vm_id;
    struct host_vmm vmms[HOST_VMMS_MAX];
    unsigned vmm_count;
    struct host_gone gone;
    /* Rules: these only grow. */
    uint64_t given_up_epoch; /* this and lower ones are never started here again */
    uint64_t
        never_sends; /* next_epoch of the last migration that we said we shall not send */
    char unsent_reason[ERROR_TEXT_SIZE]; /* why, if the agent said so; of never_sends */
    uint64_t
        ordered_epoch; /* next_epoch of the last migration that was ordered to be sent */
    uint64_t begun_epoch; /* next_epoch of the last migration that this run saw before it
                             was ready */
    uint64_t ready_epoch; /* next_epoch of the last migration that was stated ready */
    uint64_t phase_epoch; /* next_epoch and phase whose first sight was at phase_ms */
    Drover__MigrationPhase phase;
    uint64_t phase_ms;
    /* The statement that is out. */
    uint64_t proposal_id;    /* 0: none */
    uint64_t state_again_ms; /* not before */
    /* Starts that failed. */
    unsigned failures;
    uint64_t start_again_ms;
    bool problem; /* gone.reason is to be told */
    /* The guest's last crash, until the record has it. */
    uint64_t panic_unix_ms; /* 0: none */
    uint64_t panic_epoch;
    uint64_t panic_told_ms;  /* the last one that the record has had */
    uint64_t panic_again_ms; /* the next one is not told before */
};

struct host_core {
    struct timing timing;
    struct host_core_identity identity;
    const struct host_core_ops *ops;
    void *owner;
    struct lease_holder lease;
    uint64_t wake_ms; /* when tick() wants to be called again */
    uint64_t last_proposal;
    uint64_t up_proposal; /* 0: none out */
    uint64_t up_again_ms;
    uint64_t asked_ms; /* last request for a lease */
    bool hurry;        /* something to tell: ask at once */
    bool scan_done;
    bool up;      /* the cluster knows this run */
    bool settled; /* up, lease in force, so the state is as new as that lease: decisions
                     may rest on it */
    unsigned moves_out;  /* VMs that leave this host, or are about to */
    struct host_vm *vms; /* in the order of their ids */
    size_t vm_count, vm_capacity;
};

/* host_table.c */
struct host_vm *host_table_find(const struct host_core *core, uint64_t vm_id);
/* NULL: short of memory. */
struct host_vm *host_table_get(struct host_core *core, uint64_t vm_id);
void host_table_drop(struct host_core *core, struct host_vm *vm);
struct host_vmm *host_vmm_find(struct host_vm *vm, uint64_t epoch);
/* NULL: too many. */
struct host_vmm *host_vmm_add(struct host_vm *vm, uint64_t epoch, uint64_t now_ms);
void host_vmm_drop(struct host_vm *vm, struct host_vmm *vmm);
Drover__VmRunState host_vmm_state(const struct host_vmm *vmm);
void host_table_free(struct host_core *core);

/* host_core.c */
void host_wake_at(struct host_core *core, uint64_t at_ms);
/* One statement for a VM at a time; asked for again, it is made again until the record
 * shows it. */
void host_state(struct host_core *core, struct host_vm *vm,
                const Drover__Command *command, uint64_t now_ms);
/* The same for a message of the VM's, after saying whose word it is. */
#define HOST_STATE(core, vm, field, WHAT, statement, now_ms)                             \
    do {                                                                                 \
        Drover__Command command_ = DROVER__COMMAND__INIT;                                \
        (statement)->vm_id = (vm)->vm_id;                                                \
        (statement)->host_id = (core)->identity.host_id;                                 \
        (statement)->incarnation = /* only packed from */                                \
            (char *)(uintptr_t)(core)->identity.incarnation;                             \
        command_.what_case = DROVER__COMMAND__WHAT_##WHAT;                               \
        command_.field = (statement);                                                    \
        host_state(core, vm, &command_, now_ms);                                         \
    } while (0)

/* host_vm.c */
/* Sends it, unless the same order was sent less than retry_ms ago. */
void host_order(struct host_core *core, struct host_vm *vm, struct host_vmm *vmm,
                enum host_order kind, Drover__ControlRequest *request, uint64_t now_ms);
/* The same for one of its messages. */
#define HOST_ORDER(core, vm, vmm, field, KIND, order, now_ms)                            \
    do {                                                                                 \
        Drover__ControlRequest request_ = DROVER__CONTROL_REQUEST__INIT;                 \
        request_.order_case = DROVER__CONTROL_REQUEST__ORDER_##KIND;                     \
        request_.field = (order);                                                        \
        host_order(core, vm, vmm, HOST_ORDER_##KIND, &request_, now_ms);                 \
    } while (0)
/* A move shall end; or a guest that needs what never comes. */
void host_order_cancel(struct host_core *core, struct host_vm *vm, struct host_vmm *vmm,
                       uint64_t now_ms);
void host_order_quit(struct host_core *core, struct host_vm *vm, struct host_vmm *vmm,
                     uint64_t now_ms);
void host_extend(struct host_core *core, struct host_vm *vm, struct host_vmm *vmm,
                 const Drover__VmRecord *record, uint64_t now_ms);
void host_start(struct host_core *core, struct host_vm *vm,
                const Drover__VmRecord *record, uint64_t epoch, uint64_t now_ms);
/* What the VMM that got the guest reports, with what the agent knows of the way. False: it
 * reports nothing. Borrows from `vmm`. */
bool host_figures(const struct host_vmm *vmm, Drover__MigrationFigures *ret_figures);
/* One VM, when settled. `record` NULL: deleted. */
void host_vm_reconcile(struct host_core *core, struct host_vm *vm,
                       const Drover__VmRecord *record, uint64_t now_ms);

/* host_migration.c */
void host_source_reconcile(struct host_core *core, struct host_vm *vm,
                           struct host_vmm *vmm, const Drover__VmRecord *record,
                           uint64_t now_ms);
void host_target_reconcile(struct host_core *core, struct host_vm *vm,
                           struct host_vmm *vmm, const Drover__VmRecord *record,
                           uint64_t now_ms);

/* host_postcopy.c */
/* What the owner's guest still needs of the VMM that it came from. */
enum host_need {
    HOST_NEED_NONE,
    HOST_NEED_WAITS,    /* it comes, or may yet come */
    HOST_NEED_HOPELESS, /* it never comes */
    HOST_NEED_COMPLETE, /* all has come */
    HOST_NEED_DIED,     /* the VMM that needed it is gone */
};
/* `vmm`: of the record's epoch, or NULL. */
enum host_need host_need_judge(const Drover__VmRecord *record, const struct host_vm *vm,
                               const struct host_vmm *vmm);
void host_need_reconcile(struct host_core *core, struct host_vm *vm, struct host_vmm *vmm,
                         const Drover__VmRecord *record, uint64_t now_ms);
/* The record says that memory of the VM, which another host owns, is on this one. */
bool host_memory_here(const struct host_core *core, const Drover__VmRecord *record);
/* By this VMM, which is to be kept therefore. */
bool host_memory_kept(const struct host_core *core, const Drover__VmRecord *record,
                      const struct host_vmm *vmm);
void host_memory_reconcile(struct host_core *core, struct host_vm *vm,
                           const Drover__VmRecord *record, uint64_t now_ms);
/* A source whose post-copy has lost its connection gets another. */
void host_order_links(struct host_core *core, struct host_vm *vm, struct host_vmm *vmm,
                      uint64_t now_ms);

#endif
