/* SPDX-License-Identifier: Apache-2.0 */
/* Every limit has its name here, or at the top of the one module that it concerns. */
#ifndef DROVER_BASE_LIMITS_H
#define DROVER_BASE_LIMITS_H

#define LIMIT_HOSTS               16
#define LIMIT_VMS                 4096
#define LIMIT_NAME_SIZE           64 /* with the final NUL */
#define LIMIT_PATH_SIZE           1024
#define LIMIT_ADDRESS_SIZE        128 /* "HOST:PORT" */
#define LIMIT_CMDLINE_SIZE        2048
#define LIMIT_VCPUS               64
#define LIMIT_VM_DISKS            16
#define LIMIT_VM_NICS             8
#define LIMIT_VM_BOOT             16 /* places in the firmware's boot order */
#define LIMIT_VM_CDROMS           4
#define LIMIT_EVENTS              4096 /* kept in the cluster's state; older ones fall out */
#define LIMIT_TOKENS              64
#define LIMIT_REQUESTS            1024 /* of users, remembered to answer their repetition */
#define LIMIT_REQUEST_MS          (24ull * 60 * 60 * 1000)
#define LIMIT_REQUEST_ID_SIZE     65
#define LIMIT_FRAME_BYTES         (8u * 1024u * 1024u)
#define LIMIT_CONTROL_FRAME_BYTES (1024u * 1024u)
#define LIMIT_CONTROL_CLIENTS     16
#define LIMIT_SNAPSHOT_BYTES      (64u * 1024u * 1024u)
#define LIMIT_API_BODY_BYTES      (1024u * 1024u)

#endif
