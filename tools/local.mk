# SPDX-License-Identifier: Apache-2.0
#
# The command-line tools; a part of Makefile.am. They need neither httpd nor APR,
# so they can be compiled for a host that has neither.

tool_sources = \
	tools/import_address.c \
	tools/import_address.h \
	tools/import_client.c \
	tools/import_client.h \
	tools/import_file.c \
	tools/import_file.h \
	tools/import_known.c \
	tools/import_known.h \
	tools/import_link.c \
	tools/import_link.h \
	tools/import_options.c \
	tools/import_options.h \
	tools/import_pass.c \
	tools/import_pass.h \
	tools/import_replies.c \
	tools/import_replies.h \
	tools/import_report.c \
	tools/import_report.h \
	tools/import_source.c \
	tools/import_source.h \
	tools/import_stop.h \
	tools/sessiond-import.c

# libFuzzer's main would be a second one.
bin_PROGRAMS =
if !FUZZING
bin_PROGRAMS += tools/sessiond-import
endif
tools_sessiond_import_SOURCES = $(tool_sources)
tools_sessiond_import_CPPFLAGS = -I$(top_srcdir) -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64
tools_sessiond_import_LDADD =

dist_man_MANS = \
	tools/sessiond-import.1
