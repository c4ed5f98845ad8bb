# SPDX-License-Identifier: Apache-2.0
#
# The benchmarks' programs; a part of Makefile.am. "make check" builds them only so
# that they do not rot.

bench_programs = \
	t/bench/fill \
	t/bench/floor \
	t/bench/idle \
	t/bench/load

t_bench_fill_SOURCES = \
	t/bench/dialect.c \
	t/bench/dialect.h \
	t/bench/fill.c \
	t/bench/histogram.c \
	t/bench/histogram.h \
	t/bench/random.h \
	t/bench/target.c \
	t/bench/target.h
t_bench_fill_LDADD = -lm
t_bench_floor_LDADD =
t_bench_idle_SOURCES = \
	t/bench/dialect.c \
	t/bench/dialect.h \
	t/bench/idle.c \
	t/bench/target.c \
	t/bench/target.h
t_bench_idle_LDADD =
t_bench_load_SOURCES = \
	t/bench/dialect.c \
	t/bench/dialect.h \
	t/bench/histogram.c \
	t/bench/histogram.h \
	t/bench/load.c \
	t/bench/random.h \
	t/bench/target.c \
	t/bench/target.h
t_bench_load_LDADD =

bench-programs: $(bench_programs)
