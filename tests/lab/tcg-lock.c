/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into the QEMU of an emulated host, this keeps it alive when a guest inside the host writes
 * CR8 while a virtual interrupt is pending, as OVMF does after each interrupt. QEMU's TCG then
 * raises that interrupt without QEMU's big lock, and aborts itself over an assertion in
 * tcg_handle_interrupt. The one below takes the lock, and stands in for it: in Debian 12's QEMU,
 * TCG is a module, which takes the function's address through its global offset table; in Debian
 * 13's it is part of the program, whose table of the accelerator's functions is changed when the
 * first vCPU's thread is made.
 */
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CPUState;

void tcg_handle_interrupt(struct CPUState *cpu, int mask);
/* The one below, also where the program has another of that name. */
__attribute__((visibility("hidden"), alias("tcg_handle_interrupt"))) void
locked_handle_interrupt(struct CPUState *cpu, int mask);

struct lock_names {
    const char *is_locked, *lock, *unlock;
};

/* QEMU's own functions. Statics, for there is nothing else that a preloaded library is handed. */
static struct {
    void (*handle_interrupt)(struct CPUState *cpu, int mask);
    bool (*is_locked)(void);
    void (*lock)(const char *file, int line);
    void (*unlock)(void);
} qemu;
static pthread_once_t qemu_once = PTHREAD_ONCE_INIT;

static int find_module(struct dl_phdr_info *info, size_t size, void *ret_path)
{
    (void)size;
    const char *slash = strrchr(info->dlpi_name, '/');
    if (slash && !strncmp(slash, "/accel-tcg-", strlen("/accel-tcg-"))) {
        *(const char **)ret_path = info->dlpi_name;
        return 1;
    }
    return 0;
}

static void find_qemu(void)
{
    static const struct lock_names names[] = {
        {"bql_locked", "bql_lock_impl", "bql_unlock"}, /* since QEMU 9.0 */
        {"qemu_mutex_iothread_locked", "qemu_mutex_lock_iothread_impl",
         "qemu_mutex_unlock_iothread"},
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(*names) && !qemu.is_locked; i++) {
        qemu.is_locked = (bool (*)(void))dlsym(RTLD_DEFAULT, names[i].is_locked);
        qemu.lock = (void (*)(const char *, int))dlsym(RTLD_DEFAULT, names[i].lock);
        qemu.unlock = (void (*)(void))dlsym(RTLD_DEFAULT, names[i].unlock);
    }
    const char *path = NULL;
    (void)dl_iterate_phdr(find_module, &path);
    void *module = path ? dlopen(path, RTLD_NOLOAD | RTLD_LAZY) : NULL;
    qemu.handle_interrupt = (void (*)(struct CPUState *, int))dlsym(
        module ? module : RTLD_DEFAULT, "tcg_handle_interrupt");
    if (!qemu.handle_interrupt || qemu.handle_interrupt == locked_handle_interrupt ||
        !qemu.is_locked || !qemu.lock || !qemu.unlock) {
        fprintf(stderr, "tcg-lock: this QEMU's lock is not known here: see tests/lab/tcg-lock.c\n");
        abort();
    }
}

void tcg_handle_interrupt(struct CPUState *cpu, int mask)
{
    (void)pthread_once(&qemu_once, find_qemu);
    bool was_locked = qemu.is_locked();
    if (!was_locked) {
        qemu.lock(__FILE__, __LINE__);
    }
    qemu.handle_interrupt(cpu, mask);
    if (!was_locked) {
        qemu.unlock();
    }
}

/* Where TCG is part of the program: once there are vCPUs, the accelerator's table is there too. */
static void replace_in_table(void)
{
    enum { TABLE_WORDS = 40 };
    void **cpus = dlsym(RTLD_DEFAULT, "cpus_queue");
    void *own = dlsym(RTLD_DEFAULT, "tcg_handle_interrupt");
    void **(*get_table)(void) = (void **(*)(void))dlsym(RTLD_DEFAULT, "cpus_get_accel");
    if (!get_table || !cpus || !*cpus) {
        return;
    }
    void **table = get_table();
    for (int i = 0; i < TABLE_WORDS; i++) {
        if (table[i] == own) {
            table[i] = (void *)locked_handle_interrupt;
        }
    }
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                   void *(*run)(void *), void *argument)
{
    int (*next)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) =
        (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))dlsym(
            RTLD_NEXT, "pthread_create");
    replace_in_table();
    return next(thread, attributes, run, argument);
}
