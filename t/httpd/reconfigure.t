#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# A changed directive takes effect at the next graceful restart, or the log
# says that it doesn't. The hard ones are listeners: a new one must be bound by
# a parent that may have lost the right to, and if that fails httpd must go on
# with what it had, since a failing graceful would end it and all sessions.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use IO::Socket::INET ();
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client ();
use Sessiond::Test::Net    qw(now nap is_alive listeners process_group);

for my $mpm ($ENV{SESSIOND_TEST_LONG} ? qw(event prefork) : 'event') {
    my $base = "SessiondListen 127.0.0.1:%PORT%\nSessiondMemory 16M\n";
    my $h = Sessiond::Test::Httpd->new(name => 'reconfigure', mpm => $mpm, config => $base)->start;
    my ($one, $two, $three) = map { Sessiond::Test::Client->new($h->port($_)) } 1 .. 3;
    my $parent = $h->pid;
    is($one->store('old', 'data'), 'ok', 'a session');

    my $turn = sub ($config, $name) {
        my ($status, $output) = $h->reconfigure($config)->graceful;
        is($status, 0, "$name: graceful") or diag $output;
        is($h->pid, $parent, 'the parent is the same') && ok(is_alive($parent), 'and alive');
    };

    subtest 'a listener is added' => sub {
        $turn->($base . "SessiondListen 127.0.0.1:%PORT2%\nSessiondListen unix:%ROOT%/new.sock\n", 'added');
        is_deeply([$_->fetch('old')], ['ok', 'data'], 'the session is there') for $one, $two;
        is_deeply([Sessiond::Test::Client->new('unix:' . $h->root . '/new.sock')->fetch('old')], ['ok', 'data'],
            'by the Unix socket as well');
    };

    subtest 'a listener is removed' => sub {
        $turn->($base, 'removed');
        $h->wait_for(sub { $two->open eq 'refused' }, 30, 'a refused connect at the removed port');
        is(scalar(listeners($h->port(2))), 0, 'nothing listens there');
        ok(!-e $h->root . '/new.sock', 'the Unix socket is gone');
        is_deeply([$one->fetch('old')], ['ok', 'data'], 'the other port serves');
    };

    subtest 'a listener moves to a busy port' => sub {
        my $holder = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $h->port(3), Listen => 5, ReuseAddr => 1)
            or die "listen: $!";
        $h->allow_log(qr/in use/);
        $turn->("SessiondListen 127.0.0.1:%PORT3%\nSessiondMemory 16M\n", 'busy');
        is_deeply([$one->fetch('old')], ['ok', 'data'], 'the old port still serves');
        my $port = $h->port(3);
        my @lines = grep { /\[sessiond:(?:error|crit|alert|emerg|warn)\]/ && /\b$port\b/ } split /\n/, $h->error_log;
        cmp_ok(scalar @lines, '>=', 1, 'the log names the port that could not be bound');
        like($lines[0] // '', qr/in use/i, 'and why');
        like($lines[0] // '', qr/'ss -ltnp' .*; the sockets that were open stay open/, 'and what to do, and what holds until then');
        close $holder;
        $turn->("SessiondListen 127.0.0.1:%PORT3%\nSessiondMemory 16M\n", 'free again');
        is_deeply([$three->fetch('old')], ['ok', 'data'], 'once it is free the new port serves');
        $h->wait_for(sub { $one->open eq 'refused' }, 30, 'a refused connect at the old port');
        $turn->($base, 'and back');
        is_deeply([$one->fetch('old')], ['ok', 'data'], 'moved back');
    };

    subtest 'a wrong configuration is refused, nothing changes' => sub {
        my $pid = $h->sessiond_pid;
        my ($status, $output) = $h->reconfigure($base . "SessiondExpiration -1\n")->graceful;
        isnt($status, 0, 'the command fails');
        like($output, qr/SessiondExpiration/, 'and says why');
        is($h->sessiond_pid, $pid, 'the session process is the same');
        is_deeply([$one->fetch('old')], ['ok', 'data'], 'and serves');
    };

    subtest 'SessiondMemory waits for a stop and start, and says so' => sub {
        $h->allow_log(qr/SessiondMemory/);
        $turn->("SessiondListen 127.0.0.1:%PORT%\nSessiondMemory 32M\n", 'another size');
        is($h->memory_megabytes, 16, 'the size is what it was');
        like($h->error_log, qr/\[sessiond:\w+\].*SessiondMemory/, 'the log says so');
        is_deeply([$one->fetch('old')], ['ok', 'data'], 'the sessions are there');
    };

    subtest 'SessiondExpiration' => sub {
        $turn->($base . "SessiondExpiration 1\n", '1 s');
        is($one->store('brief', 'd'), 'ok', 'a new store');
        $h->wait_for(sub { ($one->fetch('brief'))[0] eq 'no' }, 30, 'its end');
        is_deeply([$one->fetch('old')], ['ok', 'data'], 'an older one keeps the time it was given');
        $turn->($base, 'default');
        is($one->store('brief', 'd'), 'ok', 'stored again');
        nap(1.2);
        is(($one->fetch('brief'))[0], 'ok', 'the default counts again');
    };

    subtest 'SessiondMaxSize' => sub {
        is($one->store('size', 's' x 100_000), 'ok', '100 KB');
        $turn->($base . "SessiondMaxSize 64K\n", '64K');
        is($one->store('size', 'S' x 100_000), 'no', 'are too much now');
        ok(($one->fetch('size'))[1] eq 's' x 100_000, 'what is stored stays readable');
        $turn->($base, 'default');
        is($one->store('size', 'S' x 100_000), 'ok', 'and fit again');
    };

    subtest 'SessiondThreads' => sub {
        my %threads;
        for my $n (1, 3, 2) {
            $turn->($base . "SessiondThreads $n\n", "$n threads");
            my $pid = $h->sessiond_pid;
            $threads{$n} = () = glob "/proc/$pid/task/*";
            is_deeply([$one->fetch('old')], ['ok', 'data'], 'the sessions are there');
        }
        is($threads{3} - $threads{1}, 2, 'two more threads') or diag explain \%threads;
        is($threads{2} - $threads{1}, 1, 'one more thread');
    };

    subtest 'SessiondWhenFull' => sub {
        my $n = 0;
        $n++ while $n < 3000 && $one->store("full$n", 'f' x 10_000) eq 'ok';
        cmp_ok($n, '<', 3000, 'refuse: full at some time');
        $h->allow_log(qr/full/i);
        $turn->($base . "SessiondWhenFull evict\n", 'evict');
        is($one->store('evicting', 'f' x 10_000), 'ok', 'evict: a new session finds room');
        $turn->($base, 'refuse');
        my @outcomes = map { $one->store("more$_", 'f' x 10_000) } 1 .. 50;
        ok(scalar(grep { $_ eq 'reset' } @outcomes), 'refuse again');
        is($h->check, 'clean', 'the store is clean');
    };

    subtest 'SessiondListen is removed entirely' => sub {
        my $pid = $h->sessiond_pid;
        my ($status) = $h->reconfigure("SessiondMemory 16M\n")->graceful;
        is($status, 0, 'graceful');
        $h->wait_for(sub { $one->open eq 'refused' }, 30, 'a refused connect');
        $h->wait_for(sub { !is_alive($pid) }, 30, 'the end of the session process');
        ok($h->eventually(sub { $h->value('State') eq 'off' }, 20), 'the status says off')
            or diag 'it says ' . $h->value('State');
        is(($h->get('/ok.txt'))[0], 200, 'pages are served');
        is(scalar(grep { $_ == $pid } process_group($parent)), 0, 'no session process is left');
        $turn->($base, 'and given again');
        is($h->value('State'), 'running', 'it runs again');
        is_deeply([$one->fetch('old')], ['ok', 'data'], 'the sessions were kept') if $h->value('Evicted') == 0;
        is($one->store('back', 'again'), 'ok', 'and stores');
        is_deeply([$one->fetch('back')], ['ok', 'again'], 'and fetches');
    };

    is($h->check, 'clean', 'the store is clean');
    $h->reconfigure("SessiondListen 127.0.0.1:%PORT%\nSessiondMemory 32M\n");
    ok($h->stop, 'stop');
    $h->start;
    is($h->memory_megabytes, 32, 'SessiondMemory counts after a stop and start');
    $h->finish;
}
done_testing;
