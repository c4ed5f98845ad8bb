#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# A hand-over that goes wrong at each of its steps: the old process goes on if it
# can; if it cannot, the new one has what had arrived, and the rest ends as after
# a crash. Nothing stored is lost, and the log says what happened.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client ();
use Sessiond::Test::Halves ();
use Sessiond::Test::Net    qw(now nap is_alive);

plan skip_all => 'another library is preloaded already' if $ENV{SESSIOND_SANITIZED};

my $h = Sessiond::Test::Httpd->new(name => 'handover_faults',
    preload => [Sessiond::Test::Httpd->test_library('t/httpd/preload/handover_faults')],
    env => { SESSIOND_FAULTS => '' }, config => <<'END');
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 256M
SessiondThreads 2
END
my $faults = $h->root . '/faults';
mkdir $faults;
chmod 0777, $faults;
$h->{env}{SESSIOND_FAULTS} = $faults;
$h->start;
my $c = Sessiond::Test::Client->new($h->port);
is($c->store('before', 'data'), 'ok', 'a session');

sub fault ($name, $number = 1) {
    open my $fh, '>', "$faults/$name" or die "$name: $!";
    print {$fh} "$number\n";
    close $fh;
    chmod 0666, "$faults/$name";
    return;
}

sub log_has ($from, $what, $name) {
    ok($h->eventually(sub { substr($h->error_log, $from) =~ $what }), $name)
        or diag substr $h->error_log, $from;
    return;
}

# A graceful restart of which nothing is expected but that the parent does it.
sub graceful () {
    my ($status, $output) = $h->graceful(wait => 0);
    is($status, 0, 'graceful') or diag $output;
    return;
}

sub settled ($old, $changes) {
    return $h->wait_for(sub {
        my $is = $h->status;
        return $is->{SessiondState} eq 'running' && is_alive($is->{SessiondPid})
            && ($is->{SessiondPid} != $old) == $changes && $is->{SessiondPid};
    }, 60, 'a session process that serves');
}

sub all_ok ($halves, $name) {
    my ($outcomes, $which) = $halves->finish;
    is_deeply($outcomes, { ok => $halves->count }, $name) or diag $which;
    return;
}

subtest 'all goes well' => sub {
    my ($old, $halves) = ($h->sessiond_pid, Sessiond::Test::Halves->new($h->port, count => 3));
    my $replaced = Sessiond::Test::Halves->new($h->port, name => 'replaced', kinds => [qw(getter fetcher)]);
    $replaced->replace;
    is(($h->graceful)[0], 0, 'graceful');
    isnt($h->sessiond_pid, $old, 'another process');
    all_ok($_, 'every connection goes on where it was') for $halves, $replaced;
    my $is = $h->status;
    is($is->{SessiondTakenOver}, $halves->count + $replaced->count, 'all were taken over');
    is($is->{SessiondHandoverLost} + $is->{SessiondDrained}, 0, 'none lost, none drained');
    like($is->{SessiondLastHandover}, qr/^23 of 23 connections taken over, service stood still for [\d.]+ ms$/,
        "said on the page: $is->{SessiondLastHandover}");
    is($h->check, 'clean', 'the store is clean');
    is($h->value('RepairedBlocks'), 0, 'and had nothing to repair');
};

subtest 'the new one does not become ready' => sub {
    my ($old, $halves, $from) = ($h->sessiond_pid, Sessiond::Test::Halves->new($h->port), length $h->error_log);
    $h->allow_log(qr/could not create event loop|could not start; see above/);
    fault('no-eventfd');
    graceful();
    log_has($from, qr/could not create event loop.*could not start; see above/s, 'the log says why');
    log_has($from, qr/session process $old goes on serving, with the configuration that it was started with/,
        'and that the old one goes on');
    is($h->sessiond_pid, $old, 'it is the same process');
    is($h->value('State'), 'running', 'and serves');
    all_ok($halves, 'every connection goes on');
    unlink "$faults/no-eventfd";
    my $more = Sessiond::Test::Halves->new($h->port, name => 'more');
    is(($h->graceful)[0], 0, 'graceful once it is mended');
    isnt($h->sessiond_pid, $old, 'another process');
    all_ok($more, 'and every connection lives on');
    is($h->value('Respawns'), 0, 'nothing was respawned');
};

subtest 'the new one dies before it has everything' => sub {
    my ($old, $halves, $from) = ($h->sessiond_pid, Sessiond::Test::Halves->new($h->port, count => 20), length $h->error_log);
    $h->allow_log(qr/was killed by signal 9/);
    fault('taker-dies');
    graceful();
    log_has($from, qr/handing over .* came to nothing: this one goes on/, 'the log says so');
    log_has($from, qr/was killed by signal 9.*session process $old goes on serving/s, 'the parent knows it, too');
    is($h->sessiond_pid, $old, 'the old one is there');
    all_ok($halves, 'and goes on with every connection');
    is($h->value('Respawns'), 0, 'nothing was respawned');
};

subtest 'the new one hangs before it has everything' => sub {
    my ($old, $halves, $from) = ($h->sessiond_pid, Sessiond::Test::Halves->new($h->port, count => 2), length $h->error_log);
    fault('taker-stops');
    graceful();
    log_has($from, qr/came to nothing: this one goes on/, 'the old one has waited long enough');
    is(($c->fetch('before'))[0], 'ok', 'and serves');
    all_ok($halves, 'with every connection');
    my $halves2 = Sessiond::Test::Halves->new($h->port, name => 'again');
    # The one that stands still is killed by the parent some time, or by its successor.
    $h->allow_log(qr/did not hand over within \d+ ms: killing it|has not become ready, nor said why, for \d+ s: killing it/);
    is(($h->graceful)[0], 0, 'the next graceful');
    isnt($h->sessiond_pid, $old, 'another process');
    all_ok($halves2, 'it has every connection');
};

subtest 'the old one dies half-way' => sub {
    my $halves = Sessiond::Test::Halves->new($h->port, count => 26,    # 156 connections: 64, 64, 28
        kinds => [qw(fetcher getter head idle storer writer)]);
    my ($old, $from) = ($h->sessiond_pid, length $h->error_log);
    fault('giver-dies', 2);
    graceful();
    settled($old, !!1);
    my ($outcomes, $which) = $halves->finish;
    is(($outcomes->{ok} // 0), 64, 'what had arrived is kept') or diag $which;
    is_deeply([sort keys %$outcomes], [qw(ok reset)], 'the rest ends in a reset, as after a crash') or diag $which;
    is(($c->fetch('before'))[1], 'data', 'nothing stored is lost');
    log_has($from, qr/session process $old was killed by signal 9/, 'the log tells of the death');
    log_has($from, qr/repaired the store/, 'and of the repair');
    is($h->check, 'clean', 'the store is clean');
    is($h->value('Respawns'), 0, 'no third one was started');
};

subtest 'the old one dies before it knows that all have arrived' => sub {
    my ($old, $halves, $from) = ($h->sessiond_pid, Sessiond::Test::Halves->new($h->port, count => 3), length $h->error_log);
    fault('taken-slow', 500);    # it is dead and reaped when it is told
    fault('all-dies');
    graceful();
    settled($old, !!1);
    all_ok($halves, 'every connection goes on');
    unlike(substr($h->error_log, $from), qr/cannot hand its connections over/, 'nothing false is said of it');
    is($h->check, 'clean', 'the store is clean');
};

subtest 'the old one dies when all have arrived' => sub {
    my $halves = Sessiond::Test::Halves->new($h->port, count => 12);
    my ($old, $from) = ($h->sessiond_pid, length $h->error_log);
    my $replaced = Sessiond::Test::Halves->new($h->port, name => 'replaced', kinds => [qw(getter fetcher)]);
    $replaced->replace;
    fault('done-dies');
    graceful();
    settled($old, !!1);
    all_ok($_, 'every connection goes on') for $halves, $replaced;
    is(($c->fetch('before'))[1], 'data', 'nothing stored is lost');
    log_has($from, qr/repaired the store/, 'the store was repaired beside them');
    is($h->check, 'clean', 'and is clean');
    is($h->value('RepairedItems'), 0, 'no session was dropped');
};

subtest 'the new one hangs, and clients of the old one are served to their end' => sub {
    my ($old, $from) = ($h->sessiond_pid, length $h->error_log);
    my $halves = Sessiond::Test::Halves->new($h->port, kinds => ['storer'], count => 2);
    fault('taker-stops');
    graceful();
    log_has($from, qr/came to nothing: this one goes on/, 'the old one goes on');
    my $began = now();
    all_ok($halves, 'a store is acknowledged, and its connection ends');
    cmp_ok(now() - $began, '<', 20, sprintf 'before the parent kills the one that hangs: after %.1f s', now() - $began);
    is(($h->graceful)[0], 0, 'graceful');
    isnt($h->sessiond_pid, $old, 'the next one takes over');
};

# The old one gives up, goes on, and cannot say so. It must not be taken for dying.
subtest 'the new one is slow, and the word that it is too late is lost' => sub {
    my ($old, $halves, $from) = ($h->sessiond_pid, Sessiond::Test::Halves->new($h->port), length $h->error_log);
    fault('taken-slow', 4000);
    fault('void-lost');
    is(($h->graceful)[0], 0, 'graceful');
    isnt($h->sessiond_pid, $old, 'another process');
    like(substr($h->error_log, $from), qr/came to nothing: this one goes on/, 'at the second try');
    unlike(substr($h->error_log, $from), qr/process $old did not/, 'the old one was not killed');
    all_ok($halves, 'every connection goes on');
};

subtest 'a restart while the store is checked' => sub {
    my ($old, $halves, $from) = ($h->sessiond_pid, Sessiond::Test::Halves->new($h->port), length $h->error_log);
    fault('slow-check', 9);
    kill USR2 => $old;
    $h->wait_for(sub { $h->value('LastCheck') eq 'running' }, 30, 'the check');
    is(($h->graceful)[0], 0, 'graceful');
    isnt($h->sessiond_pid, $old, 'another process');
    all_ok($halves, 'every connection goes on');
    unlike(substr($h->error_log, $from), qr/process $old did not/, 'it was not killed for that');
    is($h->check, 'clean', 'the store is clean');
};

subtest 'the old one hangs' => sub {
    my ($old, $from) = ($h->sessiond_pid, length $h->error_log);
    my $halves = Sessiond::Test::Halves->new($h->port, kinds => [qw(storer fetcher)], count => 3);
    kill STOP => $old;
    my $began = now();
    is(($h->graceful)[0], 0, 'graceful');
    isnt($h->sessiond_pid, $old, 'another process');
    diag sprintf 'after %.1f s', now() - $began;
    log_has($from, qr/session process $old did not hand over within \d+ ms: killing it/, 'it was killed');
    my ($outcomes, $which) = $halves->finish;
    is_deeply($outcomes, { reset => 6 }, 'requests that were under way end in a reset') or diag $which;
    is(($c->fetch('before'))[1], 'data', 'nothing stored is lost');
    is($h->check, 'clean', 'the store is clean');
};

is($h->value('Respawns'), 0, 'nobody had to be respawned by the parent');

# Processes that cannot start are begun later and later; the restart that mends it
# does not wait for that.
subtest 'a crash loop that a restart mends' => sub {
    fault('no-eventfd');
    $h->kill_sessiond;
    $h->wait_for(sub { $h->value('Respawns') >= 8 }, 60, 'a delay of some seconds');
    unlink "$faults/no-eventfd";
    my $from = length $h->error_log;
    is(($h->graceful)[0], 0, 'graceful');
    is(($c->fetch('before'))[1], 'data', 'it serves');
    unlike(substr($h->error_log, $from), qr/killing it/, 'and nobody had to be killed for it');
};
$h->finish;
done_testing;
