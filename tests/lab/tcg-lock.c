/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into the QEMU of an emulated host, this mends two faults of its TCG that only guests inside the host bring out.
 *
 * It keeps QEMU alive when a guest inside the host writes
 * CR8 while a virtual interrupt is pending, as OVMF does after each interrupt. QEMU's TCG then
 * raises that interrupt without QEMU's big lock, and aborts itself over an assertion in
 * tcg_handle_interrupt. The one below takes the lock, and stands in for it: in Debian 12's QEMU,
 * TCG is a module, which takes the function's address through its global offset table; in Debian
 * 13's it is part of the program, whose table of the accelerator's functions is changed when the
 * first vCPU's thread is made.
 *
 * It keeps interrupts of the host from being lost. All threads change a vCPU's interrupt_request under the big lock, but
 * for VMRUN and #VMEXIT, which set and clear one bit of it by a plain instruction in the vCPU's thread: what another thread sets between
 * that instruction's read and its write is gone, such as the host's timer, and then a CPU of the host, or the guest on it, stands still
 * for minutes; or the bit comes back, and the host gets an interrupt of its guest's. Those two instructions are replaced by calls to what takes the
 * lock. They are looked for in the program's code; where they are not found (QEMU 10.2 has mended it), nothing is changed.
 */
#include <dlfcn.h>
#include <inttypes.h>
#include <link.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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

/* ---- changes of interrupt_request without the lock ---- */

#define VIRQ             0x100u /* CPU_INTERRUPT_VIRQ */
#define VMEXIT_CODE_SIZE 0x800u
#define CHANGE_SIZE      10u /* opcode, modrm, displacement, immediate */
#define THUNK_SIZE       16u
#define NEAR_BYTES       ((uintptr_t)1 << 30)

/* Where interrupt_request is, from the `env` that both instructions have in %rbx. */
static int32_t request_displacement;

/* A vCPU's own thread: nobody else sets or clears this bit. */
__attribute__((used)) static void change_virq(char *env, int set)
{
    volatile uint32_t *request = (volatile uint32_t *)(env + request_displacement);
    if (((*request & VIRQ) != 0) == (set != 0)) {
        return;
    }
    (void)pthread_once(&qemu_once, find_qemu);
    bool was_locked = qemu.is_locked();
    if (!was_locked) {
        qemu.lock(__FILE__, __LINE__);
    }
    *request = set ? *request | VIRQ : *request & ~VIRQ;
    if (!was_locked) {
        qemu.unlock();
    }
}

void clear_virq(void);
void set_virq(void);

/* Called in the place of one instruction: all registers stay as they are. */
#define CHANGE_FUNCTION(name, set)                                                       \
    __asm__(".text\n" #name ":\n"                                                        \
            "pushfq\n push %rax\n push %rcx\n push %rdx\n push %rsi\n push %rdi\n"       \
            "push %r8\n push %r9\n push %r10\n push %r11\n push %rbp\n"                  \
            "mov %rsp, %rbp\n sub $512, %rsp\n and $-64, %rsp\n fxsave64 (%rsp)\n"       \
            "mov %rbx, %rdi\n mov $" #set ", %esi\n call change_virq\n"                  \
            "fxrstor64 (%rsp)\n mov %rbp, %rsp\n pop %rbp\n pop %r11\n pop %r10\n"       \
            "pop %r9\n pop %r8\n pop %rdi\n pop %rsi\n pop %rdx\n pop %rcx\n pop %rax\n" \
            "popfq\n ret\n")
CHANGE_FUNCTION(clear_virq, 0);
CHANGE_FUNCTION(set_virq, 1);

struct code {
    uint8_t *start;
    size_t size;
};

/* The program itself comes first. */
static int find_code(struct dl_phdr_info *info, size_t size, void *ret_code)
{
    struct code *code = ret_code;
    (void)size;
    for (unsigned i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type == PT_LOAD && (part->p_flags & PF_X) != 0) {
            *code = (struct code){(uint8_t *)(info->dlpi_addr + part->p_vaddr),
                                  part->p_memsz};
        }
    }
    return 1;
}

/* The only place of these bytes; NULL: none, or several. `any`: what the bytes 2 to 5 are does not matter. */
static uint8_t *find_change(struct code code, const uint8_t wanted[CHANGE_SIZE], bool any)
{
    uint8_t *found = NULL;
    for (size_t i = 0; i + CHANGE_SIZE <= code.size; i++) {
        uint8_t *at = code.start + i;
        if (memcmp(at, wanted, 2) == 0 && memcmp(at + 6, wanted + 6, 4) == 0 &&
            (any || memcmp(at + 2, wanted + 2, 4) == 0)) {
            if (found != NULL) {
                return NULL;
            }
            found = at;
        }
    }
    return found;
}

/* A page that a call from the program's code reaches. */
static uint8_t *near_page(const uint8_t *code)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uintptr_t start = (uintptr_t)code & ~(uintptr_t)(page - 1);
    for (uintptr_t below = 1 << 20; below < NEAR_BYTES && below < start; below += 1 << 20) {
        void *wish = (void *)(start - below);
        void *got = mmap(wish, page, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (got == wish) {
            return got;
        }
        if (got != MAP_FAILED) {
            (void)munmap(got, page);
        }
    }
    return NULL;
}

static void write_thunk(uint8_t *at, void (*function)(void))
{
    static const uint8_t jump[] = {0xff, 0x25, 0, 0, 0, 0}; /* jmp *0(%rip) */
    memcpy(at, jump, sizeof(jump));
    memcpy(at + sizeof(jump), &function, sizeof(function));
}

static void call_instead(uint8_t *at, const uint8_t *thunk)
{
    uint8_t text[CHANGE_SIZE] = {0xe8, 0, 0, 0, 0, 0x0f, 0x1f, 0x44, 0, 0}; /* call, nop */
    int32_t distance = (int32_t)(thunk - (at + 5));
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *start = (uint8_t *)((uintptr_t)at & ~(uintptr_t)(page - 1));
    memcpy(text + 1, &distance, sizeof(distance));
    if (mprotect(start, 2 * page, PROT_READ | PROT_WRITE | PROT_EXEC) == 0) {
        memcpy(at, text, sizeof(text));
        (void)mprotect(start, 2 * page, PROT_READ | PROT_EXEC);
    }
}

/* Before there are vCPUs. */
static void replace_changes(void)
{
    uint8_t clear[CHANGE_SIZE] = {0x81, 0xa3, 0, 0, 0, 0, 0xff, 0xfe, 0xff, 0xff};
    uint8_t set[CHANGE_SIZE] = {0x81, 0x8b, 0, 0, 0, 0, 0x00, 0x01, 0x00, 0x00};
    struct code program = {0};
    (void)dl_iterate_phdr(find_code, &program);
    uint8_t *vmexit = dlsym(RTLD_DEFAULT, "do_vmexit");
    uint8_t *clears = NULL, *sets = NULL;
    if (vmexit != NULL && vmexit >= program.start &&
        vmexit + VMEXIT_CODE_SIZE <= program.start + program.size) {
        clears = find_change((struct code){vmexit, VMEXIT_CODE_SIZE}, clear, true);
    }
    if (clears != NULL) {
        memcpy(set + 2, clears + 2, 4);
        sets = find_change(program, set, false);
    }
    uint8_t *thunks = sets != NULL ? near_page(program.start) : NULL;
    if (thunks == NULL) {
        fprintf(stderr, "tcg-lock: VMRUN and #VMEXIT are left as they are\n");
        return;
    }
    memcpy(&request_displacement, clears + 2, sizeof(request_displacement));
    write_thunk(thunks, clear_virq);
    write_thunk(thunks + THUNK_SIZE, set_virq);
    if (mprotect(thunks, (size_t)sysconf(_SC_PAGESIZE), PROT_READ | PROT_EXEC) == 0) {
        call_instead(clears, thunks);
        call_instead(sets, thunks + THUNK_SIZE);
    }
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                   void *(*run)(void *), void *argument)
{
    int (*next)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) =
        (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))dlsym(
            RTLD_NEXT, "pthread_create");
    static pthread_once_t changes_once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&changes_once, replace_changes);
    replace_in_table();
    return next(thread, attributes, run, argument);
}
