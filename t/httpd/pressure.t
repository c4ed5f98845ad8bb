#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Who gives way when memory is short: values on their way in hold a quarter of
# it at most, those who send too slowly while others wait are reset, readers
# that keep replaced sessions alive are reset before a store is refused. With
# one thread and with two, since the order of requests holds over all threads.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use POSIX  ();
use Test::More;
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client qw(frame_store frame_fetch frame_get frame_write);
use Sessiond::Test::Load   qw(make_value check_value);
use Sessiond::Test::Net    qw(now nap);

use constant { MB => 1 << 20, BLOCK => 256 };

my $config = <<'END';
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 16M
SessiondMaxSize 4M
SessiondTimeout 60
END
my $h;
my @children;

sub in_child ($code) {
    my $pid = fork // die "fork: $!";
    if ($pid == 0) {
        my $outcome = eval { $code->() } // 'died';
        POSIX::_exit({ ok => 0, reset => 1 }->{$outcome} // 2);
    }
    push @children, $pid;
    return $pid;
}
END { kill KILL => @children if @children }

# How many of these ended in: an answer, a reset, otherwise.
sub ends (@pids) {
    my @n = (0, 0, 0);
    for my $pid (@pids) {
        waitpid $pid, 0;
        my $code = $? >> 8;
        $n[$? & 127 || $code > 1 ? 2 : $code]++;
    }
    @children = ();
    return @n;
}

sub pipes () { pipe(my $out, my $in) or die "pipe: $!"; return ($out, $in) }

# Bytes of ours that the other side's kernel does not have yet.
sub unsent ($socket) {
    my $n = pack 'i', 0;
    ioctl $socket, 0x5411, $n or die "SIOCOUTQ: $!";
    return unpack 'i', $n;
}

sub used () { return $h->value('BlocksUsed') * BLOCK }

# Sends the first part of a store and then no more; its end is the outcome.
sub half_a_store ($key, $size, $part) {
    my $client = Sessiond::Test::Client->new($h->port, timeout => 120);
    $client->open;
    my $outcome = $client->send(substr frame_store($key, 'x' x $size), 0, $part);
    return $outcome if $outcome ne 'ok';
    return ($client->read_all)[0];
}

sub values_in_a_quarter () {
    my $c      = Sessiond::Test::Client->new($h->port);
    my $before = used();
    my @slow   = map { my $n = $_; in_child(sub { half_a_store("slow$n", 2 * MB, 1.5 * MB) }) } 1 .. 20;
    $h->wait_for(sub { $h->value('HeldBack') > 0 }, 60, 'a value that is held back');
    my ($most, $good, $tried) = (0, 0, 0);
    while ($h->value('SlowWriters') < 2) {
        $good += $c->store("small$tried", make_value("small$tried", 1, 2000)) eq 'ok';
        $tried++;
        my $now = used() - $before;
        $most = $now if $now > $most;
        nap(0.02);
    }
    is($good, $tried, "$tried small stores went through meanwhile");
    # a quarter, one that goes first, what one read takes more for each thread
    cmp_ok($most, '<=', 4 * MB + 2.1 * MB + 0.3 * MB, sprintf 'incoming values held %.1f MB at most', $most / MB);
    cmp_ok($most, '>=', 3 * MB, 'and about a quarter of the memory');
    is(($c->fetch('slow1'))[0], 'no', 'nothing of theirs was stored');
    my $began = now();
    my $large = make_value('large', 1, 3 * MB);
    is($c->store('large', $large), 'ok', sprintf 'a large one waits its turn and is stored (%.1f s)', now() - $began);
    is(check_value('large', ($c->fetch('large'))[1]), 1, 'whole');
    kill TERM => @slow;
    ends(@slow);
    $h->wait_for(sub { $h->value('ConnectionsOpen') == 0 }, 60, 'no connection open');
    is($c->delete('large'), 'ok', 'it goes');
    cmp_ok(used() - $before, '<', 0.1 * MB + $tried * 2500, 'all of their memory has come back');
    $c->delete("small$_") for 0 .. $tried - 1;
    is($h->value('RefusedFull'), 0, 'nothing was refused');
}

# Six stores of 1.4 MB, more than the quarter, none of them slow.
sub crowd () {
    return map {
        my $n = $_;
        in_child(sub {
            my $mine = Sessiond::Test::Client->new($h->port, timeout => 120);
            my $all  = frame_store("crowd$n", 'x' x (1.4 * MB));
            $mine->open;
            my $outcome = $mine->send(substr $all, 0, 0.9 * MB, '');
            nap(0.5);
            while ($outcome eq 'ok' && length $all) {
                $outcome = $mine->send(substr $all, 0, 40_000, '');
                nap(0.1);
            }
            return $outcome eq 'ok' ? ($mine->read_all)[0] : $outcome;
        })
    } 1 .. 6;
}

# Whoever went first and does not take the reply to what came after its value
# keeps nobody waiting; and a value that lies whole in the socket waits for nobody.
sub the_turn_is_over_with_the_value () {
    my $c    = Sessiond::Test::Client->new($h->port, timeout => 60);
    my $held = $h->value('HeldBack');
    is($c->store('big', 'b' x (3 * MB)), 'ok', 'a large value');
    my $first = Sessiond::Test::Client->new($h->port, timeout => 120, receive => 4096);
    my $write = frame_write('first', 'w' x (1.2 * MB));
    $first->open;
    $first->send(substr $write, 0, 300_000, '');
    my @crowd = crowd();
    $h->wait_for(sub { $h->value('HeldBack') > $held }, 60, 'a value that is held back');
    my $began = now();
    my $rest  = in_child(sub { my $end = $first->send($write . frame_get('big')); nap(60); return $end });
    my $mail  = Sessiond::Test::Client->new($h->port);
    is($mail->store('whole', 'h' x 60_000), 'ok', 'a value that lies whole in the socket');
    cmp_ok(now() - $began, '<', 5, sprintf 'does not wait (%.2f s)', now() - $began);
    my ($ok, $reset, $other) = ends(grep { $_ != $rest } @children);
    kill KILL => $rest;
    waitpid $rest, 0;
    is("$ok $reset $other", '6 0 0', 'all of the crowd were served');
    cmp_ok(now() - $began, '<', 30, sprintf 'and did not wait for the deaf one (%.1f s)', now() - $began);
    $first->close;
    $h->wait_for(sub { $h->value('ConnectionsOpen') == 0 }, 60, 'no connection open');
    $c->delete($_) for 'big', 'first', 'whole', map { "crowd$_" } 1 .. 6;
}

# Large values that come just fast enough keep the quarter; sessions of less than
# a 256th of the memory still begin, also in pieces.
sub small_beside_large () {
    my $held = $h->value('HeldBack');
    my @pacers = map {
        my $n = $_;
        in_child(sub {
            my $mine = Sessiond::Test::Client->new($h->port, timeout => 120);
            my $all = frame_store("pacer$n", 'x' x (3.9 * MB));
            $mine->open;
            my $outcome = $mine->send(substr $all, 0, MB, '');
            while ($outcome eq 'ok' && length $all) {
                nap(0.5);
                $outcome = $mine->send(substr $all, 0, 60_000, '');
            }
            return $outcome;
        })
    } 1 .. 8;
    $h->wait_for(sub { $h->value('HeldBack') > $held }, 60, 'a value that is held back');
    my $small = make_value('pieces', 1, 60_000);
    my (%end, $slowest);
    for (1 .. 20) {
        my $began = now();
        my $c = Sessiond::Test::Client->new($h->port)->no_delay;
        my $request = frame_store('pieces', $small);
        $c->open;
        $c->send(substr $request, 0, 30_000, '');
        nap(0.02);
        $c->send($request);
        $end{ join ' ', $c->read_all }++;
        $slowest = now() - $began if now() - $began > ($slowest // 0);
    }
    is_deeply(\%end, { "ok OK\n" => 20 }, 'twenty small ones are stored, each in two pieces');
    cmp_ok($slowest, '<', 5, sprintf 'without a wait behind the large ones (%.2f s)', $slowest);
    cmp_ok(scalar(grep { kill 0 => $_ } @pacers), '>=', 4, 'which are still at it');
    kill TERM => @pacers;
    ends(@pacers);
    $h->wait_for(sub { $h->value('ConnectionsOpen') == 0 }, 60, 'no connection open');
    Sessiond::Test::Client->new($h->port)->delete('pieces');
}

# All of them at once are three times the quarter, and none is slow by itself.
sub everybody_in_turn () {
    my $c    = Sessiond::Test::Client->new($h->port);
    my $slow = $h->value('SlowWriters');
    my @pids = map {
        my $n = $_;
        in_child(sub {
            my $mine = Sessiond::Test::Client->new($h->port, timeout => 120);
            for my $round (1 .. 5) {
                my $outcome = $mine->store("many$n", make_value("many$n", $round, 0.8 * MB));
                return $outcome if $outcome ne 'ok';
            }
            return 'ok';
        })
    } 1 .. 12;
    my ($ok, $reset, $other) = ends(@pids);
    is("$ok $other", '12 0', 'all of twelve writers were served') or diag "$reset were reset";
    is(scalar(grep { (check_value("many$_", ($c->fetch("many$_"))[1]) // 0) == 5 } 1 .. 12), 12, 'their last values are there');
    is($h->value('SlowWriters'), $slow, 'none was taken for a slow one');
    $c->delete("many$_") for 1 .. 12;
}

# Values that lie whole in their sockets do not wait for the quarter: so each is
# taken at one go, or all of them at once would take the memory that nobody has
# been refused until now. The process stands still until they have arrived, and
# before that their connections have shown the kernel that they deserve room.
sub whole_in_their_sockets () {
    my $c = Sessiond::Test::Client->new($h->port);
    my ($arrived, $to_test) = pipes();
    my ($begun, $begin)     = pipes();
    my @pids = map {
        my $n = $_;
        in_child(sub {
            my $mine = Sessiond::Test::Client->new($h->port, timeout => 120);
            $mine->open;
            for my $round (1 .. 4) {
                my $outcome = ($mine->write("whole$n", make_value("whole$n", $round, 0.85 * MB)))[0];
                return $outcome if $outcome ne 'ok';
            }
            syswrite $to_test, 'r';
            close $begin;
            sysread $begun, my $byte, 1;
            my $outcome = $mine->send(frame_write("whole$n", make_value("whole$n", 5, 0.85 * MB)));
            my $until = now() + 3;
            nap(0.02) while unsent($mine->socket) > 0 && now() < $until;
            syswrite $to_test, 's';
            return $outcome ne 'ok' ? $outcome : ($mine->read_reply)[0];
        })
    } 1 .. 11;
    close $to_test;
    sysread $arrived, my $byte, 1 for @pids;
    my $process = $h->sessiond_pid;
    kill STOP => $process;
    close $begin;
    sysread $arrived, $byte, 1 for @pids;
    kill CONT => $process;
    my ($ok, $reset, $other) = ends(@pids);
    is("$ok $other", '11 0', 'all of eleven writers were served') or diag "$reset were reset";
    is(scalar(grep { (check_value("whole$_", ($c->fetch("whole$_"))[1]) // 0) == 5 } 1 .. 11), 11, 'their last values are there');
    is($h->value('RefusedFull'), 0, 'nobody was refused');
    $c->delete("whole$_") for 1 .. 11;
}

sub stalled_reader ($key) {
    my $client = Sessiond::Test::Client->new($h->port, timeout => 120, receive => 4096);
    $client->open;
    $client->send(frame_fetch($key));
    return $client;
}

sub readers_give_way () {
    my $c     = Sessiond::Test::Client->new($h->port, timeout => 60);
    my $slow  = $h->value('SlowReaders');
    my $bytes = 3.5 * MB;
    is($c->store("read$_", make_value("read$_", 1, $bytes)), 'ok', "a value of 3.5 MB") for 1 .. 3;
    my @readers = map { stalled_reader("read$_") } 1 .. 3, 1 .. 3;
    my $keeper  = stalled_reader('read3');
    $h->wait_for(sub { $h->value('FetchHits') >= 7 }, 30, 'seven readers');
    nap(0.3);
    is($c->delete("read$_"), 'ok', "it is deleted while they read") for 1 .. 2;
    cmp_ok(used(), '>', 10 * MB, 'and its memory is still in use');
    nap(1.5);    # they have taken nothing for a second
    is($c->store("new$_", make_value("new$_", 1, $bytes)), 'ok', "a new value of 3.5 MB, number $_") for 1 .. 3;
    is($h->value('SlowReaders') - $slow, 4, 'the four who kept deleted values were reset');
    is($h->value('RefusedFull'), 0, 'nobody was refused');
    my %end;
    $end{ ($_->read_all)[0] }++ for @readers[0, 1, 3, 4];
    is_deeply(\%end, { reset => 4 }, 'they see a reset');
    is(check_value('read3', ($readers[2]->read_all)[1]), 1, 'who reads a live value gets all of it');
    is(check_value('read3', ($keeper->read_all)[1]),     1, 'and so does the other');
    isnt($c->store('too-much', make_value('too-much', 1, $bytes)), 'ok', 'with nobody left to ask a store is refused');
    cmp_ok($h->value('RefusedFull'), '>', 0, 'and counted');
    $c->delete($_) for 'read3', map { "new$_" } 1 .. 3;
}

for my $threads (1, 2) {
    my $all = $config . "SessiondThreads $threads\n";
    if ($h) { $h->stop; $h->reconfigure($all) }
    else    { $h = Sessiond::Test::Httpd->new(name => 'pressure', config => $all) }
    $h->start;
    subtest "incoming values, threads: $threads" => \&values_in_a_quarter;
    subtest "the turn, threads: $threads" => \&the_turn_is_over_with_the_value;
    subtest "small beside large ones, threads: $threads" => \&small_beside_large;
    subtest "fast ones in turn, threads: $threads" => \&everybody_in_turn;
    subtest "whole in their sockets, threads: $threads" => \&whole_in_their_sockets;
    subtest "stalled readers, threads: $threads" => \&readers_give_way;
    is($h->check, 'clean', 'the store is clean');
}

# On a Unix socket, since the kernel would keep all of it for a TCP client. It
# tells the server of room only when three quarters of its buffer are free.
subtest 'a reply has a time to be over, too' => sub {
    plan skip_all => 'takes half a minute: SESSIOND_TEST_LONG=1' unless $ENV{SESSIOND_TEST_LONG};
    my $path = $h->root . '/sessiond.sock';
    $h->stop;
    $h->reconfigure($config =~ s/Timeout 60/Timeout 5/r . "SessiondListen unix:$path 0666\n")->start;
    my $c    = Sessiond::Test::Client->new("unix:$path");
    my $size = 20 * 65536;
    is($c->store('sipped', make_value('sipped', 1, $size)), 'ok', 'a value of 1.3 MB');
    my ($began, $bytes) = (now(), 0);
    $c->open;
    $c->send(frame_fetch('sipped'));
    # 5 s and some 17 s for what the socket does not take at once; at this pace it would take 35 s
    until ($h->value('Timeouts') > 0 || now() - $began > 60) {
        my $due = (now() - $began) * 37_000;
        $bytes += sysread($c->socket, my $some, $due - $bytes) // last if $due - $bytes > 1000;
        nap(0.1);
    }
    my $took = now() - $began;
    is($h->value('Timeouts'), 1, "whoever sips is cut off, here after $bytes bytes");
    cmp_ok($took, '>=', 20, sprintf 'not before its time (%.1f s)', $took);
    cmp_ok($took, '<',  40,   'nor long after it');
    cmp_ok($bytes + length(($c->read_all)[1]), '<', $size, 'it has not got all of it');
};

$h->allow_log(qr/full/i);
$h->finish;
done_testing;
