# SPDX-License-Identifier: Apache-2.0
# Every .proto becomes NAME.pb-c.[ch] in the build tree.
PROTOS = proto/control.proto proto/peer.proto proto/cluster.proto proto/device_state.proto proto/run.proto proto/virtio_state.proto proto/snapshot.proto
PROTO_C = $(PROTOS:.proto=.pb-c.c)
PROTO_H = $(PROTOS:.proto=.pb-c.h)
BUILT_SOURCES += $(PROTO_H)
CLEANFILES += $(PROTO_C) $(PROTO_H)
EXTRA_DIST += $(PROTOS)

noinst_LIBRARIES += proto/libproto.a
nodist_proto_libproto_a_SOURCES = $(PROTO_C) $(PROTO_H)
proto_libproto_a_SOURCES = proto/frame.c proto/frame.h \
	proto/machine.h \
	proto/move_link.c proto/move_link.h \
	proto/unix_files.c proto/unix_files.h
# protoc-c's output is not ours to mend.
proto_libproto_a_CFLAGS = $(AM_CFLAGS) $(PROTOBUF_C_CFLAGS) -Wno-unused-parameter -Wno-pedantic

# All of the messages at once: they import one another.
proto/control.pb-c.c: proto/protos.stamp
proto/control.pb-c.h proto/peer.pb-c.c proto/peer.pb-c.h proto/cluster.pb-c.c proto/cluster.pb-c.h \
proto/device_state.pb-c.c proto/device_state.pb-c.h proto/run.pb-c.c proto/run.pb-c.h \
proto/virtio_state.pb-c.c proto/virtio_state.pb-c.h proto/snapshot.pb-c.c proto/snapshot.pb-c.h: proto/control.pb-c.c
proto/protos.stamp: $(PROTOS)
	$(AM_V_GEN)$(MKDIR_P) proto && $(PROTOC_C) --c_out=$(top_builddir) -I$(top_srcdir) \
	    $(addprefix $(top_srcdir)/,$(PROTOS)) && touch $@
CLEANFILES += proto/protos.stamp
