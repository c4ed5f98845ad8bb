#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Session locks between connections (section "Locks" of doc/protocol.md): who
# waits, who is next, what gives a lock up, and that nobody who lost one, by his
# lease, his connection or the session process, changes what came after him.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use POSIX ();
use Test::More;
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client qw(frame_hello frame_get frame_write frame_lock frame_touch frame_unlock frame_remove
    ANY_VERSION);
use Sessiond::Test::Net    qw(now nap);
use Sessiond::Test::Timing qw(percentile);

my $LONG    = 60;     # seconds that a grant may take on a stalled machine
my $LEASE   = 2;
my $TIMEOUT = 4;
my ($h, $mpm, $n);

sub client (%opt) {
    my $c = Sessiond::Test::Client->new($h->port, timeout => $LONG, %opt);
    is($c->open, 'ok', 'connect') or die;
    return $c;
}

# A key of its own for each case.
sub key () { return 'key-' . ++$n }

# "V data", "N", "B", "K", "E text": what one reply says; else how it ended.
sub said ($outcome, $reply = undef, @more) {
    return $outcome if $outcome ne 'ok';
    my $text = $reply->{data} // $reply->{text} // '';
    $text = substr($text, 0, 1) . ' x ' . length $text if length $text > 1000 && $text eq substr($text, 0, 1) x length $text;
    return $reply->{type} . ($reply->{type} =~ /[VE]/ ? " $text" : '');
}
sub reply ($c) { return said($c->read_reply) }

# Nothing has come yet, nor an end.
sub is_silent ($c, $name, $seconds = 0.15) {
    my $bits = '';
    vec($bits, fileno $c->socket, 1) = 1;
    return ok(!select($bits, undef, undef, $seconds), "$name: no answer yet");
}

# A client that stands in the queue by now.
sub waits ($key, $wait_ms = 1000 * $LONG, $behind = '', %opt) {
    my $before = $h->value('LockWaits');
    my $c = client(%opt);
    $c->send(frame_lock($key, $wait_ms) . $behind);
    $h->wait_for(sub { $h->value('LockWaits') > $before }, $LONG, 'a wait');
    return $c;
}

sub is_settled ($name) {
    ok($h->eventually(sub { $h->value('LocksHeld') == 0 && $h->value('LockWaiters') == 0 }, $LONG),
        "$name: no lock and no waiter is left");
}

sub queue {
    my $key = key();
    my @c = map { client() } 0 .. 40;
    is(said($c[0]->lock($key)), 'N', 'the first has it at once');
    for my $i (1 .. 40) {
        my $before = $h->value('LockWaits');
        $c[$i]->send(frame_lock($key, 1000 * $LONG));
        $h->wait_for(sub { $h->value('LockWaits') > $before }, $LONG, "$i waits");
    }
    is($h->value('LockWaiters'), 40, '40 wait');
    is($h->value('LocksHeld'), 1, 'for one lock');
    my (@order, @took);
    for my $i (0 .. 39) {
        my $begin = now();
        # the version that the holder gives is not looked at
        is(said($c[$i]->write($key, "written by $i", 0, 1)), 'K', "$i writes") if $i % 4 == 0;
        $c[$i]->touch($key) if $i % 4 == 1;
        $c[$i]->unlock($key) if $i % 4 == 2;
        $c[$i]->remove($key) if $i % 4 == 3;
        my $last = $i % 4 == 3 ? 'N' : 'V written by ' . ($i - $i % 4);
        push @order, "$i: $last" if reply($c[$i + 1]) ne $last;
        push @took, now() - $begin;
        is_silent($c[$i + 2], 'the one after it', 0) if $i < 39 && $i % 10 == 0;
    }
    is("@order", '', 'each gets it in his turn, with what the one before him wrote');
    @took = sort { $a <=> $b } @took;
    diag(sprintf '%s: from unlock to grant, 40 waiters: p50 %.2f ms, p99 %.2f ms', $mpm,
        map { 1000 * percentile($_, @took) } 0.5, 0.99);
    $_->close for @c;
    is_settled('queue');
}

sub waiting {
    my $key = key();
    my ($a, $b) = (client(), client());
    is(said($a->lock($key)), 'N', 'a lock');
    is(said($b->lock($key)), 'B', 'a try of another: B at once');
    for my $wait (1, 300, 1200) {
        is(said($a->lock($key)), 'N', 'renewed');
        my $begin = now();
        is(said($b->lock($key, $wait)), 'B', "B after $wait ms");
        cmp_ok(now() - $begin, '>=', $wait / 1000 - 0.002, 'not before');
        cmp_ok(now() - $begin, '<', $wait / 1000 + 5, 'nor long after');
    }
    is(said($b->get($key)), 'N', 'the connection stays');
    is(said($b->lock(key())), 'N', 'another key is free');
    is(said($a->lock($key, 1000)), 'N', 'L by the holder: at once');
    is(said($b->unlock($key)), 'N', 'U of a stranger: N');
    is(said($b->lock($key)), 'B', 'and it is held on');
    is(said($a->unlock($key)), 'K', 'U of the holder: K');
    is(said($a->unlock($key)), 'N', 'once');
    is(said($b->lock($key)), 'N', 'then it is free');
    my @more = map { key() } 1 .. 62;
    is(join('', map { said($b->lock($_)) } @more), 'N' x 62, '64 locks of one connection');
    like(said($b->lock(key())), qr/^E .*64 locks/, 'not 65');
    is(said($b->lock($more[0])), 'N', 'one of the 64 again');
    is(said($b->hello), 'K', 'a hello');
    is(join('', map { said($a->lock($_)) } $key, @more), 'N' x 63, 'frees them all');
    $_->close for $a, $b;
    is_settled('waiting');
}

# What a holder may do to give it up; the value is "old" before.
sub hand_overs {
    my @ways = (
        ['unlock',  sub ($c, $key) { $c->send(frame_unlock($key)) },             'V old'],
        ['write',   sub ($c, $key) { $c->send(frame_write($key, 'new')) },       'V new'],
        ['touch',   sub ($c, $key) { $c->send(frame_touch($key, 60)) },          'V old'],
        ['remove',  sub ($c, $key) { $c->send(frame_remove($key)) },             'N'],
        ['hello',   sub ($c, $key) { $c->send(frame_hello('12345678')) },        'V old'],
        ['a store', sub ($c, $key) { $c->send(pack('a1 N N', 'S', length $key, 3) . "${key}new") }, 'V new'],
        ['a fetch', sub ($c, $key) { $c->send(pack('a1 N', 'F', length $key) . $key) },  'V old'],
        ['close',   sub ($c, $key) { $c->close },                                'V old'],
        ['write and close', sub ($c, $key) { $c->send(frame_write($key, 'new')); $c->close }, 'V new'],
        ['half-close', sub ($c, $key) { $c->half_close },                        'V old'],
        ['reset',   sub ($c, $key) { $c->abort },                                'V old'],
        ['half a write and close', sub ($c, $key) { $c->send(substr frame_write($key, 'new'), 0, -1); $c->close }, 'V old'],
        ['an unknown frame', sub ($c, $key) { $c->send('Zzzz') },                'V old'],
    );
    for my $way (@ways) {
        my ($name, $do, $then) = @$way;
        my $key = key();
        my $holder = client();
        is(said($holder->write($key, 'old')), 'K', "$name: a value");
        is(said($holder->lock($key)), 'V old', 'locked');
        my $next = waits($key);
        is_silent($next, $name, 0.02);
        my $begin = now();
        $do->($holder, $key);
        is(reply($next), $then, "$name: the next has it");
        cmp_ok(now() - $begin, '<', 0.9, 'at once');
        $_->close for $holder, $next;
    }
    is_settled('hand-overs');
}

sub keeps {
    my ($a, $b, $key) = (client(), client(), key());
    is(said($a->lock($key)), 'N', 'a lock');
    like(said($a->write($key, 'x', 30 * 86_400 + 1)), qr/^E/, 'a write that is refused with E');
    like(said($a->call(frame_write("$key ", 'x'))), qr/^E/, 'and another');
    is(said($b->lock($key)), 'B', 'keep the lock');
    is(said($a->get($key)), 'N', 'so does a get');
    is(said($b->lock($key)), 'B', 'of the holder');
    is(said($b->touch($key)), 'N', 'a touch of a stranger');
    is(said($b->remove($key)), 'B', 'a removal of a stranger: B');
    is(said($b->lock($key)), 'B', 'leave it, too');
    is(said($a->touch($key)), 'N', 'a touch of what is not there: N');
    is(said($b->lock($key)), 'B', 'and still locked: it may have expired, and is to be written');
    is(said($a->unlock($key)), 'K', 'until it is unlocked');
    is(said($b->lock($key)), 'N', 'then others may');
    is(said($a->write("$key-2", 'v', 1)), 'K', 'a session for a second');
    is(said($a->touch("$key-2", 100)), 'K', 'and for longer, by a touch');
    nap(1.2);
    is(said($a->get("$key-2")), 'V v', 'is there');
    is(said($a->touch("$key-2", 1)), 'K', 'shortened');
    nap(1.2);
    is(said($a->touch("$key-2", 100)), 'N', 'it is over, and a touch revives nothing');
    like(said($a->touch("$key-2", 30 * 86_400 + 1)), qr/^E .*lifetime/, 'too long a lifetime: E');
    like(said($a->lock("$key-2", 600_001)), qr/^E .*wait/, 'too long a wait: E');
    like(said($a->lock('', 0)), qr/^E .*key/, 'an empty key: E');
    $_->close for $a, $b;
}

sub fence {
    my ($a, $b, $c) = map { client() } 1 .. 3;
    my $key = key();
    my (undef, $first) = $a->write($key, 'first');
    my $v = $first->{version};
    is(said($a->lock($key)), 'V first', 'A has the lock');
    is(said($b->write($key, 'by B')), 'B', 'W of a stranger, whatever it finds: B');
    is(said($b->write($key, 'by B', 0, $v)), 'B', 'W with the right version: B');
    is(said($b->write("$key-absent", 'x', 0, 0)), 'K', 'of another key: K');
    my $next = waits($key);
    nap($LEASE - 0.5);
    is_silent($next, 'within the lease', 0);
    my $begin = now();
    is(reply($next), 'V first', 'its lease is over and somebody waits');
    cmp_ok(now() - $begin, '<', 5, 'the next has it soon');
    is(said($next->write($key, 'second', 0, $v)), 'K', 'writes and unlocks');
    is(said($a->write($key, 'late', 0, $v)), 'B', 'A writes: B');
    is(said($a->unlock($key)), 'N', 'and has nothing to unlock');
    is(said($c->get($key)), 'V second', 'the data stands');

    is(said($a->lock($key)), 'V second', 'A again');
    nap($LEASE + 0.3);
    is(said($a->write($key, 'third', 0, 1)), 'K', 'a lease that is over harms nobody while nobody asks');
    my (undef, $third) = $a->lock($key);
    nap($LEASE + 0.3);
    is(said($b->lock($key)), 'V third', 'a try takes it, too');
    is(said($b->remove($key)), 'K', 'B removes the session');
    is(said($a->write($key, 'revived', 0, $third->{version})), 'B', 'A does not revive it');
    is(said($c->get($key)), 'N', 'it is gone');

    (undef, my $fourth) = $a->write($key, 'fourth', 0, 0);
    is(said($a->lock($key)), 'V fourth', 'A has it, and its connection dies');
    $a->abort;
    is(said($b->lock($key, 5000)), 'V fourth', 'B has it');
    is(said($b->write($key, 'fifth', 0, 1)), 'K', 'and writes');
    $a = client();
    is(said($a->write($key, 'late', 0, $fourth->{version})), 'B', 'A on another connection: B');

    is(said($a->lock($key)), 'V fifth', 'A has it');
    is(Sessiond::Test::Client->new($h->port)->store($key, 'by S'), 'ok', 'S takes no notice');
    is_deeply([Sessiond::Test::Client->new($h->port)->fetch($key)], ['ok', 'by S'], 'nor F');
    is(Sessiond::Test::Client->new($h->port)->delete($key), 'ok', 'nor D');
    is(said($b->lock($key)), 'B', 'and the lock is held on, without a value');
    is(said($a->write($key, 'sixth', 0, 1)), 'K', 'its holder writes whatever is there');
    is(said($a->write("$key-short", 'x', 1)), 'K', 'a session for a second');
    is(said($a->lock("$key-short")), 'V x', 'locked');
    nap(1.2);
    is(said($b->lock("$key-short")), 'B', 'the lock outlives it');
    is(said($a->lock("$key-short")), 'N', 'L again, by its holder: there is none any more');
    ok($h->value('WritesFenced') >= 5 && $h->value('RemovesFenced') >= 1, 'what was refused is counted');
    ok($h->value('LeasesEnded') >= 2, 'and leases that ended');
    $_->close for $a, $b, $c, $next;
    is_settled('fence');
}

# A request dies while it waits or holds, and the next one gets its connection.
sub pooled {
    my $key = key();
    my $holder = client();
    is(said($holder->lock($key)), 'N', 'held');
    my $c = waits($key);
    $c->send(frame_hello('anew-123') . frame_lock("$key-2", 1000));
    is_deeply([map { reply($c) } 1 .. 3], ['B', 'K', 'N'], 'a hello ends the wait; then it, and what follows');
    my $d = waits($key, 1000 * $LONG, frame_hello('same-123') . frame_get($key));
    is_deeply([map { reply($d) } 1 .. 3], ['B', 'K', 'N'], 'also one in the same write as the L')
        if is($h->value('LockWaiters'), 0, 'nobody waits');
    $d->close;
    $d = waits($key);
    $d->send('Pbegins');
    is(reply($d), 'B', 'and the first byte of one');
    $d->send('00');
    is(reply($d), 'K', 'which is answered when it is complete');
    $d->send(frame_lock($key, 1000 * $LONG));
    is(said($holder->hello), 'K', 'a hello of the holder');
    is(reply($d), 'N', 'gives the lock up');
    $_->close for $holder, $c, $d;
    is_settled('pooled');
}

# Frames behind an L that waits.
sub pipelined {
    my $key = key();
    my $holder = client();
    is(said($holder->lock($key)), 'N', 'held');
    my $c = waits($key, 1000 * $LONG, frame_write("$key-x", 'behind', 0, 0));
    is_silent($c, 'what is behind the L');
    is(said($holder->get("$key-x")), 'N', 'is not executed yet');
    $c->send(frame_get("$key-x") . frame_lock("$key-y", 0) . substr frame_write($key, 'mine', 0, 1), 0, 10);
    is(said($holder->write($key, 'yours')), 'K', 'unlocked');
    is_deeply([map { reply($c) } 1 .. 4], ['V yours', 'K', 'V behind', 'N'], 'after the grant, in order');
    $c->send(substr frame_write($key, 'mine', 0, 1), 10);
    is(reply($c), 'K', 'and what ended in the middle goes on');
    is(said($c->get($key)), 'V mine', 'whole');

    # more than is kept: the rest waits in the socket
    is(said($holder->lock($key)), 'V mine', 'held again');
    my $many = 40_000;
    my $big  = 'x' x 300_000;
    $c = waits($key);
    my $writer = fork // die "fork: $!";
    if ($writer == 0) {
        $c->send(frame_write("$key-big", $big) . frame_get("$key-big") . frame_get("$key-none") x $many . frame_unlock($key));
        POSIX::_exit(0);
    }
    is_silent($c, 'some 900 KB behind it', 0.5);
    is(said($holder->get("$key-big")), 'N', 'nothing of it is executed');
    cmp_ok(resident($h->sessiond_pid), '<', 200e6, 'nor kept, but for a little');
    is(said($holder->unlock($key)), 'K', 'unlocked');
    is_deeply([map { reply($c) } 1 .. 2], ['V mine', 'K'], 'granted; the large value is written');
    is(reply($c), 'V x x 300000', 'and read');
    my $good = 0;
    for (1 .. $many) { last if reply($c) ne 'N'; $good++ }
    is($good, $many, "$many gets are answered");
    is(reply($c), 'K', 'the last is an unlock');
    waitpid $writer, 0;
    $_->close for $c;

    # all in one write, on a connection that has not been read from
    is(said($holder->lock($key)), 'V mine', 'held');
    $c = waits($key, 1000 * $LONG, frame_write("$key-w", 'w' x 100_000, 0, 0) . frame_get("$key-w") . frame_get("$key-none") x 5000);
    nap(0.2);
    is(said($holder->unlock($key)), 'K', 'unlocked');
    is_deeply([map { reply($c) } 1 .. 3], ['V mine', 'K', 'V w x 100000'], 'a lock and 150 KB in one write');
    is(join('', map { reply($c) } 1 .. 5000), 'N' x 5000, 'all is answered');
    $c->close;

    # two waits in one write, the second on what the first connection has
    my ($k1, $k2) = (key(), key());
    my $other = client();
    is(said($holder->lock($k1)) . said($other->lock($k2)), 'NN', 'two locks of two others');
    $c = waits($k1, 1000 * $LONG, frame_lock($k2, 1000 * $LONG) . frame_get('none'));
    is(said($holder->unlock($k1)), 'K', 'one is free');
    is(reply($c), 'N', 'granted');
    is_silent($c, 'the second waits');
    is(said($other->unlock($k2)), 'K', 'the other');
    is(reply($c) . reply($c), 'NN', 'granted, and what follows');
    $_->close for $c, $holder, $other;
    is_settled('pipelined');
}

sub resident ($pid) {
    open my $fh, '<', "/proc/$pid/status" or die "/proc/$pid/status: $!";
    my ($kb) = join('', readline $fh) =~ /^VmRSS:\s+(\d+)/m;
    return $kb * 1024;
}

# Whoever ends while he waits gives up his place, and what he sent behind the L.
sub gone_while_waiting {
    my $key = key();
    my $holder = client();
    is(said($holder->lock($key)), 'N', 'held');
    my %way = (close => sub ($c) { $c->close }, reset => sub ($c) { $c->abort }, 'half-close' => sub ($c) { $c->half_close });
    for my $name (sort keys %way) {
        my $aborted = $h->value('Aborted');
        my $c = waits($key, 1000 * $LONG, frame_write("$key-x", 'behind'));
        $way{$name}->($c);
        ok($h->eventually(sub { $h->value('LockWaiters') == 0 }, 5), "$name: it waits no more");
        is(($c->read_all)[0], 'no', 'an orderly end without an answer') if $name eq 'half-close';
        is(said($holder->get("$key-x")), 'N', 'what was behind is not executed');
        is($h->value('Aborted') - $aborted, 1, 'counted');
        $c->close;
    }
    # with more behind it than is kept, its end is seen all the same
    my $c = waits($key, 1000 * $LONG, frame_get('none') x 20_000);
    nap(0.2);
    $c->abort;
    ok($h->eventually(sub { $h->value('LockWaiters') == 0 }, 5), 'a reset behind 100 KB is noticed');
    is(said($holder->unlock($key)), 'K', 'nobody was granted anything');
    $holder->close;
    is_settled('gone while waiting');
}

# A process with the lock is killed; the kernel ends its connection.
sub killed_client {
    my $key = key();
    pipe my $read, my $write or die "pipe: $!";
    my $pid = fork // die "fork: $!";
    if ($pid == 0) {
        my $c = Sessiond::Test::Client->new($h->port);
        syswrite $write, said($c->lock($key));
        sleep 600;
        POSIX::_exit(0);
    }
    sysread $read, my $word, 10;
    is($word, 'N', 'a process has the lock');
    my $next = waits($key);
    my $begin = now();
    kill KILL => $pid;
    is(reply($next), 'N', 'killed: the next has it');
    cmp_ok(now() - $begin, '<', 0.9, 'at once');
    waitpid $pid, 0;
    $next->close;
}

# Its answers stall before the L: it is in the queue, and may even be granted what it
# cannot be told yet.
sub slow_reader {
    my ($big, $key) = ('y' x 8_000_000, key());
    my $holder = client();
    is(said($holder->write("$key-big", $big)), 'K', 'a large value');
    is(said($holder->lock($key)), 'N', 'held');
    for my $granted_first (0, 1) {
        is(said($holder->lock($key)), $granted_first ? 'V slow 0' : 'N', 'renewed');
        my $before = $h->value('LockWaits');
        my $slow = client(receive => 20_000);
        $slow->send(frame_get("$key-big") . frame_lock($key, 1000 * $LONG) . frame_write($key, "slow $granted_first", 0, 1));
        $h->wait_for(sub { $h->value('LockWaits') > $before }, $LONG, 'a wait behind a reply that stalls');
        if ($granted_first) {
            is(said($holder->unlock($key)), 'K', 'granted while its reply stalls');
            is(said($holder->lock($key)), 'B', 'so nobody else has it');
        }
        is(reply($slow), 'V y x 8000000', 'the large one is read to its end');
        if (!$granted_first) {
            is_silent($slow, 'it waits');
            is(said($holder->unlock($key)), 'K', 'granted after that');
        }
        is(reply($slow), $granted_first ? 'V slow 0' : 'N', 'granted');
        is(reply($slow), 'K', 'and what was behind it is executed');
        is(said($holder->lock($key)), "V slow $granted_first", 'which gave it up');
        $slow->close;
    }
    # granted, and lost by its lease before it could be told
    my $before = $h->value('LockWaits');
    my $slow = client(receive => 20_000);
    $slow->send(frame_get("$key-big") . frame_lock($key, 1000 * $LONG) . frame_write($key, 'late', 0, 1));
    $h->wait_for(sub { $h->value('LockWaits') > $before }, $LONG, 'a wait');
    is(said($holder->unlock($key)), 'K', 'granted');
    nap($LEASE + 0.2);
    is(said($holder->lock($key)), 'V slow 1', 'its lease is over, and another asks');
    is(reply($slow), 'V y x 8000000', 'the large one');
    is(reply($slow), 'V slow 1', 'it is told, too late');
    is(reply($slow), 'B', 'but its write is refused');
    is(said($holder->unlock($key)), 'K', 'since the other has it');
    $_->close for $slow, $holder;
    is_settled('slow reader');
}

sub time_outs {
    my $key = key();
    my $holder = client();
    is(said($holder->lock($key)), 'N', 'held');
    my $timeouts = $h->value('Timeouts');
    my $c = waits($key, 1000 * (2 * $TIMEOUT + 1));
    nap(1), $holder->lock($key) for 1 .. 2 * $TIMEOUT;
    is(reply($c), 'B', 'B in its time: a wait is exempt from SessiondTimeout');
    is($h->value('Timeouts'), $timeouts, 'which is not counted');
    is(said($c->get($key)), 'N', 'the connection goes on');
    $c->send('G');
    is(($c->read_all)[0], 'reset', 'where the time-out holds again');
    $_->close for $c, $holder;
}

sub killed_process {
    my $key = key();
    my ($a, $b) = (client(), client());
    my (undef, $v) = $a->write($key, 'before');
    is(said($a->lock($key)), 'V before', 'A has the lock');
    my $waiter = waits($key);
    my $old = $h->kill_sessiond;
    $h->wait_respawn($old);
    is_deeply([$_->read_all], ['no', ''], 'who waited or held has no answer') for $waiter, $a;
    $b = client();
    is($h->value('LocksHeld') + $h->value('LockWaiters'), 0, 'no lock is left');
    is(said($b->lock($key)), 'V before', 'B has it');
    is(said($b->write($key, 'after', 0, $v->{version})), 'K', 'and writes');
    $a = client();
    is(said($a->write($key, 'late', 0, $v->{version})), 'B', 'A, who does not know: B');
    is(said($b->get($key)), 'V after', 'the data stands');
    $_->close for $a, $b, $waiter;
    $h->allow_log(qr/sessiond: .*(?:died|killed|signal|ended)|exit signal Killed/i);
}

# Unix sockets have no reset and no keep-alive; their ends count as much.
sub unix_sockets {
    my $key = key();
    my $unix = sub {
        my $c = Sessiond::Test::Client->new('unix:' . $h->root . '/s.sock', timeout => $LONG);
        is($c->open, 'ok', 'connect');
        return $c;
    };
    my ($a, $b) = ($unix->(), $unix->());
    is(said($a->lock($key)), 'N', 'a lock by a Unix socket');
    my $tcp = waits($key);
    $b->send(frame_lock($key, 1000 * $LONG) . frame_get($key));
    $h->wait_for(sub { $h->value('LockWaiters') == 2 }, $LONG, 'two waiters');
    is(said($a->write($key, 'by A')), 'K', 'written');
    is(reply($tcp), 'V by A', 'the next one, on TCP');
    $tcp->close;
    is_deeply([reply($b), reply($b)], ['V by A', 'V by A'], 'and the one after that');
    $a->send(frame_lock($key, 1000 * $LONG) . frame_get('none') x 20_000);
    $h->wait_for(sub { $h->value('LockWaiters') == 1 }, $LONG, 'a waiter');
    $a->close;
    ok($h->eventually(sub { $h->value('LockWaiters') == 0 }, 5), 'it ends with 180 KB behind its L, and is seen');
    my $c = waits($key);
    $b->close;
    is(reply($c), 'V by A', 'the end of a holder');
    $c->close;
    is_settled('Unix sockets');
}

# An eviction takes the value, not the lock.
sub evicted {
    my $key = key();
    my $c = client();
    is(said($c->write($key, 'nearest its end', 600)), 'K', 'a session');
    is(said($c->lock($key)), 'V nearest its end', 'locked');
    my $i = 0;
    $c->write('fill-' . $i++, 'x' x 200_000, 1000) while $i < 400 && $h->value('Evicted') == 0;
    is(said($c->get($key)), 'N', 'evicted');
    is(said(client()->lock($key)), 'B', 'and still locked');
    is(said($c->write($key, 'again', 600, 1)), 'K', 'its holder writes it');
    $c->close;
}

for (qw(event prefork)) {
    $mpm = $_;
    $h = Sessiond::Test::Httpd->new(name => "locks-$mpm", mpm => $mpm, config => <<"END")->start;
SessiondListen 127.0.0.1:%PORT%
SessiondListen unix:%ROOT%/s.sock
SessiondMemory 32M
SessiondThreads 2
SessiondTimeout $TIMEOUT
SessiondWhenFull evict
SessiondLockTimeout $LEASE
END
    subtest "$mpm: $$_[0]" => $$_[1]
        for ['40 in a queue', \&queue], ['waiting', \&waiting], ['what gives a lock up', \&hand_overs],
        ['what does not', \&keeps], ['the fence', \&fence], ['a pooled connection', \&pooled],
        ['frames behind a waiting L', \&pipelined], ['gone while waiting', \&gone_while_waiting],
        ['a client is killed', \&killed_client], ['a slow reader', \&slow_reader], ['time-outs', \&time_outs],
        ['Unix sockets', \&unix_sockets],
        ['eviction', \&evicted], ['the session process is killed', \&killed_process];
    is($h->check, 'clean', "$mpm: the store is clean");
    $h->finish;
}
done_testing;
