# SPDX-License-Identifier: Apache-2.0
#
# sd_apache.m4: finds httpd and APR through the tools they install.
#
# Every answer comes from apxs and apr-1-config, never from a guessed path, so
# that a hand-built httpd beside the distribution's is met as a whole. Include
# directories are passed with -isystem: -Wconversion and -Wshadow are meant for
# our code, not for httpd's macros. A query may fail in one apxs and not in the
# next (it is a script that each release edits), hence one question per call.

# SD_APXS_QUERY(SHELL-VARIABLE, NAME)
AC_DEFUN([SD_APXS_QUERY], [
  $1=`"$APXS" -q $2 2>/dev/null` || $1=
])

# SD_PROG_APXS: sets APXS and what it says of this httpd.
AC_DEFUN([SD_PROG_APXS], [
  AC_ARG_VAR([APXS], [apxs of the httpd to build for])
  AC_ARG_WITH([apxs],
    [AS_HELP_STRING([--with-apxs=PATH], [apxs of the httpd to build for (default: apxs or apxs2 in PATH)])],
    [AS_CASE([$withval],
      [yes], [],
      [no], [AC_MSG_ERROR([--without-apxs cannot work: mod_sessiond is built against httpd's headers])],
      [AS_IF([test -x "$withval" && test -f "$withval"], [APXS=$withval],
        [AC_MSG_ERROR([--with-apxs=$withval is not a program])])])])
  AC_PATH_PROGS([APXS], [apxs apxs2], [], [$PATH$PATH_SEPARATOR/usr/local/apache2/bin$PATH_SEPARATOR/usr/sbin])
  AS_IF([test -z "$APXS"], [AC_MSG_ERROR([apxs was not found.
  It comes with httpd's headers: the package is apache2-dev on Debian and
  Ubuntu, httpd-devel on Fedora and RHEL. For a hand-built httpd say
  --with-apxs=/path/to/httpd/bin/apxs])])

  SD_APXS_QUERY([sd_httpd_includedir], [includedir])
  SD_APXS_QUERY([sd_httpd_libexecdir], [libexecdir])
  SD_APXS_QUERY([sd_httpd_sbindir], [sbindir])
  SD_APXS_QUERY([sd_httpd_progname], [progname])
  AS_IF([test ! -f "$sd_httpd_includedir/httpd.h"],
    [AC_MSG_ERROR([$APXS names "$sd_httpd_includedir" as httpd's include directory, but there is no httpd.h.
  On Debian and Ubuntu install apache2-dev, elsewhere httpd's development package])])
  AS_IF([test -z "$sd_httpd_libexecdir"],
    [AC_MSG_ERROR([$APXS does not tell where modules are installed (apxs -q libexecdir)])])

  AC_ARG_VAR([HTTPD], [httpd program that the tests start])
  AS_IF([test -z "$HTTPD" && test -x "$sd_httpd_sbindir/$sd_httpd_progname"],
    [HTTPD=$sd_httpd_sbindir/$sd_httpd_progname])

  APXS_LIBEXECDIR=$sd_httpd_libexecdir
  AC_SUBST([APXS_LIBEXECDIR])
])

# SD_LIB_APR: APR's and APR-util's flags, from the pair that this httpd uses.
# APR_CPPFLAGS does not lead to httpd's headers (unless they share a directory).
AC_DEFUN([SD_LIB_APR], [
  AC_ARG_VAR([APR_CONFIG], [apr-1-config of the APR that httpd uses])
  AC_ARG_VAR([APU_CONFIG], [apu-1-config of the APR-util that httpd uses])
  AS_IF([test -z "$APR_CONFIG"], [SD_APXS_QUERY([APR_CONFIG], [APR_CONFIG])])
  AS_IF([test -z "$APU_CONFIG"], [SD_APXS_QUERY([APU_CONFIG], [APU_CONFIG])])
  AS_IF([test ! -x "$APR_CONFIG"], [AS_UNSET([APR_CONFIG])])
  AS_IF([test ! -x "$APU_CONFIG"], [AS_UNSET([APU_CONFIG])])
  AC_PATH_PROGS([APR_CONFIG], [apr-1-config apr-config])
  AC_PATH_PROGS([APU_CONFIG], [apu-1-config apu-config])
  AS_IF([test -z "$APR_CONFIG"], [AC_MSG_ERROR([apr-1-config was not found.
  On Debian and Ubuntu install libapr1-dev, or set APR_CONFIG])])
  AS_IF([test -z "$APU_CONFIG"], [AC_MSG_ERROR([apu-1-config was not found.
  On Debian and Ubuntu install libaprutil1-dev, or set APU_CONFIG])])

  sd_apr_includedir=`"$APR_CONFIG" --includedir`
  sd_apu_includedir=`"$APU_CONFIG" --includedir`
  # -isystem for a directory the compiler already searches would reorder it
  # and break its own #include_next.
  APR_CPPFLAGS=`"$APR_CONFIG" --cppflags`
  for sd_dir in "$sd_apr_includedir" "$sd_apu_includedir"; do
    AS_CASE([" $APR_CPPFLAGS /usr/include "],
      [*" $sd_dir "*], [],
      [APR_CPPFLAGS="$APR_CPPFLAGS -isystem $sd_dir"])
  done
  APR_LIBS="`"$APU_CONFIG" --link-ld --libs` `"$APR_CONFIG" --link-ld --libs`"
  # A private APR is not in the loader's path: the unit tests need its place.
  sd_apr_libdir=`"$APR_CONFIG" --prefix`/lib
  AS_IF([test -f "$sd_apr_libdir/libapr-1.so" && test "$sd_apr_libdir" != /usr/lib],
    [APR_LIBS="$APR_LIBS -R $sd_apr_libdir"])
  AC_SUBST([APR_CPPFLAGS])
  AC_SUBST([APR_LIBS])
])

# SD_CHECK_HTTPD_VERSION(MAJOR, MINOR, PATCH): the headers' release and module
# magic number. A module is only loaded by the httpd major magic it was built
# for, so another one is an error here rather than at the first start.
AC_DEFUN([SD_CHECK_HTTPD_VERSION], [
  HTTPD_CPPFLAGS="-isystem $sd_httpd_includedir"
  AC_SUBST([HTTPD_CPPFLAGS])
  sd_save_CPPFLAGS=$CPPFLAGS
  CPPFLAGS="$CPPFLAGS $APR_CPPFLAGS $HTTPD_CPPFLAGS"
  AC_CACHE_CHECK([for httpd's release], [sd_cv_httpd_version], [
    sd_cv_httpd_version=unknown
    AC_COMPUTE_INT([sd_major], [AP_SERVER_MAJORVERSION_NUMBER], [#include <ap_release.h>], [sd_major=])
    AC_COMPUTE_INT([sd_minor], [AP_SERVER_MINORVERSION_NUMBER], [#include <ap_release.h>], [sd_minor=])
    AC_COMPUTE_INT([sd_patch], [AP_SERVER_PATCHLEVEL_NUMBER], [#include <ap_release.h>], [sd_patch=])
    AS_IF([test -n "$sd_major" && test -n "$sd_minor" && test -n "$sd_patch"],
      [sd_cv_httpd_version=$sd_major.$sd_minor.$sd_patch])])
  AS_IF([test "$sd_cv_httpd_version" = unknown],
    [AC_MSG_ERROR([a program that includes ap_release.h from $sd_httpd_includedir does not compile; see config.log])])
  AS_VERSION_COMPARE([$sd_cv_httpd_version], [$1.$2.$3],
    [AC_MSG_ERROR([httpd $sd_cv_httpd_version is too old: mod_sessiond needs $1.$2.$3 or later])])

  AC_CACHE_CHECK([for httpd's module magic number], [sd_cv_httpd_mmn], [
    AC_COMPUTE_INT([sd_cv_httpd_mmn], [MODULE_MAGIC_NUMBER_MAJOR], [#include <ap_mmn.h>], [sd_cv_httpd_mmn=unknown])])
  AS_IF([test "$sd_cv_httpd_mmn" != 20120211],
    [AC_MSG_ERROR([httpd's module magic number is $sd_cv_httpd_mmn; mod_sessiond is written for the 2.4 series (20120211)])])

  AC_CACHE_CHECK([whether httpd's and APR's headers compile together], [sd_cv_httpd_compiles], [
    AC_COMPILE_IFELSE([AC_LANG_PROGRAM([[
#include <httpd.h>
#include <http_config.h>
#include <apr_shm.h>
#include <apr_siphash.h>]], [[server_rec *s = 0; (void)s;]])],
      [sd_cv_httpd_compiles=yes], [sd_cv_httpd_compiles=no])])
  AS_IF([test "$sd_cv_httpd_compiles" = no],
    [AC_MSG_ERROR([httpd's headers in $sd_httpd_includedir do not compile with APR's in $sd_apr_includedir.
  On Debian and Ubuntu install apache2-dev, libapr1-dev and libaprutil1-dev; see config.log])])
  CPPFLAGS=$sd_save_CPPFLAGS
])
