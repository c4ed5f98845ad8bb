#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Restarts that no client notices: a crowd of connections, each in the middle of
# something, goes through graceful restarts, hard ones, and storms of signals.
# Not one connection ends by another hand than its client's, no byte is wrong,
# no answer is lost, doubled or moved, and the server has executed exactly what
# was asked of it. How long a restart makes one client wait is told.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd ();
use Sessiond::Test::Crowd ();
use Sessiond::Test::Pause ();
use Sessiond::Test::Net qw(now nap is_alive processes);

my $LONG  = $ENV{SESSIOND_TEST_LONG};
my $CROWD = 500;      # about half a core of two, and 180 MB of the store
my %TIMES = (graceful => $LONG ? 200 : 8, restart => $LONG ? 20 : 3, storm => $LONG ? 10 : 1);
my @DONE  = qw(Hellos GetHits Writes Stores FetchHits);
# What counts ends that were not the client's, refusals, and clients that were bad.
my @TROUBLE = qw(RefusedAddress RefusedLimit AcceptErrors Timeouts IdleTimeouts SlowWriters SlowReaders Aborted Drained
    BadRequests OversizedRequests FetchMisses GetMisses WritesFenced RefusedFull Respawns);
my @KINDS = (
    [[qw(reset closed reset_idle closed_idle)], 'no connection ended but by its client'],
    [['refused'],                               'no connect was refused'],
    [['wrong'],                                 'every byte and version was right'],
    [[qw(lost surplus refusal)],                'nothing was lost, doubled or refused'],
    [[qw(timeout error died)],                  'nobody waited in vain, and nothing else happened'],
);

sub server ($mpm, $more = '') {
    my $h = Sessiond::Test::Httpd->new(name => 'handover', mpm => $mpm, config => <<"END")->start;
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 512M
SessiondThreads 2
SessiondTimeout 60
$more
END
    # A hard restart may have to ask a busy web child twice.
    $h->allow_log(qr/still did not exit, sending a SIGTERM/);
    return $h;
}

# Ten signals within a second; then until one session process has stayed.
sub storm ($h) {
    for (1 .. 10) {
        kill USR1 => $h->pid;
        nap(0.09);
    }
    my ($pid, $since) = (0, now());
    $h->wait_for(sub {
        my $is = eval { $h->status } // return 0;
        ($pid, $since) = ($is->{SessiondPid}, now()) if $is->{SessiondState} ne 'running' || $is->{SessiondPid} != $pid;
        return now() - $since > 1;
    }, 60, 'the end of a storm');
    return (0, '');
}

sub all_is_well ($name, $sum) {
    for (@KINDS) {
        my ($kinds, $what) = @$_;
        is_deeply({ map { $_ => $sum->{found}{$_} // 0 } @$kinds }, { map { $_ => 0 } @$kinds }, "$name: $what");
    }
    return;
}

# The session processes of this httpd but the one that the status names.
sub old_ones ($h) {
    my %all = processes();
    my $is  = $h->sessiond_pid;
    return grep { $all{$_}{pgrp} == $h->pid && $all{$_}{name} =~ /^sessiond/ && $all{$_}{state} !~ /[ZX]/ && $_ != $is } keys %all;
}

for my $mpm (qw(event prefork)) {
    my $h = server($mpm);
    my ($parent, $before) = ($h->pid, $h->status);
    my $crowd = Sessiond::Test::Crowd->new(addr => $h->port, connections => $CROWD)->start;
    my $probe = Sessiond::Test::Pause->new($h->port)->start;
    $crowd->wait_until_mixed;

    for my $word (qw(graceful restart storm)) {
        my $failed = '';
        for my $n (1 .. $TIMES{$word}) {
            $probe->begin($word);
            my ($status, $output) = $word eq 'storm' ? storm($h) : $h->$word;
            $probe->end;
            $failed .= "$n: $output " if $status != 0;
            $probe->begin('no restart');
            $crowd->wait_until_mixed;
            $probe->end;
        }
        is($failed, '', "$mpm: $TIMES{$word} x $word");
    }

    my ($sum, $seen) = ($crowd->stop, $probe->stop);
    diag "$mpm: " . $crowd->describe;
    diag "$mpm, " . $probe->describe($_) for 'graceful', 'restart', 'storm', 'no restart';
    all_is_well($mpm, $sum);
    is_deeply($seen->{found}, {}, "$mpm: nor did the probe notice anything");
    cmp_ok($sum->{requests}, '>', 3 * $CROWD, "$mpm: there was load");
    cmp_ok($_->[0], '<', 10, "$mpm: nobody waited long ($_->[1])")
        for [@$sum{qw(slowest slowest_is)}], [@$sum{qw(narrow_slowest narrow_slowest_is)}];

    my $after = $h->status;
    my %more = map { $_ => $after->{"Sessiond$_"} - $before->{"Sessiond$_"} } @DONE, @TROUBLE;
    is_deeply({ map { $_ => $more{$_} } @TROUBLE }, { map { $_ => 0 } @TROUBLE }, "$mpm: the server counted no trouble");
    is_deeply({ map { $_ => $more{$_} } @DONE }, { map { $_ => ($sum->{done}{$_} // 0) + ($seen->{done}{$_} // 0) } @DONE },
        "$mpm: each request was executed once");
    $h->wait_for(sub { $h->value('ConnectionsOpen') == 0 }, 60, 'the end of all connections');
    pass("$mpm: no connection is left");
    is($h->check, 'clean', "$mpm: the store is clean");
    is_deeply([$h->pid, is_alive($parent)], [$parent, 1], "$mpm: the parent is the same");
    ok($h->eventually(sub { !old_ones($h) }, 30), "$mpm: no old session process is left") or diag join ' ', old_ones($h);
    $h->finish;
}

subtest 'logrotate' => sub {
    my ($logrotate) = grep { -x } map { "$_/logrotate" } split(/:/, $ENV{PATH}), '/usr/sbin';
    plan skip_all => 'logrotate is not installed' if !$logrotate;
    my $h = server('event', 'TransferLog "%ROOT%/access.log"');
    my ($root, $httpd) = ($h->root, Sessiond::Test::Httpd->httpd_binary);
    my $config = "$root/logrotate.conf";
    open my $fh, '>', $config or die "$config: $!\n";
    print {$fh} <<"END";
"$root/*.log" {
    rotate 5
    nocompress
    create
    sharedscripts
    postrotate
        $httpd -d $root -f $root/httpd.conf -k graceful
    endscript
}
END
    close $fh or die "$config: $!\n";
    chmod 0644, $config;

    my $before = $h->value('Drained');
    my $crowd  = Sessiond::Test::Crowd->new(addr => $h->port, connections => 50, processes => 2)->start;
    for my $n (1, 2) {
        $crowd->wait_until_mixed;
        my $old = $h->sessiond_pid;
        my ($status, $output) = $h->run($logrotate, '--force', '--state', "$root/logrotate.state", $config);
        is($status, 0, "logrotate, turn $n") or diag $output;
        my $new = $h->wait_respawn($old);
        $h->wait_for(sub { $h->error_log =~ /process $new serves sessions/ }, 60, 'a line in the new log');
        is($h->check, 'clean', "turn $n: the store is clean");
        my ($is, $was) = map { $h->log_file($_) } 'error.log', 'error.log.1';
        like($is, qr/\bpid $new\b.*serves sessions/, "turn $n: the new process writes to the new log");
        unlike($was, qr/\bpid $new\b/, "turn $n: and not to the old one");
        like($was, qr/process $old serves sessions/, "turn $n: which has the lines of the old one");
        ok(-s "$root/access.log.1", "turn $n: the access log was rotated too");
    }
    all_is_well('logrotate', $crowd->stop);
    diag 'logrotate: ' . $crowd->describe;
    is($h->value('Drained'), $before, 'no connection was reset');
    $h->finish;
};
done_testing;
