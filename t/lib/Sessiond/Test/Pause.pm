# SPDX-License-Identifier: Apache-2.0
#
# Sessiond::Test::Pause: how long the service paused, as one client sees it.
#
# A process of its own keeps one connection and gets one small session again and
# again, a moment after each answer. Of an interval that the test has named the
# longest of these requests is the pause. An interval begins before the restart
# is ordered, so the request that the restart meets begins within it; if its
# connection is cut, it ends when another connection has brought the answer.
package Sessiond::Test::Pause;
use v5.36;

use List::Util   qw(max);
use Scalar::Util qw(weaken);
use Sessiond::Test::Load   ();
use Sessiond::Test::Net    qw(now nap);
use Sessiond::Test::Timing qw(percentile);

my $EVERY = 0.002;      # seconds between an answer and the next request
my $KEY   = 'pause-probe';

# addr: see Sessiond::Test::Client
sub new ($class, $addr) {
    my $self = bless { intervals => [] }, $class;
    my $load;
    $load = Sessiond::Test::Load->new(addr => $addr, clients => 1, timings => 1, timeout => 60,
        work => sub (@arguments) { _ask($load, @arguments) });
    $self->{load} = $load;
    weaken $load;      # it holds the code that holds it
    return $self;
}

sub start ($self) {
    $self->{load}->start;
    return $self;
}

# In the process of its own. Counts Writes, GetHits; cut, wrong, refused and
# what else came between.
sub _ask ($load, $client, $number, $result, $is_over) {
    my $value = 'x' x 100;
    my ($outcome, $reply) = $client->write($KEY, $value);
    die "the probe's write: $outcome\n" if $outcome ne 'ok' || $reply->{type} ne 'K';
    $result->{Writes}++;
    until ($is_over->()) {
        my $begin = now();
        until ($is_over->()) {
            ($outcome, $reply) = $client->get($KEY);
            last if $outcome eq 'ok';
            $result->{"probe_$outcome"}++;
            nap($EVERY);
        }
        last if $outcome ne 'ok';
        $load->note_time('get', $begin);
        $result->{ $reply->{type} eq 'V' && $reply->{data} eq $value ? 'GetHits' : 'probe_wrong' }++;
        nap($EVERY);
    }
    $client->close;
    return;
}

# Around each restart; intervals may have the same name, and do not overlap.
sub begin ($self, $name) {
    push @{ $self->{intervals} }, [$name, now()];
    return;
}

sub end ($self) {
    $self->{intervals}[-1][2] = now();
    return;
}

# Returns { done => { Writes, GetHits }, found => { kind => n }, pauses => { name
# => [the longest request of each interval in seconds, in order] } }.
sub stop ($self) {
    my $other = $self->{load}->stop->{other};
    my %sum   = (done => {}, found => {}, pauses => {});
    $sum{ /^(?:Writes|GetHits)$/ ? 'done' : 'found' }{$_} = $other->{$_} for keys %$other;
    $sum{found}{silence} = 1 if !$sum{done}{GetHits};
    my @requests = $self->{load}->timed('get');     # one client's: in order, as the intervals
    for my $interval (grep { defined $_->[2] } @{ $self->{intervals} }) {
        my ($name, $from, $to) = @$interval;
        shift @requests while @requests && $requests[0][0] < $from;
        my $longest = 0;
        $longest = max($longest, (shift @requests)->[1]) while @requests && $requests[0][0] < $to;
        push @{ $sum{pauses}{$name} }, $longest;
    }
    $self->{summary} = \%sum;
    delete $self->{load};
    return \%sum;
}

# One line on the intervals of a name.
sub describe ($self, $name) {
    my @sorted = sort { $a <=> $b } @{ $self->{summary}{pauses}{$name} // [] };
    return "$name: none" if !@sorted;
    return sprintf '%d x %s: longest wait of a request p50 %.1f ms, p99 %.1f ms, max %.1f ms', scalar @sorted, $name,
        map { 1e3 * percentile($_, @sorted) } 0.5, 0.99, 1;
}

1;
