#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Many who wait for session locks, and some who overdo it: what a waiter costs in
# memory and, idle, in processor time; how long a hand-over takes beside thousands
# of them; and that clients which lock and unlock without end, or ask and begin
# anew, neither bring the session process down nor keep the others from their turn.
# SESSIOND_TEST_LONG=1: 10,000 waiters instead of 1,000.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use IO::Select ();
use POSIX ();
use Test::More;
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client qw(frame_hello frame_get frame_lock frame_unlock parse_reply);
use Sessiond::Test::Net    qw(now nap);
use Sessiond::Test::Timing qw(percentile);

my $LONG    = 60;       # seconds that an answer may take on a stalled machine
my $WAITERS = $ENV{SESSIOND_TEST_LONG} ? 10_000 : 1_000;
my $MOST    = 64;       # locks of one connection

# Both ends of a connection are files of this machine, in two processes.
sub descriptors () {
    open my $fh, '<', '/proc/self/limits' or die "/proc/self/limits: $!";
    my ($soft, $hard) = join('', readline $fh) =~ /^Max open files\s+(\d+)\s+(\d+)/m;
    my $wanted = $WAITERS + 600;
    system 'prlimit', '--pid', $$, "--nofile=$hard:$hard" if $soft < $wanted && $soft < $hard;
    return $hard;
}
my $files = descriptors();
if ($files < $WAITERS + 600) {
    $WAITERS = $files - 600;
    diag("only $WAITERS waiters: a process may have $files descriptors");
}

my $h = Sessiond::Test::Httpd->new(name => 'locks_crowd', config => <<"END")->start;
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 64M
SessiondThreads 2
SessiondMaxConnections ${\($WAITERS + 500)}
SessiondLockTimeout 3600
END
my $pid = $h->sessiond_pid;

sub client () {
    my $c = Sessiond::Test::Client->new($h->port, timeout => $LONG);
    my $outcome = $c->open;
    $outcome eq 'ok' or die "connect: $outcome";
    return $c;
}

sub type ($outcome, @replies) { return $outcome eq 'ok' ? join '', map { $_->{type} } @replies : $outcome }

# Bytes of its own memory that are resident, the sessions not among them.
sub heap () {
    open my $fh, '<', "/proc/$pid/status" or die "/proc/$pid/status: $!";
    my ($kb) = join('', readline $fh) =~ /^RssAnon:\s+(\d+)/m;
    return $kb * 1024;
}

# Share of one core over some seconds.
sub busy ($seconds) {
    my $ticks = sub () {
        open my $fh, '<', "/proc/$pid/stat" or die "/proc/$pid/stat: $!";
        my @field = split ' ', (readline($fh) =~ s/.*\) //r);
        return $field[11] + $field[12];
    };
    my ($before, $begin) = ($ticks->(), now());
    nap($seconds);
    return ($ticks->() - $before) / POSIX::sysconf(POSIX::_SC_CLK_TCK()) / (now() - $begin);
}

sub is_settled ($held, $waiters, $name) {
    return ok($h->eventually(sub { $h->value('LocksHeld') == $held && $h->value('LockWaiters') == $waiters }, $LONG),
        "$name: $held locks, $waiters wait");
}

# All say hello, so that what they cost is not counted as that of a wait.
my $before = heap();
my @c = map { my $c = client(); $c->send(frame_hello('12345678')); $c } 1 .. $WAITERS;
$_->read_reply for @c;
my $idle = heap();
my $quiet = busy(2);
diag(sprintf '%d idle connections: %.0f bytes each, %.1f%% of a core', $WAITERS, ($idle - $before) / $WAITERS, 100 * $quiet);

# Of waiters that are there by now.
sub look ($name) {
    my $heap = heap();
    my $share = busy(3);
    my $each = ($heap - $idle) / $WAITERS;
    diag(sprintf '%s: %.0f bytes more for each, %.1f%% of a core', $name, $each, 100 * $share);
    cmp_ok($each, '<', 1500, 'a waiter costs little memory');
    cmp_ok($share, '<', $quiet + 0.1, 'and no processor time');
    return;
}

subtest "$WAITERS wait for one key" => sub {
    my $holder = client();
    is(type($holder->lock('one')), 'N', 'it is locked');
    my $begin = now();
    for my $i (0 .. $#c) {    # their order is that of the queue
        $c[$i]->send(frame_lock('one', 600_000));
        $h->eventually(sub { $h->value('LockWaiters') == $i + 1 }, $LONG) if $i < 300;
    }
    is_settled(1, $WAITERS, 'all');
    look("$WAITERS waiters of one key");
    my (@took, $last);
    for my $i (0 .. 299) {
        my $from = $i == 0 ? $holder : $c[$i - 1];
        $begin = now();
        $from->send(frame_unlock('one'));
        $last = type($c[$i]->read_reply);
        push @took, now() - $begin;
        last if $last ne 'N' || type($from->read_reply) ne 'K';
    }
    is(scalar @took, 300, '300 hand-overs, each to the next in the queue') or diag $last;
    @took = sort { $a <=> $b } @took;
    diag(sprintf 'from unlock to grant beside %d waiters: p50 %.2f ms, p99 %.2f ms', $WAITERS,
        map { 1000 * percentile($_, @took) } 0.5, 0.99);
    $_->send(frame_hello('12345678')) for $holder, @c;
    is_settled(0, 0, 'a hello of each');
    my %types;
    $types{ type($_->read_reply) . ($_ == $c[299] ? '' : type($_->read_reply)) }++ for @c[299 .. $#c];
    my $others = $WAITERS - 300;
    is($types{K}, 1, 'the holder has its hello');
    is(($types{BK} // 0) + ($types{NK} // 0), $others, 'all others an answer to the L before');
    $_->read_reply for $holder, @c[0 .. 298];
    $holder->close;
};

subtest "$WAITERS keys with one waiter each" => sub {
    my @holder = map { client() } 1 .. POSIX::ceil($WAITERS / $MOST);
    for my $k (0 .. $#holder) {
        my @key = grep { $_ < $WAITERS } $k * $MOST .. $k * $MOST + $MOST - 1;
        is(type($holder[$k]->call(map { frame_lock("key-$_", 0) } @key)), 'N' x @key, 'locked') or last;
    }
    $c[$_]->send(frame_lock("key-$_", 600_000)) for 0 .. $#c;
    is_settled($WAITERS, $WAITERS, 'all');
    look("$WAITERS keys with a holder and a waiter each");
    my $begin = now();
    $_->send(frame_hello('12345678')) for @holder;
    my $granted = grep { type($_->read_reply) eq 'N' } @c;
    my $took = now() - $begin;
    is($granted, $WAITERS, 'each is granted when the holders begin anew');
    diag(sprintf '%d grants in %.0f ms', $granted, 1000 * $took);
    is_settled($WAITERS, 0, 'all');
    $_->abort for @c;
    is_settled(0, 0, 'and gone');
    $_->close for @holder;
};

# Each L that waits is given up by the P behind it, all in one stream.
subtest 'asking and beginning anew, 40,000 times' => sub {
    my $holder = client();
    is(type($holder->lock('k')), 'N', 'somebody else has it');
    my $c = client();
    my $n = 40_000;
    my $writer = fork // die "fork: $!";
    if ($writer == 0) {
        my $stream = (frame_lock('k', 600_000) . frame_hello('12345678')) x $n;
        $c->send($stream);
        POSIX::_exit(0);
    }
    my ($good, $what) = (0, '');
    for (1 .. $n) {
        $what = type($c->read_reply) . type($c->read_reply);
        last if $what ne 'BK';
        $good++;
    }
    is($good, $n, 'each is answered by B and K') or diag $what;
    waitpid $writer, 0;
    is(type($holder->unlock('k')), 'K', 'the other has it still');
    is($h->sessiond_pid, $pid, 'and the session process is the same');
    $_->close for $c, $holder;
    is_settled(0, 0, 'after that');
};
is($h->check, 'clean', 'the store is clean');
$h->finish;

# On one thread, so that each could keep it for itself.
$h = Sessiond::Test::Httpd->new(name => 'locks_turns', config => <<"END")->start;
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 64M
SessiondThreads 1
END
subtest 'locks that go round without end' => sub {
    my @busy;
    for (1 .. 6) {
        my $child = fork // die "fork: $!";
        push(@busy, $child), next if $child;
        my $c = client();
        if (fork // 0) { 1 while $c->send((frame_lock('k', 600_000) . frame_unlock('k')) x 3000 . '') eq 'ok' }
        else           { 1 while sysread $c->socket, my $answers, 262_144 }
        POSIX::_exit(0);
    }
    ok($h->eventually(sub { $h->value('LockGrants') > 1000 }, $LONG), 'six connections hand a lock round');
    my $c = client();
    my ($until, @took) = (now() + 3);
    while (now() < $until) {
        my $begin = now();
        is(type($c->get('x')), 'N', 'another is served') or last if @took < 3 || @took % 100 == 0;
        $c->get('x');
        push @took, now() - $begin;
    }
    @took = sort { $a <=> $b } @took;
    diag(sprintf '%d gets beside them: p50 %.2f ms, p99 %.2f ms', scalar @took, map { 1000 * percentile($_, @took) } 0.5, 0.99);
    cmp_ok(scalar @took, '>', 100, 'all the time');
    cmp_ok($took[-1], '<', 1, 'and soon');
    kill KILL => @busy;
    waitpid $_, 0 for @busy;
    $c->close;
};
is($h->check, 'clean', 'the store is clean');
$h->finish;
done_testing;
