# SPDX-License-Identifier: Apache-2.0
#
# Sessiond::Test::Timing: is it slower than it was when all was quiet?
#
# Machines stall, and a busy neighbour shows in the slowest hundredth first. So
# a load runs all the time, quiet and loud windows are taken of it in turn, the
# 99th percentile of each window counts, and of several windows the median. The
# loud ones may take twice as long as the quiet ones, or 20 ms where that is
# less. Neither bound is a promise of speed; a client that waits for
# another's time-out, or for its megabytes, is over both.
package Sessiond::Test::Timing;
use v5.36;

use Exporter qw(import);
use Test::More ();
use Sessiond::Test::Net qw(now nap);

our @EXPORT_OK = qw(median percentile window p99_of windows_of);

my $FACTOR = 2;
my $SLACK  = 0.020;         # seconds
my $TRIES  = 3;

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
# requests.
sub p99_of ($load, $kinds, @windows) {
    my ($n, @p99) = (0);
    for my $window (@windows) {
        my @took = $load->timings($kinds, @$window);
        $n += @took;
        push @p99, percentile(0.99, @took) if @took;
    }
    return (median(@p99), $n);
}

# (true or false, what was found) of requests of these kinds.
sub _judge ($load, $kinds, $quiet, $loud) {
    my ($was, $n_was) = p99_of($load, $kinds, @$quiet);
    my ($is, $n_is)   = p99_of($load, $kinds, @$loud);
    return (0, "there was no load ($n_was, $n_is)") unless $n_was && $n_is;
    return ($is <= ($FACTOR * $was > $SLACK ? $FACTOR * $was : $SLACK),
        sprintf 'p99 %.2f ms, %.2f ms when quiet (%d and %d requests)', 1e3 * $is, 1e3 * $was, $n_is, $n_was);
}

# Takes windows, code that returns (quiet, loud), until the requests of all these
# kinds took no longer in the loud ones; thrice at most, since a neighbour that
# begins to work in between makes any of them slow. Returns a code to be run when
# the load has ended, with a test for each kind.
sub windows_of ($name, $load, $kinds, $take) {
    my ($tries, $quiet, $loud, @slower) = (0);
    do {
        ($quiet, $loud) = $take->(++$tries);
        @slower = grep { my ($ok) = _judge($load, $_, $quiet, $loud); !$ok } @$kinds;
    } while (@slower && $tries < $TRIES);
    return sub {
        local $Test::Builder::Level = $Test::Builder::Level + 1;
        for my $kind (@$kinds) {
            my ($ok, $text) = _judge($load, $kind, $quiet, $loud);
            Test::More::ok($ok, "$kind $name: $text" . ($tries > 1 ? ", try $tries" : ''));
        }
    };
}

1;
