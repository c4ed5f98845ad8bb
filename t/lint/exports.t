#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# exports.t: the built module gives httpd one symbol, its module record, and
# misses none of its own. The linker cannot tell: httpd's and APR's symbols are
# undefined in every module, so a source file that Makefile.am lost shows only
# when the function is first called.
use v5.36;
use Test::More;

my $module = $ENV{SESSIOND_MODULE};
plan skip_all => 'SESSIOND_MODULE names no built module' unless defined $module && -f $module;
plan skip_all => 'nm is not installed (package binutils)' unless grep { -x "$_/nm" } split /:/, $ENV{PATH};

sub symbols (@option) {
    open my $pipe, '-|', 'nm', '-D', @option, $module or die "nm: $!\n";
    my @names = map { /(\S+)$/ } readline $pipe;
    close $pipe or die "nm -D @option $module failed\n";
    return map { s/@.*//r } @names;
}

is_deeply([grep { !/^__(?:asan|odr_asan|ubsan|tsan)|^\.?_?(?:init|fini)$/ } symbols('--defined-only')], ['sessiond_module'], 'sessiond_module is exported and nothing else');
my @undefined = symbols('--undefined-only');
cmp_ok(scalar @undefined, '>', 0, 'nm lists what comes from httpd and APR');
is_deeply([grep { /^sd_|^sessiond_/ } @undefined], [], 'none of our own functions is missing');
done_testing;
