/* SPDX-License-Identifier: Apache-2.0 */
/* ISO images: what is accepted, what is refused with which words, who can boot it. */
#include "tests/unit/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "vmm/devices/cdrom_image.h"

#define BLOCKS  40u
#define CATALOG 30u

struct fixture {
    char path[64];
    uint8_t bytes[BLOCKS][CDROM_BLOCK_SIZE];
    struct cdrom_image image;
    struct error err;
};

static int setup(void **state)
{
    static struct fixture fixture;
    fixture = (struct fixture){.path = "/tmp/test-cdrom-XXXXXX"};
    int fd = mkstemp(fixture.path);
    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
    memcpy(fixture.bytes[16], "\001CD001\001", 7);
    memcpy(fixture.bytes[17], "\000CD001\001EL TORITO SPECIFICATION", 30);
    fixture.bytes[17][0x47] = CATALOG;
    memcpy(fixture.bytes[18], "\377CD001\001", 7);
    uint8_t *catalog = fixture.bytes[CATALOG];
    catalog[0] = 1;
    catalog[30] = 0x55;
    catalog[31] = 0xaa;
    catalog[32] = 0x88;
    *state = &fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    cdrom_image_close(&fixture->image);
    (void)unlink(fixture->path);
    return 0;
}

static int image_open(struct fixture *fixture, size_t size)
{
    FILE *file = fopen(fixture->path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(fixture->bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
    return cdrom_image_open(&fixture->image, fixture->path, &fixture->err);
}

static void assert_refused(struct fixture *fixture, size_t size, const char *words)
{
    assert_true(image_open(fixture, size) < 0);
    assert_non_null(strstr(fixture->err.text, words));
    assert_null(strchr(fixture->err.text, '\n'));
    assert_int_equal(fixture->image.fd, -1);
}

static void test_an_iso_tells_its_size_and_who_boots_it(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(image_open(fixture, sizeof(fixture->bytes) - 100), 0);
    assert_int_equal(fixture->image.block_count, BLOCKS - 1); /* whole ones */
    assert_true(fixture->image.boots_bios);
    assert_false(fixture->image.boots_uefi);
}

static void test_a_second_section_boots_uefi(void **state)
{
    struct fixture *fixture = *state;
    uint8_t *catalog = fixture->bytes[CATALOG];
    catalog[64] = 0x91;
    catalog[65] = 0xef;
    catalog[96] = 0x88;
    assert_int_equal(image_open(fixture, sizeof(fixture->bytes)), 0);
    assert_true(fixture->image.boots_bios && fixture->image.boots_uefi);
}

static void test_damaged_boot_records_boot_nothing(void **state)
{
    struct fixture *fixture = *state;
    fixture->bytes[CATALOG][30] = 0;
    assert_int_equal(image_open(fixture, sizeof(fixture->bytes)), 0);
    assert_false(fixture->image.boots_bios || fixture->image.boots_uefi);
    cdrom_image_close(&fixture->image);
    fixture->bytes[17][0x4a] = 0x7f; /* a catalog behind the end */
    assert_int_equal(image_open(fixture, sizeof(fixture->bytes)), 0);
    assert_false(fixture->image.boots_bios || fixture->image.boots_uefi);
    cdrom_image_close(&fixture->image);
    fixture->bytes[17][7] = 'x'; /* none at all */
    assert_int_equal(image_open(fixture, sizeof(fixture->bytes)), 0);
    assert_false(fixture->image.boots_bios || fixture->image.boots_uefi);
}

static void test_what_is_cut_off_is_refused(void **state)
{
    struct fixture *fixture = *state;
    fixture->bytes[16][81] = 1; /* 256 blocks: as good as padding */
    assert_int_equal(image_open(fixture, sizeof(fixture->bytes)), 0);
    cdrom_image_close(&fixture->image);
    fixture->bytes[16][82] = 1;
    assert_refused(fixture, sizeof(fixture->bytes), "is cut off");
}

static void test_what_is_no_iso_is_refused(void **state)
{
    struct fixture *fixture = *state;
    assert_refused(fixture, 0, "is empty");
    assert_refused(fixture, 16 * CDROM_BLOCK_SIZE + 5, "it is no ISO image");
    memset(fixture->bytes[16], 0, 8);
    assert_refused(fixture, sizeof(fixture->bytes), "is no ISO image: give an .iso file");
    assert_true(cdrom_image_open(&fixture->image, "/nowhere.iso", &fixture->err) < 0);
    assert_non_null(strstr(fixture->err.text, "does not exist"));
    assert_true(cdrom_image_open(&fixture->image, "/tmp", &fixture->err) < 0);
    assert_non_null(strstr(fixture->err.text, "is a directory"));
    assert_true(cdrom_image_open(&fixture->image, "/dev/null", &fixture->err) < 0);
    assert_non_null(strstr(fixture->err.text, "no file"));
}

static void test_udf_alone_is_accepted(void **state)
{
    struct fixture *fixture = *state;
    memcpy(fixture->bytes[16], "\000BEA01\001", 7);
    assert_int_equal(image_open(fixture, sizeof(fixture->bytes)), 0);
    assert_false(fixture->image.boots_bios);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_an_iso_tells_its_size_and_who_boots_it),
        TEST(test_a_second_section_boots_uefi),
        TEST(test_damaged_boot_records_boot_nothing),
        TEST(test_what_is_cut_off_is_refused),
        TEST(test_what_is_no_iso_is_refused),
        TEST(test_udf_alone_is_accepted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
