#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# The session process is killed under load, again and again: no acknowledged
# store is lost, no connect is refused, no page fails, the store is clean
# afterwards, and the status says how often it happened. A request that was
# under way may be cut; that is counted and told.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd ();
use Sessiond::Test::Load  ();
use Sessiond::Test::Net   qw(now nap is_alive);

my $KILLS   = $ENV{SESSIOND_TEST_LONG} ? 10 : 3;
my $BETWEEN = $ENV{SESSIOND_TEST_LONG} ? 2 : 0.7;
my $RATE    = $ENV{SESSIOND_TEST_LONG} ? 3000 : 1000;     # two cores carry the clients, httpd and us

for my $mpm (qw(event prefork)) {
    my $h = Sessiond::Test::Httpd->new(name => 'kill', mpm => $mpm, config => <<'END')->start;
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 512M
SessiondThreads 2
END
    $h->allow_log(qr/exit signal Killed|session process.*(?:kill|signal|ended|died|exit)/i);

    my $load = Sessiond::Test::Load->new(addr => $h->port, clients => 64, extended => 0.25, rate => $RATE,
        http => [$h->http_port, '/ok.txt'])->start;
    $h->wait_for(sub { $h->value('Stores') > 500 }, 60, 'the load');

    my (%pids, @gaps);
    for my $n (1 .. $KILLS) {
        my $begin = now();
        my $old = $h->kill_sessiond('KILL');
        my $new = $h->wait_respawn($old);
        push @gaps, now() - $begin;
        $pids{$_} = 1 for $old, $new;
        # Load in the successor before its turn comes.
        my $stores = $h->value('Stores');
        $h->wait_for(sub { $h->value('Stores') > $stores + 100 }, 60, "stores after kill $n");
        nap($BETWEEN);
    }
    my $sum = $load->stop;
    diag "$mpm, $KILLS kills: " . $load->describe;
    diag 'respawn seen after ' . join(', ', map { sprintf '%.2f', $_ } @gaps) . ' s';

    is(scalar keys %pids, $KILLS + 1, "$mpm: each kill had a successor");
    is($sum->{refused}, 0, "$mpm: no connect was refused");
    is($sum->{timeout}, 0, "$mpm: no request was left without an end");
    is($sum->{wrong}, 0, "$mpm: no fetch of an acknowledged store was wrong");
    is($sum->{missed} + $sum->{denied}, 0, "$mpm: no death was taken for a 'no'");
    is($sum->{http_failed}, 0, "$mpm: no page failed ($sum->{http_ok} served)");
    cmp_ok($sum->{stored}, '>', 500, "$mpm: there was load ($sum->{stored} stores)");
    # A machine may stall once; a backoff that grows with every kill shows here.
    cmp_ok(scalar(grep { $_ > 1 } @gaps), '<=', $KILLS < 10 ? 1 : $KILLS / 5, "$mpm: the successor served within a second");
    cmp_ok($sum->{longest_gap}, '<', 5, "$mpm: nobody waited long");
    is_deeply([grep { !/^http_why/ } keys %{ $sum->{other} }], [], "$mpm: nothing else happened");

    my $found = $load->verify;
    is($found->{asked}, $sum->{stored}, "$mpm: every acknowledged store is asked for");
    is_deeply([@$found{qw(lost wrong unanswered)}], [0, 0, 0], "$mpm: none is lost, none wrong")
        or diag join "\n", @{ $found->{examples} };
    is($h->check, 'clean', "$mpm: the store is clean");
    my $status = $h->status;
    is($status->{SessiondRespawns}, $KILLS, "$mpm: the kills are in the status");
    is($status->{SessiondState}, 'running', "$mpm: it runs");
    cmp_ok($status->{SessiondUptime}, '<', $status->{SessiondStoreUptime}, "$mpm: the store is older than its process");
    cmp_ok($status->{SessiondSessions}, '>=', $found->{asked}, "$mpm: the sessions are all counted");
    my @old = grep { $_ != $status->{SessiondPid} && is_alive($_) } keys %pids;
    is("@old", '', "$mpm: no old process is left");
    $h->finish;
}
done_testing;
