/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the engine needs of a guest. The engine knows neither KVM nor devices: whoever has
 * a guest embeds struct migration_guest and fills in the operations. All are called on
 * the engine's own thread, one at a time, and may block within the bounds given here; but
 * populated, given_back, dirty_forget, clear and back on the streams' threads, several at
 * once.
 */
#ifndef DROVER_MIGRATION_GUEST_H
#define DROVER_MIGRATION_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;
struct migration_guest;

#define MIGRATION_PAGE_SIZE   4096u
#define MIGRATION_REGIONS_MAX 8

/* What a part of the pause costs, tried while the guest runs, or before it has come. */
struct migration_rehearsal {
    uint64_t stop_us; /* until the vCPUs are out */
    uint64_t drain_us; /* from then on, until that is noticed */
    uint64_t enter_us; /* from the go to the first entry; 0: not tried */
    uint64_t early_us; /* what is saved while I/O is drained; 0: nothing */
    uint64_t save_us; /* devices' state, after that */
    uint64_t load_us; /* the same on the target; 0: not tried */
    uint64_t state_bytes;
};

struct migration_region {
    uint64_t gpa;        /* guest-physical start */
    uint64_t size_bytes; /* multiple of MIGRATION_PAGE_SIZE */
    uint8_t *host;       /* where it is mapped here; on a target all zero at first */
};

struct migration_guest_ops {
    /* ---- both sides ---- */

    unsigned (*region_count)(struct migration_guest *guest);
    void (*region)(struct migration_guest *guest, unsigned index,
                   struct migration_region *ret_region);
    /* Appends what both sides must agree on before a byte of memory is sent. */
    int (*config_save)(struct migration_guest *guest, struct buffer *out);

    /* ---- source ---- */

    /*
     * The next range of a region, in bytes from its start and at or after `from`, that
     * may hold anything but zeros: 1, or 0 when there is none. Memory outside is not even
     * read: neither in the first round nor, when it is dirty because it was given back,
     * later. NULL: all of it may.
     */
    int (*populated)(struct migration_guest *guest, unsigned region, uint64_t from,
                     uint64_t *ret_start, uint64_t *ret_end);
    /*
     * How often memory was given back to the host so far. As long as it is the same as
     * when populated() was asked for all of it, what was found then and what was written
     * since are there. NULL: populated() is asked again.
     */
    uint64_t (*given_back)(struct migration_guest *guest);
    int (*dirty_start)(struct migration_guest *guest);
    void (*dirty_stop)(struct migration_guest *guest); /* also when never started */
    /*
     * ORs the pages of [first_page, first_page + page_count) that were written since
     * start or since they were last fetched into `bitmap` (bit 0 = first_page), and
     * forgets them: later writes count again. Both numbers are multiples of 64, but the
     * last range of a region may be shorter.
     */
    int (*dirty_fetch)(struct migration_guest *guest, unsigned region, uint64_t *bitmap,
                       uint64_t first_page, uint64_t page_count);
    /*
     * The two halves of that, for a whole region, and right before pages are read: peek
     * ORs what was written, and forgets nothing; forget forgets those pages of the range
     * that `bitmap` holds. NULL: they are fetched.
     */
    int (*dirty_peek)(struct migration_guest *guest, unsigned region, uint64_t *bitmap);
    int (*dirty_forget)(struct migration_guest *guest, unsigned region,
                        const uint64_t *bitmap, uint64_t first_page, uint64_t page_count);
    /* How many can be throttled. NULL, or 0: none; then the next one is not called. */
    unsigned (*vcpu_count)(struct migration_guest *guest);
    /*
     * Keeps one vCPU out of the guest for so much of its time from now on, 0 to 99; all
     * others run on as they did. 100: it stands until this is called again, but not for
     * long.
     */
    int (*throttle)(struct migration_guest *guest, unsigned vcpu, unsigned percent);
    /* Tries what stopping and saving take; the guest runs on but for a moment of each
     * vCPU. On a target, before memory comes: what loading takes. NULL: nobody knows. */
    int (*rehearse)(struct migration_guest *guest,
                    struct migration_rehearsal *ret_rehearsal);
    /* On a target, before memory comes: loads what a state is like, now. May be NULL. */
    int (*rehearse_load)(struct migration_guest *guest, uint64_t *ret_us);
    /* No vCPU runs and no I/O is submitted from soon on. Returns at once. */
    int (*stop_begin)(struct migration_guest *guest);
    /*
     * Waits up to `wait_ms`: 0 when all vCPUs are out and all I/O is drained, with the
     * time of the last vCPU's exit; -EAGAIN when not yet.
     */
    int (*stop_wait)(struct migration_guest *guest, uint32_t wait_ms,
                     uint64_t *ret_stopped_ns);
    /* The guest is stopped: appends its devices' state. */
    int (*save)(struct migration_guest *guest, struct buffer *out);
    /* Makes all that was written stable and gives up what only one side can hold (disk
     * locks). */
    int (*release)(struct migration_guest *guest, struct error *err);
    /* The last look before the go: 0, or why this side has no right to hand the guest
     * over now. */
    int (*may_hand_over)(struct migration_guest *guest, struct error *err);
    /* Called right before the go is sent: the guest never runs here again, unless go_on()
     * is called. */
    void (*handed_over)(struct migration_guest *guest);
    /* The migration has failed and the go was not sent: undo stop_begin and release. */
    void (*go_on)(struct migration_guest *guest);

    /* ---- both ---- */

    /*
     * As often as it is told to hold, until it is told otherwise as often: no page of the
     * guest's is given back to the host, nor replaced by another. NULL: it never is.
     */
    void (*hold_memory)(struct migration_guest *guest, bool hold);

    /* ---- target ---- */

    /* 0, or an error that names what differs. Hostile input. */
    int (*config_compare)(struct migration_guest *guest, const uint8_t *config,
                          size_t size, struct error *err);
    /* Hostile input. */
    int (*load)(struct migration_guest *guest, const uint8_t *state, size_t size,
                struct error *err);
    /*
     * Makes pages zero that hold something of an earlier round, which the source has
     * given back since: best by giving them back here too. NULL: they are overwritten.
     */
    void (*clear)(struct migration_guest *guest, unsigned region, uint64_t first_page,
                  uint64_t page_count);
    /* These pages will be written soon: backs them at once, if that is cheaper than one
     * by one. May be NULL. */
    void (*back)(struct migration_guest *guest, unsigned region, uint64_t first_page,
                 uint64_t page_count);
    /* Takes what release() gave up. Between load and ready. */
    int (*claim)(struct migration_guest *guest, struct error *err);
    /* Ready was said: whatever else can be done before the go comes. May be NULL. */
    void (*go_expected)(struct migration_guest *guest);
    /* The go was obeyed: runs the guest at once. Time of the first entry, or now if it
     * may not run yet. */
    void (*start)(struct migration_guest *guest, uint64_t *ret_entered_ns);
    /* Tells the world where the guest is now. After start() and done. */
    void (*announce)(struct migration_guest *guest);
    /* The guest will never run here. Releases what claim() took. */
    void (*abandon)(struct migration_guest *guest);

    /* ---- target, in post-copy: memory that has not come yet. All NULL: not possible ---- */

    /* 0, or why whoever touches memory that is absent can't be made to wait here. */
    int (*missing_possible)(struct migration_guest *guest, struct error *err);
    /* From now on who touches an absent page waits. Once, before the first page is made
     * absent; nobody touches the guest's memory meanwhile. */
    int (*missing_begin)(struct migration_guest *guest, struct error *err);
    /* Makes pages absent, whatever they held. */
    int (*missing_add)(struct migration_guest *guest, unsigned region,
                       uint64_t first_page, uint64_t page_count);
    /* The next page that somebody touches and that is absent: 1; 0 when `stop_fd` became
     * readable; -errno. One thread of the engine's own, which calls nothing else but
     * missing_place(). */
    int (*missing_wait)(struct migration_guest *guest, int stop_fd, unsigned *ret_region,
                        uint64_t *ret_page);
    /* Puts whole pages where they are absent (NULL: zeros), and wakes who waits for them;
     * a page that is there is left alone. Any thread. */
    int (*missing_place)(struct migration_guest *guest, unsigned region,
                         uint64_t first_page, uint64_t page_count, const uint8_t *data);
    /* All is there, or the guest will never run: nobody waits any more. Also when it has
     * not begun. */
    void (*missing_end)(struct migration_guest *guest);
};

/* Embedded by the one who has the guest. */
struct migration_guest {
    const struct migration_guest_ops *ops;
};

#endif
