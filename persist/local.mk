# SPDX-License-Identifier: Apache-2.0
#
# What persist/ is made of, and its tests; a part of Makefile.am. Without LMDB none
# of it is compiled, and $(persist_libs) is empty.

persist_libs =
if HAVE_LMDB
noinst_LTLIBRARIES += persist/libsdpersist.la
persist_libs += persist/libsdpersist.la $(LMDB_LIBS)
unit_tests += \
	t/unit/test_chunk \
	t/unit/test_journal \
	t/unit/test_load \
	t/unit/test_persist \
	t/unit/test_persist_damage \
	t/unit/test_persist_threads \
	t/unit/test_power_cut \
	t/unit/test_seen
fuzz_tests += t/fuzz/fuzz_chunk
bench_programs += t/bench/journal
endif

# without LMDB they say that there is nothing to test
httpd_tests += \
	t/httpd/persist.t \
	t/httpd/persist_trouble.t

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
	persist/pages.h \
	persist/persist.c \
	persist/persist.h \
	persist/reader.c \
	persist/reader.h \
	persist/seen.c \
	persist/seen.h
persist_libsdpersist_la_CPPFLAGS = $(AM_CPPFLAGS) $(LMDB_CPPFLAGS)

# ---- its tests ----

EXTRA_LTLIBRARIES = t/unit/libsdpersisttest.la
# automake removes no library that it does not build itself
CLEANFILES = t/unit/libsdpersisttest.la
t_unit_libsdpersisttest_la_SOURCES = \
	t/unit/disk_faults.c \
	t/unit/disk_faults.h \
	t/unit/persist_fixture.c \
	t/unit/persist_fixture.h
t_unit_libsdpersisttest_la_CPPFLAGS = $(AM_CPPFLAGS) $(LMDB_CPPFLAGS)
persist_test_libraries = t/unit/libsdpersisttest.la $(persist_libs) $(LDADD)
t_unit_test_chunk_LDADD = $(persist_test_libraries)
t_unit_test_journal_LDADD = $(persist_test_libraries)
t_unit_test_journal_CPPFLAGS = $(AM_CPPFLAGS) $(LMDB_CPPFLAGS)
t_unit_test_load_LDADD = $(persist_test_libraries)
t_unit_test_persist_LDADD = $(persist_test_libraries)
t_unit_test_persist_damage_LDADD = $(persist_test_libraries)
t_unit_test_persist_threads_LDADD = $(persist_test_libraries)
t_unit_test_power_cut_LDADD = $(persist_test_libraries)
t_fuzz_fuzz_chunk_LDADD = t/fuzz/libsdfuzz.la $(persist_libs) $(LDADD)
t_unit_test_seen_LDADD = $(persist_test_libraries)

t_bench_journal_SOURCES = \
	t/bench/journal.c \
	t/bench/random.h
t_bench_journal_CPPFLAGS = $(AM_CPPFLAGS) $(LMDB_CPPFLAGS)
t_bench_journal_LDADD = $(persist_libs) shm/libsdshm.la $(APR_LIBS) -lpthread
