#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# The end: after a stop nothing listens, no process is left and the Unix
# socket's file is gone; a session process never outlives its parent, even one
# that was killed; and a start after that finds no obstacle.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client qw(frame_store);
use Sessiond::Test::Load   ();
use Sessiond::Test::Net    qw(now nap is_alive listeners process_group);

for my $mpm (qw(event prefork)) {
    my $h = Sessiond::Test::Httpd->new(name => 'stop', mpm => $mpm, config => <<'END')->start;
SessiondListen 127.0.0.1:%PORT%
SessiondListen unix:%ROOT%/s.sock
SessiondMemory 16M
END
    # A web child that ends while it closes a page's connection may say so.
    $h->allow_log(qr/AH03092/);
    my $c    = Sessiond::Test::Client->new($h->port);
    my $root = $h->root;

    my $nothing_left = sub ($name, $pid, $session) {
        my $until = now() + 20;
        nap(0.05) while now() < $until && (is_alive($session) || process_group($pid));
        ok(!is_alive($pid), "$mpm, $name: the parent is gone");
        ok(!is_alive($session), "$mpm, $name: the session process is gone");
        is_deeply([process_group($pid)], [], "$mpm, $name: no process is left");
        is(scalar(listeners($h->port)), 0, "$mpm, $name: nothing listens");
        is($c->open, 'refused', "$mpm, $name: a connect is refused");
        ok(!-e "$root/s.sock", "$mpm, $name: the socket's file is gone");
    };

    # stop, with clients of every kind connected
    for my $word (qw(stop graceful-stop)) {
        is($c->store('k', 'v'), 'ok', "$mpm, $word: a store");
        my $idle = Sessiond::Test::Client->new($h->port);
        $idle->hello;
        my $midway = Sessiond::Test::Client->new($h->port);
        $midway->open;
        $midway->send(substr frame_store('half', 'x' x 1000), 0, 500);
        my ($pid, $session) = ($h->pid, $h->sessiond_pid);
        my $begin = now();
        my ($status) = $h->run($h->httpd_binary, '-d', $root, '-f', "$root/httpd.conf", '-k', $word);
        is($status, 0, "$mpm: httpd -k $word");
        $nothing_left->($word, $pid, $session);
        cmp_ok(now() - $begin, '<', 20, "$mpm, $word: in time");
        like(($idle->read_all)[0], qr/^(?:no|reset)$/, "$mpm, $word: an idle connection was ended");
        is(($midway->read_all)[0], 'reset', "$mpm, $word: a request under way was reset");
        ok($h->stop, "$mpm, $word: the harness has nothing to do");
        $h->start;
        is(($c->fetch('k'))[0], 'no', "$mpm, $word: a start begins with an empty store");
    }

    # the parent killed
    {
        $c->store('k', 'v');
        my ($pid, $session) = ($h->pid, $h->sessiond_pid);
        kill KILL => $pid;
        my $until = now() + 20;
        nap(0.02) while now() < $until && is_alive($session);
        ok(!is_alive($session), "$mpm, parent killed: the session process goes with it");
        nap(0.02) while now() < $until && listeners($h->port);
        is(scalar(listeners($h->port)), 0, "$mpm, parent killed: nobody keeps the port");
        $h->stop;       # web children that were left behind
        $h->start;
        is($c->store('k', 'v'), 'ok', "$mpm: a start after that works");
        is(Sessiond::Test::Client->new("unix:$root/s.sock")->delete('k'), 'ok', "$mpm: the stale socket file was replaced");
    }

    # a stop in the middle of a respawn
    {
        my ($pid, $session) = ($h->pid, $h->sessiond_pid);
        $h->allow_log(qr/exit signal Killed|session process.*(?:kill|signal|ended|died|exit)/i);
        kill KILL => $session;
        kill TERM => $pid;
        $nothing_left->('killed and stopped', $pid, $session);
        $h->stop;
    }

    # a stop under load
    {
        $h->start;
        my $load = Sessiond::Test::Load->new(addr => $h->port, clients => 16, extended => 0.5, rate => 500,
            timeout => 20)->start;
        $h->wait_for(sub { $h->value('Stores') > 200 }, 60, 'the load');
        my ($pid, $session) = ($h->pid, $h->sessiond_pid);
        kill TERM => $pid;
        $nothing_left->('under load', $pid, $session);
        my $sum = $load->stop;
        is($sum->{wrong} + $sum->{denied} + $sum->{missed}, 0, "$mpm, under load: nobody was told no");
        is($sum->{timeout}, 0, "$mpm, under load: nobody was left hanging");
        $h->stop;
    }
    $h->finish;
}
done_testing;
