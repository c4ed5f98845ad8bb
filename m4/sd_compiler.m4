# SPDX-License-Identifier: Apache-2.0
#
# sd_compiler.m4: language level, warnings and sanitizers.
#
# The warnings are always on and become errors with --enable-werror, which the
# project's own runs use and a packager with a newer compiler should not. They
# are added to AM_CFLAGS, after configure's own probes: those are full of code
# that would not survive them.

# SD_CHECK_CFLAG(VARIABLE, FLAG): adds FLAG if the compiler takes it in earnest.
AC_DEFUN([SD_CHECK_CFLAG], [
  AS_VAR_PUSHDEF([sd_cached], [sd_cv_cflag_$2])
  AC_CACHE_CHECK([whether $CC takes $2], [sd_cached], [
    sd_save_CFLAGS=$CFLAGS
    CFLAGS="$CFLAGS -Werror $2"
    AC_COMPILE_IFELSE([AC_LANG_PROGRAM()],
      [AS_VAR_SET([sd_cached], [yes])], [AS_VAR_SET([sd_cached], [no])])
    CFLAGS=$sd_save_CFLAGS])
  AS_VAR_IF([sd_cached], [yes], [AS_VAR_APPEND([$1], [" $2"])])
  AS_VAR_POPDEF([sd_cached])
])

AC_DEFUN([SD_COMPILER_FLAGS], [
  AC_ARG_ENABLE([werror],
    [AS_HELP_STRING([--enable-werror], [let a compiler warning fail the build])],
    [], [enable_werror=no])

  SD_CFLAGS=
  SD_CHECK_CFLAG([SD_CFLAGS], [-std=gnu11])
  for sd_flag in -Wall -Wextra -Wshadow -Wconversion; do
    SD_CFLAGS="$SD_CFLAGS $sd_flag"
  done
  SD_CHECK_CFLAG([SD_CFLAGS], [-Wstrict-prototypes])
  SD_CHECK_CFLAG([SD_CFLAGS], [-Wmissing-prototypes])
  AS_IF([test "$enable_werror" = yes], [SD_CFLAGS="$SD_CFLAGS -Werror"])
  AC_SUBST([SD_CFLAGS])
])

# SD_FUZZING: to be called before SD_SANITIZERS, whose default it changes. The
# code is compiled so that libFuzzer sees its branches; its main comes in when
# the fuzz targets are linked.
AC_DEFUN([SD_FUZZING], [
  AC_ARG_ENABLE([fuzzing],
    [AS_HELP_STRING([--enable-fuzzing], [make the fuzz targets with libFuzzer (clang), and no other test])],
    [], [enable_fuzzing=no])
  AM_CONDITIONAL([FUZZING], [test "$enable_fuzzing" != no])
  FUZZER_CFLAGS=
  FUZZER_LDFLAGS=
  AS_IF([test "$enable_fuzzing" != no], [
    FUZZER_CFLAGS=-fsanitize=fuzzer-no-link
    FUZZER_LDFLAGS=-fsanitize=fuzzer
    AC_MSG_CHECKING([whether $CC links with $FUZZER_LDFLAGS])
    sd_save_CFLAGS=$CFLAGS
    CFLAGS="$CFLAGS $FUZZER_LDFLAGS"
    AC_LINK_IFELSE([AC_LANG_SOURCE([[
      int LLVMFuzzerTestOneInput(const unsigned char *, unsigned long);
      int LLVMFuzzerTestOneInput(const unsigned char *at, unsigned long n) { return n > 0 && *at > 1; }]])],
      [AC_MSG_RESULT([yes])],
      [AC_MSG_RESULT([no])
       AC_MSG_ERROR([libFuzzer is missing. It comes with clang (say CC=clang); its library is in
  Debian's and Ubuntu's package libclang-rt-dev, or libclang-rt-14-dev for clang 14])])
    CFLAGS=$sd_save_CFLAGS])
  AC_SUBST([FUZZER_CFLAGS])
  AC_SUBST([FUZZER_LDFLAGS])
])

# SD_SANITIZERS: instruments everything. The unit tests are linked with the
# runtime; httpd itself is not, so for the tests that load the module it must
# be preloaded, which SANITIZER_PRELOAD is for (gcc's runtime is a shared one).
AC_DEFUN([SD_SANITIZERS], [
  AC_ARG_ENABLE([sanitizers],
    [AS_HELP_STRING([--enable-sanitizers@<:@=LIST@:>@],
      [instrument with these sanitizers (default LIST: address,undefined)])],
    [AS_IF([test "$enableval" = yes], [enable_sanitizers=address,undefined])],
    [AS_IF([test "$enable_fuzzing" = no], [enable_sanitizers=no], [enable_sanitizers=address,undefined])])
  SANITIZER_FLAGS=
  SANITIZER_PRELOAD=
  AS_IF([test "$enable_sanitizers" != no], [
    SANITIZER_FLAGS="-fsanitize=$enable_sanitizers -fno-sanitize-recover=all -fno-omit-frame-pointer"
    AC_MSG_CHECKING([whether $CC links and runs with -fsanitize=$enable_sanitizers])
    sd_save_CFLAGS=$CFLAGS
    CFLAGS="$CFLAGS $SANITIZER_FLAGS"
    AC_RUN_IFELSE([AC_LANG_PROGRAM([[#include <stdlib.h>]], [[free(malloc(1));]])],
      [AC_MSG_RESULT([yes])],
      [AC_MSG_RESULT([no])
       AC_MSG_ERROR([the runtime of -fsanitize=$enable_sanitizers is missing.
  On Debian and Ubuntu it comes with gcc, and for clang with libclang-rt-dev])],
      [AC_MSG_RESULT([not tried, cross compiling])])
    CFLAGS=$sd_save_CFLAGS
    for sd_name in asan ubsan tsan; do
      sd_file=`$CC -print-file-name=lib$sd_name.so 2>/dev/null`
      AS_CASE([$sd_name,$enable_sanitizers,$sd_file],
        [asan,*address*,/*|ubsan,*undefined*,/*|tsan,*thread*,/*],
        [SANITIZER_PRELOAD="$SANITIZER_PRELOAD${SANITIZER_PRELOAD:+ }$sd_file"])
    done])
  AC_SUBST([SANITIZER_FLAGS])
  AC_SUBST([SANITIZER_PRELOAD])
])
