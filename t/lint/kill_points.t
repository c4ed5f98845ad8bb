#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# kill_points.t: the moments at which tests kill a process (shm/kill_point.h)
# have names that say where they are, the test has all of them, and the module
# that is shipped has nothing of them: no code, no table, no name. That a search
# in the module could find them is shown by the same search in the test.
use v5.36;
use Test::More;
use FindBin;
use lib $FindBin::Bin;
use Tree qw(files slurp code_only);

# [function, name] of each point of a source. A definition begins in column 0.
sub points ($source) {
    my ($function, @found) = ('');
    for my $line (split /\n/, $source) {
        $function = $1 if $line =~ /^[a-z][\w *]*?\b(\w+)\(/;
        push @found, [$function, $1] while $line =~ /\bSD_KILL_POINT\("([^"]*)"\)/g;
    }
    return @found;
}

is_deeply([points("static bool sd_a_b(int x)\n{\n    SD_KILL_POINT(\"a_b: c\");\n}\nvoid d(\n  SD_KILL_POINT(\"e\");\n")],
    [['sd_a_b', 'a_b: c'], ['d', 'e']], 'points are found, with their functions');

my %times;
for my $path (files(qr{^shm/\w+\.c$})) {
    for my $point (points(code_only(slurp($path)))) {
        my ($function, $name) = @$point;
        $times{$name}++;
        my $prefix = $function =~ s/^sd_//r;
        like($name, qr/^\Q$prefix\E: \S/, "$path: \"$name\" begins with its function");
    }
}
cmp_ok(scalar keys %times, '>', 60, 'there are points');
is_deeply([grep { $times{$_} > 1 } sort keys %times], [], 'no name stands for two points');
is_deeply([grep { slurp($_) =~ /\bSD_KILL_POINTS\b/ } files(qr{^(?:shm|protocol|mod_sessiond)/})],
    ['shm/kill_point.h'], 'no source asks for them');
is_deeply([map { slurp($_) =~ /^(.*)SD_KILL_POINTS\b/mg } files(qr{^(?:Makefile\.am|configure\.ac|dev|m4/.*)$})],
    ['t_unit_libsdkill_la_CPPFLAGS = $(AM_CPPFLAGS) -D'], 'only the test\'s library is compiled with them');

sub missing_in ($program) {
    open my $fh, '<:raw', $program or die "$program: $!\n";
    local $/;
    my $bytes = readline $fh;
    return grep { index($bytes, $_) < 0 } sort(keys %times), 'sd_kill_point';
}

my $all = keys(%times) + 1;
SKIP: {
    my $test = ($ENV{abs_top_builddir} // '') . '/t/unit/test_kill_points';
    skip 'the unit tests are not built (cmocka is missing)', 1 unless -f $test;
    is_deeply([missing_in($test)], [], 'the test has every point');
}
SKIP: {
    my $module = $ENV{SESSIOND_MODULE};
    skip 'SESSIOND_MODULE names no built module', 1 unless defined $module && -f $module;
    is(scalar missing_in($module), $all, 'the module has none');
}
done_testing;
