#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# sessiond-import when something happens in the middle: a session process that
# dies, a graceful restart, a httpd that stops, or stops and starts and has lost
# everything; an interruption; files that are rewritten while they are read. To
# have it in the middle, a file that it comes to half-way is locked as PHP does,
# and it waits for that one.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Fcntl qw(:flock);
use POSIX ();
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client ();
use Sessiond::Test::Import qw(run_import start_import finish_import new_directory put_session);
use Sessiond::Test::Net    qw(now nap is_alive);

my $h = Sessiond::Test::Httpd->new(name => 'trouble', config => <<'END')->start;
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 128M
END
$h->allow_log(qr/session process \d+ was killed by signal 9|repaired the store/);
my $server = '127.0.0.1:' . $h->port;

# PHP's files, of which the one in the middle is locked: (directory, lock).
sub half_way ($n, $data = 'x' x 500) {
    my $dir = new_directory();
    put_session($dir, "sess_$_", "$_ $data", 10) for 1 .. $n;
    opendir my $handle, $dir or die "$dir: $!\n";
    my @names = grep { /^sess_/ } readdir $handle;
    open my $fh, '+<', "$dir/$names[$n / 2]" or die "$!\n";
    flock $fh, LOCK_EX or die "flock: $!\n";
    return ($dir, $fh);
}

sub start_half_way ($dir, @options) {
    return start_import(@options, '--lock-wait=60000', 'php', $dir, $server);
}

# It has come to the locked file, and the server has all before it.
sub wait_half_way ($n) {
    $h->wait_for(sub { $h->value('Sessions') >= $n / 2 }, 60, 'half of the sessions');
    return;
}

sub forget_all () {
    $h->stop;
    $h->start;
    return;
}

for my $case (['its session process is killed', sub { $h->wait_respawn($h->kill_sessiond) }],
    ['a graceful restart', sub { is(($h->graceful)[0], 0, 'graceful') }],
    ['a hard restart', sub { is(($h->restart)[0], 0, 'restart') }]) {
    my ($name, $event) = @$case;
    subtest "the server: $name" => sub {
        my ($dir, $lock) = half_way(2000);
        my $run = start_half_way($dir);
        wait_half_way(2000);
        $event->();
        close $lock;
        $run = finish_import($run);
        is_deeply([$run->{status}, $run->{sum}{imported}], [0, 2000], 'all is imported') or diag $run->{out}, $run->{err};
        is($h->value('Sessions'), 2000, 'and there');
        forget_all();
    };
}

subtest 'killed again and again, with large values' => sub {
    my $dir = new_directory();
    put_session($dir, "small$_", 'x' x 2000, 10) for 1 .. 20_000;
    put_session($dir, "large$_", "$_" x 3_000_000, 10) for 1 .. 9;
    my $run = start_import('sharedance', $dir, $server);
    my $kills = 0;
    while (is_alive($run->{pid}) && $kills < 5) {
        nap(0.03);
        my $pid = eval { $h->sessiond_pid };
        kill KILL => $pid and $kills++ if $pid;
    }
    my $first = finish_import($run);
    is($first->{status}, 0, 'it comes through') or diag $first->{out}, $first->{err};
    $run = run_import('sharedance', $dir, $server);
    is_deeply([$run->{status}, $run->{sum}{imported} + $run->{sum}{'already there'}], [0, 20_009], "all is there after $kills kills")
        or diag $run->{out}, $run->{err};
    my $c = Sessiond::Test::Client->new($h->port);
    is_deeply([map { my $n = $_; ($c->get("large$n"))[1]{data} eq "$n" x 3_000_000 ? 1 : 0 } 1 .. 9], [(1) x 9], 'the large values are whole');
    forget_all();
};

subtest 'the server stops' => sub {
    my ($dir, $lock) = half_way(500);
    my $run = start_half_way($dir);
    wait_half_way(500);
    $h->stop;
    close $lock;
    my $begin = now();
    $run = finish_import($run);
    is($run->{status}, 3, 'status 3') or diag $run->{out}, $run->{err};
    like($run->{err}, qr/lost the connection to \S+ \(.+\), and could not have it back: cannot connect .*; see that the server runs/,
        'with a sentence that says what to do');
    cmp_ok(now() - $begin, '<', 60, 'in time');
    cmp_ok($run->{sum}{imported}, '>=', 250, 'and the summary so far');
    $h->start;
};

subtest 'the server stops and starts' => sub {
    my ($dir, $lock) = half_way(500);
    my $run = start_half_way($dir);
    wait_half_way(500);
    forget_all();
    close $lock;
    $run = finish_import($run);
    is($run->{status}, 3, 'status 3') or diag $run->{out}, $run->{err};
    like($run->{err}, qr/stopped and started meanwhile, and has lost its sessions; run this again/, 'it is noticed');
    $run = run_import('php', $dir, $server);
    is($run->{status}, 0, 'again');
    is($h->value('Sessions'), 500, 'and all is there');
    forget_all();
};

for my $signal (qw(INT TERM)) {
    subtest "SIG$signal" => sub {
        my ($dir, $lock) = half_way(500);
        my $run = start_half_way($dir);
        wait_half_way(500);
        kill $signal => $run->{pid};
        my $begin = now();
        $run = finish_import($run);
        cmp_ok(now() - $begin, '<', 20, 'it ends');
        is($run->{status}, 1, 'status 1');
        like($run->{err}, qr/interrupted: not all files were looked at; run it again for the rest/, 'and says so');
        is($run->{sum}{imported}, $h->value('Sessions'), 'the summary is right');
        close $lock;
        $run = run_import('php', $dir, $server);
        is_deeply([$run->{status}, $run->{sum}{imported} + $run->{sum}{'already there'}], [0, 500], 'a second run takes the rest');
        forget_all();
    };
}

subtest 'a second signal ends it at once' => sub {
    my ($dir, $lock) = half_way(10, 'y');
    my $run = start_half_way($dir);
    wait_half_way(10);
    kill STOP => $run->{pid};
    kill INT  => $run->{pid};
    kill CONT => $run->{pid};
    nap(0.01);
    kill INT => $run->{pid};
    my $status = finish_import($run)->{status};
    ok($status == 1 || $status == 1000 + POSIX::SIGINT(), "status $status");
    forget_all();
};

# Nobody writes so: sharedanced renames, PHP locks. A writer that the kernel stops in
# the midst for longer than the tool waits looks like one that has ended, so it is
# not never; without the looks at the file's date it would be most of the time.
subtest 'files that are rewritten in place meanwhile' => sub {
    for my $size (3000, 200_000, 5_000_000) {
        my $dir = new_directory();
        my $path = put_session($dir, "torn$size", 'A' x $size, 10);
        my $pid = fork // die "fork: $!\n";
        if ($pid == 0) {
            open my $fh, '+<', $path or POSIX::_exit(1);
            for (my $n = 0;; $n++) {
                sysseek $fh, 0, 0;
                syswrite $fh, chr(65 + $n % 26) x $size;
                nap(rand 0.06) if $n % 4 == 0;
            }
        }
        my ($mixed, %status) = (0);
        my $c = Sessiond::Test::Client->new($h->port);
        for my $try (1 .. 25) {
            my $run = run_import('--overwrite', 'sharedance', $dir, $server);
            $status{ $run->{sum}{imported} ? 'imported' : $run->{sum}{'skipped: changing'} ? 'changing' : $run->{out} }++;
            my $data = ($c->get("torn$size"))[1]{data} // next;
            $mixed++ if $data ne substr($data, 0, 1) x $size;
        }
        kill KILL => $pid;
        waitpid $pid, 0;
        cmp_ok($mixed, '<=', 3, "$size bytes: no mixtures ($mixed of 25)");
        is_deeply([grep { !/^(?:imported|changing)$/ } keys %status], [], join ', ', map { "$status{$_} times $_" } sort keys %status);
    }
};

subtest 'files that come, go and are replaced meanwhile' => sub {
    my $dir = new_directory();
    put_session($dir, "$_", 'old ' . 'x' x 300_000, 10) for 1 .. 20;
    my $pid = fork // die "fork: $!\n";
    if ($pid == 0) {
        while (1) {
            for my $n (1 .. 20) {
                my $temporary = put_session($dir, ".$n", 'new ' . 'y' x (300_000 + int rand 10_000));
                rename $temporary, "$dir/$n";
                unlink "$dir/" . (1 + int rand 20) if $n % 3 == 0;
            }
        }
    }
    my (%fates, $bad);
    for (1 .. 10) {
        my $run = run_import('--overwrite', 'sharedance', $dir, $server);
        $bad .= $run->{out} . $run->{err} if $run->{status} > 1;
        $fates{$_} += $run->{sum}{$_} for keys %{ $run->{sum} };
    }
    kill KILL => $pid;
    waitpid $pid, 0;
    is($bad, undef, 'nothing ends it');
    delete @fates{ 'imported', 'already there', 'expired', 'skipped: half stored', 'skipped: vanished', 'skipped: changing', 'skipped: empty' };
    is_deeply(\%fates, {}, 'and each is imported, vanished or changing');
    my $c = Sessiond::Test::Client->new($h->port);
    my @torn = grep { my $reply = ($c->get($_))[1]; $reply->{type} eq 'V' && $reply->{data} !~ /^(?:old x+|new y+)$/ } 1 .. 20;
    is_deeply(\@torn, [], 'no value is a mixture');
};

subtest 'a bar on a terminal, and only there' => sub {
    my ($script) = grep { -x } map { "$_/script" } split /:/, $ENV{PATH};
    plan skip_all => 'script(1) is not installed' unless $script;
    my ($dir, $lock) = half_way(300);
    my $log = Sessiond::Test::Httpd->scratch('typescript');
    my $pid = fork // die "fork: $!\n";
    if ($pid == 0) {
        open STDIN,  '<', '/dev/null';
        open STDOUT, '>', '/dev/null';
        no warnings 'exec';
        exec $script, '-qfc', Sessiond::Test::Import::tool() . " --lock-wait=1000 php '$dir' $server", $log;
        POSIX::_exit(127);
    }
    waitpid $pid, 0;
    open my $fh, '<', $log or die "$log: $!\n";
    my $shown = do { local $/; readline $fh };
    like($shown, qr/\r\[#+\.*\] \d+ of 300 files, \d+ s/, 'a bar on a terminal');
    is(run_import('--lock-wait=1000', 'php', $dir, $server)->{err}, '', 'and none elsewhere');
};

is($h->check, 'clean', 'the store is clean');
$h->finish;
done_testing;
