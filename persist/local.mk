# SPDX-License-Identifier: Apache-2.0
#
# What persist/ is made of, and its tests; a part of Makefile.am. Without LMDB none
# of it is compiled, and $(persist_libs) is empty.

persist_libs =
if HAVE_LMDB
noinst_LTLIBRARIES += persist/libsdpersist.la
persist_libs += persist/libsdpersist.la $(LMDB_LIBS)
unit_tests += $(persist_tests)
endif

persist_libsdpersist_la_SOURCES = \
	persist/bytes.h \
	persist/child.c \
	persist/child.h \
	persist/chunk.c \
	persist/chunk.h \
	persist/clean.c \
	persist/internal.h \
	persist/journal.c \
	persist/journal.h \
	persist/journal_txn.c \
	persist/load.c \
	persist/load.h \
	persist/load_store.c \
	persist/pack.c \
	persist/pack.h \
	persist/pages.c \
	persist/persist.c \
	persist/persist.h \
	persist/reader.c \
	persist/reader.h \
	persist/seen.c \
	persist/seen.h
persist_libsdpersist_la_CPPFLAGS = $(AM_CPPFLAGS) $(LMDB_CPPFLAGS)
