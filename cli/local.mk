# SPDX-License-Identifier: Apache-2.0
noinst_LIBRARIES += cli/libcli.a
cli_libcli_a_SOURCES = \
	cli/cli.c cli/cli.h \
	cli/client.c cli/client.h \
	cli/console.c cli/console.h \
	cli/cmd_cluster.c cli/cmd_events.c cli/cmd_node.c cli/cmd_vm.c cli/cmd_vm.h cli/cmd_vm_create.c \
	cli/cmd_vm_console.c cli/cmd_vm_migrate.c cli/cmd_vm_show.c \
	cli/vm_file.c cli/vm_file.h cli/vm_spec.c cli/vm_spec.h \
	cli/vm_wait.c cli/vm_wait.h \
	cli/table.c cli/table.h
cli_libcli_a_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS) $(CURL_CFLAGS) $(FYAML_CFLAGS) $(LWS_CFLAGS)

bin_PROGRAMS += drover
drover_SOURCES = cli/main.c
drover_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
drover_LDADD = cli/libcli.a base/libbase.a $(CURL_LIBS) $(JANSSON_LIBS) $(FYAML_LIBS) $(LWS_LIBS)
