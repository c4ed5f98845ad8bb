#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# persist_slow.t: SessiondPersist on a disk that hangs or takes long, and who is told
# to go, or is killed, meanwhile. Whoever serves does not wait for the disk, a process
# that waits for it listens, and what is on disk is loaded in the end.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Fcntl qw(LOCK_EX);
use POSIX ();
use Test::More;
use Sessiond::Test::Client qw(frame_store frame_hello frame_write frame_get frame_lock);
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Net    qw(now nap process_group);

plan skip_all => 'another library is preloaded already' if $ENV{SESSIOND_SANITIZED};

my $CONFIG = <<'END';
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 64M
SessiondThreads 2
SessiondTimeout 3
SessiondPersist %ROOT%/sessions
END
my $faults;

sub server ($name, $more = '', %arg) {
    my $h = Sessiond::Test::Httpd->new(name => $name, config => $CONFIG . $more, env => { SESSIOND_FAULTS => '' },
        preload => [Sessiond::Test::Httpd->test_library('t/httpd/preload/disk_faults')], %arg);
    plan skip_all => 'built without LMDB' if ($h->configtest)[1] =~ /built without LMDB/;
    $faults = $h->root . '/faults';
    mkdir $faults;
    chmod 0777, $faults;
    $h->{env}{SESSIOND_FAULTS} = $faults;
    return $h;
}

sub fault ($name, $number = 1) {
    open my $fh, '>', "$faults/$name.new" or die "$name: $!";
    print {$fh} "$number\n";
    close $fh;
    chmod 0666, "$faults/$name.new";
    rename "$faults/$name.new", "$faults/$name" or die "$name: $!";
    return;
}

sub mended ($name) { return unlink "$faults/$name" }

sub client ($h) { return Sessiond::Test::Client->new($h->port, timeout => 60) }

sub begun ($h, @frames) {
    my $c = client($h);
    $c->open;
    $c->send(join '', @frames);
    return $c;
}

sub ends_within ($h, $seconds, $name) {
    my ($pid, $began) = ($h->pid, now());
    $h->eventually(sub { !process_group($pid) }, 70);
    cmp_ok(now() - $began, '<', $seconds, sprintf '%s (%.1f s)', $name, now() - $began);
    $h->stop;
    return;
}

sub stops_within ($h, $seconds, $name) {
    kill TERM => $h->pid;
    return ends_within($h, $seconds, $name);
}

sub is_loaded ($h, $name) {
    ok($h->eventually(sub { $h->status->{SessiondState} eq 'running' }, 60), "$name: served");
    is(length((client($h)->fetch('kept1'))[1] // ''), 100_000, "$name: the sessions are there")
        or diag $h->value('DurabilityReason');
    ok($h->eventually(sub { $h->value('Durability') eq 'on' }), "$name: and durable");
    return;
}

sub is_loading ($h) { return $h->wait_for(sub { $h->status->{SessiondDurability} eq 'loading' }, 60, 'loading') }

# The child that reads the files.
sub reader_of ($h) {
    for my $pid (process_group($h->pid)) {
        open my $fh, '<', "/proc/$pid/stat" or next;
        my ($parent) = (readline($fh) // '') =~ /\(sessiond\) \S+ (\d+)/ or next;
        open my $of, '<', "/proc/$parent/comm" or next;
        return $pid if (readline($of) // '') =~ /^sessiond/;
    }
    return;
}

my $h = server('always', "SessiondPersistSync always\n")->start;

subtest 'always: who has ended leaves the store in order' => sub {
    my $with = $h->{config};
    is(client($h)->store('before', 'b'), 'ok', 'a session');
    my $pid = $h->sessiond_pid;
    $h->reconfigure($with =~ s/^SessiondListen.*\n//mr)->graceful(wait => 0);
    $h->wait_for(sub { !kill 0, $pid }, 60, 'the end of the session process');
    $h->reconfigure($with)->graceful;
    is((client($h)->fetch('before'))[1], 'b', 'it is there when sessions are served again');
    nap(0.5);
    unlike($h->error_log, qr/repaired/, 'and there was nothing to repair');
};

subtest 'always: a disk that hangs' => sub {
    my $began = now();
    fault('hang-sync');
    my $store = begun($h, frame_store('hung', 'h'));
    my $write = begun($h, frame_hello('nonce-01'), frame_write('w', '1'), frame_lock('lock', 10_000), frame_get('w'));
    my $gone  = begun($h, frame_store('gone', 'g'));
    nap(0.5);
    $gone->abort;
    my $asked = now();
    is((client($h)->fetch('hung'))[1], 'h', 'who asks is answered');
    cmp_ok(now() - $asked, '<', 0.5, 'at once');
    kill USR2 => $h->sessiond_pid;
    nap(3.5);
    is($h->value('Timeouts'), 0, 'SessiondTimeout is for clients, not for the disk');
    my $old = $h->sessiond_pid;
    $h->graceful(wait => 0) for 1 .. 2;
    nap(2);
    is($h->value('Durability'), 'on', 'who waits for a hand-over leaves the status alone');
    is($h->sessiond_pid, $old, 'the old process serves');
    is((client($h)->fetch('hung'))[1], 'h', 'who asks is answered');
    ok($h->eventually(sub { $h->value('Durability') eq 'lost' }, 30), sprintf 'after %.0f s the status tells', now() - $began);
    like($h->value('DurabilityReason'), qr/hangs/, 'and why');
    like($h->error_log, qr/NOT being written to disk.*hangs/, 'so does the log');
    mended('hang-sync');
    is(($store->read_all)[1], "OK\n", 'the disk goes on, and what waited is acknowledged, by the next process');
    is(join('', map { ($write->read_reply)[1]{type} } 1 .. 4), 'KKNV', 'with all that came behind it');
    isnt($h->wait_for(sub { my $pid = $h->sessiond_pid; $pid != $old && $pid }, 60, 'the next process'), $old, 'it serves');
    ok($h->eventually(sub { $h->value('Durability') eq 'on' }), 'durable');
    is($h->value('ConnectionsOpen'), 1, 'who went away is forgotten');
    is($h->check, 'clean', 'the store is sound');
};

subtest 'always: a stop while the disk hangs' => sub {
    fault('hang-sync');
    my $store = begun($h, frame_store('last', 'l'));
    nap(0.3);
    kill USR2 => $h->sessiond_pid; # a check of the store waits for the disk, and holds nothing up
    nap(0.3);
    my $began = now();
    kill TERM => $h->pid;
    is(($store->read_all)[0], 'reset', 'what is not on disk is not acknowledged');
    cmp_ok(now() - $began, '<', 5, 'when the time of a drain is over');
    mended('hang-sync');
    ends_within($h, 5, 'it stops when the disk goes on');
    $h->start;
    is((client($h)->fetch('last'))[1], 'l', 'and all was written');
};
$h->allow_log(qr/NOT being written to disk/);
$h->finish;

for my $mpm (qw(event prefork)) {
    my $l = server("loading-$mpm", '', mpm => $mpm)->start;
    my $c = client($l);
    $c->store("kept$_", 'k' x 100_000) for 1 .. 60;
    ok($l->stop, "$mpm: a stop");
    open my $owner, '+<', $l->root . '/sessions/owner' or die $!;

    subtest "$mpm: another process has the directory" => sub {
        flock $owner, LOCK_EX or die $!;
        $l->try_start;
        is_loading($l);
        stops_within($l, 10, 'who waits for it can be stopped');
        $l->try_start;
        is_loading($l);
        kill $_ => $l->pid for 'USR1', 'HUP';
        nap(2);
        close $owner;
        is_loaded($l, 'restarts');
        $l->stop;
    };

    # How many of the slow steps a load takes is LMDB's and ours to change, so that in
    # the short form it may be over before anybody has looked.
    subtest "$mpm: while the files are looked at" => sub {
        plan skip_all => 'a matter of moments: SESSIOND_TEST_LONG=1' unless $ENV{SESSIOND_TEST_LONG};
        fault('slow-read', 8000);
        $l->try_start;
        is_loading($l);
        stops_within($l, 10, 'a stop');
        $l->try_start;
        is_loading($l);
        nap(0.5);
        kill HUP => $l->pid;
        nap(1);
        # it may be over already; t/unit/test_load.c kills it at chosen places
        my $reader = $l->eventually(sub { reader_of($l) }, 5);
        kill KILL => $reader if $reader;
        diag('the child that reads was not met') unless $reader;
        nap(0.5);
        mended('slow-read');
        is_loaded($l, 'restarted, and the child killed');
        $l->stop;
        if ($ENV{SESSIOND_TEST_LONG}) {
            fault('slow-read', 700);
            $l->try_start;
            is_loaded($l, 'very slow');
            mended('slow-read');
        }
    };
    unlike($l->error_log, qr/not loaded|NOT being written|hand over within|hang|killing/, "$mpm: nobody was killed for waiting");
    $l->finish;
}

subtest 'a clock that is set while nothing changes' => sub {
    my $t = server('clock', "SessiondPersistSync always\n")->allow_log(qr/exit signal Killed/)->start;
    my $c = client($t);
    is($c->store('kept', 'x'), 'ok', 'a session');
    $t->graceful;
    ok($t->eventually(sub { $t->value('Durability') eq 'on' }), 'another process has the files');
    fault('clock-ahead', 36_000);
    is($c->store('later', 'y'), 'ok', 'when the clock has been set, something changes');
    nap(3);    # the round in which that is found out, and one of everything
    my $pid = $t->pid;
    kill KILL => -$pid;
    $t->wait_for(sub { !process_group($pid) }, 60, 'the death of all');
    $t->stop;
    $t->start;
    is(($c->fetch($_))[0], 'ok', "$_ has lived for seconds, not for hours") for 'kept', 'later';
    mended('clock-ahead');
    $t->finish;
};

subtest 'a copy that was killed' => sub {
    my ($copier) = grep { -x } map { "$_/mdb_copy" } split /:/, $ENV{PATH};
    plan skip_all => 'no mdb_copy' unless $copier;
    my $k = server('copy', "SessiondPersistSync always\n")->start;
    my ($c, $dir) = (client($k), $k->root . '/sessions');
    my $store = sub { $c->store('k' . $_ % 50, 'x' x 30_000) for 1 .. $_[0] };
    $store->(400);
    pipe my $full, my $end or die $!;
    my $pid = fork // die $!;
    if ($pid == 0) {
        open STDOUT, '>&', $end or die $!;
        exec $copier, $dir or POSIX::_exit(1);
    }
    nap(1);    # it writes into a pipe that nobody reads
    kill KILL => $pid;
    waitpid $pid, 0;
    is($? & 127, 9, 'it was copying');
    my $before = -s "$dir/data.mdb";
    $store->(1000);
    cmp_ok(-s "$dir/data.mdb", '<', $before + 16e6, 'the files keep their size');
    $k->finish;
};

# httpd's user can put there what he likes, so root must not give it to him.
subtest 'a directory where httpd\'s user may write' => sub {
    plan skip_all => 'only for root' if $> != 0;
    my $r = server('theirs')->allow_log(qr/NOT being written/);
    my ($theirs, @user) = ($r->root . '/theirs', (getpwnam((Sessiond::Test::Httpd->web_user)[0]))[2, 3]);
    mkdir $_, 0700 or die $! for $theirs, "$theirs/precious";
    chown @user, $theirs;
    $r->reconfigure($r->{config} =~ s{%ROOT%/sessions}{%ROOT%/theirs/sessions}r);
    fault('slow-mkdir', 1000);
    my $pid = fork // die $!;
    if ($pid == 0) {
        ($(, $)) = ($user[1], "$user[1] $user[1]");
        ($<, $>) = @user[0, 0];
        my $until = now() + 8;
        nap(0.02) until -d "$theirs/sessions" || now() > $until;
        rename "$theirs/sessions", "$theirs/away" and rename "$theirs/precious", "$theirs/sessions";
        POSIX::_exit(0);
    }
    $r->try_start;
    waitpid $pid, 0;
    mended('slow-mkdir');
    my @owners = map { -e $_ ? (stat _)[4] : () } "$theirs/precious", "$theirs/sessions";
    ok((grep { $_ == 0 } @owners) == 1, 'what was root\'s stays so') or diag "@owners";
    $r->stop;
    system 'rm', '-rf', "$theirs/sessions", "$theirs/away";
    $r->reconfigure($r->{config} =~ s{(%ROOT%/theirs/sessions)}{$1/}r)->start;    # a slash at the end is no matter
    ok($r->eventually(sub { $r->value('Durability') eq 'on' }), 'it is made by the session process') or diag $r->value('DurabilityReason');
    is((stat "$theirs/sessions")[2] & 07777, 0700, 'with its mode');
    $r->finish;
};
done_testing;
