# SPDX-License-Identifier: Apache-2.0
#
# sd_lmdb.m4: LMDB, which SessiondPersist writes to; the module can do without.
#
# Debian's package has no pkg-config file in older releases, so header and library
# are looked for by themselves, too. HAVE_LMDB is a condition of make and a
# definition for the compiler. DEFS is not configure's here (no config header is
# made), so the definition goes by LMDB_CPPFLAGS.

AC_DEFUN([SD_LIB_LMDB], [
  AC_ARG_WITH([lmdb],
    [AS_HELP_STRING([--with-lmdb], [SessiondPersist, by LMDB (default: if it is there)])],
    [AS_CASE([$withval], [yes|no], [],
      [AC_MSG_ERROR([--with-lmdb=$withval: say --with-lmdb or --without-lmdb, and where it is by LMDB_CFLAGS and LMDB_LIBS])])],
    [with_lmdb=check])
  have_lmdb=no
  AS_IF([test "$with_lmdb" != no], [
    PKG_CHECK_MODULES([LMDB], [lmdb >= 0.9.16], [have_lmdb=yes], [have_lmdb=no])
    AS_IF([test "$have_lmdb" = no], [
      AC_CHECK_HEADER([lmdb.h],
        [AC_CHECK_LIB([lmdb], [mdb_env_create], [have_lmdb=yes; LMDB_LIBS=-llmdb])])])
    AS_IF([test "$have_lmdb$with_lmdb" = noyes], [AC_MSG_ERROR([LMDB was not found.
  On Debian and Ubuntu install liblmdb-dev, on Fedora and RHEL lmdb-devel])])])
  AS_IF([test "$have_lmdb" = yes], [LMDB_CPPFLAGS="-DHAVE_LMDB=1 $LMDB_CFLAGS"],
    [LMDB_CPPFLAGS=
     LMDB_LIBS=])
  AC_SUBST([LMDB_CPPFLAGS])
  AM_CONDITIONAL([HAVE_LMDB], [test "$have_lmdb" = yes])
])
