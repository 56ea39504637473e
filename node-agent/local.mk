# SPDX-License-Identifier: Apache-2.0
# One line per module.
noinst_LIBRARIES += node-agent/libagent.a
node_agent_libagent_a_CFLAGS = $(AM_CFLAGS) $(UV_CFLAGS) $(OPENSSL_CFLAGS) $(PROTOBUF_C_CFLAGS) $(LWS_CFLAGS) $(JANSSON_CFLAGS) $(FYAML_CFLAGS)
node_agent_libagent_a_SOURCES =
node_agent_libagent_a_SOURCES += node-agent/config.c node-agent/config.h
node_agent_libagent_a_SOURCES += node-agent/config_defaults.c
node_agent_libagent_a_SOURCES += node-agent/pki.c node-agent/pki.h
node_agent_libagent_a_SOURCES += node-agent/tls_context.c node-agent/tls_context.h
node_agent_libagent_a_SOURCES += node-agent/tls_stream.c node-agent/tls_stream.h
node_agent_libagent_a_SOURCES += node-agent/peer_channel.c node-agent/peer_channel.h
node_agent_libagent_a_SOURCES += node-agent/peers.c node-agent/peers.h
node_agent_libagent_a_SOURCES += node-agent/raft_transport.c node-agent/raft_transport.h
node_agent_libagent_a_SOURCES += node-agent/propose.c node-agent/propose.h
node_agent_libagent_a_SOURCES += node-agent/tap.c node-agent/tap.h
node_agent_libagent_a_SOURCES += node-agent/vmm_client.c node-agent/vmm_client.h
node_agent_libagent_a_SOURCES += node-agent/vmm_command.c node-agent/vmm_command.h
node_agent_libagent_a_SOURCES += node-agent/vmm_folder.c node-agent/vmm_folder.h
node_agent_libagent_a_SOURCES += node-agent/vmm_process.c node-agent/vmm_process.h
node_agent_libagent_a_SOURCES += node-agent/vmm_supervisor.c node-agent/vmm_supervisor.h node-agent/vmm_supervisor_internal.h
node_agent_libagent_a_SOURCES += node-agent/vmm_supervisor_launch.c node-agent/vmm_supervisor_vmm.c
node_agent_libagent_a_SOURCES += node-agent/state_dir.c node-agent/state_dir.h
node_agent_libagent_a_SOURCES += node-agent/join_server.c node-agent/join.h
node_agent_libagent_a_SOURCES += node-agent/join_client.c
node_agent_libagent_a_SOURCES += node-agent/join_token.c node-agent/join_token.h
