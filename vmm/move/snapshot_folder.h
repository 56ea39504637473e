/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A snapshot's folder as the control client makes it. As long as a file INCOMPLETE is in it, or no manifest, it is no
 * snapshot: the manifest gets its name last.
 */
#ifndef DROVER_VMM_MOVE_SNAPSHOT_FOLDER_H
#define DROVER_VMM_MOVE_SNAPSHOT_FOLDER_H

struct error;
struct unix_files;

struct snapshot_folder {
    const char *path; /* borrowed */
    int fd;
};

/* Makes the folder unless it is there, and empty files in it, which are the caller's. */
int snapshot_folder_make(struct snapshot_folder *folder, const char *path,
                         struct unix_files *ret_files, struct error *err);
/* All files are whole and stable: it is a snapshot now. */
int snapshot_folder_finish(struct snapshot_folder *folder, struct error *err);
/* What was written is removed, so that a full disk is not full any more; INCOMPLETE
 * stays. */
void snapshot_folder_abandon(struct snapshot_folder *folder);
void snapshot_folder_close(struct snapshot_folder *folder);

/* Opens a snapshot's files for reading. One line in `err` if it is none, or not complete. */
int snapshot_folder_open(const char *path, struct unix_files *ret_files,
                         struct error *err);

#endif
