# SPDX-License-Identifier: Apache-2.0
#
# Bench::Persist: what SessiondPersist costs. Three servers that differ in nothing
# else take turns: one without it, one that writes each second, one that acknowledges
# what is on disk. Then how long a stop takes after a steady load, and a start. The
# directories lie below the servers' roots: set TMPDIR to try another disk.
package Bench::Persist;
use v5.36;

use Bench::Series qw(table note);
use Bench::Server qw(start_ours);
use Sessiond::Test::Net qw(now nap);

my %SERVER = ('without' => '', 'each second' => "SessiondPersist sessions\nSessiondPersistSync 1\n",
    'always' => "SessiondPersist sessions\nSessiondPersistSync always\n");

sub _start ($name, %opt) {
    return start_ours(config => $SERVER{$name}, %opt);
}

sub _cost ($opt) {
    my %server  = map { $_ => _start($_) } 'without', 'each second';
    my $seconds = $opt->{seconds} < 5 ? 5 : $opt->{seconds};    # several rounds in each run
    my $series  = Bench::Series->new;
    for my $round (1 .. $opt->{alternations}) {
        for my $shape (qw(once keep)) {
            for my $name ('without', 'each second') {
                local $server{$name}{dialect} = $shape eq 'once' ? 'sharedance' : 'extended';
                $series->add("$shape $name", $server{$name}->run('load', t => $seconds, w => $opt->{warm_up},
                    s => $opt->{bytes}, c => $opt->{clients}, k => $opt->{keys}, r => 0, f => undef));
            }
        }
    }
    my %word = (once => 'one store per connection', keep => 'persistent');
    my @rows;
    for my $shape (qw(once keep)) {
        for my $name ('without', 'each second') {
            my $who = "$shape $name";
            push @rows, [ $word{$shape}, $name, sprintf('%.1f', $series->of($who, 'cpu')),
                $series->ratio_cells($who, "$shape without", 'cpu'), sprintf('%.0f', $series->of($who, 'rate')),
                sprintf('%.0f', $series->of($who, 'p99')) ];
        }
    }
    table("Stores only, $opt->{bytes} bytes, $opt->{keys} sessions, $opt->{clients} clients, $opt->{alternations} alternations of $seconds s",
        [ 'connections', 'SessiondPersist', 'CPU per store, us', 'to without', 'range of that ratio', 'stores/s', 'p99, us' ], @rows);
    $_->stop for values %server;
    return;
}

sub _always ($opt) {
    my $server = _start('always');
    my $series = Bench::Series->new;
    my @crowds = (1, 8, 64);
    for my $round (1 .. $opt->{alternations}) {
        for my $clients (@crowds) {
            my $commits = $server->httpd->value('DiskCommits');
            my $found   = $server->run('load', t => $opt->{seconds}, w => $opt->{warm_up}, s => $opt->{bytes}, c => $clients,
                k => $opt->{keys}, r => 0);
            $found->{commits} = ($server->httpd->value('DiskCommits') - $commits) / ($opt->{seconds} + $opt->{warm_up});
            $series->add($clients, $found);
        }
    }
    table("SessiondPersistSync always: stores only, $opt->{bytes} bytes, persistent connections, $opt->{alternations} alternations of $opt->{seconds} s",
        [ 'clients', 'stores/s', 'to one client', 'range of that ratio', 'commits/s', 'p99, ms', 'CPU per store, us' ],
        map { [ $_, sprintf('%.0f', $series->of($_, 'rate')), $series->ratio_cells($_, 1, 'rate'), sprintf('%.0f', $series->of($_, 'commits')),
                sprintf('%.1f', $series->of($_, 'p99') / 1000), sprintf('%.1f', $series->of($_, 'cpu')) ] } @crowds);
    $server->stop;
    return;
}

sub _start_and_stop ($opt) {
    my $sessions = $opt->{persisted};
    my $memory = sprintf '%dM', $sessions * 2560 / (1 << 20) + 256;
    my $server = _start('each second', memory => $memory);
    my $httpd  = $server->httpd;
    $server->run('fill', k => $sessions, s => $opt->{bytes});
    $httpd->wait_for(sub { $httpd->value('DiskValues') >= $sessions && $httpd->value('LastCommitAge') <= 1 }, 300, 'all on disk');
    my (@stop, @start);
    for my $round (1 .. 3) {
        local $server->{pid} = $httpd->sessiond_pid;
        $server->run('load', t => 5, s => $opt->{bytes}, c => $opt->{clients}, k => $sessions, R => 5000, r => 50);
        my $began = now();
        $httpd->stop;
        push @stop, now() - $began;
        $began = now();
        $httpd->start;
        $httpd->wait_for(sub { $httpd->value('State') eq 'running' }, 300, 'service');
        push @start, now() - $began;
    }
    my $file = -s $httpd->root . '/sessions/data.mdb';
    table("$sessions sessions of $opt->{bytes} bytes: a stop after a steady load of 5000 operations/s, half of them stores, and a start (files in the system's memory)",
        [ 'round', 'stop, s', 'start until it serves, s' ], map { [ $_, sprintf('%.2f', $stop[ $_ - 1 ]), sprintf('%.2f', $start[ $_ - 1 ]) ] } 1 .. 3);
    note(sprintf 'data.mdb has %.2f GB for %.2f GB of sessions.', $file / 1e9, $sessions * $opt->{bytes} / 1e9);
    $server->stop;
    return;
}

sub measure ($opt) {
    my $server = eval { _start('each second') } or return note('Built without LMDB: nothing about SessiondPersist.');
    $server->stop;
    _cost($opt);
    _always($opt);
    _start_and_stop($opt);
    return;
}

1;
