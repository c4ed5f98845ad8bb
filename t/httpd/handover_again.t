#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Restarts after one that came to nothing: a new process that slept through its own
# take-over must not serve beside the one that came after it, and the sockets of a
# configuration that never came to serve do not stand in the way of the old one's.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client ();
use Sessiond::Test::Halves ();
use Sessiond::Test::Net    qw(now nap is_alive processes);

sub session_processes ($h) {
    my %all = processes();
    return sort { $a <=> $b }
        grep { $all{$_}{pgrp} == $h->pid && $all{$_}{name} =~ /^sessiond/ && $all{$_}{state} !~ /[ZX]/ } keys %all;
}

subtest 'a process that sleeps while another takes over' => sub {
    my $h = Sessiond::Test::Httpd->new(name => 'handover_again', config => "SessiondListen 127.0.0.1:%PORT%\nSessiondMemory 64M\nSessiondThreads 2\n")->start;
    $h->allow_log(qr/has not become ready|was killed by signal 9|did not hand over/);
    my ($halves, $old) = (Sessiond::Test::Halves->new($h->port, kinds => ['storer'], count => 2), $h->sessiond_pid);
    kill STOP => $old;
    $h->graceful(wait => 0);
    my ($sleeper) = $h->wait_for(sub { (grep { $_ != $old } session_processes($h))[0] }, 30, 'the next process');
    nap(1);    # it has asked
    kill STOP => $sleeper;
    kill CONT => $old;
    $h->wait_for(sub { $h->error_log =~ /came to nothing: this one goes on/ }, 60, 'the old one\'s going on');
    is(($h->graceful)[0], 0, 'another restart');
    my $new = $h->sessiond_pid;
    isnt($new, $sleeper, 'whose process serves');
    my $began = now();
    my ($outcomes, $which) = $halves->finish;
    is_deeply($outcomes, { ok => 2 }, 'it goes on with what was begun') or diag $which;
    cmp_ok(now() - $began, '<', 20, sprintf 'to the end, though the sleeper has the descriptors: %.1f s', now() - $began);
    kill CONT => $sleeper;
    ok($h->eventually(sub { !is_alive($sleeper) }), 'the sleeper leaves when it wakes');
    is_deeply([session_processes($h)], [$new], 'one process is there');
    is($h->value('RepairedBlocks'), 0, 'and nobody has repaired what was not broken');
    is($h->check, 'clean', 'the store is clean');
    $h->finish;
};

subtest 'sockets of a restart that came to nothing' => sub {
    plan skip_all => 'another library is preloaded already' if $ENV{SESSIOND_SANITIZED};
    my $config = sub ($name) { return "SessiondListen unix:%ROOT%/run/$name 0666\nSessiondMemory 16M\nSessiondThreads 2\n" };
    my $h = Sessiond::Test::Httpd->new(name => 'handover_sockets', config => $config->('a'),
        preload => [Sessiond::Test::Httpd->test_library('t/httpd/preload/handover_faults')], env => { SESSIOND_FAULTS => '' });
    my ($root, $faults) = ($h->root . '/run', $h->root . '/faults');
    mkdir $faults;
    chmod 0777, $faults;
    $h->{env}{SESSIOND_FAULTS} = $faults;
    $h->allow_log(qr/could not create event loop|could not start; see above|was killed by signal 9/);
    $h->start;
    my ($a, $b) = map { Sessiond::Test::Client->new("unix:$root/$_") } qw(a b);
    is($a->store('session', 'data'), 'ok', 'a session');
    my $fails = sub ($name) {
        my $from = length $h->error_log;
        open my $fh, '>', "$faults/no-eventfd" or die $!;
        close $fh;
        chmod 0644, "$faults/no-eventfd";
        is(($h->reconfigure($config->($name))->graceful(wait => 0))[0], 0, "graceful to socket $name");
        ok($h->eventually(sub { substr($h->error_log, $from) =~ /goes on serving/ }), 'comes to nothing');
        unlink "$faults/no-eventfd";
    };
    $fails->('b');
    is(($a->fetch('session'))[1], 'data', 'the old socket is served');
    is($b->open, 'refused', 'the new one is gone');
    is(($h->reconfigure($config->('a'))->graceful)[0], 0, 'back to the old configuration');
    is(($a->fetch('session'))[1], 'data', 'the old socket is served');
    $fails->('b');
    $h->kill_sessiond;
    ok($h->eventually(sub { ($b->fetch('session'))[0] eq 'ok' }), 'when the old process dies, the next one has the new socket');
    is(($b->fetch('session'))[1], 'data', 'and the session');
    ok($h->eventually(sub { !-e "$root/a" }), 'then the old socket is gone');
    $h->finish;
};
done_testing;
