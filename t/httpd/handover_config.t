#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# What a changed configuration means to connections that are handed over: those
# that are no longer allowed are reset, time-outs count from when a wait began,
# threads have them dealt out anew, and nothing else ends.
use v5.36;
use FindBin ();
use POSIX   ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client qw(frame_store frame_write);
use Sessiond::Test::Halves ();
use Sessiond::Test::Load   qw(make_value);
use Sessiond::Test::Net    qw(now nap);

use constant MB => 1 << 20;

my $listen = "SessiondListen 127.0.0.1:%PORT%\nSessiondMemory 64M\n";
my $h = Sessiond::Test::Httpd->new(name => 'handover_config', config => <<"END")->start;
$listen
SessiondListen 127.0.0.1:%PORT2%
SessiondListen unix:%ROOT%/run/sessiond.sock
SessiondListen 0.0.0.0:%PORT3%
SessiondAllow all
SessiondThreads 3
END
my $unix = 'unix:' . $h->root . '/run/sessiond.sock';

sub all_ok ($halves, $name) {
    my ($outcomes, $which) = $halves->finish;
    is_deeply($outcomes, { ok => $halves->count }, $name) or diag $which;
    return;
}

sub change ($config) {
    my ($status, $output) = $h->reconfigure($config)->graceful;
    is($status, 0, 'graceful') or diag $output;
    return;
}

# An address of this host that is neither loopback nor the one connected to.
sub foreign_address () {
    my ($ip) = grep { !/^127\./ } split ' ', `hostname -I 2>/dev/null` || '';
    return $ip && $ip =~ /^[\d.]+$/ ? $ip : undef;
}

subtest 'listeners and threads' => sub {
    my %halves = map { $_->[0] => Sessiond::Test::Halves->new($_->[1], name => $_->[0], count => 2) }
        ['stays', $h->port], ['goes', $h->port(2)], ['unix', $unix];
    my $before = $h->value('TakenOver');
    change("$listen\nSessiondListen unix:%ROOT%/run/sessiond.sock\nSessiondThreads 1\n");
    all_ok($halves{$_}, "$_: every connection goes on") for sort keys %halves;
    is($h->value('TakenOver') - $before, 42, 'all of them were taken over');
    is(Sessiond::Test::Client->new($h->port(2))->open, 'refused', 'a removed socket takes no new ones');
    my $again = Sessiond::Test::Halves->new($unix, name => 'again', count => 2);
    change("$listen\nSessiondListen unix:%ROOT%/run/sessiond.sock\nSessiondListen 127.0.0.1:%PORT2%\nSessiondThreads 4\n");
    all_ok($again, 'from one thread to four');
    is($h->check, 'clean', 'the store is clean');
};

subtest 'who is no longer allowed' => sub {
    # Every address of 127/8 is loopback and always allowed, so strangers come from the
    # host's own address to another one, or the test cannot be made.
    my $own = foreign_address() or plan skip_all => 'this host has no address but loopback';
    change("$listen\nSessiondListen 0.0.0.0:%PORT3%\nSessiondAllow all\n");
    my $port = $h->port(3);
    my $inside = Sessiond::Test::Client->new("127.0.0.1:$port", from => $own);
    my $half   = Sessiond::Test::Client->new("127.0.0.1:$port", from => $own);
    my $friend = Sessiond::Test::Client->new("127.0.0.1:$port");
    my $opened = $inside->open;
    plan skip_all => "no connection from $own to 127.0.0.1: $opened" if $opened ne 'ok';
    is(($_->hello)[0], 'ok', 'a connection') for $inside, $friend;
    $half->open;
    $half->send(substr frame_store('half', 'x' x 10_000), 0, 5000);
    my ($refused, $blocks) = ($h->value('RefusedAddress'), $h->value('BlocksUsed'));
    $h->wait_for(sub { $h->value('ConnectionsOpen') == 3 }, 30, 'three connections');
    $h->allow_log(qr/SessiondAllow/);
    change("$listen\nSessiondListen 0.0.0.0:%PORT3%\n");
    is(($inside->read_all)[0], 'reset', 'who is no longer allowed is reset');
    is(($half->read_all)[0],   'reset', 'also in the middle of a store');
    is(($friend->hello)[0], 'ok', 'who is goes on');
    is($h->value('RefusedAddress'), $refused + 2, 'they are counted');
    $friend->close;
    $h->wait_for(sub { $h->value('ConnectionsOpen') == 0 }, 30, 'no connection');
    cmp_ok($h->value('BlocksUsed'), '<', $blocks, 'what they held was given back');
    is($h->check, 'clean', 'the store is clean');
};

subtest 'time-outs' => sub {
    change($listen);
    my ($idle, $half) = map { Sessiond::Test::Client->new($h->port) } 1, 2;
    is(($idle->hello)[0], 'ok', 'an idle connection');
    is(($half->hello)[0], 'ok', 'and one');
    $half->send(substr frame_write('slow', 'x' x 1000), 0, 500);    # in the middle of a request
    my $began = now();
    nap(0.2) while now() - $began < 2.2;
    change("$listen\nSessiondIdleTimeout 3\nSessiondTimeout 3\n");
    is(($idle->read_all)[0], 'no', 'an idle one ends by the new time, in order');
    cmp_ok(now() - $began, '>=', 2.9, sprintf 'which counts from when it began to wait: after %.1f s', now() - $began);
    is(($half->read_all)[0], 'reset', 'a request that does not move ends by the new time, in a reset');
    cmp_ok($h->value('IdleTimeouts'), '>=', 1, 'both');
    cmp_ok($h->value('Timeouts'),     '>=', 1, 'are counted');
};

subtest 'the limit of connections' => sub {
    change($listen);
    my $halves = Sessiond::Test::Halves->new($h->port, count => 3);
    change("$listen\nSessiondMaxConnections 5\n");
    is((Sessiond::Test::Client->new($h->port)->hello)[0], 'reset', 'a new one is too many now');
    all_ok($halves, 'those that are open go on');
    change($listen);
};

# Values that are held back, and one whose turn it is.
subtest 'when memory is short' => sub {
    my @slow = map {
        my ($c, $frame) = (Sessiond::Test::Client->new($h->port, timeout => 100), frame_store("slow$_", make_value("slow$_", 1, 6 * MB)));
        $c->open;
        $c->send(substr $frame, 0, 5 * MB, '') if $_ <= 3;
        [$c, $frame, "slow$_"];
    } 1 .. 6;
    my $held = $h->value('HeldBack');
    # More than the kernel takes, so each is sent from a process of its own.
    my @pids = map {
        my ($c, $frame, $key) = @$_;
        my $pid = fork // die "fork: $!";
        if ($pid == 0) {
            my $fine = $c->send($frame) eq 'ok' && join('', ($c->read_all)[1]) eq "OK\n";
            POSIX::_exit($fine ? 0 : 1);
        }
        $c->close;
        $pid;
    } @slow[3 .. 5];
    $h->wait_for(sub { $h->value('HeldBack') > $held }, 60, 'a value that is held back');
    change($listen) for 1 .. 3;
    is(($_->[0]->send($_->[1]), ($_->[0]->read_all)[1])[-1], "OK\n", "$_->[2] is stored") for @slow[0 .. 2];
    for my $pid (@pids) { waitpid $pid, 0; is($?, 0, 'one that was held back is stored') }
    my $c = Sessiond::Test::Client->new($h->port, timeout => 100);
    is(($c->fetch($_->[2]))[1], make_value($_->[2], 1, 6 * MB), "$_->[2] is whole") for @slow;
    is($h->check, 'clean', 'the store is clean');
    is($h->value('RepairedBlocks'), 0, 'and had nothing to repair');
};

is($h->value('HandoverLost') + $h->value('Drained'), 0, 'nothing was lost on the way');
$h->finish;
done_testing;
