#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# gap.t: how long nobody is served when the session process is killed, and how
# the repair beside the service is felt. One client asks without a break for
# sessions that were stored before. The longest time between two of its answers
# around a kill is the gap, the longest one from there to the end of the repair
# the pause. SESSIOND_TEST_LONG=1: a million sessions of 2 KB in 4 GB.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use List::Util qw(max);
use Test::More;
use Sessiond::Test::Httpd ();
use Sessiond::Test::Load  ();
use Sessiond::Test::Net   qw(now nap);

my $LONG     = $ENV{SESSIOND_TEST_LONG};
my $MEMORY   = $LONG ? '4G' : '64M';
my $SESSIONS = $LONG ? 1_000_000 : 12_000;
my $BYTES    = 2048;
my $KILLS    = $LONG ? 5 : 3;
my $GAP      = 1;      # seconds; of the kills the median, since a machine may stall
my $PAUSE    = 0.5;

my $filler = ($ENV{abs_top_builddir} // "$FindBin::Bin/../..") . '/t/bench/load';
plan skip_all => "$filler is not built" unless -x $filler;
plan skip_all => 'less than 6 GB of memory are free' if $LONG && free_memory() < 6 << 30;

sub free_memory () {
    open my $fh, '<', '/proc/meminfo' or die "/proc/meminfo: $!\n";
    my ($kilobytes) = map { /^MemAvailable:\s+(\d+)/ } readline $fh;
    return 1024 * $kilobytes;
}

my $h = Sessiond::Test::Httpd->new(name => 'gap', config => <<"END")->start;
SessiondListen 127.0.0.1:%PORT%
SessiondMemory $MEMORY
SessiondThreads 2
END
$h->allow_log(qr/exit signal Killed|session process.*(?:kill|signal|ended|died|exit)/i);
my $port = $h->port;
# stores all, then reads some of them
like(`$filler -d extended -p $port -c 16 -k $SESSIONS -s $BYTES -f -r 100 -t 0.1`, qr/ misses=0 errors=0\b/,
    "$SESSIONS sessions of $BYTES bytes in $MEMORY");
is($h->value('Sessions'), $SESSIONS, '... and they are counted');

# Others store meanwhile, so that something is under way when it dies.
my $load    = Sessiond::Test::Load->new(addr => $port, clients => 6, extended => 0.5, rate => 300)->start;
my $answers = "$h->{root}/answers";
my $asker   = Sessiond::Test::Load->new(addr => $port, clients => 1, work => \&ask)->start;

# Writes down [last answer, this answer] where more than 1 ms lies between them.
sub ask ($client, $i, $result, $is_over) {
    open my $out, '>', $answers or die "$answers: $!\n";
    my $last = now();
    until ($is_over->()) {
        my ($outcome, $value) = $client->fetch(sprintf 'sess%028d', rand $SESSIONS);
        if ($outcome eq 'ok' && length $value == $BYTES) {
            my $now = now();
            print {$out} "$last $now\n" if $now - $last > 0.001;
            $last = $now;
            $result->{fetched}++;
            next;
        }
        $result->{ $outcome eq 'reset' ? 'reset' : $outcome eq 'no' ? 'missed' : 'wrong' }++;
        nap(0.001);
    }
    close $out or die "$answers: $!\n";
    return;
}

my @kills;
for my $n (1 .. $KILLS) {
    my $pid = $h->sessiond_pid;
    nap(0.5);
    my $at = now();
    kill KILL => $pid;
    $h->wait_respawn($pid);
    $h->wait_for(sub { (() = $h->error_log =~ /repaired the store after an unclean end/g) == $n }, 120, "repair $n");
    push @kills, { at => $at, until => now(), repair => $h->value('LastRepair') };
}
my $asked = $asker->stop;
my $sum   = $load->stop;

open my $in, '<', $answers or die "$answers: $!\n";
my @waits = map { my ($from, $to) = split; { from => $from, to => $to, took => $to - $from } } readline $in;
for my $kill (@kills) {
    # what it had answered already may arrive a moment after the kill
    my ($gap) = sort { $b->{took} <=> $a->{took} }
        grep { $_->{from} < $kill->{at} + 0.2 && $_->{to} > $kill->{at} } @waits;
    $kill->{gap}   = $gap->{took};
    $kill->{pause} = max 0, map { $_->{took} } grep { $_->{from} >= $gap->{to} && $_->{from} < $kill->{until} } @waits;
    diag sprintf 'gap %.0f ms; repair: %s; longest pause beside it %.0f ms', 1000 * $kill->{gap}, $kill->{repair},
        1000 * $kill->{pause};
}
diag "asked $asked->{fetched} times; beside it: " . $load->describe;

sub middle (@n) { return (sort { $a <=> $b } @n)[@n / 2] }

cmp_ok(middle(map { $_->{gap} } @kills),   '<', $GAP,   "the next process serves within $GAP s");
cmp_ok(middle(map { $_->{pause} } @kills), '<', $PAUSE, "its repair keeps nobody waiting for $PAUSE s");
is($asked->{missed} + $asked->{wrong} + $sum->{missed} + $sum->{wrong}, 0, 'no session was missed meanwhile');
my $found = $load->verify;
is($found->{lost} + $found->{wrong} + $found->{unanswered}, 0, 'every acknowledged store is there');
cmp_ok($h->value('Sessions'), '>=', $SESSIONS + $found->{asked}, 'all sessions are there');
is($h->value('RepairedItems'), 0, 'none was damaged');
is($h->check, 'clean', 'the store is clean');
$h->finish;
done_testing;
