/* SPDX-License-Identifier: Apache-2.0 */
/* The gate's program and its page (bpf(2)), and its place on the tap (tc-bpf(8), by
 * rtnetlink(7)). */
#include "vmm/host/net_guard.h"

#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"

#define PAGE_BYTES   4096
#define PRIORITY     0xd205u /* of our filter on the tap: how it is found again */
#define MESSAGE_SIZE 512
#define NAME_SIZE    16

/* What the program reads; shared with the kernel. */
struct gate {
    _Atomic(uint64_t) deadline_ns;
    _Atomic(uint64_t) source; /* six bytes as they stand in the frame, 0: all pass */
    _Atomic(uint64_t) spoofed;
};

struct net_guard {
    char tap[NAME_SIZE];
    struct gate *gate;
};

/* ---- the program ---------------------------------------------------------- */

#define INSN(opcode, to, from, distance, value)                                          \
    {                                                                                    \
        .code = (opcode), .dst_reg = (to), .src_reg = (from), .off = (distance),         \
        .imm = (value)                                                                   \
    }
#define MOVE(to, from)       INSN(BPF_ALU64 | BPF_MOV | BPF_X, to, from, 0, 0)
#define MOVE_VALUE(to, v)    INSN(BPF_ALU64 | BPF_MOV | BPF_K, to, 0, 0, v)
#define ADD_VALUE(to, v)     INSN(BPF_ALU64 | BPF_ADD | BPF_K, to, 0, 0, v)
#define LOAD(to, from, at)   INSN(BPF_LDX | BPF_DW | BPF_MEM, to, from, at, 0)
#define STORE(to, at, from)  INSN(BPF_STX | BPF_DW | BPF_MEM, to, from, at, 0)
#define CALL(function)       INSN(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_##function)
#define JUMP(kind, a, v, n)  INSN(BPF_JMP | (kind) | BPF_K, a, 0, n, v)
#define JUMPX(kind, a, b, n) INSN(BPF_JMP | (kind) | BPF_X, a, b, n, 0)
#define EXIT                 INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)

enum { R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 };

static int bpf(enum bpf_cmd command, union bpf_attr *attr)
{
    return (int)syscall(SYS_bpf, command, attr, sizeof(*attr));
}

static int map_create(void)
{
    union bpf_attr attr = {.map_type = BPF_MAP_TYPE_ARRAY,
                           .key_size = sizeof(uint32_t),
                           .value_size = sizeof(struct gate),
                           .max_entries = 1,
                           .map_flags = BPF_F_MMAPABLE};
    int fd = bpf(BPF_MAP_CREATE, &attr);

    return fd < 0 ? -errno : fd;
}

static int program_load(int map_fd)
{
    const struct bpf_insn program[] = {
        MOVE(R6, R1),
        MOVE_VALUE(R0, 0),
        STORE(R10, -8, R0),
        STORE(R10, -16, R0),
        INSN(BPF_LD | BPF_DW | BPF_IMM, R1, BPF_PSEUDO_MAP_FD, 0, map_fd),
        INSN(0, 0, 0, 0, 0), /* its second half */
        MOVE(R2, R10),
        ADD_VALUE(R2, -8),
        CALL(map_lookup_elem),
        JUMP(BPF_JEQ, R0, 0, 20), /* drop */
        MOVE(R8, R0),
        LOAD(R7, R8, offsetof(struct gate, deadline_ns)),
        JUMP(BPF_JEQ, R7, -1, 2), /* no deadline */
        CALL(ktime_get_boot_ns),
        JUMPX(BPF_JGE, R0, R7, 15), /* drop */
        LOAD(R9, R8, offsetof(struct gate, source)),
        JUMP(BPF_JEQ, R9, 0, 11), /* pass */
        MOVE(R1, R6),
        MOVE_VALUE(R2, ETH_ALEN), /* behind the destination */
        MOVE(R3, R10),
        ADD_VALUE(R3, -16),
        MOVE_VALUE(R4, ETH_ALEN),
        CALL(skb_load_bytes),
        JUMP(BPF_JNE, R0, 0, 6), /* drop */
        LOAD(R1, R10, -16),
        JUMPX(BPF_JEQ, R1, R9, 2), /* pass */
        MOVE_VALUE(R1, 1),
        JUMP(BPF_JA, 0, 0, 3),         /* count, and drop */
        MOVE_VALUE(R0, TC_ACT_UNSPEC), /* pass */
        EXIT,
        JUMP(BPF_JA, 0, 0, 1), /* drop */
        INSN(BPF_STX | BPF_DW | BPF_ATOMIC, R8, R1, offsetof(struct gate, spoofed),
             BPF_ADD),
        MOVE_VALUE(R0, TC_ACT_SHOT),
        EXIT,
    };
    union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_SCHED_CLS,
                           .insns = (uintptr_t)program,
                           .insn_cnt = sizeof(program) / sizeof(program[0]),
                           .license = (uintptr_t) "Apache-2.0"};
    int fd;

    (void)snprintf(attr.prog_name, sizeof(attr.prog_name), "drover_guard");
    fd = bpf(BPF_PROG_LOAD, &attr);
    return fd < 0 ? -errno : fd;
}

/* ---- its place on the tap ------------------------------------------------- */

struct message {
    struct nlmsghdr header;
    struct tcmsg tc;
    uint8_t attributes[MESSAGE_SIZE];
};

static struct rtattr *attribute_add(struct message *message, unsigned short type,
                                    const void *data, size_t size)
{
    struct rtattr *attribute =
        (struct rtattr *)(void *)((uint8_t *)message +
                                  NLMSG_ALIGN(message->header.nlmsg_len));

    attribute->rta_type = type;
    attribute->rta_len = (unsigned short)RTA_LENGTH(size);
    if (size > 0) {
        memcpy(RTA_DATA(attribute), data, size);
    }
    message->header.nlmsg_len =
        NLMSG_ALIGN(message->header.nlmsg_len) + RTA_ALIGN(attribute->rta_len);
    return attribute;
}

static void text_add(struct message *message, unsigned short type, const char *text)
{
    (void)attribute_add(message, type, text, strlen(text) + 1);
}

static struct message message_make(const char *tap, uint16_t type, uint16_t flags)
{
    return (struct message){
        .header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct tcmsg)),
                   .nlmsg_type = type,
                   .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags)},
        .tc = {.tcm_family = AF_UNSPEC, .tcm_ifindex = (int)if_nametoindex(tap)},
    };
}

static int message_send(struct message *message)
{
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    struct {
        struct nlmsghdr header;
        struct nlmsgerr error;
        uint8_t rest[MESSAGE_SIZE];
    } answer;
    CLEANUP(cleanup_fd)
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

    if (fd < 0 || sendto(fd, message, message->header.nlmsg_len, 0,
                         (const struct sockaddr *)&kernel, sizeof(kernel)) < 0) {
        return -errno;
    }
    if (recv(fd, &answer, sizeof(answer), 0) < (ssize_t)offsetof(typeof(answer), rest)) {
        return -EPROTO;
    }
    return answer.header.nlmsg_type == NLMSG_ERROR ? answer.error.error : -EPROTO;
}

static int hook_make(const char *tap)
{
    struct message message = message_make(tap, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL);
    int ret;

    message.tc.tcm_parent = TC_H_CLSACT;
    message.tc.tcm_handle = TC_H_MAKE(TC_H_CLSACT, 0);
    text_add(&message, TCA_KIND, "clsact");
    ret = message_send(&message);
    return ret == -EEXIST ? 0 : ret;
}

static struct message filter_message(const char *tap, uint16_t type, uint16_t flags)
{
    struct message message = message_make(tap, type, flags);

    message.tc.tcm_parent = TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS);
    message.tc.tcm_info =
        TC_H_MAKE(PRIORITY << 16, (uint32_t)__builtin_bswap16(ETH_P_ALL));
    return message;
}

static int filter_add(const char *tap, int program_fd)
{
    struct message message =
        filter_message(tap, RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL);
    uint32_t flags = TCA_BPF_FLAG_ACT_DIRECT;
    struct rtattr *options;

    message.tc.tcm_handle = 1;
    text_add(&message, TCA_KIND, "bpf");
    options = attribute_add(&message, TCA_OPTIONS, NULL, 0);
    (void)attribute_add(&message, TCA_BPF_FD, &program_fd, sizeof(program_fd));
    text_add(&message, TCA_BPF_NAME, "drover-guard");
    (void)attribute_add(&message, TCA_BPF_FLAGS, &flags, sizeof(flags));
    options->rta_len = (unsigned short)((uint8_t *)&message + message.header.nlmsg_len -
                                        (uint8_t *)options);
    return message_send(&message);
}

void net_guard_clean(const char *tap)
{
    struct message message = filter_message(tap, RTM_DELTFILTER, 0);

    (void)message_send(&message); /* there is none, or it is not ours to take off */
}

/* ---- all of it ------------------------------------------------------------ */

static int guard_start(struct net_guard *guard)
{
    CLEANUP(cleanup_fd) int map_fd = map_create();
    CLEANUP(cleanup_fd) int program_fd = map_fd < 0 ? map_fd : program_load(map_fd);
    void *page;
    int ret;

    if (program_fd < 0) {
        return program_fd;
    }
    page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, map_fd, 0);
    if (page == MAP_FAILED) {
        return -errno;
    }
    guard->gate = page;
    net_guard_clean(guard->tap);
    ret = hook_make(guard->tap);
    return ret < 0 ? ret : filter_add(guard->tap, program_fd);
}

int net_guard_create(const char *tap, struct net_guard **ret_guard, struct error *err)
{
    struct net_guard *guard = calloc(1, sizeof(*guard));
    int ret;

    if (guard == NULL) {
        return error_set(err, -ENOMEM, "no memory for tap %s", tap);
    }
    (void)snprintf(guard->tap, sizeof(guard->tap), "%s", tap);
    ret = guard_start(guard);
    if (ret < 0) {
        if (guard->gate != NULL) {
            (void)munmap(guard->gate, PAGE_BYTES);
        }
        free(guard);
        return error_set(err, ret,
                         "no filter of sources can be put on tap %s: %s: run as root on "
                         "a kernel with cls_bpf and clsact, or give vhost=off",
                         tap, err_text(ret));
    }
    *ret_guard = guard;
    return 0;
}

static void guard_let_go(struct net_guard *guard, uint64_t deadline_ns)
{
    net_guard_deadline_set(guard, deadline_ns);
    (void)munmap(guard->gate, PAGE_BYTES);
    free(guard);
}

void net_guard_free(struct net_guard *guard)
{
    if (guard != NULL) {
        guard_let_go(guard, 0);
    }
}

void net_guard_leave_open(struct net_guard *guard)
{
    if (guard != NULL) {
        net_guard_mac_set(guard, NULL);
        guard_let_go(guard, UINT64_MAX);
    }
}

void net_guard_deadline_set(struct net_guard *guard, uint64_t deadline_ns)
{
    atomic_store(&guard->gate->deadline_ns, deadline_ns);
}

void net_guard_mac_set(struct net_guard *guard, const uint8_t *mac)
{
    uint64_t source = 0;

    if (mac != NULL) {
        memcpy(&source, mac, ETH_ALEN);
    }
    atomic_store(&guard->gate->source, source);
}

uint64_t net_guard_spoofed(const struct net_guard *guard)
{
    return atomic_load(&guard->gate->spoofed);
}
