# SPDX-License-Identifier: Apache-2.0
# One line per module.
noinst_LIBRARIES += node-agent/libagent.a
node_agent_libagent_a_CFLAGS = $(AM_CFLAGS) $(UV_CFLAGS) $(OPENSSL_CFLAGS) $(PROTOBUF_C_CFLAGS) $(LWS_CFLAGS) $(JANSSON_CFLAGS) $(FYAML_CFLAGS)
node_agent_libagent_a_SOURCES =
node_agent_libagent_a_SOURCES += node-agent/config.c node-agent/config.h
node_agent_libagent_a_SOURCES += node-agent/config_defaults.c
