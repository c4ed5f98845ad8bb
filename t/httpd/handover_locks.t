#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Session locks go over at a restart: whoever holds one still does, whoever waits
# keeps his place in the queue, and time-outs and leases count from when they began.
# A lock that is granted at the very moment is granted once.
use v5.36;
use FindBin ();
use POSIX   ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client qw(frame_get frame_hello frame_write);
use Sessiond::Test::Net    qw(now nap);

my $LONG = $ENV{SESSIOND_TEST_LONG};

sub lock ($key, $ms = 60_000) { return pack('a1 N N', 'L', length $key, $ms) . $key }
sub unlock ($key)             { return pack('a1 N', 'U', length $key) . $key }

for my $mpm (qw(event prefork)) {
    my $h = Sessiond::Test::Httpd->new(name => 'handover_locks', mpm => $mpm, config => <<'END')->start;
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 16M
SessiondThreads 3
END
    my $client = sub () {
        my $c = Sessiond::Test::Client->new($h->port, timeout => 60);
        $c->open;
        return $c;
    };
    my $type  = sub ($c) { my ($outcome, $reply) = $c->read_reply; return $outcome eq 'ok' ? $reply->{type} : $outcome };
    my $ask   = sub ($c, $frame) { $c->send($frame); return $type->($c) };
    my $waits = sub ($n) { $h->wait_for(sub { $h->value('LockWaiters') == $n }, 30, "$n who wait") };
    my $turn  = sub ($word = 'graceful') { is(($h->$word)[0], 0, "$word") };

    subtest "$mpm: a queue" => sub {
        my @c = map { $client->() } 0 .. 19;
        is($ask->($c[0], lock('k')), 'N', 'one holds');
        for my $n (1 .. 19) { $c[$n]->send(lock('k')); $waits->($n) }
        $turn->();
        is($h->value('LocksHeld'),   1,  'one still holds');
        is($h->value('LockWaiters'), 19, 'all others still wait');
        my $order = '';
        for my $n (0 .. 18) {
            $turn->($n == 12 ? 'restart' : 'graceful') if $n % 6 == 3 || $n == 12;
            my $value = "by $n";
            my $own = $n % 3;
            is($ask->($c[$n], $own ? frame_write('k', $value, 0, 12345) : unlock('k')), 'K', "$n unlocks") if $n % 4 || $own;
            $c[$n]->close unless $n % 4 || $own;
            my ($outcome, $reply) = $c[ $n + 1 ]->read_reply;
            $order .= ' ' . ($n + 1) if $outcome eq 'ok';
        }
        is($order, join('', map {" $_"} 1 .. 19), 'the lock went through the queue in its order');
        is($ask->($c[19], unlock('k')), 'K', 'the last one unlocks');
        is($h->value('LocksHeld') + $h->value('LockWaiters'), 0, 'nothing is left');
    };

    subtest "$mpm: times" => sub {
        my ($holder, $patient, $brief) = map { $client->() } 1 .. 3;
        is($ask->($holder, lock('t')), 'N', 'one holds');
        $patient->send(lock('t'));
        $brief->send(lock('t', 3000));
        my $began = now();
        $waits->(2);
        nap(0.2) while now() - $began < 1.2;
        $turn->();
        is($type->($brief), 'B', 'a wait that is over ends');
        my $took = now() - $began;
        cmp_ok($took, '>=', 2.8, sprintf 'by the time that it was given: after %.1f s', $took);
        cmp_ok($took, '<', 12, 'and not by that and once more') if $took < 60;
        $h->reconfigure($h->{config} . "SessiondLockTimeout 2\n");
        $turn->();
        is($type->($patient), 'N', 'a lease that is over by the new time ends for whoever waits');
        is($ask->($patient, frame_write('t', 'new', 0, 0)), 'K', 'which writes');
        is($ask->($patient, pack('a1 N', 'R', 1) . 't'), 'K', 'and removes it again');
        is($ask->($holder, frame_write('t', 'late', 0, 0)), 'B', 'the holder of before is fenced off, though there is none as there was none');
        $h->reconfigure($h->{config} =~ s/SessiondLockTimeout 2\n//r);
        $turn->();
    };

    subtest "$mpm: what waits behind a lock" => sub {
        my ($holder, $waiter, $other) = map { $client->() } 1 .. 3;
        is($ask->($holder, lock('b')), 'N', 'one holds');
        $waiter->send(lock('b') . frame_write('b', 'mine') . frame_get('b') . unlock('b'));
        $other->send(lock('b'));
        $waits->(2);
        $turn->();
        is($ask->($holder, unlock('b')), 'K', 'it unlocks');
        is(join(' ', map { $type->($waiter) } 1 .. 4), 'N K V N', 'and what was sent behind the wait is done in order');
        is($type->($other), 'V', 'then comes the next');
        my $late = $client->();
        $late->send(lock('b'));
        $waits->(1);
        $turn->();
        $late->send(frame_hello('a-nonce!'));
        is(join(' ', map { $type->($late) } 1 .. 2), 'B K', 'a hello cancels a wait that was taken over');
        $_->close for $holder, $waiter, $late;
        is($ask->($other, frame_hello('b-nonce!')), 'K', 'and releases a lock that was');
        is($h->value('LocksHeld') + $h->value('LockWaiters'), 0, 'nothing is left');
    };

    # Every holder writes and so unlocks while restarts go on: exactly one counts at a time.
    subtest "$mpm: counting through restarts" => sub {
        my $each = $LONG ? 400 : 60;
        my @pids = map {
            my $pid = fork // die "fork: $!";
            if ($pid == 0) {
                my $c = $client->();
                for (1 .. $each) {
                    $c->send(lock('n'));
                    my ($outcome, $reply) = $c->read_reply;
                    POSIX::_exit(1) if $outcome ne 'ok' || $reply->{type} !~ /[VN]/;
                    POSIX::_exit(2) if $ask->($c, frame_write('n', 1 + ($reply->{data} // 0), 0, $reply->{version} // 0)) ne 'K';
                    nap(rand 0.02);
                }
                POSIX::_exit(0);
            }
            $pid;
        } 1 .. 6;
        for (1 .. ($LONG ? 30 : 5)) { $turn->() }
        for my $pid (@pids) { waitpid $pid, 0; is($? >> 8, 0, 'one has counted') }
        is((Sessiond::Test::Client->new($h->port)->fetch('n'))[1], 6 * $each, 'no count is lost');
    };
    is($h->value('HandoverLost') + $h->value('Drained') + $h->value('Respawns'), 0, "$mpm: no connection was lost");
    is($h->check, 'clean', "$mpm: the store is clean");
    $h->finish;
}
done_testing;
