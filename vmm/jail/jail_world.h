/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The world that a jail leaves visible: a file system with nothing in it, and a network
 * with nothing in it. Most of what the kernel does for a jail is this; a launcher makes
 * it while its VMM still opens files.
 */
#ifndef DROVER_VMM_JAIL_JAIL_WORLD_H
#define DROVER_VMM_JAIL_JAIL_WORLD_H

struct error;

struct jail_world {
    int network_fd; /* namespaces; -1: none */
    int mount_fd;
};

/*
 * Of a process with one thread, as root. The process itself is where it was before. After
 * -ENOTRECOVERABLE it is not, and must end.
 */
int jail_world_make(struct jail_world *ret_world, struct error *err);
/* The calling process is in it from then on; its folder is the root. -errno. */
int jail_world_enter(const struct jail_world *world);
/*
 * The same in two steps, for a process that still needs the host's files as the user that
 * it becomes: the network at once, and a mount namespace of its own; its files are then
 * taken away by a child that stayed root, jail_world_empty().
 */
int jail_world_enter_network(const struct jail_world *world);
int jail_world_empty(void);
void jail_world_done(struct jail_world *world);

#endif
