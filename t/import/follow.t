#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# sessiond-import --follow, while a farm goes on: what is changed on the old
# side comes after, but never over what anybody has written or removed on the
# new one. And the dates behind that: --since, the rest of a lifetime.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Fcntl qw(:flock);
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client ();
use Sessiond::Test::Import qw(run_import start_import finish_import new_directory put_session);
use Sessiond::Test::Net    qw(now nap);

my $h = Sessiond::Test::Httpd->new(name => 'follow', config => <<'END')->start;
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 64M
END
my $server = '127.0.0.1:' . $h->port;
my $c = Sessiond::Test::Client->new($h->port);

sub value_of ($key) {
    my ($outcome, $reply) = $c->get($key);
    ($outcome, $reply) = $c->get($key) if $outcome ne 'ok';     # a restart has cut it
    die "get: $outcome\n" if $outcome ne 'ok';
    return $reply->{type} eq 'V' ? $reply->{data} : undef;
}

sub becomes ($key, $value, $name) {
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok($h->eventually(sub { (value_of($key) // '') eq $value }), $name) or diag value_of($key) // 'none';
    return;
}

# Until two more passes have been made.
sub wait_passes ($run) {
    my $count = sub { my ($out) = Sessiond::Test::Import::so_far($run); return scalar(() = $out =~ /^pass /mg) };
    my $before = $count->();
    $h->wait_for(sub { $count->() >= $before + 2 }, 60, 'two passes');
    return;
}

subtest 'changes follow, and nobody is overwritten' => sub {
    my $dir = new_directory();
    put_session($dir, "sess_$_", "$_ first", 20) for qw(quiet busy moved gone empty large), 1 .. 500;
    put_session($dir, 'sess_new-there', 'old side', 20);
    $c->write('new-there', 'new side', 0);
    my $run = start_import('--follow=1', 'php', $dir, $server);
    becomes('busy', 'busy first', 'the first pass');
    wait_passes($run);

    put_session($dir, 'sess_busy', 'busy second', 0);
    becomes('busy', 'busy second', 'a change comes after');
    put_session($dir, 'sess_busy', 'busy third', 0);
    becomes('busy', 'busy third', 'and another one');
    put_session($dir, 'sess_late', 'late', 0);
    becomes('late', 'late', 'a session that is new');
    put_session($dir, 'sess_large', 'L' x 700_000, 0);
    becomes('large', 'L' x 700_000, 'one that has become large');
    put_session($dir, 'sess_large', 'M' x 700_000, 0);
    becomes('large', 'M' x 700_000, 'and is changed again');

    # The users arrive on the new side.
    $c->write('moved', 'new side', 0);
    $c->remove('gone');
    put_session($dir, "sess_$_", 'old side, later', 0) for qw(moved gone new-there);
    put_session($dir, 'sess_mark', 'mark', 0);
    becomes('mark', 'mark', 'a pass later');
    wait_passes($run);
    is(value_of('moved'), 'new side', 'what was written on the new side stays');
    is(value_of('new-there'), 'new side', 'what was there from the beginning, too');
    is(value_of('gone'), undef, 'what was removed there is not revived');

    open my $fh, '+<', "$dir/sess_quiet" or die "$!\n";
    flock $fh, LOCK_EX or die "flock: $!\n";
    syswrite $fh, 'quiet second, under a lock';
    wait_passes($run);
    is(value_of('quiet'), 'quiet first', 'a session in use waits');
    close $fh;
    becomes('quiet', 'quiet second, under a lock', 'until it is free');
    wait_passes($run);

    kill INT => $run->{pid};
    $run = finish_import($run);
    is($run->{status}, 0, 'an interruption ends it in order') or diag $run->{out}, $run->{err};
    is($run->{err}, '', 'without complaint');
    is_deeply([@{ $run->{sum} }{ 'imported', 'already there' }], [508, 3], 'the sum: imported and the server\'s own') or diag $run->{out};
    cmp_ok($run->{sum}{'brought up to date'}, '>=', 5, 'and brought up to date');
    like($run->{out}, qr/^pass 1: 506 written, 0 left for the next$/m, 'a line for each pass');
};

subtest 'a restart of the server in between' => sub {
    my $dir = new_directory();
    put_session($dir, 'restart1', 'first', 20);
    my $run = start_import('--follow=1', 'sharedance', $dir, $server);
    becomes('restart1', 'first', 'the first pass');
    is(($h->graceful)[0], 0, 'graceful');
    $h->allow_log(qr/was killed by signal 9|repaired the store/);
    $h->wait_respawn($h->kill_sessiond);
    put_session($dir, 'restart1', 'second', 0);
    becomes('restart1', 'second', 'a change follows');
    $h->stop;
    $h->start;
    put_session($dir, 'restart1', 'third', 0);
    put_session($dir, 'restart2', 'one more', 0);
    $run = finish_import($run);
    is($run->{status}, 3, 'a server that has lost its sessions ends it') or diag $run->{out}, $run->{err};
};

subtest 'the directory goes' => sub {
    my $dir = new_directory();
    put_session("$dir/in", 'leaving', 'value', 20);
    my $run = start_import('--follow=1', 'sharedance', "$dir/in", $server);
    becomes('leaving', 'value', 'the first pass');
    wait_passes($run);
    unlink "$dir/in/leaving";
    rmdir "$dir/in" or die "rmdir: $!\n";
    $run = finish_import($run);
    is($run->{status}, 1, 'status 1');
    like($run->{err}, qr{/in: No such file or directory}, 'and why');
    is($run->{sum}{imported}, 1, 'with the summary');
    is(value_of('leaving'), 'value', 'that the file is gone removes no session');
};

subtest 'the rest of a lifetime' => sub {
    my $dir = new_directory();
    # Some seconds each, so that a machine that stalls does not fail it: what counts is the order.
    my %rest = (life1 => 8, life2 => 20, life3 => 3600);
    my $begin = now();
    put_session($dir, $_, $_, 7200 - $rest{$_}) for keys %rest;
    is(run_import('-e', 7200, 'sharedance', $dir, $server)->{sum}{imported}, 3, 'imported');
    my %ended;
    $h->wait_for(sub {
        for my $key (qw(life1 life2)) { $ended{$key} //= now() - $begin if !defined value_of($key) }
        return keys %ended == 2;
    }, 90, 'the end of two');
    is(value_of('life3'), 'life3', 'the third lives');
    for my $key (sort keys %ended) {
        cmp_ok($ended{$key}, '>=', $rest{$key} - 0.1, "$key has not lost a moment");
        cmp_ok($ended{$key}, '<', $rest{$key} + 10, sprintf 'and ended after %.1f s', $ended{$key});
    }
};

is($h->check, 'clean', 'the store is clean');
$h->finish;
done_testing;
