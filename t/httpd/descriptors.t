#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# No descriptors left: accept fails while the socket stays ready, which must not
# become a spin. Who is connected is served, who is not waits in the queue and
# has his turn as soon as others leave, without anybody touching the server, and
# the log says once what to do.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use POSIX ();
use Socket qw(SHUT_RDWR);
use Test::More;
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client qw(frame_fetch);
use Sessiond::Test::Net    qw(now nap);

my ($prlimit) = grep { -x } map { "$_/prlimit" } split(/:/, $ENV{PATH}), '/usr/bin';
plan skip_all => 'prlimit is not installed (package util-linux)' unless $prlimit;

my $LIMIT   = 66;    # most of them for clients, so that those who wait have room when they leave
my $CLIENTS = 100;
my $LOOK    = $ENV{SESSIOND_TEST_LONG} ? 130 : 4;    # seconds of watching

my $h = Sessiond::Test::Httpd->new(name => 'descriptors', config => <<'END')->start;
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 16M
SessiondMaxConnections 1000
SessiondTimeout 600
SessiondThreads 2
END

# Share of one core that a process takes over some seconds.
sub busy ($pid, $seconds) {
    my $ticks = sub () {
        open my $fh, '<', "/proc/$pid/stat" or die "/proc/$pid/stat: $!";
        my @field = split ' ', (readline($fh) =~ s/.*\) //r);
        return $field[11] + $field[12];
    };
    my ($before, $begin) = ($ticks->(), now());
    nap($seconds);
    return ($ticks->() - $before) / POSIX::sysconf(POSIX::_SC_CLK_TCK()) / (now() - $begin);
}

sub lines () { return scalar(() = $h->error_log =~ /connections cannot be accepted/g) }

# As the user of the process: a root without CAP_SYS_RESOURCE may not.
sub limit_descriptors ($pid, $limit) {
    my $child = fork // die "fork: $!";
    if ($child == 0) {
        if ($> == 0) {
            my ($user, $group) = Sessiond::Test::Httpd->web_user;
            POSIX::setgid(scalar getgrnam $group);
            POSIX::setuid(scalar getpwnam $user);
        }
        exec $prlimit, '--pid', $pid, "--nofile=$limit:" or POSIX::_exit(127);
    }
    waitpid $child, 0;
    return $? == 0;
}

my $pid = $h->sessiond_pid;
my $c   = Sessiond::Test::Client->new($h->port);
is($c->store('session', 'data'), 'ok', 'a session');
ok(limit_descriptors($pid, $LIMIT), "at most $LIMIT descriptors");
my $quiet = busy($pid, 2);

# All say hello at once; those that are let in are answered and stay.
my @clients = map { Sessiond::Test::Client->new($h->port) } 1 .. $CLIENTS;
for my $client (@clients) {
    die 'connect' if $client->open ne 'ok';
    $client->send("Pnonce-01");
}

# Splits into those that have been answered and those that have not.
sub answered ($seconds, @of) {
    my (@yes, @no);
    for my $client (@of) {
        my $bits = '';
        vec($bits, fileno $client->socket, 1) = 1;
        if (select(my $ready = $bits, undef, undef, $seconds) > 0) { push @yes, $client }
        else                                                       { push @no, $client; $seconds = 0 }
    }
    return (\@yes, \@no);
}

my ($in, $waiting);
$h->wait_for(sub { $h->value('AcceptErrors') > 0 }, 30, 'the last descriptor');
($in, $waiting) = answered(1, @clients);
cmp_ok(scalar @$in, '>', 10, @$in . ' are in');
cmp_ok(scalar @$waiting, '>', $CLIENTS - $LIMIT - 1, @$waiting . ' wait');
is(($_->read_reply)[0], 'ok', 'one that is in was answered') for $in->[0], $in->[-1];
$h->wait_for(sub { lines() > 0 }, 30, 'a line in the log');
$h->allow_log(qr/Too many open files.*connections cannot be accepted/);

my $before = $h->value('AcceptErrors');
my $begin  = now();
my $busy   = busy($pid, $LOOK);
my $errors = $h->value('AcceptErrors') - $before;
my $took   = now() - $begin;
cmp_ok($busy, '<', 0.05, sprintf 'no spin: %.2f%% of a core (quiet: %.2f%%)', 100 * $busy, 100 * $quiet);
cmp_ok($errors, '<=', 2 * 10 * $took + 4, sprintf '%d tries in %.1f s', $errors, $took);
cmp_ok($errors, '>', 0, 'it tries on');
cmp_ok(lines(), '<=', 1 + $took / 60, lines() . ' lines in the log');
is(($in->[1]->read_reply)[0], 'ok', 'who is in');
is(($in->[1]->get('session'))[1]{data}, 'data', 'is served');
is(scalar @{ (answered(0, @$waiting))[0] }, 0, 'nobody else has come in');
is($h->check, 'clean', 'the store is clean');

subtest 'some leave' => sub {
    $_->close for splice @$in, 2, 10;
    ok($h->eventually(sub { @{ (answered(0, @$waiting))[0] } >= 10 }, 30), 'and as many come in');
    my $still;
    ($waiting, $still) = reverse answered(0, @$waiting);
    is(scalar @$still, 10, 'just as many');
    push @$in, @$still;
};

subtest 'all leave' => sub {
    $_->close for @$in;
    my $gone = now();
    ok($h->eventually(sub { @{ (answered(0, @$waiting))[0] } == @$waiting }, 30), 'all who waited are served');
    is((grep { ($_->read_reply)[0] eq 'ok' } @$waiting), scalar @$waiting, 'each by its answer');
    $_->close for @$waiting;
    is_deeply([$c->fetch('session')], ['ok', 'data'], 'so is who comes now');
    my $before = $h->value('AcceptErrors');
    is(scalar(grep { ($c->fetch('session'))[0] eq 'ok' } 1 .. 50), 50, 'again and again');
    is($h->value('AcceptErrors'), $before, 'nothing is put off any more');
    is($h->sessiond_pid, $pid, 'by the same process');
};

# A socket that can never be accepted from again is the same trap.
SKIP: {
    my %number = (x86_64 => [434, 438], aarch64 => [434, 438]);
    my $syscall = $number{ (POSIX::uname())[4] };
    my $handle = $> == 0 && $syscall ? syscall($syscall->[0], $pid + 0, 0) : -1;
    skip 'the socket of a process is reached by root, and on some machines', 1 if $handle < 0;
    subtest 'a listening socket that was shut down' => sub {
        my $found;
        for my $number (0 .. 40) {
            my $fd = syscall $syscall->[1], $handle, $number, 0;
            next if $fd < 0;
            open my $socket, '+<&=', $fd or next;
            my $name = getsockname($socket) // next;
            next if getpeername($socket) || eval { (Socket::unpack_sockaddr_in($name))[0] != $h->port } // 1;
            $found = shutdown $socket, SHUT_RDWR;
        }
        POSIX::close($handle);
        ok($found, 'found and shut down') or return;
        is($c->open, 'refused', 'nobody comes in');
        cmp_ok(busy($pid, 3), '<', 0.05, 'no spin');
    };
}
$h->allow_log(qr/connections cannot be accepted/);
$h->finish;
done_testing;
