#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Clients that misuse requests: large stores that stop half-way, questions and
# stores whose answers nobody reads, connects by the thousand, resets in the
# middle, ends before, within and after a request. One load of good clients
# runs through all of it: it loses nothing, is refused nothing and does not get
# slower, and what the bad ones held comes back.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::BadClients ();
use Sessiond::Test::Client     qw(frame_store frame_fetch frame_hello frame_get frame_write);
use Sessiond::Test::Httpd      ();
use Sessiond::Test::Load       ();
use Sessiond::Test::Timing     qw(window windows_of);

my $LONG    = $ENV{SESSIOND_TEST_LONG};
my $QUIET   = $LONG ? 2 : 0.6;
my $LOUD    = $LONG ? 6 : 1;
my $MB      = 1 << 20;
my $MEMORY  = 64 * $MB;
my $GOOD    = 12;           # clients of the load

my $h = Sessiond::Test::Httpd->new(name => 'hostile_requests', config => <<'END')->start;
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 64M
SessiondTimeout 3
SessiondThreads 2
END
my $c = Sessiond::Test::Client->new($h->port);
is($c->store("large$_", 'a' x $MB), 'ok', "a large session, large$_") for 1, 2;
my $load = Sessiond::Test::Load->new(addr => $h->port, clients => $GOOD, extended => 0.5, rate => 200, live => 10,
    fetches => 0.6, timings => 1)->start;
$h->wait_for(sub { $h->value('Stores') > 200 }, 60, 'the load');

my @judge;                  # what can be said only after the load has ended

# Runs bad clients after quiet windows of the load, and takes loud ones as soon
# as they have come so far. Returns what they saw, the counters' growth, and the
# most memory that was used.
sub meanwhile ($name, $kinds, $is_enough = sub ($seen) { 1 }, $is_so_far = sub ($grown) { 1 }) {
    my ($seen, $grown, $most);
    push @judge, windows_of("beside $name", $load, ['store|update|fetch'], sub ($try) {
        my @quiet  = map { window($QUIET) } 1 .. 2;
        my $before = $h->status;
        my $growth = sub {
            my $is = $h->status;
            return { map { /^Sessiond/ && $is->{$_} =~ /^\d+$/ && ($before->{$_} // '') =~ /^\d+$/
                ? (s/^Sessiond//r => $is->{$_} - $before->{$_}) : () } keys %$is };
        };
        my $bad = Sessiond::Test::BadClients->new(addr => $h->port, kinds => $kinds, keys => ['large1', 'large2'])->start;
        my @loud;
        $most = 0;
        my $look = sub {
            my $used = $growth->()->{BlocksUsed} * 256;
            $most = $used if $used > $most;
        };
        $h->eventually(sub { $is_so_far->($growth->()) }, 60);
        for (1 .. 3) {
            push @loud, window($LOUD);
            $look->();
        }
        $h->eventually(sub { $look->(); $is_enough->($bad->seen) }, 60);
        $seen = $bad->stop;
        diag "$name: " . $bad->describe;
        ok($h->eventually(sub { $h->value('ConnectionsOpen') <= $GOOD }, 60), 'their connections end with them');
        $grown = $growth->();
        diag sprintf '%s: at most %.1f MB more in use', $name, $most / $MB;
        return (\@quiet, \@loud);
    });
    return ($seen, $grown, $most);
}

subtest 'stores of 30 MB that stop half-way' => sub {
    my ($seen, $grown, $most) = meanwhile('halfway', { halfway => 40 }, sub ($seen) { ($seen->{reset_halfway} // 0) > 5 });
    cmp_ok($seen->{bytes_out}, '>', $MEMORY / 8, 'much was sent');
    # ... and the one that goes first some more, of which none sends over 15 MB.
    cmp_ok($most, '<', $MEMORY / 4 + 18 * $MB, 'what comes in has a quarter of the memory');
    cmp_ok($grown->{HeldBack}, '>', 0, 'the others are held back');
    cmp_ok($grown->{SlowWriters} + $grown->{Timeouts}, '>', 5, 'who stops while others wait is reset');
    is($grown->{RefusedFull}, 0, 'memory is never full');
};

subtest 'stores of 10 MB that go on' => sub {
    my ($seen, $grown, $most) = meanwhile('whole', { whole => 6 }, sub ($seen) { ($seen->{whole_done} // 0) >= 12 });
    cmp_ok($seen->{whole_done} // 0, '>=', 12, 'all come to their end, though they do not fit in at once');
    # Unless this machine has made one of them stand still for a second.
    cmp_ok($seen->{reset_whole} // 0, '<=', 3, 'none is taken for one that stops');
    is($c->delete("whole$_"), 'ok', "whole$_ was stored") for 0, 1;
};

subtest 'stores of 30 MB that keep up just the pace they must' => sub {
    my ($seen, $grown, $most) = meanwhile('pacer', { pacer => 120 }, sub ($seen) { 1 }, sub ($grown) { $grown->{HeldBack} > 50 });
    cmp_ok($grown->{HeldBack}, '>', 50, 'most of them are held back');
    cmp_ok($most, '<', $MEMORY / 4 + 18 * $MB, 'they have a quarter of the memory');
    is($grown->{RefusedFull}, 0, 'memory is never full');
};

subtest 'a megabyte is asked for a thousand times, and not read' => sub {
    my ($seen, $grown, $most) = meanwhile('deaf_pipeline', { deaf_pipeline => 20, rewriter => 2 },
        sub ($seen) { ($seen->{reset_deaf_pipeline} // 0) > 10 });
    cmp_ok($seen->{reset_deaf_pipeline} // 0, '>', 10, 'they are reset');
    cmp_ok($grown->{BytesOut}, '<', 300 * $MB, 'long before all was sent');
    cmp_ok($most, '<', $MEMORY * 7 / 8, 'what they hold is bounded');
};

subtest 'stores without an end whose answers are not read' => sub {
    my ($seen, $grown, $most) = meanwhile('deaf_writer', { deaf_writer => 30 },
        sub ($seen) { ($seen->{reset_deaf_writer} // 0) > 10 });
    cmp_ok($seen->{reset_deaf_writer} // 0, '>', 10, 'nothing is read from them any more, and they are reset');
    cmp_ok($grown->{Writes}, '>', 100, 'what they wrote before was done');
    $c->delete("deaf-writer1-$_") for 0 .. 29;
};

subtest 'connect and close, again and again' => sub {
    my ($seen, $grown) = meanwhile('closer', { closer => 20 });
    cmp_ok($seen->{opened_closer}, '>', 200, "$seen->{opened_closer} times");
    is($grown->{AcceptErrors}, 0, 'accepting never paused');
};

subtest 'a reset in the middle of requests, again and again' => sub {
    my ($seen, $grown) = meanwhile('resetter', { resetter => 20 });
    cmp_ok($seen->{opened_resetter}, '>', 100, "$seen->{opened_resetter} times");
    cmp_ok($grown->{Aborted}, '>', 50, 'which is counted');
    $c->delete("storm1-$_") for 0 .. 19;
};

# The client has nothing more to say and says so. What is complete is answered.
subtest 'half a connection' => sub {
    my $store = frame_store('half', 'h' x 5000);
    my $write = frame_write('half-w', 'h' x 5000);
    for my $case (
        ['before a request',        '',                                             'no',    ''],
        ['within a head',           substr($store, 0, 5),                           'no',    ''],
        ['within a key',            substr($store, 0, 11),                          'no',    ''],
        ['within data',             substr($store, 0, 3000),                        'no',    ''],
        ['after a store',           $store,                                         'ok',    "OK\n"],
        ['after a fetch',           frame_fetch('half'),                            'ok',    'h' x 5000],
        ['after a large fetch',     frame_fetch('large1'),                          'ok',    undef],
        ['within a frame',          substr($write, 0, 3000),                        'no',    ''],
        ['after a frame and a half', frame_hello('half-hal') . substr($write, 0, 99), 'ok',  undef],
        ['after frames',            $write . frame_get('half-w'),                   'ok',    undef],
    ) {
        my ($name, $bytes, $outcome, $answer) = @$case;
        my ($end, $got) = $c->exchange($bytes, half_close => 1);
        is($end, $outcome, "$name: how it ends");
        is($got, $answer, "$name: the answer") if defined $answer;
        cmp_ok(length $got, '==', $MB, "$name: the whole of it") if $name =~ /large/;
        like($got, qr/^K.{4}half-hal[^K]*$/s, "$name: only the whole frame is answered") if $name =~ /frame and/;
        like($got, qr/^K\0\0\0\x08.{8}V.{12}h{5000}$/s, "$name: both are answered") if $name =~ /after frames/;
    }
    is(($c->get('half-w'))[1]{type}, 'V', 'what was whole is stored');
    $c->close;
    $c->delete($_) for qw(half half-w);
};

my $sum = $load->stop;
diag $load->describe;
subtest 'the good ones' => sub {
    $_->() for @judge;
    cmp_ok($sum->{updated}, '>', 100, "live sessions are stored again ($sum->{updated})");
    is_deeply($sum->{other}, {}, 'and never refused');
    is_deeply([@$sum{qw(missed wrong denied refused cut timeout reset)}], [(0) x 7], 'no request got another answer than its own');
    my $found = $load->verify;
    is($found->{asked}, $sum->{stored} + $sum->{live}, 'all that was acknowledged is asked for');
    is_deeply([@$found{qw(lost wrong unanswered)}], [0, 0, 0], 'nothing is lost') or diag join "\n", @{ $found->{examples} };
    is($c->delete("large$_"), 'ok', 'the large ones go') for 1, 2;
    $h->wait_for(sub { $h->value('ConnectionsOpen') == 0 }, 60, 'the end of the last connection');
    is($h->value('Sessions'), $found->{asked}, 'the sessions are those that were acknowledged');
    is($h->value('BlocksUsed'), $found->{blocks}, 'and take all the memory that is in use');
};
is($h->check, 'clean', 'the store is clean');
$h->finish;
done_testing;
