#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Another version of this module is put in the place of the present one and httpd
# restarted gracefully: to one that speaks the same state, and back; to one that
# speaks another, which makes the old process finish and go; and to one that lays
# the memory out otherwise, which must leave the sessions to the old process.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client qw(frame_write);
use Sessiond::Test::Halves ();
use Sessiond::Test::Net    qw(is_alive nap);

for my $mpm (qw(event prefork)) {
    my $h = Sessiond::Test::Httpd->new(name => 'handover_versions', mpm => $mpm, config => <<'END')->start;
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 128M
SessiondThreads 2
END
    my $ours   = $h->{module};
    my %module = (ours => $ours, map { $_ => Sessiond::Test::Httpd->test_library("t/httpd/modules/sessiond_$_") } qw(newer stranger layout));
    my $c      = Sessiond::Test::Client->new($h->port);
    is($c->store('before', 'data'), 'ok', "$mpm: a session");

    my $version = sub () {
        my ($outcome, $reply) = Sessiond::Test::Client->new($h->port)->hello;
        return $outcome eq 'ok' ? ($reply->{text} // '') =~ m{^mod_sessiond/(\S+)} && $1 : $outcome;
    };
    my $own = $version->();

    # The configuration with that module, and a graceful restart.
    my $change = sub ($name, %opt) {
        $h->{module} = $module{$name};
        $h->reconfigure($h->{config});
        my ($status, $output) = $h->graceful(%opt);
        is($status, 0, "graceful to $name") or diag $output;
    };
    my $all_ok = sub ($halves, $name) {
        my ($outcomes, $which) = $halves->finish;
        is_deeply($outcomes, { ok => $halves->count }, $name) or diag $which;
    };

    subtest "$mpm: to a newer version and back" => sub {
        my $halves = Sessiond::Test::Halves->new($h->port);
        $change->('newer');
        is($version->(), '9.9.1', 'it serves');
        is($h->value('TakenOver'), $halves->count, 'its own counters begin anew') if $halves->count;
        like($h->error_log, qr/counts other things than the one before: the counters begin anew/, 'the log says so');
        $all_ok->($halves, 'every connection goes on');
        is(($c->fetch('before'))[1], 'data', 'the session is there');
        $halves = Sessiond::Test::Halves->new($h->port, name => 'back');
        $change->('ours');
        is($version->(), $own, 'and back again');
        $all_ok->($halves, 'every connection goes on');
        is(($c->fetch('before'))[1], 'data', 'the session is there');
        is($h->check, 'clean', 'the store is clean');
    };

    subtest "$mpm: to one with another state of connections" => sub {
        my $idle = Sessiond::Test::Client->new($h->port);
        is(($idle->hello)[0], 'ok', 'an idle connection');
        # A frame that is under way when the drain begins is answered, and then the
        # connection ends as trouble does: an orderly end would be taken for a "no".
        # A machine may stall for longer than the drain.
        my ($answer, $end) = ('none', '');
        for my $try (1 .. 5) {
            my ($under_way, $write, $old) = (Sessiond::Test::Client->new($h->port), frame_write('under-way', 'x' x 1000), $h->sessiond_pid);
            $under_way->hello;
            $under_way->send(substr $write, 0, 500, '');
            $change->($try % 2 ? 'stranger' : 'ours', wait => 0);
            $h->wait_for(sub { $h->status->{SessiondState} ne 'running' || $h->sessiond_pid != $old }, 60, 'the drain');
            $under_way->send($write);
            $answer = (($under_way->read_reply)[1] // {})->{type} // 'none';
            $end = ($under_way->read_all)[0] if $answer eq 'K';
            $h->wait_for(sub { $h->status->{SessiondState} eq 'running' && $h->sessiond_pid != $old }, 60, 'the next process');
            last if $answer eq 'K' && $try % 2;
        }
        is_deeply([$answer, $end], ['K', 'reset'], 'a frame under way is answered, then its connection is reset');
        is(($idle->read_all)[0], 'reset', 'the idle one is reset, too');
        is($version->(), '9.9.2', 'the other version serves');
        like($h->error_log, qr/cannot hand its connections over to this version: it finishes what is under way/, 'the log says so');
        is(($c->fetch('before'))[1], 'data', 'the session is there');
        $change->('ours');
        is($version->(), $own, 'and back');
        is(($c->fetch('before'))[1], 'data', 'the session is there');
        is($h->check, 'clean', 'the store is clean');
    };

    subtest "$mpm: to one with another layout of the memory" => sub {
        my ($old, $halves) = ($h->sessiond_pid, Sessiond::Test::Halves->new($h->port, name => 'layout'));
        $h->allow_log(qr/cannot use the session memory|could not start; see above/);
        $change->('layout', wait => 0);
        ok($h->eventually(sub { $h->error_log =~ qr/cannot use the session memory: .*layout.*session process $old goes on serving/s }),
            'the log says why, and that the old process goes on') or diag $h->error_log_tail;
        is($h->sessiond_pid, $old, 'it is the same process');
        is($version->(), $own, 'of the old version');
        $all_ok->($halves, 'every connection goes on');
        is(($c->fetch('before'))[1], 'data', 'the session is there');
        is($c->store('between', 'data'), 'ok', 'and others can be stored');
        $change->('ours');
        isnt($h->sessiond_pid, $old, 'back again: a new process');
        is(($c->fetch($_))[1], 'data', "the session \"$_\" is there") for qw(before between);
    };
    is($h->value('Respawns'), 0, "$mpm: nothing had to be respawned");

    # The newer one waits for three seconds only to hear that it is still wanted.
    subtest "$mpm: who is given up, and who is not" => sub {
        $change->('newer');
        my $idle = Sessiond::Test::Client->new($h->port);
        is(($idle->hello)[0], 'ok', 'a connection');
        my $old = $h->sessiond_pid;
        $change->('layout', wait => 0);    # does not become ready
        ok($h->eventually(sub { $h->error_log =~ qr/.*session process $old goes on serving/s }), 'the old process goes on');
        nap(4.5);
        ok(is_alive($old), 'and is not given up for it');    # the page is of the other version's board
        is(($idle->hello)[0], 'ok', 'its connection lives');
        is(($c->fetch('before'))[1], 'data', 'it serves');
        $change->('newer');
        is(($idle->hello)[0], 'ok', 'and hands over');
        # and now the module goes
        $h->allow_log(qr/AH00167: long lost child/);    # httpd does not know the process any more
        $h->{module} = undef;
        $h->reconfigure('');
        is(($h->graceful(wait => 0))[0], 0, 'a restart without the module');
        ok($h->eventually(sub { $c->open eq 'refused' }), 'ends the service after a while');
        like($h->error_log, qr/no longer loaded/, 'and the log says so');
    };
    $h->finish;
}
done_testing;
