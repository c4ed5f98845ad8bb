# SPDX-License-Identifier: Apache-2.0
#
# Sessiond::Test::Timing: is it slower than it was when all was quiet?
#
# Machines stall, and a busy neighbour shows in the slowest hundredth first. So
# a load runs all the time, quiet and loud windows are taken of it in turn, the
# 99th percentile of each window counts, and of several windows the median. The
# loud ones may take twice as long as the quiet ones, or 20 ms where that is
# less than 20 ms. Neither bound is a promise of speed; a client that waits for
# another's time-out, or for its megabytes, is over both.
package Sessiond::Test::Timing;
use v5.36;

use Exporter qw(import);
use Test::More ();
use Sessiond::Test::Net qw(now nap);

our @EXPORT_OK = qw(median percentile window p99_of is_no_slower);

my $FACTOR = 2;
my $SLACK  = 0.020;         # seconds

sub median (@values) {
    my @sorted = sort { $a <=> $b } @values;
    return undef unless @sorted;
    return @sorted % 2 ? $sorted[$#sorted / 2] : ($sorted[@sorted / 2 - 1] + $sorted[@sorted / 2]) / 2;
}

# Of sorted values.
sub percentile ($share, @sorted) {
    return @sorted ? $sorted[ int($share * $#sorted + 0.5) ] : undef;
}

# Lets time go by; returns [from, to] of it.
sub window ($seconds) {
    my $from = now();
    nap($from + $seconds - now()) while now() < $from + $seconds;
    return [$from, now()];
}

# The median of the windows' 99th percentiles in seconds, and the number of
# requests. The load (Sessiond::Test::Load with timings) must have ended.
sub p99_of ($load, $kinds, @windows) {
    my ($n, @p99) = (0);
    for my $window (@windows) {
        my @took = $load->timings($kinds, @$window);
        $n += @took;
        push @p99, percentile(0.99, @took) if @took;
    }
    return (median(@p99), $n);
}

# A test: requests of these kinds took no longer in the loud windows.
sub is_no_slower ($name, $load, $kinds, $quiet, $loud) {
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my ($was, $n_was) = p99_of($load, $kinds, @$quiet);
    my ($is, $n_is)   = p99_of($load, $kinds, @$loud);
    return Test::More::fail("$name: there was no load ($n_was, $n_is)") unless $n_was && $n_is;
    my $limit = $FACTOR * $was > $SLACK ? $FACTOR * $was : $SLACK;
    return Test::More::cmp_ok($is, '<=', $limit,
        sprintf '%s: p99 %.2f ms, %.2f ms when quiet (%d and %d requests)', $name, 1e3 * $is, 1e3 * $was, $n_is, $n_was);
}

1;
