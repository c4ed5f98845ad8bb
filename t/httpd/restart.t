#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Graceful and hard restarts under load: the store and the listening sockets
# outlive the session process, so no acknowledged store is lost and no connect
# is refused; live connections are handed over, so none is cut. A graceful restart
# fails no page either.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd ();
use Sessiond::Test::Load  ();
use Sessiond::Test::Net   qw(nap is_alive);

my $LONG = $ENV{SESSIOND_TEST_LONG};
my $RATE = $LONG ? 3000 : 1000;     # two cores carry the clients, httpd and us
my %TIMES = (graceful => $LONG ? 10 : 3, restart => $LONG ? 3 : 2);

for my $mpm (qw(event prefork)) {
    my $h = Sessiond::Test::Httpd->new(name => 'restart', mpm => $mpm, config => <<'END')->start;
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 512M
SessiondThreads 2
END
    # A hard restart may have to ask a busy web child twice.
    $h->allow_log(qr/still did not exit, sending a SIGTERM/);
    my ($parent, %pids, @loads) = ($h->pid, $h->sessiond_pid => 1);

    for my $word (qw(graceful restart)) {
        my $seen = $h->value('Stores');
        my $load = Sessiond::Test::Load->new(addr => $h->port, clients => 64, extended => 0.25, rate => $RATE,
            http => [$h->http_port, '/ok.txt'])->start;
        push @loads, $load;
        $h->wait_for(sub { $h->value('Stores') > $seen + 500 }, 60, 'the load');
        for my $n (1 .. $TIMES{$word}) {
            my ($status, $output) = $h->$word;
            is($status, 0, "$mpm: $word $n") or diag $output;
            $pids{ $h->sessiond_pid } = 1;
            my $stores = $h->value('Stores');
            $h->wait_for(sub { $h->value('Stores') > $stores + 100 }, 60, "stores after $word $n");
            nap(0.3);
        }
        my $sum = $load->stop;
        diag "$mpm, $TIMES{$word} x $word: " . $load->describe;
        is($sum->{refused}, 0, "$mpm, $word: no connect was refused");
        is($sum->{timeout}, 0, "$mpm, $word: no request was left without an end");
        is($sum->{wrong} + $sum->{missed}, 0, "$mpm, $word: no fetch of an acknowledged store was wrong or a miss");
        is($sum->{cut}, 0, "$mpm, $word: no persistent connection was cut");
        is($sum->{reset}, 0, "$mpm, $word: no request under way was reset");
        is($sum->{denied}, 0, "$mpm, $word: no store was answered by an orderly close");
        cmp_ok($sum->{stored}, '>', 500, "$mpm, $word: there was load ($sum->{stored} stores)");
        cmp_ok($sum->{longest_gap}, '<', 8, "$mpm, $word: nobody waited long");
        is_deeply([grep { !/^http_why/ } keys %{ $sum->{other} }], [], "$mpm, $word: nothing else happened");
        my ($bad, $what) = $word eq 'graceful' ? ('http_failed', 'page failed') : ('http_refused', 'page was refused');
        is($sum->{$bad}, 0, "$mpm, $word: no $what ($sum->{http_ok} served)");
    }

    for my $load (@loads) {
        my $found = $load->verify;
        is($found->{asked}, $load->summary->{stored}, "$mpm: every acknowledged store is asked for");
        is_deeply([@$found{qw(lost wrong unanswered)}], [0, 0, 0], "$mpm: none is lost, none wrong")
            or diag join "\n", @{ $found->{examples} };
    }
    is($h->check, 'clean', "$mpm: the store is clean");
    is($h->pid, $parent, "$mpm: the parent is the same");
    ok(is_alive($parent), "$mpm: and alive");
    my $status = $h->status;
    is($status->{SessiondRespawns}, 0, "$mpm: a restart is no respawn");
    is(scalar keys %pids, 1 + $TIMES{graceful} + $TIMES{restart}, "$mpm: each restart had a session process of its own");
    $h->wait_for(sub { !grep { $_ != $status->{SessiondPid} && is_alive($_) } keys %pids }, 30, 'the end of the old ones');
    pass("$mpm: no old process is left");
    cmp_ok($status->{SessiondStores} + $status->{SessiondWrites}, '>=',
        $loads[0]->summary->{stored} + $loads[1]->summary->{stored}, "$mpm: counters go on across restarts");
    $h->finish;
}
done_testing;
