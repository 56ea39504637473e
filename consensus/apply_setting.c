/* SPDX-License-Identifier: Apache-2.0 */
/* Settings of the cluster as a whole. */
#include "base/check.h"
#include "consensus/apply.h"
#include "consensus/apply_step.h"

int apply_cluster_set(struct apply_step *step, const Drover__ClusterSet *order)
{
    if (order->setting !=
        DROVER__CLUSTER_SETTING__CLUSTER_SETTING_ALLOW_UNENCRYPTED_RDMA) {
        return step_refuse(step, DROVER_EBADINPUT,
                           "setting %u is unknown here: update this host",
                           (unsigned)order->setting);
    }
    if (order->value > 1) {
        return step_refuse(step, DROVER_EBADINPUT,
                           "allow-unencrypted-rdma is on (1) or off (0)");
    }
    /* That one refuses what it does not know: then so must all. */
    if (!apply_postcopy_known(step)) {
        return step_refuse(step, DROVER_EWRONGSTATE,
                           "a host does not know this setting (its release is older, or it was "
                           "not up yet): update all hosts first");
    }
    bool allow = order->value != 0;
    if (!!step->record->allow_unencrypted_rdma == allow) {
        return 0;
    }
    step->setting = order;
    step_event(step, "cluster.changed", (struct step_subject){0},
               allow ? "VMs may be moved over RDMA, which is not encrypted"
                     : "VMs are not to be moved over RDMA any more, which is not encrypted");
    return 0;
}

void setting_take(Drover__ClusterState *record, const Drover__ClusterSet *order)
{
    CHECK(order->setting ==
          DROVER__CLUSTER_SETTING__CLUSTER_SETTING_ALLOW_UNENCRYPTED_RDMA);
    record->allow_unencrypted_rdma = order->value != 0;
}
