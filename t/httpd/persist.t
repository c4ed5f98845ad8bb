#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# persist.t: SessiondPersist as its users meet it: stops and starts, the death of
# everything at once, restarts and deaths of the session process in between. The
# ledger of Sessiond::Test::Load says what was acknowledged, and so may not be lost:
# with `always` all of it, with an interval all that is older than it.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Client qw(frame_get);
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Load   qw(make_value check_value);
use Sessiond::Test::Net    qw(now nap process_group);

my $LONG = $ENV{SESSIOND_TEST_LONG};
my $CONFIG = <<'END';
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 256M
SessiondThreads 2
SessiondPersist %ROOT%/sessions
END

sub server ($name, $more = '', %arg) {
    my $h = Sessiond::Test::Httpd->new(name => $name, config => $CONFIG . $more, %arg);
    plan skip_all => 'built without LMDB' if ($h->configtest)[1] =~ /built without LMDB/;
    return $h;
}

sub client ($h) { return Sessiond::Test::Client->new($h->port, timeout => 60) }

# All at once, and nobody has time for a last word.
sub kill_all ($h) {
    my $pid = $h->pid;
    kill KILL => -$pid;
    $h->wait_for(sub { !process_group($pid) }, 60, 'the death of all');
    $h->stop;
}

# Waits until everything acknowledged up to now is on disk.
sub settle ($h) {
    my $c = client($h);
    $c->store('settled', now());
    my $values = $h->value('DiskValues');
    $h->wait_for(sub { $h->value('DiskValues') > $values || $h->value('LastCommitAge') == 0 }, 60, 'a commit');
    nap(0.1);
    my $commits = $h->value('DiskCommits');
    $c->store('settled', now());
    $h->wait_for(sub { $h->value('DiskCommits') > $commits }, 60, 'one more');
    return;
}

sub verify ($load, $name) {
    my $found = $load->verify;
    is_deeply([@$found{qw(lost wrong unanswered)}], [0, 0, 0], "$name: nothing acknowledged is lost or wrong ($found->{asked})")
        or diag join "\n", @{ $found->{examples} };
    return $found;
}

my $h = server('persist')->start;

subtest 'a stop and a start' => sub {
    my $c = client($h);
    is($h->status->{SessiondDurability} =~ /^(?:starting|on)$/ ? 1 : 0, 1, 'the status knows of it');
    is($c->store('kept', make_value('kept', 1, 3000)), 'ok', 'a session');
    is($c->store('kept', make_value('kept', 2, 5000)), 'ok', 'stored again');
    is($c->store('huge', make_value('huge', 1, 3_000_000)), 'ok', 'a large one');
    is($c->store('empty', ''), 'ok', 'an empty one');
    is($c->store('gone', 'x'), 'ok', 'one that goes');
    is($c->delete('gone'), 'ok', 'goes');
    my $p = client($h);
    $p->open;
    is(($p->write('short', 'brief', 2))[1]{type}, 'K', 'one for two seconds');
    is(($p->write('longer', 'touched', 2))[1]{type}, 'K', 'another');
    settle($h);
    is(($p->touch('longer', 600))[1]{type}, 'K', 'that is touched');
    is($c->store('late', 'the last word'), 'ok', 'and one in the last moment');
    my $version = ($p->get('kept'))[1]{version};
    ok($h->stop, 'httpd stops in order');
    nap(2.1);
    $h->start;
    is(check_value('kept', ($c->fetch('kept'))[1]), 2, 'the last value is there');
    is(check_value('huge', ($c->fetch('huge'))[1]), 1, 'so is the large one');
    is(($c->fetch('late'))[1], 'the last word', 'and the late one');
    is(($c->fetch('gone'))[0], 'no', 'what was deleted stays so');
    is(($c->fetch('short'))[0], 'no', 'what expired while httpd was down is gone');
    is(($c->fetch('longer'))[1], 'touched', 'what was touched has its new lifetime');
    $p->open;
    my ($outcome, $reply) = $p->get('kept');
    is($reply->{version}, $version, 'versions stay');
    is(($p->get('empty'))[1]{type}, 'V', 'empty ones too');
    ($outcome, $reply) = $p->write('new', 'x', 0, 0);
    cmp_ok($reply->{version}, ">", $version + 1e9, "no version is given out twice");
    is($h->status->{SessiondDurability}, 'on', 'durable');
    like($h->error_log, qr/sessions loaded from/, 'the log tells what was loaded');
};

subtest 'under load' => sub {
    my $load = Sessiond::Test::Load->new(addr => $h->port, clients => 16, extended => 0.5, rate => 2000, live => 20)->start;
    $h->wait_for(sub { $h->value('Stores') + $h->value('Writes') > 2000 }, 60, 'some load');
    my $sum = $load->stop;
    is($sum->{wrong} + $sum->{missed} + $sum->{reset} + $sum->{cut} + $sum->{timeout}, 0, 'no request failed: ' . $load->describe);
    ok($h->stop, 'a stop');
    $h->start;
    verify($load, 'after stop and start');
    settle($h);
    kill_all($h);
    $h->start;
    verify($load, 'after the death of all');
    is($h->check, 'clean', 'the store is sound');
};

# What was acknowledged before the last interval, and before the commit under way
# then, is on disk; both are told apart by the clock, with some seconds of grace.
subtest 'the death of all, with an interval' => sub {
    my $c = client($h);
    my (%at, $n);
    my $until = now() + ($LONG ? 20 : 5);
    while (now() < $until && ($n // 0) < 100_000) {
        my $key = 'timed' . $n++;
        is($c->store($key, make_value($key, 1, 700)), 'ok', $key) && next if $n % 1000 == 0;
        $c->store($key, make_value($key, 1, 700)) eq 'ok' or last;
        $at{$key} = now();
    }
    kill_all($h);
    my $killed = now();
    $h->start;
    my @lost = grep { (check_value($_, ($c->fetch($_))[1]) // 0) != 1 } sort { $at{$a} <=> $at{$b} } keys %at;
    my ($oldest) = map { $killed - $at{$_} } @lost;
    diag sprintf '%d acknowledged, %d lost%s', scalar keys %at, scalar @lost, @lost ? sprintf(', the oldest %.2f s before', $oldest) : '';
    cmp_ok($oldest // 0, '<', 4, 'only what was newer than the last commit is lost');
    cmp_ok(scalar keys %at, '>', 200, 'there was something to lose');
};

subtest 'a restart writes nothing anew' => sub {
    my $c = client($h);
    $c->store("still$_", 's' x 2000) for 1 .. 200;
    settle($h);
    for my $n (1 .. 2) {
        nap(2.2);    # rounds in which nothing changes
        my $values = $h->value('DiskValues');
        $h->graceful;
        $h->wait_for(sub { $h->value('Durability') eq 'on' }, 60, 'a look at everything');
        is($c->store("one$n", 'x'), 'ok', 'a session');
        $h->wait_for(sub { $h->value('DiskValues') > $values }, 60, 'a commit');
        cmp_ok($h->value('DiskValues') - $values, '<', 5, "restart $n: what had not changed is not written");
    }
};

subtest 'restarts and deaths' => sub {
    my $load = Sessiond::Test::Load->new(addr => $h->port, clients => 16, extended => 0.5, rate => 1500, live => 20)->start;
    $h->wait_for(sub { $h->value('Stores') > 200 }, 60, 'the load');
    for my $n (1 .. ($LONG ? 20 : 5)) {
        $h->graceful;
        my $commits = $h->value('DiskCommits');
        $h->wait_for(sub { $h->value('DiskCommits') > $commits }, 60, 'a commit of the new process') if $n % 2;
    }
    my $sum = $load->stop;
    is($sum->{wrong} + $sum->{missed} + $sum->{reset} + $sum->{cut} + $sum->{timeout}, 0, 'graceful restarts cost nobody anything: ' . $load->describe);
    my $killed = Sessiond::Test::Load->new(addr => $h->port, clients => 16, extended => 0.5, rate => 1500, live => 20)->start;
    for (1 .. ($LONG ? 10 : 3)) {
        $h->wait_respawn($h->kill_sessiond('KILL'));
        my $stores = $h->value('Stores');
        $h->wait_for(sub { $h->value('Stores') > $stores + 300 }, 60, 'stores');
    }
    $killed->stop;
    is($h->value('Durability'), 'on', 'durable') or diag $h->value('DurabilityReason');
    settle($h);
    kill_all($h);
    $h->start;
    verify($load, 'restarts, then the death of all');
    verify($killed, 'deaths of the session process, then of all');
    is($h->check, 'clean', 'the store is sound');
};
$h->allow_log(qr/exit signal Killed|session process.*(?:kill|signal|ended|died|exit)|repaired/i);
$h->finish;

my $always = server('always', "SessiondPersistSync always\n")->start;

subtest 'always' => sub {
    for my $round (1 .. ($LONG ? 10 : 3)) {
        my $load = Sessiond::Test::Load->new(addr => $always->port, clients => 32, extended => 0.5, rate => 0, live => 10)->start;
        my $before = $always->value('Stores');
        $always->wait_for(sub { $always->value('Stores') > $before + 500 }, 60, 'some load');
        if    ($round % 3 == 1) { $always->graceful }
        elsif ($round % 3 == 2) { $always->wait_respawn($always->kill_sessiond('KILL')) }
        kill_all($always);
        my $sum = $load->stop;
        $always->start;
        my $found = verify($load, "round $round: the death of all under load");
        cmp_ok($found->{asked}, '>', 100, 'there was something to lose');
    }
    my $c = client($always);
    $c->store('removed', 'x');
    is($c->delete('removed'), 'ok', 'a delete is acknowledged');
    kill_all($always);
    $always->start;
    is(($c->fetch('removed'))[0], 'no', 'and stays so');
    is($always->check, 'clean', 'the store is sound');
};
$always->allow_log(qr/exit signal Killed|session process.*(?:kill|signal|ended|died|exit)|repaired/i);
$always->finish;
done_testing;
