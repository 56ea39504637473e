/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The handlers of the commands: one per member of Command. Each judges the command
 * against the state and either refuses it (step_refuse(), or -ENOMEM) or edits the step.
 * Internal to consensus/.
 */
#ifndef DROVER_CONSENSUS_APPLY_H
#define DROVER_CONSENSUS_APPLY_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/cluster.pb-c.h"

struct apply_step;
struct error;

int apply_cluster_init(struct apply_step *step, const Drover__ClusterInit *order);
int apply_token_create(struct apply_step *step, const Drover__TokenCreate *order);
int apply_host_add(struct apply_step *step, const Drover__HostAdd *order);
int apply_host_up(struct apply_step *step, const Drover__HostUp *order);
int apply_host_dead(struct apply_step *step, const Drover__HostDead *order);
int apply_host_remove(struct apply_step *step, const Drover__HostRemove *order);
int apply_cluster_set(struct apply_step *step, const Drover__ClusterSet *order);
int apply_migration_notice(struct apply_step *step, const Drover__MigrationNotice *order);
int apply_host_drain(struct apply_step *step, const Drover__HostDrain *order);
int apply_vm_create(struct apply_step *step, const Drover__VmCreate *order);
int apply_vm_update(struct apply_step *step, const Drover__VmUpdate *order);
int apply_vm_set_wanted(struct apply_step *step, const Drover__VmSetWanted *order);
int apply_vm_set_balloon(struct apply_step *step, const Drover__VmSetBalloon *order);
int apply_vm_delete(struct apply_step *step, const Drover__VmDelete *order);
int apply_vm_assign(struct apply_step *step, const Drover__VmAssign *order);
int apply_vm_started(struct apply_step *step, const Drover__VmStarted *order);
int apply_vm_stopped(struct apply_step *step, const Drover__VmStopped *order);
int apply_vm_problem(struct apply_step *step, const Drover__VmProblem *order);
int apply_vm_panicked(struct apply_step *step, const Drover__VmPanicked *order);
/* The one that goes on under this epoch; else NULL, after refusing. */
const Drover__Migration *apply_migration_find(struct apply_step *step, uint64_t vm_id,
                                              uint64_t next_epoch);
int apply_migration_begin(struct apply_step *step, const Drover__MigrationBegin *order);
int apply_migration_ready(struct apply_step *step, const Drover__MigrationReady *order);
int apply_migration_cancel(struct apply_step *step, const Drover__MigrationCancel *order);
int apply_migration_done(struct apply_step *step, const Drover__MigrationDone *order);
int apply_migration_abort(struct apply_step *step, const Drover__MigrationAbort *order);
int apply_migration_complete(struct apply_step *step,
                             const Drover__MigrationComplete *order);
int apply_migration_source_lost(struct apply_step *step,
                                const Drover__MigrationSourceLost *order);
int apply_event_add(struct apply_step *step, const Drover__EventAdd *order);

/* apply_request.c: users' requests that were carried out, and may be repeated. */

/* The one of this id; NULL: none is remembered. */
const Drover__RequestRecord *request_find(const Drover__ClusterState *record,
                                          const char *request_id);
bool request_id_valid(const char *request_id);
/* Whether the command's request was carried out before: 1 with its answer in
 * step->result; 0: it is to be carried out now; else the refusal. */
int request_judge(struct apply_step *step, const Drover__Command *command);
/* The command was accepted: it will be remembered. 0 or -ENOMEM. */
int request_remember(struct apply_step *step, const Drover__Command *command);
/* There is room for one more pointer. Takes `request`; lets go of what is too old. */
void request_add(Drover__ClusterState *record, Drover__RequestRecord *request);
bool requests_valid(const Drover__ClusterState *record, struct error *err);

/* apply_setting.c: makes a setting true that was judged. */
void setting_take(Drover__ClusterState *record, const Drover__ClusterSet *order);

/* Shared by the handlers. */

/* The host may take part: a member, UP, and this is the current run of its agent. */
int apply_check_speaker(struct apply_step *step, uint64_t host_id,
                        const char *incarnation);
/* The host may be given this VM: UP, runs VMs, not draining, memory for it. */
int apply_check_room(struct apply_step *step, uint64_t host_id,
                     const Drover__VmRecord *vm);
/* Whether this proof shows that the VM does not run on the dead host: a VM that is not
 * set for HA runs on without a lease. */
bool apply_proof_covers(const Drover__Proof *proof, const Drover__VmRecord *vm);
/* The effects of a death, or of a new boot, on a VM of that host. */
int apply_death_to_vm(struct apply_step *step, size_t position, uint64_t host_id,
                      const Drover__Proof *proof);
int apply_reboot_to_migration(struct apply_step *step, size_t position, uint64_t host_id,
                              const char *boot_id);
/* The target's own word that its VMM is gone: it does not know whether that had the
 * guest. */
int apply_loss_of_target(struct apply_step *step, size_t position);
/* The proof takes the VM from its dead owner; a VM that is not set for HA waits for
 * its host instead. */
void apply_take_from_dead(struct apply_step *step, Drover__VmRecord *vm,
                          const Drover__HostRecord *host);
void apply_clear_migration(Drover__VmRecord *vm);

/* apply_postcopy.c */

/* All members know post-copy, so all will apply what follows from it. */
bool apply_postcopy_known(const struct apply_step *step);
/* The migration's end: what the target's guest still needs of its source. 0 or -ENOMEM. */
int apply_dependence_begin(struct apply_step *step, Drover__VmRecord *vm,
                           const Drover__MigrationDone *order);
void apply_dependence_clear(Drover__VmRecord *vm);
int apply_death_to_dependence(struct apply_step *step, size_t position, uint64_t host_id,
                              const Drover__Proof *proof);
int apply_reboot_to_dependence(struct apply_step *step, size_t position,
                               uint64_t host_id);

/* vm_spec.c: whether a spec makes sense by itself, and beside the other VMs. */
int vm_spec_check(const Drover__VmSpec *spec, struct error *err);
/* `own_id`: the VM that is changed, which does not stand against itself; 0: a new one. */
int vm_spec_check_conflicts(const Drover__ClusterState *record, uint64_t own_id,
                            const Drover__VmSpec *spec, struct error *err);
/* Whether two VMs may both have these disks; false with the path that stands against
 * it. */
bool vm_spec_disks_agree(const Drover__VmSpec *a, const Drover__VmSpec *b,
                         const char **ret_path);
/* Fills the empty MACs. */
int vm_spec_fill_macs(struct apply_step *step, uint64_t vm_id, Drover__VmSpec *spec);
/* Names a file for UEFI's variables, if none is named. */
int vm_spec_fill_vars(struct apply_step *step, Drover__VmSpec *spec);

/* vm_spec_options.c: parts of vm_spec_check(). */
int vm_spec_check_machine(const Drover__VmSpec *spec, struct error *err);
/* What descriptions of today are refused for; those in the state may be older. */
int vm_spec_check_new(const Drover__VmSpec *spec, struct error *err);
int vm_spec_check_disk(const Drover__VmSpec *spec, const Drover__DiskSpec *disk,
                       struct error *err);
int vm_spec_check_nic(const Drover__VmSpec *spec, const Drover__NicSpec *nic,
                      struct error *err);
/* nbd://..., nbd+unix://... */
bool vm_spec_disk_is_remote(const char *path);
/* "0-3,8" */
bool text_cpu_list_valid(const char *text);

/* text.c */
/* Valid UTF-8 without control characters. */
bool text_line_valid(const char *text);
/* "HOST:PORT", both plausible, short enough. */
bool text_address_valid(const char *address);
/* Absolute, without ".", ".." or empty components, printable, short enough. */
bool text_path_valid(const char *path);
/* 1 to `size` - 1 characters out of [A-Za-z0-9._-]. */
bool text_word_valid(const char *text, size_t size);
/* Copies what fits, control characters as spaces, broken UTF-8 as '?'. */
void text_for_people(const char *from, char *ret_text, size_t size);

#endif
