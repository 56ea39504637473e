# SPDX-License-Identifier: Apache-2.0
# What `make install` brings beside the programs.
systemdunitdir = $(prefix)/lib/systemd/system
systemdunit_DATA = deploy/systemd/droverd.service deploy/systemd/droverd-witness.service
dist_doc_DATA = README.md CHANGELOG.md deploy/droverd.conf.example \
	docs/api.md docs/architecture.md docs/events.md docs/migration.md \
	docs/openapi.yaml docs/raft.md docs/safety.md docs/timing.md docs/virtio.md docs/vmm.md
EXTRA_DIST += $(systemdunit_DATA) deploy/check deploy/install-packages deploy/lib.sh \
	deploy/quickstart deploy/quickstart.py deploy/packages
