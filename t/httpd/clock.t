#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# The wall clock is moved by an hour, forth and back, under load: no session
# expires early or late, no time-out fires, no restart takes fright, and the
# pages tell how long it has really been. The clock is that of this httpd alone:
# libfaketime is preloaded into it and reads from a file what time it is. It
# leaves the clocks alone that never jump.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use POSIX  qw(strftime);
use Test::More;
use Time::Local ();
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client qw(frame_store);
use Sessiond::Test::Load   ();
use Sessiond::Test::Net    qw(now nap is_alive);

my ($FAKETIME) = grep { -e } glob '/usr/lib*/{*/,}faketime/libfaketimeMT.so.1';
plan skip_all => 'libfaketime is not installed (package libfaketime)' unless $FAKETIME;
plan skip_all => 'another library is preloaded already' if $ENV{SESSIOND_SANITIZED};

my $TICK = 0.005;       # both sides round to their clock's tick
my $LONG = $ENV{SESSIOND_TEST_LONG};

my $h = Sessiond::Test::Httpd->new(name => 'clock', preload => [$FAKETIME], config => <<'END');
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 32M
SessiondExpiration 3
SessiondTimeout 60
SessiondIdleTimeout 300
SessiondThreads 2
END
my $file = $h->root . '/clock';

sub move_clock ($seconds) {
    open my $fh, '>', "$file.new" or die "$file: $!";
    printf {$fh} "%+d\n", $seconds;
    close $fh;
    rename "$file.new", $file or die "$file: $!";
    return;
}

move_clock(0);
$h->{env} = { FAKETIME_TIMESTAMP_FILE => $file, FAKETIME_NO_CACHE => 1, FAKETIME_DONT_FAKE_MONOTONIC => 1,
    DONT_FAKE_MONOTONIC => 1 };
$h->start;

# How far httpd's clock is from ours, by the Date of an answer.
sub shift_of_httpd () {
    my ($head) = ($h->get('/ok.txt'))[2];
    my ($day, $month, $year, $hour, $min, $sec) = $head =~ /^Date: \w+, (\d+) (\w+) (\d+) (\d+):(\d+):(\d+) GMT/m or die $head;
    my %number = map { (qw(Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec))[$_] => $_ } 0 .. 11;
    return Time::Local::timegm($sec, $min, $hour, $day, $number{$month}, $year) - time;
}

# One session after the other: never gone before the earliest instant at which
# it may expire, never there after the latest.
sub live_and_die ($client, $number, $result, $is_over) {
    my $n = 0;
    until ($is_over->()) {
        my $key  = "life-$number-" . ++$n;
        my $life = 2 + ($number + $n) % 4;
        my $sent = now();
        my ($outcome) = $life == 3 ? ($client->store($key, $key)) : do {
            my ($o, $reply) = $client->write($key, $key, $life);
            $o eq 'ok' ? $reply->{type} : $o;
        };
        if ($outcome !~ /^(?:ok|K)$/) {
            $result->{"not_stored_$outcome"}++;
            nap(0.05);
            next;
        }
        my $acked = now();
        $client->close;
        while (!$is_over->()) {
            my $begin = now();
            my ($found) = $client->fetch($key);
            my $end = now();
            if    ($found eq 'ok') { $result->{hits}++;   $result->{late}++  if $begin > $acked + $life + $TICK }
            elsif ($found eq 'no') { $result->{misses}++; $result->{early}++ if $end < $sent + $life - $TICK }
            else                   { $result->{"fetch_$found"}++ }
            last if $begin > $acked + $life + 0.3;
            nap($begin < $sent + $life - 0.3 ? 0.1 : 0.01);
        }
        $result->{lives}++;
    }
    return;
}

my $load = Sessiond::Test::Load->new(addr => $h->port, clients => 24, work => \&live_and_die)->start;
$h->wait_for(sub { $h->value('FetchHits') > 100 }, 60, 'the load');
my ($store_base, $base_at) = ($h->value('StoreUptime'), now());

for my $shift (3600, -3600, 0) {
    subtest "the clock is moved to $shift s from now" => sub {
        my $idle = Sessiond::Test::Client->new($h->port);
        is(($idle->hello)[0], 'ok', 'a persistent connection before');
        my $half = Sessiond::Test::Client->new($h->port);
        my $request = frame_store('half', 'x' x 100);
        $half->open;
        $half->send(substr $request, 0, 50);
        my $session = $h->sessiond_pid;
        move_clock($shift);
        my $seen = shift_of_httpd();
        ok(abs($seen - $shift) < 60, "httpd believes it ($seen s)");
        my $expired = $h->value('Expired') + $h->value('ReadExpired');
        nap($LONG ? 45 : 3);        # httpd looks for a process that hangs every 10 s
        cmp_ok($h->value('Expired') + $h->value('ReadExpired'), '>', $expired, 'sessions go on expiring');
        is($h->sessiond_pid, $session, 'the session process is the same');
        is(($idle->hello)[0], 'ok', 'the persistent connection is still there');
        $half->send(substr $request, 50);
        is_deeply([$half->read_all], ['ok', "OK\n"], 'a request under way too');
        my $is  = $h->status;
        my $age = $store_base + now() - $base_at;
        cmp_ok(abs($is->{SessiondStoreUptime} - $age), '<', 3, 'the store is as old as it is');
        cmp_ok($is->{SessiondUptime}, '<=', $is->{SessiondStoreUptime}, 'the process is no older');
        cmp_ok($is->{SessiondUptime}, '>=', 2, 'and some seconds old');
        is($is->{SessiondTimeouts} + $is->{SessiondIdleTimeouts}, 0, 'no time-out');
        unlike($is->{SessiondBusy}, qr/\d{3}/, 'the shares of time are below 100%');
        is($h->check, 'clean', 'the store is clean');

        # A request under way is handed over, with all its times.
        my $never = Sessiond::Test::Client->new($h->port);
        $never->open;
        $never->send(substr $request, 0, 50);
        $h->wait_for(sub { $h->value('ConnectionsOpen') > 0 }, 20, 'its connection');
        $h->graceful;
        is(($idle->hello)[0], 'ok', 'a restart keeps the persistent connection');
        $never->send(substr $request, 50);
        is_deeply([$never->read_all], ['ok', "OK\n"], 'and the request under way');
        is($h->value('LastRepair'), 'never', 'and hands over in order');
        cmp_ok($h->value('Uptime'), '<', 20, 'the new process is young');
    };
}

# How long it has been down is told by a clock, too.
subtest 'down, with the clock moved meanwhile' => sub {
    my ($page, $until) = ('', now() + 60);
    my $killed = time;
    $h->allow_log(qr/session process \d+ was killed by signal 9/);
    until ($page =~ /not running since/ || now() > $until) {
        my $is = $h->status;
        if ($is->{SessiondState} eq 'running') { kill KILL => $is->{SessiondPid} }
        else {
            move_clock(-3600);
            $page = ($h->get('/sessiond-status'))[1];
            move_clock(0);
        }
        nap(0.005);
    }
    my ($day, $hour, $min, $sec) = $page =~ /not running since (\d+)-\w+-\d+ (\d+):(\d+):(\d+)/;
    ok(defined $sec, 'the page says so') or return;
    my $told = sprintf '%02d %02d:%02d:%02d', $day, $hour, $min, $sec;
    my ($first, $last) = map { strftime('%d %H:%M:%S', gmtime $_ - 3600) } $killed - 2, time + 2;
    ok($told ge $first && $told le $last || $last lt $first, "since when, by the clock of now: $told")
        or diag "not between $first and $last";
    $h->wait_for(sub { $h->value('State') eq 'running' }, 60, 'the next process');
};

my $sum = $load->stop;
diag $load->describe;
my $other = $sum->{other};
is($other->{early} // 0, 0, 'no session was gone early');
is($other->{late} // 0, 0, 'none was served late');
cmp_ok($other->{lives} // 0, '>', 60, "many lived and died ($other->{lives})");
cmp_ok($other->{misses} // 0, '>', 60, 'and were looked for afterwards');
my @odd = grep { !/^(?:lives|hits|misses)$/ && !/^(?:not_stored|fetch)_(?:reset|partial)$/ } keys %$other;
is_deeply(\@odd, [], 'nothing else happened') or diag join ', ', map { "$_ $other->{$_}" } @odd;
is($h->check, 'clean', 'the store is clean');

# The other way round a hang would not be seen for an hour.
if ($LONG) {
    my $old = $h->sessiond_pid;
    move_clock(3600);
    $h->get('/ok.txt');
    nap(15);
    move_clock(-3600);
    kill STOP => $old;
    $h->allow_log(qr/a thread that hangs for over 30 s/);
    my $begin = now();
    ok($h->eventually(sub { !is_alive($old) }, 120), 'a process that stands still is killed');
    cmp_ok(now() - $begin, '>', 25, 'not before its time');
    $h->wait_respawn($old);
}
$h->finish;
done_testing;
