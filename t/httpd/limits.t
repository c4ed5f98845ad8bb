#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Limits on connections and time: what is beyond one is reset and counted, and
# whoever keeps within is served all the while. Times are checked from below
# exactly and from above generously: a machine may stall, but nothing may be
# cut off early.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client qw(frame_store frame_fetch frame_hello);
use Sessiond::Test::Net    qw(now nap listeners);

my $config = <<'END';
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 64M
SessiondMaxConnections 20
SessiondTimeout 1
SessiondIdleTimeout 2
SessiondBacklog 100
SessiondThreads 2
END
my $h = Sessiond::Test::Httpd->new(name => 'limits', config => $config)->start;
my $c = Sessiond::Test::Client->new($h->port);

subtest 'SessiondTimeout: a dribbler' => sub {
    $c->store('good', 'data');
    my $before = $h->value('Timeouts');
    my $slow = Sessiond::Test::Client->new($h->port)->no_delay;
    my $begin = now();
    $slow->open;
    my $request = frame_store('slow', 'x' x 1000);
    my ($served, $outcome) = (0, 'ok');
    for my $byte (split //, $request) {
        $outcome = $slow->send($byte);
        last if $outcome ne 'ok' || now() - $begin > 30;
        $served++ if $c->store('good', 'data') eq 'ok';
        nap(0.2);
    }
    my $took = now() - $begin;
    is($outcome, 'reset', 'a byte now and then does not keep a request alive');
    cmp_ok($took, '>=', 0.95, 'not before the time');
    cmp_ok($took, '<', 15, sprintf 'nor long after it (%.1f s)', $took);
    ok($served >= 4, "others are served meanwhile ($served times)");
    is($h->value('Timeouts') - $before, 1, 'it was counted');
    is(($c->fetch('slow'))[0], 'no', 'nothing of it was stored');
};

subtest 'SessiondTimeout: no request at all' => sub {
    my $before = $h->value('Timeouts');
    my @quiet = map { Sessiond::Test::Client->new($h->port) } 1 .. 3;
    my $begin = now();
    for my $client (@quiet) {
        $client->open;
        $client->send('S');     # a connection without a byte isn't accepted for a while
    }
    my @ends = map { ($_->read_all)[0] } @quiet;
    is("@ends", 'reset reset reset', 'connections that never finish a request are reset');
    cmp_ok(now() - $begin, '>=', 0.95, 'not before the time');
    is($h->value('Timeouts') - $before, 3, 'and counted');
};

subtest 'SessiondTimeout leaves a long transfer alone that moves' => sub {
    my $value = 'm' x (1 << 20);
    my $steady = Sessiond::Test::Client->new($h->port);
    my $begin = now();
    $steady->open;
    my $request = frame_store('steady', $value);
    for my $piece (unpack '(a131072)*', $request) {
        is($steady->send($piece), 'ok', 'a piece of 128 KB');
        nap(0.3);
    }
    my $took = now() - $begin;
    is_deeply([$steady->read_all], ['ok', "OK\n"],
        sprintf 'a megabyte in %.1f s: one second is given for each 64 KB', $took);
    cmp_ok($took, '>', 1.5, 'which is longer than SessiondTimeout');
};

subtest 'SessiondIdleTimeout' => sub {
    my $before = $h->value('IdleTimeouts');
    my $idle = Sessiond::Test::Client->new($h->port);
    is(($idle->hello)[0], 'ok', 'a persistent connection');
    nap(1.3);
    is(($idle->hello)[0], 'ok', 'is not bound by SessiondTimeout between requests');
    my $begin = now();
    is(($idle->read_all)[0], 'no', 'and closed in an orderly way when idle');
    my $took = now() - $begin;
    cmp_ok($took, '>=', 1.9, 'not before the time');
    cmp_ok($took, '<', 20, sprintf 'nor long after it (%.1f s)', $took);
    is($h->value('IdleTimeouts') - $before, 1, 'counted');
    my $half = Sessiond::Test::Client->new($h->port);
    $half->hello;
    $half->send("G\0\0");
    is(($half->read_all)[0], 'reset', 'a frame under way on it is bound by SessiondTimeout');
};

subtest 'SessiondMaxConnections' => sub {
    $h->wait_for(sub { $h->value('ConnectionsOpen') == 0 }, 30, 'no connection open');
    my $before = $h->value('RefusedLimit');
    my @many;
    for (1 .. 20) {
        my $client = Sessiond::Test::Client->new($h->port);
        is(($client->hello)[0], 'ok', "connection $_ of 20");
        push @many, $client;
    }
    my @over = map { ($c->exchange(frame_fetch('good')))[0] } 1 .. 5;
    is("@over", 'reset reset reset reset reset', 'five more are reset');
    is($h->value('RefusedLimit') - $before, 5, 'and counted');
    is(($many[3]->hello)[0], 'ok', 'those that are in are served');
    is($h->value('ConnectionsOpen'), 20, 'twenty are open');
    (pop @many)->close;
    $h->wait_for(sub { ($c->fetch('good'))[0] eq 'ok' }, 30, 'room for a new connection');
    pass('one leaves: there is room again');
};

SKIP: {
    my ($ss) = grep { -x } map { "$_/ss" } split(/:/, $ENV{PATH}), '/usr/bin', '/usr/sbin';
    skip 'the backlog is only seen with ss', 1 unless $ss;
    my $port = $h->port;
    my ($line) = grep { /:$port\s/ } `$ss -Hltn 2>/dev/null`;
    is((split ' ', $line // '')[2], 100, 'SessiondBacklog is what the kernel was told');
}

is($h->check, 'clean', 'the store is clean');
$h->finish;
done_testing;
