#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# persist_trouble.t: the directory of SessiondPersist is full, gone, closed, somebody
# else's, or has something else in it. Whatever it is, no request fails, the log and
# the status say so, what is there is not overwritten; and when the trouble is over
# sessions are durable again, with everything that changed meanwhile.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Digest::MD5 qw(md5_hex);
use Test::More;
use Sessiond::Test::Client ();
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Load   ();
use Sessiond::Test::Net    qw(now nap process_group);
use Sessiond::Test::Timing qw(window windows_of);

my $LONG   = $ENV{SESSIOND_TEST_LONG};
my $CONFIG = <<'END';
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 256M
SessiondThreads 2
SessiondPersist %ROOT%/sessions
END
my @mounted;
END { local $?; system 'umount', '-l', $_ for @mounted }

sub server ($name, $more = '') {
    my $h = Sessiond::Test::Httpd->new(name => $name, config => $CONFIG . $more);
    plan skip_all => 'built without LMDB' if ($h->configtest)[1] =~ /built without LMDB/;
    return $h->allow_log(qr/AH03092|NOT being written to disk|not loaded|could not be written to disk|exit signal Killed|repaired/);
}

sub client ($h) { return Sessiond::Test::Client->new($h->port, timeout => 60) }
sub state_is ($h, $state) { return $h->eventually(sub { $h->value('Durability') eq $state }, 90) ? 1 : 0 }

sub kill_all ($h) {
    my $pid = $h->pid;
    kill KILL => -$pid;
    $h->wait_for(sub { !process_group($pid) }, 60, 'the death of all');
    $h->stop;
}

sub is_durable ($h, $load, $name) {
    ok(state_is($h, 'on'), "$name: durable again") or diag $h->value('DurabilityReason');
    my $commits = $h->value('DiskCommits');
    client($h)->store('marker', now());
    $h->wait_for(sub { $h->value('DiskCommits') > $commits && $h->value('LastCommitAge') <= 1 }, 60, 'a commit');
    nap(1.2) if $h->value('DiskCommits') == $commits + 1;    # the marker may have missed it
    kill_all($h);
    $h->start;
    my $found = $load->verify;
    is_deeply([@$found{qw(lost wrong unanswered)}], [0, 0, 0], "$name: after the death of all nothing is lost ($found->{asked})")
        or diag join "\n", @{ $found->{examples} };
    return;
}

# Trouble under load; it is to be seen, and nobody else is to notice.
sub under_load ($h, $name, $begin, $end) {
    my $load = Sessiond::Test::Load->new(addr => $h->port, clients => 8, extended => 0.5, rate => 800, live => 20, timings => 1)->start;
    $h->wait_for(sub { $h->value('DiskCommits') > 0 && $h->value('Durability') eq 'on' }, 60, 'a commit under load');
    my $judge = windows_of("while it is $name", $load, [qw(store fetch)], sub ($try) {
        my $quiet = window(1.5);
        $begin->();
        my $began = now();
        is(state_is($h, 'lost'), 1, sprintf '%s: the status tells (%.1f s)', $name, now() - $began) or diag $h->value('Durability');
        tells($h, $name) if $try == 1;
        my $loud = window($LONG ? 10 : 1.5);
        $end->();
        ok(state_is($h, 'on'), "$name: it ends by itself") or diag $h->value('DurabilityReason');
        return ([$quiet], [$loud]);
    });
    my $sum = $load->stop;
    $judge->();
    is($sum->{wrong} + $sum->{missed} + $sum->{denied} + $sum->{reset} + $sum->{cut} + $sum->{timeout} + $sum->{refused}, 0,
        "$name: no request failed: " . $load->describe);
    is_durable($h, $load, $name);
    return;
}

sub tells ($h, $name) {
    my $status = $h->status;
    like($status->{SessiondDurabilityReason}, qr/\w/, "$name: and why: " . ($status->{SessiondDurabilityReason} // ''));
    is($status->{SessiondDurabilityLost}, 1, "$name: the metric, too");
    like(($h->get('/sessiond-status'))[1], qr/NOT written to disk/, "$name: the page is loud");
    like($h->error_log, qr/NOT being written to disk/, "$name: so is the log");
    return;
}

for my $sync ('1', 'always') {
    my $h = server("trouble-$sync", "SessiondPersistSync $sync\n")->start;
    my $dir = $h->root . '/sessions';

    subtest "the directory is removed, sync $sync" => sub {
        under_load($h, 'removed', sub { system 'rm', '-rf', $dir; open my $in_its_place, '>', $dir or die $! },
            sub { unlink $dir; make_dir($h, $dir) });
    };

    subtest "nobody may write to it, sync $sync" => sub {
        # files that are open stay so; a process that comes new cannot open them
        under_load($h, 'closed', sub { chmod 0, $dir; $h->graceful }, sub { chmod 0700, $dir });
    };

    subtest "a full disk, sync $sync" => sub {
        plan skip_all => 'only root may mount' if $> != 0;
        $h->stop;
        system 'rm', '-rf', $dir;
        make_dir($h, $dir);
        system('mount', '-t', 'tmpfs', '-o', 'size=64m,mode=0700', 'tmpfs', $dir) == 0 or plan skip_all => 'no tmpfs may be mounted here';
        push @mounted, $dir;
        my ($name, $group) = Sessiond::Test::Httpd->web_user;
        chown scalar(getpwnam $name), scalar(getgrnam $group), $dir;
        $h->start;
        my $file = "$dir/in-the-way";
        under_load($h, 'full', sub { system "dd if=/dev/zero of=$file bs=1M count=100 2>/dev/null" }, sub { unlink $file });
        $h->stop;
        system 'umount', $dir;
        @mounted = ();
        $h->start;
    };
    $h->finish;
}

sub make_dir ($h, $dir) {
    mkdir $dir, 0700 or die "$dir: $!";
    return if $> != 0;
    my ($name, $group) = Sessiond::Test::Httpd->web_user;
    chown scalar(getpwnam $name), scalar(getgrnam $group), $dir or die "$dir: $!";
    return;
}

sub slurp ($name) { open my $fh, '<:raw', $name or die "$name: $!"; local $/; return readline $fh }

sub spit ($name, $bytes) {
    open my $fh, '+<:raw', $name or die "$name: $!";
    truncate $fh, 0;
    print {$fh} $bytes;
    close $fh or die $!;
    return;
}

# What was in files, before and after httpd has seen them.
sub is_left_alone ($h, $data, $bytes, $name) {
    is($h->value('Durability'), 'lost', "$name: the status says that nothing is written");
    like($h->error_log, qr/sessions on disk were not loaded/, "$name: the log says that nothing was loaded");
    my $c = client($h);
    is(($c->fetch('kept'))[0], 'no', "$name: nothing of it is served");
    is($c->store('new', 'life goes on'), 'ok', "$name: new sessions are stored");
    nap(2.2);    # two rounds, were there any
    $h->stop;
    is(md5_hex(slurp($data)), md5_hex($bytes), "$name: the file is as it was");
    return;
}

my $h    = server('files')->start;
my $data = $h->root . '/sessions/data.mdb';

subtest 'files that are damaged, or something else' => sub {
    my $c = client($h);
    is($c->store('kept', 'k' x 5000), 'ok', 'a session');
    $c->store("filler$_", 'f' x 20_000) for 1 .. 50;
    ok($h->stop, 'a stop');
    my $good = slurp($data);
    my %bad = (
        'half of it'    => substr($good, 0, length($good) / 2),
        'noise'         => join('', map { chr int rand 256 } 1 .. 40_000),
        'empty pages'   => "\0" x 65536,
        'another state' => do { my $x = $good; $x =~ s/k{2000}/'j' x 2000/e; $x },
    );
    for my $name (sort keys %bad) {
        spit($data, $bad{$name});
        $h->start;
        is_left_alone($h, $data, $bad{$name}, $name);
    }
    spit($data, $good);
    $h->start;
    is(length(($c->fetch('kept'))[1] // ''), 5000, 'the good one is loaded again');
    is(($c->fetch('new'))[0], 'no', 'what was stored meanwhile was in memory only, as the log said');
};

subtest 'files that are moved away' => sub {
    $h->stop;
    my $good = slurp($data);
    spit($data, substr $good, 0, 8192);
    $h->start;
    is($h->value('Durability'), 'lost', 'damaged');
    my $c = client($h);
    is($c->store('meanwhile', 'm'), 'ok', 'a session');
    rename $_, "$_.bad" or die $! for glob $h->root . '/sessions/*';
    ok(state_is($h, 'on'), 'new files are made');
    kill_all($h);
    $h->start;
    is(($c->fetch('meanwhile'))[1], 'm', 'with what was in memory');
};

subtest 'an older copy comes back under a running server' => sub {
    my ($dir, $copy) = map { $h->root . "/$_" } 'sessions', 'copy';
    my $c = client($h);
    is($c->store($_, 'old'), 'ok', "a session, $_") for 'changed', 'removed';
    ok($h->stop, 'a stop');
    system 'cp', '-a', $dir, $copy;
    $h->start;
    is($c->store('changed', 'new'), 'ok', 'it changes');
    is($c->delete('removed'), 'ok', 'the other one goes');
    my $commits = $h->value('DiskCommits');
    $h->wait_for(sub { $h->value('DiskCommits') > $commits && $h->value('LastCommitAge') == 0 }, 60, 'a commit');
    system "rm -f $dir/*; cp -a $copy/data.mdb $copy/owner $dir/";
    my $values = $h->value('DiskValues');
    $h->wait_for(sub { $h->value('DiskValues') > $values }, 60, 'what is in memory written anew') ;
    ok(state_is($h, 'on'), 'durable');
    kill_all($h);
    $h->start;
    is(($c->fetch('changed'))[1], 'new', 'the new value is there');
    is(($c->fetch('removed'))[0], 'no', 'what was removed stays so');
};

subtest 'a second httpd with the same directory' => sub {
    my $dir = $h->root . '/sessions';
    my $other = server('second');
    $other->reconfigure(($CONFIG =~ s{%ROOT%/sessions}{$dir}r))->start;
    ok(state_is($other, 'lost'), 'is told that it may not write there') or diag $other->value('Durability');
    like($other->value('DurabilityReason'), qr/process|has it|in use/i, 'and why: ' . $other->value('DurabilityReason'));
    is(client($other)->store('mine', 'x'), 'ok', 'it serves');
    is($h->value('Durability'), 'on', 'the first one does not notice');
    $other->finish;
};

subtest 'the directive comes and goes by a graceful restart' => sub {
    my $c = client($h);
    is($c->store('before', 'b'), 'ok', 'a session');
    my $with = $CONFIG;
    (my $without = $CONFIG) =~ s/^SessiondPersist.*\n//m;
    my $elsewhere = $CONFIG =~ s{/sessions}{/elsewhere}r;
    $h->reconfigure($without)->graceful;
    is($h->value('Durability'), 'off', 'off');
    is($c->store('between', 'x'), 'ok', 'a session that the disk does not see');
    is($c->delete('before'), 'ok', 'and a removal');
    $h->reconfigure($with)->graceful;
    ok(state_is($h, 'on'), 'on again: what was missed is written');
    kill_all($h);
    $h->start;
    is(($c->fetch('between'))[1], 'x', 'the session is there');
    is(($c->fetch('before'))[0], 'no', 'the removed one is not');

    $h->reconfigure($elsewhere)->graceful;
    ok(state_is($h, 'on'), 'another directory gets everything') or diag $h->value('DurabilityReason');
    kill_all($h);
    $h->start;
    is(($c->fetch('between'))[1], 'x', 'and gives it back');
    $c->delete('between');
    $h->reconfigure($with)->graceful;
    ok(state_is($h, 'lost'), 'a directory with other sessions is not overwritten');
    like($h->value('DurabilityReason'), qr/other sessions/, 'and says so');
    $h->stop;
    $h->start;
    is(($c->fetch('between'))[1], 'x', 'a stop and start loads them');
};
$h->finish;
done_testing;
